"""Weights and data that are no numbers, dead, constant or alone: named where they arise, or files that load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tf_keras as keras
from PIL import Image

from edgecbam import api, artifacts, recipe, runtimes
from edgecbam.errors import InputError

TINY = (
    *("data.height=16", "data.width=16", "data.channels=1", "model.widths=[4]", "model.blocks=[1]"),
    *("model.reduction_ratio=2", "train.epochs=1", "train.batch_size=8", "quantize.epochs=1", "quantize.batch_size=8"),
    *("quantize.calibration_images=16", "export.samples_images=20", "train.precision=float32"),
    *("verify.max_accuracy_drop=1.0", "verify.min_qat_agreement=0.0", "verify.min_onnx_agreement=0.0"),
)
Resign = Callable[[Path, str], None]


def alter(run: Path, resign_stage: Resign, layer: str, index: int, value: float, place: Any = slice(None)) -> None:
    """Write a value into a weight of the trained model."""
    path = run / "train" / "model.keras"
    model = keras.models.load_model(path, compile=False)
    weights = model.get_layer(layer).get_weights()
    weights[index].reshape(-1)[place] = value
    model.get_layer(layer).set_weights(weights)
    model.save(path)
    resign_stage(run / "train", "model.keras")


def every_file_loads(run: Path) -> None:
    for path in sorted((run / "export").glob("model_*")):
        name = "litert" if path.suffix == ".tflite" else "onnxruntime"
        session = runtimes.find(name).open(path, threads=1)
        outputs = session.run([np.zeros([abs(n) for n in t.shape], t.dtype) for t in session.inputs])
        assert np.isfinite(outputs[0].astype(np.float64)).all(), path.name
        session.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_weight_that_is_no_number_is_named(small_run: Path, resign_stage: Resign, value: float) -> None:
    alter(small_run, resign_stage, "stem_conv", 0, value, 3)
    with pytest.raises(
        InputError, match=r"model\.keras: stem_conv/kernel:0 of the layer stem_conv has values that are"
    ):
        api.quantize(small_run)


def test_a_quantized_weight_that_is_no_number_is_named(small_run: Path, resign_stage: Resign) -> None:
    path = small_run / "quantize" / api.QAT_FILE
    with h5py.File(path, "r+") as file:
        planted: list[str] = []

        def plant(name: str, part: Any) -> None:
            if isinstance(part, h5py.Dataset) and part.ndim == 4:
                part[...] = np.nan
                planted.append(name)

        file.visititems(plant)
    assert planted
    resign_stage(small_run / "quantize", api.QAT_FILE)
    with pytest.raises(InputError, match=r"h5: .* of the layer quant_\w+ has values that are no numbers"):
        api.export(small_run)


@pytest.mark.parametrize(("layer", "index"), [("stem_bn", 0), ("logits", 0)], ids=["dead channels", "logits"])
def test_dead_layers_give_files_that_load(
    trained_run: Path, tmp_path: Path, resign_stage: Resign, layer: str, index: int
) -> None:
    run = tmp_path / "run"
    settings = recipe.load("fashion_cbam", (*TINY, "data.train_images=48", "data.test_images=20"))
    api.train(settings, run)
    alter(run, resign_stage, layer, index, 0.0)
    api.quantize(run)
    api.export(run)
    every_file_loads(run)


def photos(folder: Path, counts: dict[str, int], level: int | None = 128) -> Path:
    """Images of one grey level, or of noise."""
    draw = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (20, 20)) if level is None else np.full((20, 20), level)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_constant_images_give_files_that_load(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", {"cat": 12, "dog": 12})
    settings = recipe.load("fashion_cbam", (*TINY, f"data.source='{data}'", "data.validation_fraction=0.2"))
    run = api.train(settings, tmp_path / "run")
    api.quantize(run)
    api.export(run)
    every_file_loads(run)
    assert artifacts.load_manifest(run / "export").classes == ("cat", "dog")


def test_a_class_with_one_image_is_named(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", {"cat": 12, "dog": 1}, None)
    settings = recipe.load("fashion_cbam", (*TINY, f"data.source='{data}'"))
    with pytest.raises(InputError, match=r"dog"):
        api.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def ranges(file: h5py.File) -> list[tuple[h5py.Dataset, h5py.Dataset]]:
    """The least and the greatest value of each quantized activation, in order of the network."""
    found: list[tuple[h5py.Dataset, h5py.Dataset]] = []

    def visit(name: str, part: Any) -> None:
        if isinstance(part, h5py.Group) and name.endswith("/vars"):
            numbers = [part[key] for key in sorted(part, key=int) if part[key].shape == () and part[key].dtype == "f4"]
            if len(numbers) == 2:
                found.append((numbers[0], numbers[1]))

    file.visititems(visit)
    return found


@pytest.mark.parametrize(
    ("ends", "which", "refusal"),
    [
        ((3.0, 3.0), slice(None), None),
        ((-2.0, -2.0), slice(None), None),
        (
            (0.0, 0.0),
            slice(4, 5),
            r"LiteRT cannot run the layer \S+, whose requantization scale is \d+ .*quantize` again",
        ),
        ((0.0, 0.0), slice(None), r"the layer \S+ has a bias too large for its scale.*quantize` again"),
        ((-1e30, 1e30), slice(None), r"LiteRT cannot run the layer \S+, whose requantization scale is \d+"),
        ((np.nan, np.nan), slice(4, 5), r"min:0 of the layer \w+ has values that are no numbers"),
        ((0.0, np.inf), slice(4, 5), r"max:0 of the layer \w+ has values that are no numbers"),
    ],
    ids=["point", "negative point", "one zero", "all zero", "huge", "NaN", "infinite"],
)
def test_ranges_that_collapsed_are_named_or_give_files_that_load(
    small_run: Path, resign_stage: Resign, ends: tuple[float, float], which: slice, refusal: str | None
) -> None:
    path = small_run / "quantize" / api.QAT_FILE
    with h5py.File(path, "r+") as file:
        altered = ranges(file)[which]
        assert altered
        for least, greatest in altered:
            least[...], greatest[...] = ends
    resign_stage(small_run / "quantize", api.QAT_FILE)
    before = artifacts.sha256_file(small_run / "export" / artifacts.STAGE_FILE)
    if refusal is None:
        api.export(small_run)
        every_file_loads(small_run)
    else:
        with pytest.raises(InputError, match=refusal):
            api.export(small_run)
        assert artifacts.sha256_file(small_run / "export" / artifacts.STAGE_FILE) == before, "the last export is kept"


def test_batches_of_one_class_give_files_that_load(tmp_path: Path) -> None:
    """A batch of one image holds one class."""
    settings = recipe.load(
        "fashion_cbam",
        (*TINY, "data.train_images=40", "data.test_images=20", "train.batch_size=1", "quantize.batch_size=1"),
    )
    run = api.train(settings, tmp_path / "run")
    api.quantize(run)
    api.export(run)
    every_file_loads(run)
    history = (run / "train" / "history.csv").read_text().splitlines()
    assert len(history) == 2
    assert "nan" not in history[1].lower()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_holds_no_numbers_is_named(tmp_path: Path, value: float) -> None:
    data = photos(tmp_path / "photos", {"cat": 12, "dog": 12}, None)
    pixels = np.full((20, 20), 0.5, np.float32)
    pixels[3, 4] = value
    Image.fromarray(pixels).save(data / "dog" / "bad.tiff")
    settings = recipe.load("fashion_cbam", (*TINY, f"data.source='{data}'"))
    with pytest.raises(InputError, match=r"1 of 25 images .* cannot be read: dog/bad\.tiff has grey levels from "):
        api.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
