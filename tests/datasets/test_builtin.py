"""The images in the package, and how they are split."""

import hashlib
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from edgecbam import artifacts, preprocessing
from edgecbam.datasets import fashion, load, memory
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.recipe import DataConfig

BUILTIN = resources.files("edgecbam.datasets") / "builtin"
PARTS = ("train", "validation", "test")


def fingerprints(images):
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_the_file_is_the_recorded_one_and_small_and_licensed():
    source = artifacts.read_json(BUILTIN / "SOURCE.json")
    assert list(source["files"]) == [fashion.BUILTIN_FILE]
    path = BUILTIN / fashion.BUILTIN_FILE
    assert artifacts.sha256_file(path) == source["files"][fashion.BUILTIN_FILE]["sha256"]
    assert path.stat().st_size == source["files"][fashion.BUILTIN_FILE]["bytes"]
    assert sum(entry.stat().st_size for entry in BUILTIN.iterdir()) <= 4_000_000
    notice = (BUILTIN / "LICENSE-fashion-mnist").read_text()
    assert "2017 Zalando SE" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_the_sample_is_balanced_and_its_parts_are_disjoint():
    files = fashion.read_builtin()
    assert files.train_images.shape == (6000, 28, 28)
    assert files.test_images.shape == (2000, 28, 28)
    assert np.bincount(files.train_labels).tolist() == [600] * 10
    assert np.bincount(files.test_labels).tolist() == [200] * 10
    prints = fingerprints(files.train_images) + fingerprints(files.test_images)
    assert len(set(prints)) == 8000


def test_the_default_recipe_gets_three_disjoint_stratified_parts():
    dataset, data = load(DataConfig())
    assert (data.height, data.width, data.channels) == (28, 28, 1)
    assert dataset.classes == fashion.CLASSES
    assert dataset.bad_files == ()
    for part, each in zip(PARTS, (570, 30, 200), strict=True):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert images.shape == (10 * each, 28, 28, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert np.bincount(labels).tolist() == [each] * 10
    prints = [set(fingerprints(getattr(dataset, f"{part}_images"))) for part in PARTS]
    assert [len(part) for part in prints] == [5700, 300, 2000]
    assert len(set.union(*prints)) == 8000
    files = fashion.read_builtin()
    original = dict(zip(fingerprints(files.train_images), files.train_labels, strict=True))
    assert [original[p] for p in fingerprints(dataset.train_images)] == dataset.train_labels.tolist()


def test_the_seed_decides_the_split_and_subsets_come_from_their_part():
    small = DataConfig(train_images=100, test_images=50)
    first, _ = load(small)
    again, _ = load(small)
    other, _ = load(DataConfig(train_images=100, test_images=50, seed=2))
    whole, _ = load(DataConfig())
    assert first.train_images.shape == (100, 28, 28, 1)
    assert np.bincount(first.train_labels).tolist() == [10] * 10
    assert np.bincount(first.test_labels).tolist() == [5] * 10
    for part in PARTS:
        images = getattr(first, f"{part}_images")
        np.testing.assert_array_equal(images, getattr(again, f"{part}_images"))
        assert not np.array_equal(images, getattr(other, f"{part}_images"))
        assert set(fingerprints(images)) <= set(fingerprints(getattr(whole, f"{part}_images")))


def test_without_validation_all_images_train():
    dataset, _ = load(DataConfig(validation_fraction=0.0))
    assert dataset.train_images.shape == (6000, 28, 28, 1)
    assert dataset.validation_images.shape == (0, 28, 28, 1)
    assert dataset.validation_labels.shape == (0,)


def test_another_size_goes_through_the_same_preprocessing_as_a_file(tmp_path):
    asked = DataConfig(height=16, channels=3, train_images=10, test_images=10)
    dataset, data = load(asked)
    plain, _ = load(DataConfig(train_images=10, test_images=10))
    assert (data.height, data.width, data.channels) == (16, 16, 3)
    Image.fromarray(plain.test_images[3, :, :, 0]).save(tmp_path / "three.png")
    wanted = preprocessing.describe(data)
    np.testing.assert_array_equal(dataset.test_images[3], preprocessing.load_image(tmp_path / "three.png", wanted))


def test_bad_requests_are_refused_before_any_work(monkeypatch):
    with pytest.raises(InputError, match=r"data\.train_images = 6000, but there are only 5700"):
        load(DataConfig(train_images=6000))
    with pytest.raises(InputError, match="std must be a list of 1 number"):
        load(DataConfig(std=(1.0, 2.0, 3.0)))
    with pytest.raises(InputError, match=r"channels must be 1 \(grey\) or 3"):
        load(DataConfig(channels=2))

    class Memory:
        available = 8000 * 28 * 28 * 2 - 2

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)
    with pytest.raises(
        InputError, match=r"8000 images of 28x28x1 need 0\.01 GiB, more than half of .* data\.cache=disk .* data\.h"
    ):
        load(DataConfig(cache="memory"))
    Memory.available += 2
    assert len(load(DataConfig(cache="memory"))[0].test_images) == 2000


def test_a_damaged_installation_says_so(tmp_path, monkeypatch):
    (tmp_path / "builtin").mkdir()
    broken = tmp_path / "builtin" / fashion.BUILTIN_FILE
    monkeypatch.setattr(fashion.resources, "files", lambda package: tmp_path)
    whole = (BUILTIN / fashion.BUILTIN_FILE).read_bytes()
    for content in (b"", whole[:1000], b"x" * 100, whole[:500] + b"\xff" * 99 + whole[599:]):
        broken.write_bytes(content)
        with pytest.raises(EnvironmentFailure, match=r"built-in images are damaged .*: install edgecbam again"):
            load(DataConfig())


def test_loading_needs_no_tensorflow():
    code = (
        "import sys; from edgecbam.datasets import load; from edgecbam.recipe import DataConfig; "
        "import edgecbam.datasets.pipeline; load(DataConfig()); "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'tf_keras', 'keras')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
