"""Figures of full trainings: copied from a finished run folder, then shown in a table."""

from pathlib import Path

import pytest

from edgecbam import api, artifacts
from edgecbam.benchmarks import trainings
from edgecbam.errors import InputError

DOCUMENT = f"# Results\n\n{trainings.BEGIN}\n{trainings.END}\n\nEnd.\n"


def test_a_run_that_was_not_measured_is_refused(small_run: Path) -> None:
    with pytest.raises(InputError, match="benchmark"):
        trainings.collect(small_run)


def test_the_figures_of_a_finished_run_reach_the_table(small_run: Path, tmp_path: Path) -> None:
    report = api.benchmark(small_run, protocol="quick")
    document, results = tmp_path / "results.md", tmp_path / "results"
    document.write_text(DOCUMENT)
    results.mkdir()
    trainings.main([str(results), str(document), str(small_run)])

    figures = artifacts.read_json(results / "training_small_seed_1.json")
    verified = artifacts.read_json(small_run / "verify" / "verify.json")
    trained = artifacts.read_json(small_run / "train" / "metrics.json")
    rate = artifacts.read_json(small_run / "train" / "timing.json")["images_per_second"]
    assert figures["accuracy"] == verified["accuracy"]
    assert figures["keras_accuracy"]["ema"] == trained["test_ema_accuracy"]
    assert figures["minutes"] == pytest.approx(10 * trained["train_images"] / rate / 60)
    assert figures["images"] == {part: trained[f"{part}_images"] for part in ("train", "validation", "test")}
    assert figures["p50_ms"].keys() == {row["model"] for row in report["results"] if row["status"] == "ok"}
    assert figures["failed_gates"] == []

    text = document.read_text()
    assert text.startswith("# Results\n\n")
    assert text.endswith("\n\nEnd.\n")
    row = next(line for line in text.splitlines() if line.startswith("| small |"))
    assert f"**{100 * verified['accuracy']['model_int8.tflite']:.2f} %**" in row
    assert "| 10 + 1 |" in row
    assert trainings.renew(text, trainings.reports(results)) == text


def test_without_any_training_the_document_says_so() -> None:
    assert "None is committed yet." in trainings.renew(DOCUMENT, [])
