"""The command line: exit codes, one-line errors, and what each command passes on to the stages (stubs, here)."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgecbam import __version__, api, artifacts, cli, recipe
from edgecbam.errors import EnvironmentFailure, GateFailed, InputError, MissingPackage
from edgecbam.events import Event
from edgecbam.recipe import Recipe

COMMANDS = {
    "run": ["--data", "--out", "--resume", "--overwrite", "--set", "--skip-bad", "--trust"],
    "train": ["--data", "--out", "--resume", "--overwrite", "--set", "--skip-bad", "--trust"],
    "quantize": ["--trust"],
    "export": ["--set"],
    "verify": [],
    "benchmark": [
        *("--runtime", "--device", "--threads", "--baseline", "--fail-if-slower", "--profile", "--attention"),
        *("--shape", "--inputs", "--quick", "--rigorous", "--out", "--resume", "--remote-python"),
        *("--benchmark-model", "--benchmark-model-sha256", "--adb-cores"),
    ],
    "report": [],
    "predict": ["--top", "--runtime", "--threads", "--json"],
    "inspect": ["--json"],
    "explain": ["--out", "--layers", "--json"],
    "demo": ["--port"],
    "ablate": ["--data", "--out", "--seeds", "--factors", "--attention", "--set", "--benchmark", "--resume", "--trust"],
    "doctor": ["--json"],
}


@dataclass(frozen=True)
class Gate:
    name: str
    passed: bool
    value: float | None = 0.5
    threshold: float | None = 0.995
    meaning: str = "share of images on which both choose the same class"
    detail: str = "1,000 of 2,000 images"


@dataclass(frozen=True)
class Verification:
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


PASSED = Verification((Gate("digests", True), Gate("qat_agreement", True, 0.999)))
FAILED = Verification((Gate("digests", True), Gate("qat_agreement", False)))


def result(model: str, runtime: str = "litert", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": model,
        "runtime": runtime,
        "device": "cpu",
        "threads": 1,
        "status": "ok",
        "reason": "",
        "accuracy": 0.918,
        "agreement": 0.999,
        "bytes": 123_456,
        "latency_ms": {"n": 100, "p50": 0.4321, "p90": 0.5, "intervals": {"p50": [0.42, 0.44]}},
    }
    return {**row, **changes}


def comparison(candidate: str, value: float, low: float | None, high: float | None, **changes: Any) -> dict[str, Any]:
    verdict = "inconclusive" if low is None or high is None else "faster" if high < 1 else "slower"
    entry: dict[str, Any] = {
        "kind": "candidate",
        "baseline": "model_fp32.tflite",
        "candidate": candidate,
        "runtime": "litert",
        "device": "cpu",
        "threads": 1,
        "ratio": {"value": value, "low": low, "high": high},
        "verdict": verdict,
    }
    return {**entry, **changes}


REPORT: dict[str, Any] = {
    "protocol": {"note": "quick protocol: a look, not a publication"},
    "results": [result("model_fp32.tflite"), result("model_int8.tflite")],
    "comparisons": [
        comparison("model_int8.tflite", 0.5, 0.4, 0.625),
        comparison("model_fp32.tflite", 1.0, 0.9, 1.1, kind="control"),
    ],
}


class Calls(dict[str, tuple[tuple[Any, ...], dict[str, Any]]]):
    """What each function of the API was called with, by name."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Replaces every verb of the API by one that notes its call and answers at once."""
    monkeypatch.chdir(tmp_path)
    made = Calls()

    def answer(name: str, value: Callable[..., Any]) -> None:
        def verb(*arguments: Any, **options: Any) -> Any:
            options.pop("on_event", None)
            made[name] = (arguments, options)
            return value(*arguments)

        monkeypatch.setattr(api, name, verb)

    answer("run", lambda settings, out: api.RunResult(out, PASSED, REPORT))  # type: ignore[arg-type]
    answer("train", lambda settings, out: out)
    answer("quantize", lambda run: None)
    answer("export", lambda run: None)
    answer("verify", lambda run: PASSED)
    answer("benchmark", lambda run: REPORT)
    answer("benchmark_models", lambda models: REPORT)
    answer("report", lambda run: run / "report" / "report.md")
    answer("predict", lambda model, images: [api.Prediction(path, ("bag", "boot"), (0.75, 0.25)) for path in images])
    return made


def fail_with(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    def verb(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(api, name, verb)


def make_run(folder: Path, settings: Recipe | None = None) -> Path:
    artifacts.create_run(folder, settings or recipe.load(recipe.DEFAULT_RECIPE))
    return folder


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr, without its ``edgecbam: error:``."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    assert text.startswith("edgecbam: error: ")
    return text.removeprefix("edgecbam: error: ").rstrip("\n")


def edgecbam(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real process, its output piped."""
    command = [sys.executable, "-m", "edgecbam", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# What is passed on


def test_run_without_words_takes_the_default_recipe_into_the_first_free_folder(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / f"{recipe.DEFAULT_RECIPE}-1").mkdir(parents=True)
    assert cli.main(["run"]) == 0
    expected = (recipe.load(recipe.DEFAULT_RECIPE), Path("runs") / f"{recipe.DEFAULT_RECIPE}-2")
    assert calls["run"] == (expected, {"resume": False, "overwrite": False})
    output = capsys.readouterr().out
    assert "gates: 2 of 2 passed" in output
    assert f"report: runs/{recipe.DEFAULT_RECIPE}-2/report/report.md" in output


@pytest.mark.parametrize("command", ["run", "train"])
def test_every_option_of_run_and_train_reaches_the_recipe(calls: Calls, tmp_path: Path, command: str) -> None:
    (tmp_path / 'pho"tos é').mkdir()
    words = ["--data", 'pho"tos é', "--out", "here", "--overwrite", "--skip-bad"]
    words += ["--set", "train.epochs=5", "--set", "train.optimizer=adam", "fashion_cbam"]
    assert cli.main([command, *words]) == 0
    (settings, out), options = calls[command]
    default = recipe.load("fashion_cbam")
    assert settings == replace(
        default,
        data=replace(default.data, source=str(tmp_path / 'pho"tos é'), skip_bad=True),
        train=replace(default.train, epochs=5, optimizer="adam"),
    )
    assert out == Path("here")
    assert options == {"resume": False, "overwrite": True}


def test_a_named_data_set_is_not_mistaken_for_a_folder(calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist").mkdir()
    assert cli.main(["train", "--data", "fashion_mnist"]) == 0
    assert calls["train"][0][0].data.source == "fashion_mnist"


def test_the_home_of_an_unknown_user_is_left_to_the_loader_to_refuse(calls: Calls) -> None:
    assert cli.main(["train", "--data", "~no-such-user/photos"]) == 0
    assert calls["train"][0][0].data.source == "~no-such-user/photos"


def test_resume_goes_on_with_the_recipe_of_the_folder(calls: Calls, tmp_path: Path) -> None:
    settings = recipe.load(recipe.DEFAULT_RECIPE, ("train.epochs=7",))
    make_run(tmp_path / "old", settings)
    assert cli.main(["run", "--resume", "--out", "old"]) == 0
    assert calls["run"] == ((settings, Path("old")), {"resume": True, "overwrite": False})


def test_export_passes_settings_on(calls: Calls) -> None:
    assert cli.main(["export", "my run"]) == 0
    assert calls["export"] == ((Path("my run"),), {"settings": ()})
    assert cli.main(["export", "my run", "--set", "export.profile=compat", "--set", "export.onnx_opset=18"]) == 0
    assert calls["export"][1] == {"settings": ("export.profile=compat", "export.onnx_opset=18")}


@pytest.mark.parametrize("command", ["quantize", "verify", "report"])
def test_a_stage_alone_takes_the_run_folder(calls: Calls, command: str) -> None:
    assert cli.main([command, "my run"]) == 0
    assert calls[command] == ((Path("my run"),), {"trust": False} if command == "quantize" else {})


def test_benchmark_of_a_run_leaves_to_its_recipe_what_is_not_said(calls: Calls, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert cli.main(["benchmark", str(run)]) == 0
    plain = {"runtimes": None, "threads": None, "protocol": None, "options": api.BenchmarkOptions(), "resume": False}
    assert calls["benchmark"] == ((run,), plain)
    words = ["--runtime", "litert, openvino", "--threads", "2,1", "--rigorous", "--device", "cpu,ssh:pi", "--resume"]
    assert cli.main(["benchmark", str(run), *words]) == 0
    assert calls["benchmark"][1] == {
        "runtimes": ("litert", "openvino"),
        "threads": (2, 1),
        "protocol": "rigorous",
        "options": api.BenchmarkOptions(devices=("cpu", "ssh:pi")),
        "resume": True,
    }


def test_benchmark_of_model_files_passes_everything_on(calls: Calls, tmp_path: Path) -> None:
    for name in ("a.tflite", "b.tflite", "base.tflite"):
        (tmp_path / name).touch()
    words = ["a.tflite", "b.tflite", "--baseline", "base.tflite", "--quick", "--out", "figures", "--profile"]
    words += ["--shape", "x=1,224,224,3", "--shape", "serving:0=2,5", "--inputs", "in.npz", "--attention", "gate$"]
    words += [
        "--device",
        "adb:1",
        "--device",
        "cpu,gpu",
        "--benchmark-model",
        "bm",
        "--benchmark-model-sha256",
        "ab",
        "--adb-cores",
        "f0",
    ]
    words += ["--remote-python", "/opt/py", "--fail-if-slower", "5%"]
    assert cli.main(["benchmark", *words]) == 0
    assert calls["benchmark_models"] == (
        ([Path("a.tflite"), Path("b.tflite")],),
        {
            "runtimes": None,
            "threads": (1,),
            "protocol": "quick",
            "options": api.BenchmarkOptions(
                devices=("adb:1", "cpu", "gpu"),
                remote_python="/opt/py",
                benchmark_model=Path("bm"),
                benchmark_model_sha256="ab",
                adb_cores="f0",
                shapes=(("x", (1, 224, 224, 3)), ("serving:0", (2, 5))),
                inputs=Path("in.npz"),
                profile=True,
                attention="gate$",
                fail_if_slower=5.0,
            ),
            "baseline": Path("base.tflite"),
            "out": Path("figures"),
            "resume": False,
        },
    )


def test_predict_prints_text_and_json(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "run", "a.png", "b.png", "--top", "2", "--runtime", "litert", "--threads", "3"]) == 0
    assert calls["predict"][1] == {"top": 2, "runtime": "litert", "threads": 3}
    text = capsys.readouterr().out
    classes = ["   75.00 %  bag", "   25.00 %  boot"]
    assert text.splitlines() == ["a.png", *classes, "b.png", *classes]
    assert cli.main(["predict", "run", "a.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"image": "a.png", "classes": ["bag", "boot"], "probabilities": [0.75, 0.25]}
    ]


def test_names_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    evil = [api.Prediction(Path("a\x1b[31m.png"), ("\x1b]0;x\x07",), (1.0,))]
    monkeypatch.setattr(api, "predict", lambda *arguments, **options: evil)
    assert cli.main(["predict", "run", "a.png"]) == 0
    fail_with(monkeypatch, "predict", InputError("no image a\x1b[31m.png\nsecond line"))
    assert cli.main(["predict", "run", "a.png"]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert captured.err.count("\n") == 1


# Exit codes and their line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GateFailed("1 gate failed: x"), 1, "1 gate failed: x"),
        (InputError("no run folder x"), 2, "no run folder x"),
        (EnvironmentFailure("NaN at step 7"), 3, "NaN at step 7"),
        (MissingPackage("openvino", "openvino", "this"), 3, "pip install 'edgecbam[openvino]'"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            3,
            "permission denied: /x/y: give yourself the right",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x/y"), 3, "Is a directory: /x/y"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3, "no space left on /x/y; free some and "),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "no space left on the disk; free some and "),
        (RuntimeError("write failed: No space left on device; 5"), 3, "no space left on the disk; free some and "),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "Broken pipe"),
        (MemoryError(), 3, "out of memory"),
        (ZeroDivisionError("division\nby zero"), 3, "internal error: ZeroDivisionError: division by zero; run again"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again"),
    ],
)
def test_every_kind_of_failure_has_its_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    fail_with(monkeypatch, "report", error)
    assert cli.main(["report", "run"]) == code
    assert line in error_line(capsys)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_run_says_how_to_go_on(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def verb(settings: Recipe, out: Path, **options: Any) -> None:
        make_run(out, settings)
        raise error

    monkeypatch.setattr(api, "run", verb)
    cli.main(["run", "--out", "my run"])
    assert error_line(capsys).endswith("go on with: edgecbam run --resume --out 'my run'")


def test_debug_shows_the_traceback_wherever_it_stands_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, "report", ValueError("a bug"))
    for words in (["--debug", "report", "run"], ["report", "run", "--debug"]):
        assert cli.main(words) == 3
        text = capsys.readouterr().err
        assert "Traceback (most recent call last)" in text
        assert "ValueError: a bug" in text
    assert cli.main(["report", "run"]) == 3
    assert "Traceback" not in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "Missing command"),
        (["trian"], "Did you mean 'train'?"),
        (["run", "--ovrwrite"], "--overwrite"),
        (["run", "fashion_cbm"], "did you mean fashion_cbam"),
        (["run", "--set", "train.epoch=3"], "did you mean train.epochs"),
        (["train", "--set", "train.epochs=nan"], "train.epochs must be of type int"),
        (["run", "--resume", "--overwrite", "--out", "x"], "exclude each other"),
        (["run", "--resume"], "--resume needs --out"),
        (["run", "--resume", "--out", "nowhere"], "no run folder nowhere"),
        (["quantize"], "Missing argument"),
        (["quantize", "a", "b"], "unexpected extra argument"),
        (["benchmark"], "Missing argument"),
        (["benchmark", "nowhere.tflite"], "the model nowhere.tflite does not exist"),
        (["benchmark", "folder"], "has no recipe.toml"),
        (["benchmark", "run", "run"], "give model files, or one run folder alone"),
        (["benchmark", "run", "--quick", "--rigorous"], "exclude each other"),
        (["benchmark", "run", "--threads", "0"], "--threads"),
        (["benchmark", "run", "--runtime", " , "], "--runtime is empty"),
        (["benchmark", "run", "--threads", "two"], "--threads must be whole numbers"),
        (["benchmark", "run", "--threads", "1,2000"], "--threads must be whole numbers"),
        (["benchmark", "run", "--device", ","], "--device is empty"),
        (["benchmark", "run", "--attention", "("], "--attention is no regular expression"),
        (["benchmark", "run", "--shape", "x=1"], "--shape goes with model files"),
        (["benchmark", "run", "--inputs", "x.npz"], "--inputs goes with model files"),
        (["benchmark", "a.tflite", "--shape", "x"], "--shape must be NAME=N,M"),
        (["benchmark", "a.tflite", "--shape", "x=1,0"], "--shape must be NAME=N,M"),
        (["benchmark", "a.tflite", "--shape", "=1,2"], "--shape must be NAME=N,M"),
        (["benchmark", "a.tflite", "--fail-if-slower", "5%"], "--fail-if-slower needs a --baseline"),
        (["benchmark", "a.tflite", "--baseline", "nowhere"], "the baseline nowhere does not exist"),
        (["benchmark", "run", "--baseline", "a.tflite"], "--baseline goes with model files"),
        (["benchmark", "run", "--out", "x"], "--out goes with model files"),
        (["benchmark", "run", "--fail-if-slower", "fast"], "must be a percentage of 0 or more"),
        (["benchmark", "run", "--fail-if-slower", "nan"], "must be a percentage of 0 or more"),
        (["benchmark", "run", "--fail-if-slower", "-1"], "must be a percentage of 0 or more"),
        (["benchmark", "run", "--fail-if-slower", "inf"], "must be a percentage of 0 or more"),
        (["predict", "run"], "Missing argument"),
        (["predict", "run", "a.png", "--top", "0"], "--top"),
    ],
)
def test_wrong_words_are_refused_with_code_2_before_anything_runs(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.tflite").touch()
    assert cli.main(words) == 2
    assert line in error_line(capsys)
    assert not calls


@pytest.mark.parametrize(
    ("verdict", "reason", "code"),
    [("failed", "more than 5 % slower", 1), ("passed", "", 0), ("inconclusive", "the baseline was not found", 0)],
)
def test_the_gate_decides_the_exit_code(
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verdict: str,
    reason: str,
    code: int,
) -> None:
    run = make_run(tmp_path / "run")
    gate = {"threshold_percent": 5.0, "verdict": verdict, "reason": reason, "rows": []}
    monkeypatch.setattr(api, "benchmark", lambda run, **options: {**REPORT, "gate": gate})
    assert cli.main(["benchmark", str(run), "--fail-if-slower", "5"]) == code
    said = capsys.readouterr()
    assert (
        (said.err if code else said.out)
        .splitlines()[-1]
        .startswith("edgecbam: error: gate at 5 %: more" if code else f"gate at 5 %: {verdict}")
    )
    assert reason in said.out + said.err


def test_a_failed_verification_prints_its_gates_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "verify", lambda run, **options: FAILED)
    assert cli.main(["verify", "run"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "edgecbam: error: 1 of 2 gates failed: qat_agreement\n"
    assert re.search(r"^qat_agreement +FAILED +0\.5 +0\.995", captured.out, re.MULTILINE)
    assert "1,000 of 2,000 images" in " ".join(captured.out.split())
    assert all(len(line) <= 80 for line in captured.out.splitlines())


@pytest.mark.parametrize("command", ["run", "train"])
def test_an_existing_folder_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("precious")
    make_run(tmp_path / "run")
    assert cli.main([command, "--out", str(tmp_path / "run")]) == 2
    assert "exists already: add --resume" in error_line(capsys)
    assert cli.main([command, "--out", str(tmp_path / "photos")]) == 2
    assert "exists already" in error_line(capsys)
    assert cli.main([command, "--overwrite", "--out", str(tmp_path / "photos")]) == 2
    assert "is no run folder" in error_line(capsys)
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "precious"


# Help and output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_lists_its_options_within_80_columns(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    offered = set(re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE))
    assert offered == {*COMMANDS[command], "--help"}
    assert all(len(line) <= 80 for line in text.splitlines())


def test_help_lists_every_command_and_version_tells_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  ([a-z]+)  ", text[text.index("Commands:") :], re.MULTILINE) == list(COMMANDS)
    assert "..." not in text.split("Commands:")[1]
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgecbam {__version__}\n"


def events(settings: Recipe, out: Path, *, on_event: Callable[[Event], None], **options: Any) -> Any:
    on_event(Event("train", message="a long message " * 20, figures={"loss": 0.5}))
    for step in range(1000):
        on_event(Event("train", step=step + 1, total=1000, figures={"loss": 0.5}))
    on_event(Event("benchmark", step=1, total=2, unit="round"))
    return api.RunResult(out, PASSED, REPORT)  # type: ignore[arg-type]


def test_piped_output_is_plain_short_and_narrow(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "run", events)
    assert cli.main(["run"]) == 0
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "\x1b" not in text
        assert "\r" not in text
        assert all(len(line) <= 80 for line in text.splitlines())
    assert len(captured.err.splitlines()) < 15
    assert "quick protocol: a look, not a publication" in captured.out
    assert re.search(r"int8\.tflite +litert +91\.80 +121 +0\.432 2\.00 \(1\.60-2\.50\) faster", captured.out)
    assert re.search(r"fp32\.tflite +litert +91\.80 +121 +0\.432 1 +baseline", captured.out)


# Real processes


def test_a_wrong_word_and_an_unknown_recipe_exit_2_without_a_traceback(tmp_path: Path) -> None:
    for words in (["run", "fashion_cbm"], ["quantize", tmp_path / "nowhere"], ["predict", tmp_path, "x.png"]):
        done = edgecbam(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert re.fullmatch(r"edgecbam: error: [^\n]+\n", done.stderr)
        assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


SLEEPER = """
import sys, time
from edgecbam import api, artifacts, cli
def train(settings, out, **options):
    artifacts.create_run(out, settings)
    with artifacts.stage_folder(out, "train") as folder:
        (folder / "half").write_text("half")
        print("ready", flush=True)
        time.sleep(60)
api.train = train
sys.argv = ["edgecbam", "train", "--out", "run"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_exit_130_and_leave_nothing_half_written(
    tmp_path: Path, number: signal.Signals, ignored: bool
) -> None:
    command = [sys.executable, "-c", SLEEPER]
    if ignored:  # as a shell does with what a script puts into the background
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        text = process.stderr.read()
    assert process.returncode == 130
    assert text == (
        "edgecbam: error: interrupted: finished stages are kept; go on with: edgecbam train --resume --out run\n"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.toml"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    for words in ("--help", "train --help", "doctor"):
        command = f"{sys.executable} -m edgecbam {words} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == ("0\n", ""), words


def test_odd_characters_print_in_any_locale(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = edgecbam("quantize", tmp_path / "größe\udcff", env=environment)
    assert done.returncode == 2
    assert "no run folder" in done.stderr


def test_native_libraries_cannot_write_through_the_progress_unless_debug_is_given(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from edgecbam import api, cli\n"
        "def report(run, **options):\n"
        "    os.write(2, b'I0000 native noise\\n')\n"
        "    raise ValueError('a bug')\n"
        "api.report = report\n"
        "sys.argv = ['edgecbam', 'report', 'run', *sys.argv[1:]]\n"
        "sys.exit(cli.main())\n"
    )

    def stderr(words: Sequence[str]) -> str:
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr

    assert stderr([]) == "edgecbam: error: internal error: ValueError: a bug; run again with --debug\n"
    assert "native noise" in stderr(["--debug"])
    assert "Traceback" in stderr(["--debug"])
