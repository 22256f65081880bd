"""MediaPipe's ImageClassifier, which Android and iOS use as well, reads the files of RUN/app without extra code."""

from pathlib import Path

import numpy as np
import pytest
from mediapipe_scores import ours, reader, table, theirs
from PIL import Image

from edgecbam import artifacts, preprocessing
from edgecbam.errors import InputError
from edgecbam.export import app_model, metadata, tflite
from tests.export.families import exported

ROOT = Path(__file__).parents[2]
IMAGES = 240
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
LABELS = ("Rock, paper", 'the "quoted"', "猫 🐈", "fourth")


@pytest.mark.parametrize("name", ["model_uint8.tflite", "model_fp32.tflite", "model_fp16.tflite"])
def test_a_grey_network_of_a_run(trained_run: Path, tmp_path: Path, name: str) -> None:
    manifest = artifacts.load_manifest(trained_run / "export")
    grey = artifacts.load_samples(trained_run / "export").images[:IMAGES]
    assert len(grey) == IMAGES
    rgb = np.repeat(grey, 3, axis=-1)
    found = theirs(trained_run / "app" / name, rgb, manifest.classes, tmp_path)
    expected = ours(trained_run / "app" / name, rgb)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert len(np.unique(expected.argmax(axis=1))) >= 5


@pytest.mark.parametrize("stated", [{"mean": [127.5], "std": [127.5]}, IMAGENET], ids=["one mean", "a mean each"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_network_of_colours(tmp_path: Path, stated: dict[str, list[float]], dtype: str) -> None:
    case = exported("edge")
    content = case.int8 if dtype == "uint8" else tflite.float32(case.float_model)
    described = {"height": 32, "width": 32, "channels": 3, "resize": "crop"} | stated
    made = app_model.make(content, described, "classification", dtype, "it")
    about = metadata.image_classifier("n", "d", "1", "", "", [made.mean], [made.std], -1.0, 1.0, LABELS)
    model = tmp_path / "model.tflite"
    labels = "".join(f"{label}\n" for label in LABELS).encode()
    model.write_bytes(metadata.embed(made.content, about, {metadata.LABELS: labels}, "it"))
    rgb = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    found = theirs(model, rgb, LABELS, tmp_path)
    np.testing.assert_allclose(found, ours(model, rgb), atol=1e-3)


def test_image_files_of_other_sizes(trained_run: Path, tmp_path: Path) -> None:
    """MediaPipe resizes in its own way. That is all of the difference: what Pillow resized gets equal scores."""
    manifest = artifacts.load_manifest(trained_run / "export")
    samples = artifacts.load_samples(trained_run / "export").images[:60, :, :, 0]
    model = trained_run / "app" / "model_fp32.tflite"
    paths = []
    for number, image in enumerate(samples):
        side = 28 + 9 * (number % 12)
        paths.append(tmp_path / f"{number}.{'png' if number % 2 else 'jpg'}")
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).convert("RGB").save(paths[-1])
    done = reader("files", model, tmp_path / "files.json", *paths)
    assert done.returncode == 0, done.stderr[-2000:]
    found = table(tmp_path / "files.json", manifest.classes)
    described = manifest.preprocessing | {"channels": 3}
    rgb = np.stack([preprocessing.load_image(path, described) for path in paths])
    expected = ours(model, rgb)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9
    assert np.abs(found - expected).mean() < 0.02
    np.testing.assert_allclose(theirs(model, rgb, manifest.classes, tmp_path), expected, atol=1e-3)


def test_int8_inputs_are_not_for_mediapipe(trained_run: Path, tmp_path: Path) -> None:
    """As README.md of the bundle says."""
    np.savez(tmp_path / "images.npz", rgb=np.zeros((1, 28, 28, 3), np.uint8))
    done = reader("classify", trained_run / "app" / "model_int8.tflite", tmp_path / "images.npz", tmp_path / "out.json")
    assert done.returncode != 0
    assert "Requested one of these types: uint8/float32, got INT8" in done.stderr, done.stderr[-2000:]


def test_metadata_by_another_writer_is_read_and_left_alone(tmp_path: Path) -> None:
    plain = ROOT / "tests" / "fixtures" / "tiny_int8.tflite"
    done = reader("write", plain, tmp_path / "theirs.tflite", *LABELS)
    assert done.returncode == 0, done.stderr[-2000:]
    content = (tmp_path / "theirs.tflite").read_bytes()
    found = metadata.read(content, "it")
    assert found is not None
    assert found.model["name"] == "somebody else's"
    assert found.labels() == LABELS
    assert found.normalization() == ((100.0, 110.0, 120.0), (50.0,))
    with pytest.raises(InputError, match="it has metadata already"):
        metadata.embed(content, found.model, {}, "it")
