"""RUN/app: RGB pixels in, probabilities out, and in between bit for bit what RUN/export computes."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import api, artifacts, preprocessing, runtimes
from edgecbam.errors import InputError
from edgecbam.events import ignore
from edgecbam.export import app_bundle, app_model, inspection, metadata, tflite
from tests.export.families import exported

RGB = {"height": 32, "width": 32, "channels": 3, "resize": "crop", "mean": [128.0], "std": [128.0]}
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def outputs(content: bytes, path: Path, inputs: np.ndarray) -> tuple[np.ndarray, runtimes.Session]:
    """Raw outputs [n, k] for raw inputs [n, ...], in LiteRT."""
    path.write_bytes(content)
    session = runtimes.find("litert").open(path, threads=1)
    return np.concatenate([session.run([one[None]])[0] for one in inputs]), session


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def fed(pixels: np.ndarray, made: app_model.AppModel, dtype: str) -> np.ndarray:
    """RGB pixels [n, h, w, 3] as README.md of the bundle says."""
    if dtype == "uint8":
        return pixels
    if dtype == "int8":
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return ((pixels.astype(np.float32) - made.mean) / made.std).astype(np.float32)


@pytest.mark.parametrize(("source", "dtype"), [("int8", "uint8"), ("int8", "int8"), ("fp32", "float32")])
def test_a_grey_network_answers_rgb_as_it_answers_grey(
    trained_run: Path, tmp_path: Path, source: str, dtype: str
) -> None:
    folder = trained_run / "export"
    manifest, samples = artifacts.load_manifest(folder), artifacts.load_samples(folder)
    assert manifest.preprocessing["channels"] == 1
    content = (folder / f"model_{source}.tflite").read_bytes()
    grey = samples.images[:100]
    session = runtimes.find("litert").open(folder / f"model_{source}.tflite", threads=1)
    normal = preprocessing.normalize(grey, manifest.preprocessing)
    logits = np.concatenate([session.run([runtimes.to_input(x[None], session.inputs[0])])[0] for x in normal])
    without = app_model.make(content, manifest.preprocessing, "regression", dtype, "it")
    assert (without.front, without.softmax) == (True, False)
    rgb = fed(np.repeat(grey, 3, axis=-1), without, dtype)
    raw, _ = outputs(without.content, tmp_path / "logits.tflite", rgb)
    if dtype == "float32":
        np.testing.assert_allclose(raw, logits, atol=1e-5)
    else:
        np.testing.assert_array_equal(raw.astype(int) - (128 if dtype == "uint8" else 0), logits)
    made = app_model.make(content, manifest.preprocessing, "classification", dtype, "it")
    raw, ends = outputs(made.content, tmp_path / "probabilities.tflite", rgb)
    expected = softmax(runtimes.to_real(logits, session.outputs[0]))
    tolerance = 1e-6 if dtype == "float32" else 1 / 256
    np.testing.assert_allclose(runtimes.to_real(raw, ends.outputs[0]), expected, atol=tolerance)
    assert ends.inputs[0].shape == (1, 28, 28, 3)


def test_colours_become_grey_as_training_saw_them(trained_run: Path, tmp_path: Path) -> None:
    """Luma in the integer front against Pillow's, which rounds once more: one grey level apart at most."""
    from PIL import Image

    folder = trained_run / "export"
    manifest = artifacts.load_manifest(folder)
    colours = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colours])[..., None]
    integers = np.rint(colours @ np.array(app_model.LUMA_INTEGERS) / sum(app_model.LUMA_INTEGERS))
    assert np.abs(integers - grey[..., 0]).max() <= 1
    content = (folder / "model_fp32.tflite").read_bytes()
    made = app_model.make(content, manifest.preprocessing, "classification", "float32", "it")
    raw, _ = outputs(made.content, tmp_path / "app.tflite", fed(colours, made, "float32"))
    normal = preprocessing.normalize(grey, manifest.preprocessing)
    logits, _ = outputs(content, tmp_path / "export.tflite", normal)
    np.testing.assert_allclose(raw, softmax(logits), atol=0.02)


@pytest.mark.parametrize(
    ("stated", "front"), [({}, False), ({"mean": [127.5], "std": [127.5]}, True), (IMAGENET, True)]
)
def test_an_integer_rgb_network_gets_a_front_only_where_it_needs_one(
    tmp_path: Path, stated: dict[str, Any], front: bool
) -> None:
    """What the front hands to the network is what runtimes.to_input makes of the normalized pixels, or next to it."""
    content, described = exported("edge").int8, RGB | stated
    made = app_model.make(content, described, "classification", "int8", "it")
    assert made.front == front
    pixels = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3), np.uint8)
    (tmp_path / "plain.tflite").write_bytes(content)
    tensor = runtimes.find("litert").open(tmp_path / "plain.tflite", threads=1).inputs[0]
    expected = runtimes.to_input(preprocessing.normalize(pixels, described), tensor)
    if not front:
        np.testing.assert_array_equal(expected, fed(pixels, made, "int8"))
        return
    seen = after_front(made.content, fed(pixels, made, "int8"))
    assert np.abs(seen.astype(int) - expected).max() <= 1
    assert (seen == expected).mean() > 0.9


def after_front(content: bytes, image: np.ndarray) -> np.ndarray:
    """What the first convolution of a file gives."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings(action="ignore"):  # it says that this takes memory
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    first = next(op for op in interpreter._get_ops_details() if op["op_name"] == "CONV_2D")
    return np.asarray(interpreter.get_tensor(first["outputs"][0]))


@pytest.mark.parametrize(
    ("stated", "front"), [({}, False), ({"mean": [127.5], "std": [127.5]}, False), (IMAGENET, True)]
)
def test_a_float_rgb_network_gets_a_front_only_for_statistics_by_channel(
    tmp_path: Path, stated: dict[str, Any], front: bool
) -> None:
    content, described = tflite.float32(exported("edge").float_model), RGB | stated
    made = app_model.make(content, described, "classification", "float32", "it")
    assert made.front == front
    assert (made.mean, made.std) == ((128.0, 128.0) if front or not stated else (127.5, 127.5))
    pixels = np.random.default_rng(3).integers(0, 256, (20, 32, 32, 3), np.uint8)
    raw, _ = outputs(made.content, tmp_path / "app.tflite", fed(pixels, made, "float32"))
    logits, _ = outputs(content, tmp_path / "plain.tflite", preprocessing.normalize(pixels, described))
    np.testing.assert_allclose(raw, softmax(logits), atol=1e-4)


def test_files_that_are_none_of_ours(trained_run: Path) -> None:
    folder = trained_run / "export"
    described = artifacts.load_manifest(folder).preprocessing
    with pytest.raises(InputError, match="it has an input of uint8: no model of uint8 comes of it"):
        app_model.make((folder / "model_uint8.tflite").read_bytes(), described, "classification", "uint8", "it")
    with pytest.raises(InputError, match="it has an input of float32: no model of int8 comes of it"):
        app_model.make((folder / "model_fp32.tflite").read_bytes(), described, "classification", "int8", "it")
    with pytest.raises(InputError, match=r"it is no \.tflite file"):
        app_model.make(b"nonsense", described, "classification", "int8", "it")


def test_the_bundle_says_what_it_is(trained_run: Path) -> None:
    folder, manifest = trained_run / "app", artifacts.load_manifest(trained_run / "export")
    told = json.loads((folder / "manifest.json").read_text())
    assert set(told["files"]) == set(app_bundle.VARIANTS)
    assert artifacts.is_fresh(trained_run, "app")
    for name, entry in told["files"].items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == artifacts.sha256_file(folder / name)
        assert entry["bytes"] == len(content)
        assert entry["source_sha256"] == manifest.files[entry["source"]].sha256
        assert entry["input"]["dtype"] == app_bundle.VARIANTS[name].dtype
        assert entry["partitions"] == 1
        wanted = {"uint8": ["QUANTIZE", "QUANTIZE", "SOFTMAX"], "int8": ["SOFTMAX"], "float32": []}
        assert entry["ops_outside"] == wanted[entry["input"]["dtype"]]
        found = metadata.read(content, name)
        assert found is not None
        assert found.labels() == manifest.classes
        assert found.normalization() == ((entry["mean"],), (entry["std"],))
        inspected = inspection.inspect(folder / name)
        assert inspected["minimum_runtime"] == manifest.files[entry["source"]].minimum_runtime
    assert (folder / "labels.txt").read_text("utf-8").splitlines() == list(manifest.classes)
    assert "28 x 28 pixels" in (folder / "README.md").read_text("utf-8")


def test_it_is_made_again_alone_and_with_equal_bytes(small_run: Path) -> None:
    before = contents(small_run / "app")
    shutil.rmtree(small_run / "app")
    api.bundle(small_run)
    assert contents(small_run / "app") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_who_made_it_and_the_licence_stand_in_the_metadata(small_run: Path) -> None:
    told = {"model_version": "2.1", "model_author": "A. Uthor", "model_license": "CC-BY-4.0"}
    api._change_recipe(small_run, [f"export.{key}='{value}'" for key, value in told.items()])
    settings = artifacts.load_recipe(small_run)
    assert (settings.export.model_version, settings.export.model_license) == ("2.1", "CC-BY-4.0")
    folder = small_run / "new"
    folder.mkdir()
    about = app_bundle.about(settings)
    app_bundle.write(folder, small_run / "export", artifacts.load_manifest(small_run / "export"), about, ignore)
    found = metadata.read((folder / "model_uint8.tflite").read_bytes(), "it")
    assert found is not None
    assert [found.model[key] for key in ("name", "version", "author", "license")] == ["small", *told.values()]
    assert "version: 2.1, author: A. Uthor, license: CC-BY-4.0" in (folder / "README.md").read_text()


def test_names_that_labels_cannot_hold_leave_nothing_behind(small_run: Path) -> None:
    manifest = artifacts.load_manifest(small_run / "export")
    doubled = dataclasses.replace(manifest, classes=("same", "same", *manifest.classes[2:]))
    target = small_run / "new"
    target.mkdir()
    about = app_bundle.About("n", "1", "", "")
    with pytest.raises(InputError, match="two classes have the name 'same'"):
        app_bundle.write(target, small_run / "export", doubled, about, ignore)
    assert not list(target.iterdir())


def test_a_regression_has_values_and_no_labels_in_its_metadata(trained_run: Path, tmp_path: Path) -> None:
    manifest = artifacts.load_manifest(trained_run / "export")
    regression = dataclasses.replace(manifest, task="regression", target_mean=(1.0,) * 10, target_std=(2.0,) * 10)
    told = app_bundle.write(tmp_path, trained_run / "export", regression, app_bundle.About("n", "1", "", ""), ignore)
    assert told["target_std"] == [2.0] * 10
    found = metadata.read((tmp_path / "model_uint8.tflite").read_bytes(), "it")
    assert found is not None
    assert found.labels() is None
    assert told["files"]["model_int8.tflite"]["ops_outside"] == []
    assert "output x std + mean" in (tmp_path / "README.md").read_text("utf-8")
