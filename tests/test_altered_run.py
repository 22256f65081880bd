"""Run folders that somebody has altered so that every digest fits: one line for each, and no traceback."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import api, artifacts, cli

Alter = Callable[[Any], Any]
Change = tuple[str, Alter, str, str]
RATIO = {"value": 0.0, "low": 0.0, "high": 0.0}
SCRIPT = "`<img src=x onerror=alert(1)>`\n\n# heading\n\n<script>alert(2)</script>"


def put(*keys: Any, value: Any) -> Alter:
    """Set one value of a JSON file."""

    def alter(whole: Any) -> Any:
        part = whole
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        return whole

    return alter


def every(name: str, key: str, value: Any) -> Alter:
    def alter(whole: Any) -> Any:
        for part in whole[name]:
            part[key] = value
        return whole

    return alter


def without(*names: str) -> Alter:
    def alter(whole: Any) -> Any:
        for name in names:
            del whole["files"][name]
        return whole

    return alter


CHANGES: list[Change] = [
    ("export/manifest.json", put("preprocessing", "mean", value=[10**400]), "predict", "is no number"),
    ("export/manifest.json", put("preprocessing", "mean", value=[1e300]), "predict", "mean must be a list of"),
    ("export/manifest.json", put("preprocessing", "std", value=[1e-320]), "predict", "std must be above 0"),
    ("export/manifest.json", put("files", "model_int8.tflite", "macs", value=10**400), "report", "is no number"),
    ("export/manifest.json", put("files", value={}), "report", "no classes or no files"),
    ("export/manifest.json", put("classes", value=["a"]), "predict", "outputs .* for 1 classes"),
    ("export/manifest.json", put("classes", 0, value="\ud800"), "report", "surrogates not allowed"),
    ("export/manifest.json", without("model_fp32.tflite"), "explain", "does not list model_fp32.tflite"),
    ("export/manifest.json", without("model_int8.tflite"), "explain", "does not list model_int8.tflite"),
    ("export/manifest.json", put("files", "model_int8.tflite", "input", "dtype", value="O"), "verify", "dtype 'O'"),
    ("export/manifest.json", put("files", "model_int8.tflite", "output", "scale", value=0), "verify", "the scale 0"),
    ("benchmark/report.json", every("comparisons", "ratio", RATIO), "report", "is not what edgecbam writes"),
    ("benchmark/report.json", every("comparisons", "verdict", "splendid"), "report", "is not what edgecbam writes"),
    ("benchmark/report.json", every("models", "bytes", 10**400), "report", "is no number"),
    ("benchmark/report.json", every("results", "accuracy", float("nan")), "report", "NaN is no number"),
    ("verify/verify.json", put("accuracy", value={"x": 10**400}), "report", "is no number"),
    ("train/metrics.json", put("test_ema_accuracy", value=float("inf")), "report", "Infinity is no number"),
    ("train/metrics.json", lambda whole: [whole], "quantize", "holds no JSON object"),
    ("export/samples.npz", lambda arrays: {**arrays, "labels": arrays["labels"].astype("S3")}, "verify", "no numbers"),
    ("export/samples.npz", lambda arrays: {**arrays, "labels": arrays["labels"] + 10}, "verify", "none of the 10 cl"),
    ("export/samples.npz", lambda arrays: {**arrays, "labels": arrays["labels"] - 10}, "verify", "none of the 10 cl"),
    (
        "export/samples.npz",
        lambda arrays: {**arrays, "keras_qat": arrays["keras_qat"][:, :9]},
        "verify",
        "has not 10 outputs for each image",
    ),
    (
        "export/samples.npz",
        lambda arrays: {**arrays, "keras_float": arrays["keras_float"].astype("M8[s]")},
        "verify",
        "no numbers",
    ),
]


@pytest.fixture(scope="module")
def benchmarked_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared run with benchmark and report. Do not change it."""
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("benchmarked") / "run"))
    api.benchmark(run, runtimes=["litert"], protocol="quick")
    api.report(run)
    return run


@pytest.fixture
def altered(benchmarked_run: Path, tmp_path: Path) -> Callable[[str, Alter], Path]:
    """A copy with one file altered, and every digest that holds it made to fit."""

    def make(name: str, alter: Alter) -> Path:
        run = Path(shutil.copytree(benchmarked_run, tmp_path / "run"))
        path = run / name
        if path.suffix == ".npz":
            np.savez_compressed(path, **alter(dict(np.load(path))))
        else:
            path.write_text(json.dumps(alter(json.loads(path.read_text()))))
        for stage, parents in artifacts.PARENTS.items():
            record = run / stage / artifacts.STAGE_FILE
            if not record.exists():
                continue
            told = json.loads(record.read_text())
            told["files"] = {file: artifacts.sha256_file(run / stage / file) for file in told["files"]}
            told["parents"] = {parent: artifacts.sha256_file(run / parent / artifacts.STAGE_FILE) for parent in parents}
            record.write_text(json.dumps(told))
        return run

    return make


@pytest.mark.parametrize(
    ("name", "alter", "command", "refusal"), CHANGES, ids=[f"{n}-{c}-{r}" for n, _, c, r in CHANGES]
)
def test_what_was_altered_is_one_line(
    altered: Callable[[str, Alter], Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    alter: Alter,
    command: str,
    refusal: str,
) -> None:
    run = altered(name, alter)
    image = next((run / "app" / "web" / "samples").glob("*.png"))
    capsys.readouterr()
    code = cli.main([command, str(run), *([str(image)] if command in ("predict", "explain") else [])])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edgecbam: error")]
    assert code in (1, 2), lines
    assert len(lines) == 1
    assert "internal error" not in lines[0]
    assert re.search(refusal, lines[0]), lines[0]


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("benchmark/report.json", put("protocol", "name", value=SCRIPT)),
        ("benchmark/report.json", put("environment", "cpu", value=SCRIPT)),
        ("benchmark/report.json", every("results", "reason", SCRIPT)),
        ("verify/verify.json", put("accuracy", SCRIPT, value=0.5)),
        ("export/manifest.json", lambda whole: {**whole, "classes": [SCRIPT[:40], *whole["classes"][1:]]}),
        ("train/metrics.json", put("data_digest", value=SCRIPT[:16])),
    ],
)
def test_no_page_of_a_run_carries_html_through(altered: Callable[[str, Alter], Path], name: str, alter: Alter) -> None:
    run = altered(name, alter)
    api.report(run)
    for page in ("report.md", "model_card.md", "report.html"):
        text = (run / "report" / page).read_text()
        assert "<img" not in _outside_code(text, page)
        assert "<script>alert" not in _outside_code(text, page)
        assert "\n# heading" not in text


def _outside_code(text: str, page: str) -> str:
    """Markdown shows code as it is; HTML has none of it."""
    return text if page.endswith("html") else re.sub(r"`[^`\n]*`", "", text)
