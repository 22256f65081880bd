"""Every command in the documents runs, in the order in which it stands there, and the README's table is the report's.

Training, quantization and export are tested for real elsewhere; here they hand out the stages of the shared run, so
that the commands behind them find what they would find.
"""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecbam import ablation, api, artifacts, cli
from edgecbam.benchmarks import (
    ablation_table,
    app_table,
    layer_table,
    lowering_table,
    onnx_table,
    readme_table,
    reliability_table,
    training_speed_table,
    trainings,
    trust_table,
)
from edgecbam.export import web_server

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(document: Path) -> list[str]:
    """The lines that call edgecbam in the shell blocks of a document."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("edgecbam ")]


@pytest.fixture
def workplace(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photo.jpg and photos/, in which training takes no time."""

    def train(recipe: Any, out: Path, *, resume: bool = False, overwrite: bool = False, **_: Any) -> Path:
        assert resume or overwrite or not out.exists()
        if not out.exists():
            out.mkdir(parents=True)
            shutil.copy(trained_run / artifacts.RECIPE_FILE, out)
            shutil.copytree(trained_run / "train", out / "train")
        return out

    def copy_stages(*stages: str) -> Any:
        def run_stage(run: Path, **_: Any) -> None:
            artifacts.load_recipe(run)
            for stage in stages:
                shutil.rmtree(run / stage, ignore_errors=True)
                shutil.copytree(trained_run / stage, run / stage)

        return run_stage

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "quantize", copy_stages("quantize"))
    monkeypatch.setattr(api, "export", copy_stages("export", "app"))
    monkeypatch.setattr(web_server.Server, "serve_forever", lambda _: None)
    monkeypatch.setenv("EDGECBAM_CACHE", str(ROOT / "build" / "cache"))
    monkeypatch.setattr(ablation, "_check_networks", lambda *_: None)  # the shared run has fewer images
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        Image.fromarray(pixels).save(Path("photos", name, "1.jpg"))
    shutil.copytree(trained_run, "runs/first")  # the documents beside the README begin with a finished first run
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_run(document: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if document.name == "README.md":
        shutil.rmtree("runs/first")
    for command in commands(document):
        code = cli.main(shlex.split(command)[1:])
        assert code == 0, f"{command}: {capsys.readouterr().err}"


def test_the_documents_show_commands_at_all() -> None:
    assert len(commands(ROOT / "README.md")) >= 7
    assert len(commands(ROOT / "docs" / "guide.md")) >= 8


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readmes_table_is_that_of_the_committed_report() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    report = artifacts.read_json(ROOT / "benchmarks" / "results" / "demo.json")
    assert readme_table.replace(readme, readme_table.block(report)) == readme


def test_the_tables_of_the_lowering_are_those_of_the_committed_report() -> None:
    document = (ROOT / "docs" / "lowering.md").read_text("utf-8")
    report = artifacts.read_json(ROOT / "benchmarks" / "results" / "lowering.json")
    assert report["command"] == "make bench-lowering"  # in full, not the quick look
    assert lowering_table.renew(document, report) == document
    assert len(report["rows"]) == 30


def test_the_tables_of_onnx_are_those_of_the_committed_report() -> None:
    document = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    report = artifacts.read_json(ROOT / "benchmarks" / "results" / "onnx.json")
    assert report["command"] == "make bench-onnx"  # in full, not the quick look
    assert onnx_table.renew(document, report) == document
    assert {row["network"] for row in report["rows"]} == {
        "resnet 16/32/64 at 96x96",
        "resnet 32/64/128 at 96x96",
        "resnet-20 at 32x32",
    }


def test_the_results_of_ablations_are_those_of_the_committed_reports() -> None:
    document = (ROOT / "docs" / "ablation.md").read_text("utf-8")
    reports = ablation_table.reports(ROOT / "benchmarks" / "results")
    assert ablation_table.renew(document, reports) == document
    for name, report in reports.items():
        assert len(report["runs"]) == report["planned_runs"], f"{name} is not finished"


def test_what_an_app_costs_is_that_of_the_committed_figures() -> None:
    document, results = (ROOT / "docs" / "app.md").read_text("utf-8"), ROOT / "benchmarks" / "results"
    softmax, mediapipe = (
        artifacts.read_json(results / name) for name in (app_table.SOFTMAX_FILE, app_table.MEDIAPIPE_FILE)
    )
    assert app_table.renew(document, softmax, mediapipe) == document
    assert softmax["protocol"]["name"] != "quick"


def test_the_tables_of_reliability_are_those_of_the_committed_figures() -> None:
    document, results = (ROOT / "docs" / "reliability.md").read_text("utf-8"), ROOT / "benchmarks" / "results"
    assert reliability_table.renew(document, results) == document
    fuzz = artifacts.read_json(results / "fuzz.json")
    assert fuzz["native"]["faults"] == fuzz["runs"]["faults"] == 0
    bad = ("crashes", "hangs", "memory", "wrong_acceptances")
    assert all(one["inputs"] and not any(one[kind] for kind in bad) for one in fuzz["parsers"].values())


def test_the_table_of_layers_is_that_of_the_committed_figures() -> None:
    document = (ROOT / "docs" / "explain.md").read_text("utf-8")
    found = layer_table.reports(ROOT / "benchmarks" / "results")
    assert [one["recipe"] for one in found] == ["fashion_resnet20"]
    assert layer_table.renew(document, found) == document


def test_the_table_of_trainings_is_that_of_the_committed_figures() -> None:
    document = (ROOT / "docs" / "results.md").read_text("utf-8")
    found = trainings.reports(ROOT / "benchmarks" / "results")
    assert trainings.renew(document, found) == document
    small = next(one for one in found if one["recipe"] == "fashion_small")
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"`fashion_small` with {small['parameters']:,} parameters reaches" in readme
    assert small["accuracy"]["model_int8.tflite"] == small["accuracy"]["model_int8.onnx"]
    assert f"reaches {100 * small['accuracy']['model_int8.tflite']:.2f} % on the 10,000 test images" in readme
    assert f"{100 * small['accuracy']['model_fp32.tflite']:.2f} % in float" in readme
    for one in found:
        assert (one["images"]["test"], one["verified_images"]) == (10_000, 10_000)
        assert not one["failed_gates"]


def test_the_table_of_training_speed_is_that_of_the_committed_reports() -> None:
    document = (ROOT / "docs" / "training.md").read_text("utf-8")
    found = training_speed_table.reports(ROOT / "benchmarks" / "results")
    assert found
    assert training_speed_table.renew(document, found) == document


def test_the_tables_of_trust_are_those_of_the_committed_reports() -> None:
    document = (ROOT / "docs" / "trust.md").read_text("utf-8")
    simulated, beside, controls = (
        artifacts.read_json(ROOT / "benchmarks" / "results" / name) for name in trust_table.FILES
    )
    assert simulated["command"] == "make bench-coverage"  # in full, not the quick look
    assert beside["quick"] is False
    assert (controls["summary"]["sessions"], controls["protocol"]["name"]) == (20, "standard")
    assert trust_table.renew(document, simulated, beside, controls) == document
    limits = {machine["name"] for machine in simulated["machines"] if machine["limit"]}
    for row in simulated["coverage"]:
        if row["machine"] not in limits:
            assert abs(row["coverage"] - simulated["nominal"]) <= 0.03, row
    for row in simulated["gate"]:
        if row["slowdown"] == 0:
            assert row["slower"] <= 0.05, row
    assert all(row["corrected"] <= 0.05 for row in simulated["families"])
