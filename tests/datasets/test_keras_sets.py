"""MNIST and CIFAR from Keras' cache, with small files in their formats, and everything that can be wrong with them."""

import os
import pickle

import numpy as np
import pytest

from edgecbam.datasets import keras_sets, load
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.recipe import DataConfig


def config(source, **changes):
    return DataConfig(**({"source": source, "validation_fraction": 0.2} | changes))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Keras' folder of data sets."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folder = tmp_path / "keras" / "datasets"
    folder.mkdir(parents=True)
    return folder


def write_pickle(path, content):
    """As NumPy 1 under Python 2 wrote it: ``numpy.core`` and bytes for text."""
    raw = pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    path.write_bytes(raw)


def write_batch(path, count, kind, classes, seed):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [number % classes for number in range(count)]
    pixels[:, 0] = labels
    write_pickle(path, {b"data": pixels, kind.labels: labels, b"batch_label": b"one"})
    return pixels


@pytest.fixture
def make_cifar(cached):
    def make(kind, classes=10, below=""):
        folder = cached / below / kind.folder
        folder.mkdir(parents=True)
        batches = [write_batch(folder / name, 40, kind, classes, seed) for seed, name in enumerate(kind.train)]
        write_batch(folder / kind.test, 20, kind, classes, 99)
        write_pickle(folder / kind.meta, {kind.names: [b"class %d" % number for number in range(classes)]})
        return folder, np.concatenate(batches)

    return make


def write_mnist(path, **changes):
    random = np.random.default_rng(0)
    labels = np.arange(100, dtype=np.uint8) % 10
    parts = {
        "x_train": random.integers(0, 256, (100, 28, 28), dtype=np.uint8),
        "y_train": labels,
        "x_test": random.integers(0, 256, (50, 28, 28), dtype=np.uint8),
        "y_test": labels[:50],
    }
    parts["x_train"][:, 0, 0] = labels
    np.savez(path, **(parts | changes))
    return parts


@pytest.mark.parametrize(
    ("name", "kind", "classes", "train"), [("cifar10", "CIFAR10", 10, 160), ("cifar100", "CIFAR100", 20, 32)]
)
def test_cifar_is_read_split_and_named(make_cifar, name, kind, classes, train):
    kind = getattr(keras_sets, kind)
    _, pixels = make_cifar(kind, classes)
    dataset, data = load(config(name))
    assert (data.height, data.width, data.channels) == (32, 32, 3)
    assert dataset.classes == tuple(f"class {number}" for number in range(classes))
    assert dataset.train_images.shape == (train, 32, 32, 3)
    assert len(dataset.validation_images) + train == len(pixels)
    assert dataset.test_images.shape == (20, 32, 32, 3)
    assert dataset.train_labels.dtype == np.int64
    np.testing.assert_array_equal(dataset.train_images[:, 0, 0, 0], dataset.train_labels)
    # a row holds all reds, then all greens, then all blues
    first = pixels[dataset.split["train"][0]].reshape(3, 32, 32)
    np.testing.assert_array_equal(dataset.train_images[0], np.moveaxis(first, 0, -1))


def test_cifar_is_found_where_keras_3_unpacks_it(make_cifar):
    make_cifar(keras_sets.CIFAR10, below="cifar-10-batches-py-target")
    assert len(load(config("cifar10"))[0].test_images) == 20


def test_mnist_is_read_split_and_named(cached):
    parts = write_mnist(cached / "mnist.npz")
    dataset, data = load(config("mnist"))
    assert dataset.classes == tuple("0123456789")
    assert (data.height, data.width, data.channels) == (28, 28, 1)
    assert dataset.train_images.shape == (80, 28, 28, 1)
    np.testing.assert_array_equal(dataset.train_images[:, 0, 0, 0], dataset.train_labels)
    np.testing.assert_array_equal(parts["x_train"][dataset.split["validation"]], dataset.validation_images[..., 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((100, 27, 28), np.uint8)}, "is not MNIST: replace it"),
        ({"y_train": np.full(100, 10)}, "is not MNIST: replace it"),
        ({"y_test": np.zeros(49, np.uint8)}, "is not MNIST: replace it"),
        ({"x_test": np.zeros((50, 28, 28))}, "is not MNIST: replace it"),
        ({"y_test": np.array([{"a": 1}] * 50, object)}, r"is damaged or not MNIST \(.*allow_pickle=False.*\): replace"),
    ],
)
def test_a_file_that_is_not_mnist_is_refused(cached, changes, message):
    write_mnist(cached / "mnist.npz", **changes)
    with pytest.raises(InputError, match=message):
        load(config("mnist"))


def test_a_damaged_mnist_is_refused(cached):
    write_mnist(cached / "mnist.npz")
    whole = (cached / "mnist.npz").read_bytes()
    for content in (b"", b"x" * 50, whole[:-100], whole[: len(whole) // 2]):
        (cached / "mnist.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"mnist\.npz is damaged or not MNIST"):
            load(config("mnist"))


class Program:
    """Would run a program when unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/edgecbam-was-here",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Program(), r"data_batch_3 cannot be read \(it asks for posix.system\): replace it by an intact copy"),
        ({b"data": Program()}, r"cannot be read \(it asks for posix.system\)"),
        ([1, 2], "holds no table of images"),
        ({b"data": np.zeros((4, 3071), np.uint8), b"labels": [0] * 4}, "does not hold images of CIFAR with their lab"),
        ({b"data": np.zeros((4, 3072)), b"labels": [0] * 4}, "does not hold images of CIFAR"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3}, "does not hold images of CIFAR"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 10]}, "does not hold images of CIFAR"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, "x"]}, "does not hold images of CIFAR"),
        ({b"data": b"x", b"labels": [0]}, "does not hold images of CIFAR"),
        ({}, "does not hold images of CIFAR"),
    ],
)
def test_files_that_are_not_cifar_are_refused_and_run_nothing(make_cifar, content, message):
    folder, _ = make_cifar(keras_sets.CIFAR10)
    write_pickle(folder / "data_batch_3", content)
    with pytest.raises(InputError, match=message):
        load(config("cifar10"))
    assert not os.path.exists("/tmp/edgecbam-was-here")


def test_damaged_missing_and_nameless_files_of_cifar_are_refused(make_cifar):
    folder, _ = make_cifar(keras_sets.CIFAR10)
    whole = (folder / "test_batch").read_bytes()
    for content in (b"", b"nonsense", whole[:-1], whole[: len(whole) // 2]):
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(InputError, match=r"test_batch cannot be read .*: replace it by an intact copy, or delete"):
            load(config("cifar10"))
    (folder / "test_batch").unlink()
    with pytest.raises(InputError, match=r"test_batch is missing: put there an intact copy"):
        load(config("cifar10"))
    write_pickle(folder / "batches.meta", {b"label_names": []})
    with pytest.raises(InputError, match=r"batches\.meta names no classes"):
        load(config("cifar10"))


@pytest.mark.parametrize(("name", "file"), [("mnist", "mnist.npz"), ("cifar10", "cifar-10-batches-py")])
def test_without_files_and_network_it_is_said_where_to_put_them(cached, monkeypatch, name, file):
    module = keras_sets.importlib.import_module(f"tf_keras.datasets.{name}")

    def fail(**_):
        raise Exception("URL fetch failure on https://x: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(module, "load_data", fail)
    with pytest.raises(
        EnvironmentFailure,
        match=rf"^{name} is not in {cached / file}, and the download failed \(URL fetch.*\): put it there from https:",
    ):
        load(config(name))


def test_what_keras_downloads_is_read_from_its_cache(cached, make_cifar, monkeypatch):
    module = keras_sets.importlib.import_module("tf_keras.datasets.cifar10")
    asked = []

    def download(cache_dir):
        asked.append(cache_dir)
        make_cifar(keras_sets.CIFAR10)

    monkeypatch.setattr(module, "load_data", download)
    assert len(load(config("cifar10"))[0].test_images) == 20
    assert asked == [str(cached.parent)]


def test_without_keras_the_package_to_install_is_named(cached, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tf_keras.datasets.cifar100", None)
    with pytest.raises(MissingPackage, match=r"downloading cifar100 needs the package tf-keras: pip install"):
        load(config("cifar100"))


def test_targets_are_refused_for_named_sets():
    for name in ("cifar10", "builtin", "tfds:beans"):
        with pytest.raises(InputError, match=r"data\.targets needs a folder of images, but data\.source = "):
            load(config(name, targets="a.csv"))
