"""The command ``edgecbam``: reads the words, calls one function of edgecbam.api, shows what it returns.

Exit codes: 0 done; 1 a gate failed; 2 the input is wrong; 3 the environment or edgecbam itself failed; 130 interrupted
by Ctrl-C or SIGTERM, with everything finished so far kept. 1, 2 and 3 come with one line on stderr; ``--debug`` adds
the traceback. Nothing heavy is imported before the command that needs it, so that ``--help`` answers at once.
"""

import contextlib
import errno
import json
import logging
import math
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecbam import __version__
from edgecbam.console import printable
from edgecbam.errors import EdgeCbamError, EnvironmentFailure, GateFailed, InputError

if TYPE_CHECKING:
    from edgecbam.recipe import Recipe

DONE, GATE_FAILED, BAD_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
GO_ON = "go on with: "

app = typer.Typer(name="edgecbam", add_completion=False, rich_markup_mode=None)

RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A TOML file, or a shipped recipe: fashion_cbam, the default.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="builtin, fashion_mnist, or a folder with one folder of images for each class.",
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder; else runs/RECIPE-N.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where the run in --out was left.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: --set train.epochs=5.")
]
ExportSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Export it differently: --set export.profile=reference."),
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be read.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.callback()
def _edgecbam(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the log lines of libraries.")] = False,
) -> None:
    """Train CBAM image classifiers, quantize them, export TFLite and ONNX with proof, and measure them.

    Exit codes: 0 done, 1 a gate failed, 2 wrong input, 3 the machine or edgecbam failed, 130 interrupted.
    """


@app.command()
def run(
    recipe: RecipeArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    assignments: SetOption = None,
    skip_bad: SkipBadOption = False,
) -> int:
    """Run all stages from images to the report.

    Without RECIPE: the default recipe on the built-in images.
    """
    from edgecbam import api, console, tables

    settings, folder = _plan(recipe, data, out, resume, overwrite, assignments, skip_bad)
    with _to_go_on("run", folder), console.shown_events() as on_event:
        result = api.run(settings, folder, resume=resume, overwrite=overwrite, on_event=on_event)
    say(tables.results_table(result.report))
    say(tables.gates_line(result.verification.gates))
    say(f"report: {folder / 'report' / 'report.md'}")
    return DONE


@app.command()
def train(
    recipe: RecipeArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    assignments: SetOption = None,
    skip_bad: SkipBadOption = False,
) -> int:
    """Train the float model alone.

    The other stages then take the run folder.
    """
    from edgecbam import api, console

    settings, folder = _plan(recipe, data, out, resume, overwrite, assignments, skip_bad)
    with _to_go_on("train", folder), console.shown_events() as on_event:
        api.train(settings, folder, resume=resume, overwrite=overwrite, on_event=on_event)
    say(f"trained: {folder / 'train'}; next: edgecbam quantize {shlex.quote(str(folder))}")
    return DONE


@app.command()
def quantize(run: RunArgument) -> int:
    """Train a run's model on with quantization in the loop."""
    from edgecbam import api, console

    with console.shown_events() as on_event:
        api.quantize(run, on_event=on_event)
    say(f"quantized: {run / 'quantize'}; next: edgecbam export {shlex.quote(str(run))}")
    return DONE


@app.command()
def export(run: RunArgument, settings: ExportSetOption = None) -> int:
    """Write the .tflite and .onnx files of a run."""
    from edgecbam import api, console

    with console.shown_events() as on_event:
        api.export(run, settings=tuple(settings or ()), on_event=on_event)
    say(f"exported: {run / 'export'}; next: edgecbam verify {shlex.quote(str(run))}")
    return DONE


@app.command()
def verify(run: RunArgument) -> int:
    """Prove that the files of a run agree and stay accurate.

    Exit code 1 if a gate fails.
    """
    from edgecbam import api, console, tables

    with console.shown_events() as on_event:
        verification = api.verify(run, on_event=on_event)
    say(tables.gates_table(verification.gates))
    return _gates_to_code(verification)


@app.command()
def benchmark(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Model files, or one run folder.")],
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="A,B", help="Runtimes, such as litert,onnxruntime.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="Threads of a runtime.")] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="MODEL", help="The model that the others are compared with.")
    ] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option("--fail-if-slower", metavar="P", help="Exit code 1 if a model is over P percent slower, as 5%."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: a first look.")] = False,
    rigorous: Annotated[bool, typer.Option("--rigorous", help="Many rounds: for a figure to publish.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the report, where model files were given.")
    ] = None,
) -> int:
    """Measure latency, accuracy and size of model files.

    Given one run folder, it measures all the files of that run.
    """
    from edgecbam import api, artifacts, console, tables
    from edgecbam.recipe import BenchmarkConfig

    if quick and rigorous:
        raise InputError("--quick and --rigorous exclude each other: give one of them")
    percent = None if fail_if_slower is None else _percentage(fail_if_slower)
    protocol = "quick" if quick else "rigorous" if rigorous else None
    runtimes = None if runtime is None else tuple(word.strip() for word in runtime.split(",") if word.strip())
    if runtimes == ():
        raise InputError("--runtime is empty: name at least one, such as litert")
    is_run = len(models) == 1 and models[0].is_dir()
    if is_run:
        if baseline is not None or out is not None:
            option = "--baseline" if baseline is not None else "--out"
            raise InputError(f"{option} goes with model files; the figures of a run are kept in {models[0]}/benchmark")
        artifacts.load_recipe(models[0])  # refuses a folder that is no run
        with console.shown_events() as on_event:
            report = api.benchmark(models[0], runtimes=runtimes, threads=threads, protocol=protocol, on_event=on_event)
    else:
        for path in (*models, *([baseline] if baseline else [])):
            if not path.is_file():
                what = "is a folder: give model files, or one run folder alone" if path.is_dir() else "does not exist"
                raise InputError(f"the model {path} {what}")
        defaults = BenchmarkConfig()
        with console.shown_events() as on_event:
            report = api.benchmark_models(
                models,
                runtimes=defaults.runtimes if runtimes is None else runtimes,
                threads=defaults.threads if threads is None else threads,
                protocol=protocol or "standard",
                baseline=baseline,
                out=out,
                on_event=on_event,
            )
    say(tables.results_table(report))
    return DONE if percent is None else _judge_speed(report, percent)


@app.command()
def report(run: RunArgument) -> int:
    """Write the report of a run again."""
    from edgecbam import api, console

    with console.shown_events() as on_event:
        path = api.report(run, on_event=on_event)
    say(f"report: {path}")
    return DONE


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, or a file in its export folder.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many classes to show.")] = 5,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="NAME", help="The runtime; else the one the file is for.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads of the runtime.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Classify images with an exported model.

    This needs the runtime of the file alone, no TensorFlow.
    """
    from edgecbam import api, tables

    predictions = api.predict(model, images, top=top, runtime=runtime, threads=threads)
    if as_json:
        values = [
            {"image": str(p.image), "classes": list(p.classes), "probabilities": [float(x) for x in p.probabilities]}
            for p in predictions
        ]
        say(json.dumps(values, indent=1))
    else:
        for p in predictions:
            say(tables.predictions_text(str(p.image), p.classes, p.probabilities))
    return DONE


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Tell what this machine can run and what it lacks."""
    from edgecbam import doctor as examination

    diagnosis = examination.diagnose()
    say(examination.to_json(diagnosis) if as_json else examination.to_text(diagnosis))
    broken = examination.broken_base(diagnosis)
    if broken:
        names = ", ".join(package.name for package in broken)
        raise EnvironmentFailure(f"the base install is broken ({names}): {broken[0].remedy}")
    return DONE


def _plan(
    recipe_name: str | None,
    data: str | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    assignments: list[str] | None,
    skip_bad: bool,
) -> "tuple[Recipe, Path]":
    """The recipe with everything the command line changes in it, and the run folder."""
    from edgecbam import api, artifacts
    from edgecbam import recipe as recipes

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: go on with a run, or replace it")
    if resume and out is None:
        raise InputError("--resume needs --out: name the run folder to go on with")
    changes = list(assignments or [])
    if data is not None:
        changes.append(f"data.source={_toml_string(_anchored(data))}")
    if skip_bad:
        changes.append("data.skip_bad=true")
    if resume and out is not None and recipe_name is None:
        settings = recipes.override(artifacts.load_recipe(out), tuple(changes))
    else:
        settings = recipes.load(recipe_name or recipes.DEFAULT_RECIPE, tuple(changes))
    return settings, out if out is not None else api.default_out(settings)


def _anchored(data: str) -> str:
    """A folder as an absolute path, so that the later stages find it from anywhere; names stay as they are."""
    from edgecbam.datasets import SOURCES

    if data in SOURCES or not data:
        return data
    folder = Path(data).expanduser()
    return str(folder.resolve()) if folder.is_dir() else data


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _gates_to_code(verification: Any) -> int:
    failed = [gate.name for gate in verification.gates if not gate.passed]
    if failed or not verification.passed:
        raise GateFailed(f"{len(failed)} of {len(verification.gates)} gates failed: {', '.join(failed)}")
    return DONE


def _percentage(text: str) -> float:
    """``5`` and ``5%`` as 5.0; raises InputError for anything but a number of 0 or more."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"--fail-if-slower must be a percentage of 0 or more, such as 5%, got {text!r}")
    return value


def _judge_speed(report: dict[str, Any], percent: float) -> int:
    """Refuse what is slower than allowed, and what left no figure to judge by."""
    from edgecbam.benchmarks.statistics import slower_than
    from edgecbam.tables import candidates

    broken = [row for row in report["results"] if row["status"] in ("wrong_output", "crash", "timeout")]
    if broken:
        names = ", ".join(f"{row['model']} on {row['runtime']} ({row['status']})" for row in broken)
        raise GateFailed(f"--fail-if-slower cannot judge {names}")
    compared = candidates(report)
    if not compared:
        raise InputError("--fail-if-slower has nothing to compare: name a --baseline")
    if any(comparison["ratio"]["low"] is None for comparison in compared):
        raise InputError("--fail-if-slower needs an interval, and one session gives none")
    slow = [c for c in compared if slower_than(c["ratio"], percent)]
    if slow:
        names = ", ".join(f"{c['candidate']} on {c['runtime']}" for c in slow)
        raise GateFailed(f"more than {percent:g} % slower than the baseline: {names}")
    return DONE


@contextlib.contextmanager
def _to_go_on(command: str, run_folder: Path) -> Iterator[None]:
    """Note on whatever ends the block early how the run can be gone on with; explain() reads the note."""
    from edgecbam import artifacts

    try:
        yield
    except BaseException as error:
        if (run_folder / artifacts.RECIPE_FILE).is_file():  # else there is nothing to go on with yet
            error.add_note(f"{GO_ON}edgecbam {command} --resume --out {shlex.quote(str(run_folder))}")
        raise


def say(text: str) -> None:
    """Print a result to stdout. A reader that has gone (``| head``) is no error: the work itself is done."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the one line for what ended a command."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(GO_ON)]
    way_on = notes[-1] if notes else "run the same command again"
    if isinstance(error, EdgeCbamError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted: {'finished stages are kept; ' if notes else ''}{way_on}"
    if isinstance(error, typer.TyperException):
        return BAD_INPUT, _usage(error)
    if _is_disk_full(error):
        where = getattr(error, "filename", None) or "the disk"
        return FAILED, f"no space left on {where}; free some and {way_on}"
    if isinstance(error, MemoryError):
        return FAILED, "out of memory: close other programs, or lower train.batch_size with --set"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        what = "permission denied" if isinstance(error, PermissionError) else error.strerror or str(error)
        return FAILED, f"{what}{where}"
    text = printable(str(error))
    return FAILED, f"internal error: {type(error).__name__}: {text[:300]}; run again with --debug"


def _usage(error: typer.TyperException) -> str:
    """A usage error on one line, with the help that knows better."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "edgecbam"
    message = error.format_message().rstrip(".")
    return f"{message}{'' if message.endswith('?') else ';'} see {path} --help"


def _is_disk_full(error: BaseException) -> bool:
    """Whether the disk or a quota is full; native libraries say so in their text alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC).lower() in str(error).lower()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: the words after ``edgecbam``; None takes those of this process, which is then set up as a command:
            signals, quiet libraries, streams that never raise on odd characters.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]  # so that it may stand anywhere
    if arguments is None:
        _set_up_process(debug)
    try:
        return _invoke(list(words))
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and "--help" in words:  # its reader has gone
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            return DONE
        if debug:
            traceback.print_exc()
        code, line = explain(error)
        sys.stderr.write(f"edgecbam: error: {printable(line)}\n")
        return code


def _invoke(words: list[str]) -> int:
    command = typer.main.get_command(app)
    if words == ["--version"]:
        say(f"edgecbam {__version__}")
        return DONE
    try:
        with command.make_context("edgecbam", words) as context:
            return int(command.invoke(context) or DONE)
    except typer.Exit as end:  # --help was answered
        return end.exit_code


def _set_up_process(debug: bool) -> None:
    # SIGTERM ends a run as Ctrl-C does, exit code included: what is finished is kept, what is half-written removed.
    # SIGINT is set too because a shell starts what a script puts into the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from edgecbam.console import hide_native_noise

    hide_native_noise()
