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
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecbam import __version__, containment
from edgecbam.console import fold, printable
from edgecbam.errors import EdgeCbamError, EnvironmentFailure, GateFailed, InputError

if TYPE_CHECKING:
    from edgecbam.ablation import Plan
    from edgecbam.api import Prediction
    from edgecbam.recipe import Recipe

CONTAINED = ("quantize", "export", "verify", "predict", "inspect", "explain")  # they open model files themselves
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
        help="builtin, fashion_mnist, mnist, cifar10, cifar100, tfds:NAME, or a folder of images.",
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
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Let a recipe out of a file name code: train.loss=module:name.")
]
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
    trust: TrustOption = False,
) -> int:
    """Run all stages from images to the report.

    Without RECIPE: the default recipe on the built-in images.
    """
    from edgecbam import api, console, tables

    settings, folder = _plan(recipe, data, out, resume, overwrite, assignments, skip_bad, trust)
    with _to_go_on("run", folder), console.shown_events() as on_event:
        result = api.run(settings, folder, resume=resume, overwrite=overwrite, on_event=on_event)
    say(tables.results_table(result.report))
    say(tables.gates_line(result.verification.gates))
    say(f"report: {folder / 'report' / 'report.md'}")
    say(f"for apps: {folder / 'app'}")
    _tell_of_memory(result.report)
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
    trust: TrustOption = False,
) -> int:
    """Train the float model alone.

    The other stages then take the run folder.
    """
    from edgecbam import api, console

    settings, folder = _plan(recipe, data, out, resume, overwrite, assignments, skip_bad, trust)
    with _to_go_on("train", folder), console.shown_events() as on_event:
        api.train(settings, folder, resume=resume, overwrite=overwrite, on_event=on_event)
    say(f"trained: {folder / 'train'}; next: edgecbam quantize {shlex.quote(str(folder))}")
    return DONE


@app.command()
def quantize(run: RunArgument, trust: TrustOption = False) -> int:
    """Train a run's model on with quantization in the loop."""
    from edgecbam import api, console

    with console.shown_events() as on_event:
        api.quantize(run, trust=trust, on_event=on_event)
    say(f"quantized: {run / 'quantize'}; next: edgecbam export {shlex.quote(str(run))}")
    return DONE


@app.command()
def export(run: RunArgument, settings: ExportSetOption = None) -> int:
    """Write the .tflite and .onnx files of a run, some for apps."""
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
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="A,B", help="cpu, gpu, ssh:HOST, adb:SERIAL; else cpu. May be repeated."),
    ] = None,
    threads: Annotated[str | None, typer.Option("--threads", metavar="N,M", help="Threads of a runtime.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="MODEL|REPORT", help="What the models are compared with, measured again."),
    ] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option("--fail-if-slower", metavar="P", help="Exit code 1 if a model is over P percent slower, as 5%."),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Tell op by op where the time goes, too.")] = False,
    attention: Annotated[
        str | None, typer.Option("--attention", metavar="REGEX", help="Names of the ops that are attention.")
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME=N,M", help="Shape of an input with free dimensions; may be repeated."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="NPZ", help="Real inputs by name, the first axis counting them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: a first look.")] = False,
    rigorous: Annotated[bool, typer.Option("--rigorous", help="Many rounds: for a figure to publish.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the report, where model files were given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what the report lacks.")] = False,
    remote_python: Annotated[
        str, typer.Option("--remote-python", metavar="PATH", help="Python of an ssh device.")
    ] = "python3",
    benchmark_model: Annotated[
        Path | None, typer.Option("--benchmark-model", metavar="FILE", help="Google's program, for adb devices.")
    ] = None,
    benchmark_model_sha256: Annotated[
        str | None, typer.Option("--benchmark-model-sha256", metavar="HEX", help="What that program must be.")
    ] = None,
    adb_cores: Annotated[
        str | None,
        typer.Option("--adb-cores", metavar="MASK", help="Cores of the phone, such as f0; else its fastest."),
    ] = None,
) -> int:
    """Measure latency, accuracy and size of model files.

    Given one run folder, it measures all the files of that run.
    """
    from edgecbam import api, artifacts, console, tables

    if quick and rigorous:
        raise InputError("--quick and --rigorous exclude each other: give one of them")
    protocol = "quick" if quick else "rigorous" if rigorous else None
    runtimes = None if runtime is None else _words("--runtime", runtime, "litert")
    counts = None if threads is None else tuple(_count("--threads", word) for word in _words("--threads", threads, "1"))
    options = api.BenchmarkOptions(
        devices=_words("--device", ",".join(device), "cpu") if device else ("cpu",),
        remote_python=remote_python,
        benchmark_model=benchmark_model,
        benchmark_model_sha256=benchmark_model_sha256,
        adb_cores=adb_cores,
        shapes=_shapes(shapes or ()),
        inputs=inputs,
        profile=profile,
        attention=None if attention is None else _pattern(attention),
        fail_if_slower=None if fail_if_slower is None else _percentage(fail_if_slower),
    )
    if len(models) == 1 and models[0].is_dir():
        given = {"--baseline": baseline, "--out": out, "--shape": shapes, "--inputs": inputs}
        for option, value in given.items():
            if value:
                raise InputError(
                    f"{option} goes with model files; the figures of a run are kept in {models[0]}/benchmark"
                )
        artifacts.load_recipe(models[0])  # refuses a folder that is no run
        with console.shown_events() as on_event:
            report = api.benchmark(
                models[0],
                runtimes=runtimes,
                threads=counts,
                protocol=protocol,
                options=options,
                resume=resume,
                on_event=on_event,
            )
    else:
        for path in models:
            if not path.is_file():
                what = "is a folder: give model files, or one run folder alone" if path.is_dir() else "does not exist"
                raise InputError(f"the model {path} {what}")
        if baseline is not None and not baseline.exists():
            raise InputError(f"the baseline {baseline} does not exist")
        if options.fail_if_slower is not None and baseline is None:
            raise InputError("--fail-if-slower needs a --baseline to compare with: a model file or a report")
        with console.shown_events() as on_event:
            report = api.benchmark_models(
                models,
                runtimes=runtimes,
                threads=(1,) if counts is None else counts,
                protocol=protocol or "standard",
                options=options,
                baseline=baseline,
                out=out,
                resume=resume,
                on_event=on_event,
            )
    say(tables.results_table(report))
    code = _obey_gate(report)
    _tell_of_memory(report)
    return code


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
    """Classify images, or estimate targets, with a model.

    This needs the runtime of the file alone, no TensorFlow.
    """
    from edgecbam import api, tables

    predictions = api.predict(model, images, top=top, runtime=runtime, threads=threads)
    if as_json:
        say(json.dumps([_prediction_value(p) for p in predictions], indent=1))
    else:
        for p in predictions:
            if p.values:
                say(tables.values_text(str(p.image), p.classes, p.values))
            else:
                say(tables.predictions_text(str(p.image), p.classes, p.probabilities))
    return DONE


def _prediction_value(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as JSON has it: the classes with their probabilities, or the values by target."""
    image, classes = str(prediction.image), list(prediction.classes)
    if prediction.values:
        return {"image": image, "values": dict(zip(classes, prediction.values, strict=True))}
    return {"image": image, "classes": classes, "probabilities": [float(p) for p in prediction.probabilities]}


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Tell what a model file takes, gives, holds and needs.

    Inputs and outputs with their quantization, ops, partitions, the oldest
    runtime, metadata. This needs the runtime of the file alone, no TensorFlow.
    """
    from edgecbam import tables
    from edgecbam.export import inspection

    found = inspection.inspect(model)
    say(json.dumps(found, indent=1) if as_json else tables.inspection_text(found))
    return DONE


@app.command("explain")
def explain_images(
    run: RunArgument,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Image files.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the pictures; else RUN/explain.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Instead: what each layer costs in int8, on held-out images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Draw attention over images, float beside int8.

    A picture for each image, and for each gate how far quantization moved it:
    the smallest cosine and the largest difference in steps of 1/256.
    """
    from edgecbam import api, console, tables

    if layers:
        if images or out is not None:
            raise InputError(
                "--layers takes neither images nor --out: it uses held-out images, and no picture is drawn"
            )
        with console.shown_events() as on_event:
            found = api.layer_costs(run, on_event=on_event)
        say(json.dumps(found, indent=1) if as_json else tables.layer_costs(found))
        return DONE
    images = images or []
    rows = api.explain(run, images, out)
    say(json.dumps(rows, indent=1) if as_json else tables.gates_moved(rows))
    if not as_json:
        say(f"pictures: {run / 'explain' if out is None else out}")
    return DONE


@app.command()
def demo(
    run: RunArgument,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="0 takes any that is free.")] = 8000,
) -> int:
    """Serve the page that runs the model in a browser.

    On 127.0.0.1 alone, until Ctrl-C. The first time, npm fetches LiteRT.js and
    MediaPipe, about 80 MB; after that nothing comes from the network.
    """
    from edgecbam.export import web_server

    with web_server.open_server(run, port) as server:
        say(f"{server.url}  (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return DONE


@app.command()
def ablate(
    recipe: RecipeArgument = None,
    data: DataOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the runs; else runs/RECIPE-ablation-N.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", help="How often each is trained; else 3.")
    ] = None,
    factors: Annotated[
        str | None,
        typer.Option("--factors", metavar="A,B", help="Of attention,ema,decay,quantization; else all."),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="A,B", help="Else none,channel,spatial,cbam; cbam:open+stage, too."),
    ] = None,
    assignments: SetOption = None,
    benchmark: Annotated[
        bool | None, typer.Option("--benchmark/--no-benchmark", help="Whether to measure latency; else yes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is whole in --out, and go on.")] = False,
    trust: TrustOption = False,
) -> int:
    """Tell what attention, averaging, decay and int8 are worth.

    Every variant is trained with several seeds and compared in pairs.
    """
    from edgecbam import ablation, console, tables

    plan, folder = _ablation(recipe, data, out, seeds, factors, attention, assignments, benchmark, resume)
    _ask_for_trust(plan.recipe, recipe or str(out), assignments or [], trust)
    with _to_go_on("ablate", folder, ablation.PLAN_FILE), console.shown_events() as on_event:
        report = ablation.run(plan, folder, resume=resume, on_event=on_event)
    say(tables.ablation_text(report))
    say(f"answers in words: {folder / ablation.PAGE_FILE}")
    return DONE


def _ablation(
    recipe_name: str | None,
    data: str | None,
    out: Path | None,
    seeds: int | None,
    factors: str | None,
    attention: str | None,
    assignments: list[str] | None,
    benchmark: bool | None,
    resume: bool,
) -> "tuple[Plan, Path]":
    """What to answer, and the folder; with --resume, what is left unsaid is taken from the folder's own plan."""
    from edgecbam import ablation
    from edgecbam import recipe as recipes

    if resume and out is None:
        raise InputError("--resume needs --out: name the folder of the ablation to go on with")
    begun = ablation.load_plan(out) if resume and out is not None else None
    if begun is not None and recipe_name is None and data is None and not assignments:
        settings, words = begun.recipe, begun.words
    else:
        name, changes, told = recipe_name or recipes.DEFAULT_RECIPE, list(assignments or []), []
        if data is not None:
            changes.append(f"data.source={_toml_string(_anchored(data))}")
            told += ["--data", Path(data).name]  # for the record, without the paths of this machine
        told += [word for assignment in assignments or [] for word in ("--set", assignment)]
        settings, words = recipes.load(name, tuple(changes)), shlex.join([Path(name).name, *told])
    usual = begun or ablation.Plan(settings, 3, ablation.FACTORS, ablation.ATTENTIONS, True, words)
    plan = ablation.plan(
        settings,
        seeds=usual.seeds if seeds is None else seeds,
        factors=usual.factors if factors is None else _words("--factors", factors, "attention"),
        attention=usual.attention if attention is None else _words("--attention", attention, "none,cbam"),
        benchmark=usual.benchmark if benchmark is None else benchmark,
        words=words,
    )
    return plan, out if out is not None else ablation.default_out(settings)


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
    trust: bool,
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
    _ask_for_trust(settings, recipe_name or str(out), changes, trust)
    return settings, out if out is not None else api.default_out(settings)


def _ask_for_trust(settings: "Recipe", where: str, changes: Sequence[str], trust: bool) -> None:
    """Refuse code that only a file names; what was typed after --set is the user's own."""
    from edgecbam import recipe as recipes

    typed = any(change.partition("=")[0].strip() == "train.loss" for change in changes)
    recipes.require_trust(settings, where, trust or typed)


def _anchored(data: str) -> str:
    """A folder as an absolute path, so that the later stages find it from anywhere; names stay as they are."""
    from edgecbam.datasets import SOURCES

    if data in SOURCES or not data:
        return data
    try:
        folder = Path(data).expanduser()
        return str(folder.resolve()) if folder.is_dir() else data
    except (OSError, RuntimeError):  # no such user, a name too long: the data set that it is not is refused later
        return data


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


def _words(option: str, text: str, example: str) -> tuple[str, ...]:
    """``a, b`` as ("a", "b"); raises InputError where nothing is named."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise InputError(f"{option} is empty: name at least one, such as {example}")
    return words


def _count(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise InputError(f"{option} must be whole numbers from 1 to 1024, got {text!r}")
    return int(text)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``images=1,224,224,3`` as ("images", (1, 224, 224, 3))."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise InputError(f"--shape must be NAME=N,M,…, such as images=1,224,224,3, got {text!r}")
    return name, shape


def _shapes(texts: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    shapes = tuple(_shape(text) for text in texts)
    if len(dict(shapes)) < len(shapes):
        raise InputError(f"--shape names an input twice: {', '.join(texts)}")
    return shapes


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"--attention is no regular expression: {error}") from None
    return text


def _obey_gate(report: dict[str, Any]) -> int:
    """Say what the gate says; raise GateFailed where it failed."""
    gate = report.get("gate")
    if gate is None:
        return DONE
    if gate["verdict"] == "failed":
        raise GateFailed(f"gate at {gate['threshold_percent']:g} %: {gate['reason']}")
    reason = f": {gate['reason']}" if gate["reason"] else ""
    say(fold(printable(f"gate at {gate['threshold_percent']:g} %: {gate['verdict']}{reason}")))
    return DONE


def _tell_of_memory(report: dict[str, Any]) -> None:
    """Raise EnvironmentFailure where memory was too short to measure something; the rest stands in the report."""
    from edgecbam.runtimes.session import OUT_OF_MEMORY

    lost = [
        f"{row['model']} on {row['runtime']}"
        for row in report["results"]
        if row["status"] == "crash" and row["reason"].startswith(OUT_OF_MEMORY)
    ]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise EnvironmentFailure(
            f"out of memory while measuring {', '.join(lost[:3])}{more}; all else is in the report: "
            "close other programs, or take a machine with more memory"
        )


@contextlib.contextmanager
def _to_go_on(command: str, run_folder: Path, mark: str = "recipe.toml") -> Iterator[None]:
    """Note on whatever ends the block early how the run can be gone on with; explain() reads the note.

    Args:
        command: that goes on.
        run_folder: where it works.
        mark: the file in it without which there is nothing to go on with.
    """
    try:
        yield
    except BaseException as error:
        if (run_folder / mark).is_file():
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
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return FAILED, f"permission denied{where}: give yourself the right to it, or another folder"
        return FAILED, f"{error.strerror or error}{where}"
    if os.strerror(errno.EIO).lower() in str(error).lower():  # of native libraries, which have no OSError
        return FAILED, f"the disk failed (input/output error): see to it and {way_on}"
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
        if words[:1] and words[0] in CONTAINED:
            return _answer(
                lambda: containment.run(lambda: _answer(lambda: _invoke(list(words)), words, debug), words[0]),
                words,
                debug,
            )
    return _answer(lambda: _invoke(list(words)), words, debug)


def _answer(work: Callable[[], int], words: list[str], debug: bool) -> int:
    """The exit code of something; its error in one line on stderr."""
    try:
        return work()
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
