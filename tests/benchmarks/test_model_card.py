"""The model card: made of the run folder alone, each figure that of the files, and nothing that Markdown would obey."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgecbam import artifacts, metrics, runtimes
from edgecbam.benchmarks import model_card
from edgecbam.errors import InputError
from tests.benchmarks import example_report


@pytest.fixture
def run(small_run: Path) -> Path:
    """The shared small run, with a report of figures that nobody measured."""
    (small_run / "benchmark").mkdir()
    artifacts.write_json(small_run / "benchmark" / "report.json", example_report.rich()[0])
    return small_run


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    lines = [line for line in below if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_accuracy_by_class_and_confusions_are_those_of_the_int8_file(run: Path) -> None:
    text = model_card.text(run)
    folder, manifest = run / "export", artifacts.load_manifest(run / "export")
    samples = artifacts.load_samples(folder)
    session = runtimes.find("litert").open(folder / "model_int8.tflite", threads=1)
    inputs = (samples.images.astype(np.float32) - 128) / 128
    chosen = np.array([session.run([runtimes.to_input(x[None], session.inputs[0])])[0][0].argmax() for x in inputs])
    matrix = rows(text, "Confusions, int8")
    assert [row[0] for row in matrix] == list(manifest.classes)
    counts = np.array([[int(cell) for cell in row[1:]] for row in matrix])
    expected = np.zeros_like(counts)
    for label, answer in zip(samples.labels, chosen, strict=True):
        expected[label, answer] += 1
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == len(samples.images)
    for index, row in enumerate(rows(text, "Class by class")):
        assert row[:2] == [manifest.classes[index], str((samples.labels == index).sum())]
        assert row[4] == f"{100 * (chosen[samples.labels == index] == index).mean():.2f} %"
        said = chosen == index
        assert row[5] == (f"{100 * (samples.labels[said] == index).mean():.2f} %" if said.any() else "–")
    top1 = dict(rows(text, "How right it is"))
    assert top1["`model_int8.tflite`"] == f"{100 * (chosen == samples.labels).mean():.2f} %"
    assert f"points, int8 {100 * metrics.calibration_error(int8_logits(run), samples.labels):.2f} points" in text
    for told in (
        "4,",
        "parameters",
        "seed 1",
        "Use and limits",
        "model_int8.onnx",
        manifest.files["model_int8.onnx"].sha256[:16],
    ):
        assert told in text
    assert str(run) not in text


def int8_logits(run: Path) -> np.ndarray:
    output = artifacts.load_manifest(run / "export").files["model_int8.tflite"].output
    integers = artifacts.load_int8_outputs(run / "verify")
    assert integers is not None
    assert output.scale is not None
    assert output.zero_point is not None
    return (integers.astype(float) - output.zero_point) * output.scale


def test_a_verification_of_before_there_were_outputs_leaves_int8_out_by_class(run: Path) -> None:
    (run / "verify" / "outputs.npz").unlink()
    text = model_card.text(run)
    assert "## Confusions, float" in text
    assert "int8 recall" not in text


def test_what_does_not_belong_together_is_refused(run: Path) -> None:
    artifacts.write_int8_outputs(run / "verify", np.zeros((3, 10), np.int8))
    with pytest.raises(InputError, match="verify and export have different samples: run `edgecbam verify"):
        model_card.write(run, run)
    (run / "verify" / "outputs.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"outputs\.npz is not readable"):
        model_card.write(run, run)
    np.savez(run / "verify" / "outputs.npz", model_int8=np.zeros((300, 10)))
    with pytest.raises(InputError, match=r"must be \[n, k\] int8"):
        model_card.write(run, run)
    shutil.copy(run / "recipe.toml", run / "verify" / "verify.json")
    with pytest.raises(InputError, match="not readable JSON"):
        model_card.write(run, run)
    assert not (run / model_card.FILE).exists()


def test_many_classes_and_evil_names(run: Path) -> None:
    """Beyond 20 classes the commonest confusions stand in; names are text, whatever they hold."""
    folder = run / "export"
    manifest, samples = artifacts.load_manifest(folder), artifacts.load_samples(folder)
    names = ("a|b", "<script>", "*bold*", *(f"class {i}" for i in range(27)))
    files = {
        name: dataclasses.replace(file, output=dataclasses.replace(file.output, shape=(1, 30)))
        for name, file in manifest.files.items()
    }
    artifacts.write_manifest(folder, dataclasses.replace(manifest, classes=names, files=files))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, len(samples.labels))
    logits = rng.normal(size=(len(labels), 30)).astype(np.float32)
    logits[labels == 0, 1] += 20  # a|b is taken for <script>
    artifacts.write_samples(folder, dataclasses.replace(samples, labels=labels, keras_float=logits, keras_qat=logits))
    artifacts.write_int8_outputs(run / "verify", np.clip(np.rint(logits * 10), -128, 127).astype(np.int8))
    text = model_card.text(run)
    first = rows(text, "Confusions, int8")[0]
    assert first == [r"a\|b", "&lt;script&gt;", str((labels == 0).sum())]
    assert len(rows(text, "Confusions, int8")) == 20
    assert "<script>" not in text
    assert r"\*bold\*" in text


def test_the_licence_is_told_or_asked_for(run: Path) -> None:
    assert "edgecbam knows neither (`edgecbam export RUN --set export.model_license=...`)" in model_card.text(run)
    path = run / "recipe.toml"
    path.write_text(path.read_text().replace('model_license = ""', 'model_license = "CC-BY-4.0"'))
    assert "Version 1. Licence of the model: CC-BY-4.0." in model_card.text(run)


def test_calibration_error_is_that_of_its_definition() -> None:
    """Two bins: sure and right half of the time, less sure and always right."""
    sure, unsure = np.log([0.9, 0.1]), np.log([0.55, 0.45])
    logits = np.array([sure] * 10 + [unsure] * 30)
    labels = np.array([0, 1] * 5 + [0] * 30)
    expected = 10 / 40 * abs(0.5 - 0.9) + 30 / 40 * abs(1 - 0.55)
    assert metrics.calibration_error(logits, labels) == pytest.approx(expected)
    rng = np.random.default_rng(2)
    calibrated = rng.normal(0, 2, (200_000, 2))
    drawn = (rng.random(200_000) < metrics.softmax(calibrated)[:, 1]).astype(int)
    assert metrics.calibration_error(calibrated, drawn) < 0.005
    assert metrics.calibration_error(np.array([[500.0, -500.0]]), np.array([0])) == 0
