"""Where the full Fashion-MNIST is looked for; nothing here reaches a network."""

import gzip
import socket
import sys

import numpy as np
import pytest

from edgecbam.datasets import fashion, load
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.recipe import DataConfig

FULL = DataConfig(source="fashion_mnist", validation_fraction=0.2)


def test_keras_cache_comes_first_then_debians_folder(no_fashion_mnist, make_idx_folder):
    make_idx_folder(fashion.DEBIAN_FOLDER, train=200)
    dataset, data = load(FULL)
    assert (len(dataset.train_images), len(dataset.validation_images), len(dataset.test_images)) == (160, 40, 40)
    assert (data.height, data.width, data.channels) == (28, 28, 1)
    make_idx_folder(no_fashion_mnist, train=100)
    dataset, _ = load(FULL)
    assert (len(dataset.train_images), len(dataset.validation_images), len(dataset.test_images)) == (80, 20, 40)
    np.testing.assert_array_equal(dataset.train_images[:, 0, 1, 0], dataset.train_labels)
    numbers = [*dataset.train_images[:, 0, 0, 0], *dataset.validation_images[:, 0, 0, 0]]
    assert sorted(numbers) == list(range(100))


def test_the_cache_is_where_keras_puts_it(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", "/elsewhere")
    assert str(fashion.keras_home()) == "/elsewhere"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fashion.keras_home() == tmp_path / ".keras"


def damage(content):
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "no gzip": b"<html>Not found</html>",
        "flipped": content[:200] + b"\xff\xff\xff\xff" + content[204:],
    }


@pytest.mark.parametrize("kind", ["cut", "empty", "no gzip", "flipped"])
def test_a_damaged_file_is_named(no_fashion_mnist, make_idx_folder, kind):
    broken = make_idx_folder(no_fashion_mnist) / "train-images-idx3-ubyte.gz"
    broken.write_bytes(damage(broken.read_bytes())[kind])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is (damaged|no whole)") as caught:
        load(FULL)
    assert "put an intact copy" in str(caught.value)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((100, 28, 28), np.uint8), 0x0D),  # says float
        (np.zeros((100, 28), np.uint8), 0x08),  # two axes
    ],
)
def test_an_idx_file_of_something_else_is_refused(no_fashion_mnist, make_idx_folder, idx_bytes, array, kind):
    path = make_idx_folder(no_fashion_mnist) / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(array, kind)))
    with pytest.raises(InputError, match="is no whole IDX file of uint8 with 3 axes"):
        load(FULL)


@pytest.mark.parametrize("shape", [(99, 28, 28), (100, 32, 32)])
def test_files_that_do_not_fit_together_are_refused(no_fashion_mnist, make_idx_folder, idx_bytes, shape):
    path = make_idx_folder(no_fashion_mnist) / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(shape, np.uint8))))
    with pytest.raises(InputError, match="are not those of Fashion-MNIST"):
        load(FULL)


def test_without_a_network_the_message_names_the_ways_out(no_fashion_mnist, monkeypatch, events):
    with socket.socket() as unused:  # bound but not listening: whoever connects is refused at once
        unused.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{unused.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(EnvironmentFailure, match="the download failed") as caught:
            load(FULL, events)
    message = str(caught.value)
    assert "\n" not in message
    assert "apt install dataset-fashion-mnist" in message
    assert "--data builtin" in message
    assert str(no_fashion_mnist) in message
    assert "downloading Fashion-MNIST" in events.messages[0]
    assert not list(no_fashion_mnist.glob("*.gz"))


def test_a_download_goes_into_the_cache_that_is_read_next_time(
    no_fashion_mnist, monkeypatch, make_idx_folder, tmp_path
):
    import tf_keras

    asked = []

    def load_data(cache_dir):
        asked.append(cache_dir)
        files = fashion.read_folder(make_idx_folder(no_fashion_mnist))
        return (files.train_images, files.train_labels), (files.test_images, files.test_labels)

    monkeypatch.setattr(tf_keras.datasets.fashion_mnist, "load_data", load_data)
    first, _ = load(FULL)
    second, _ = load(FULL)
    assert asked == [str(tmp_path / "keras")]
    np.testing.assert_array_equal(first.train_images, second.train_images)


def test_without_keras_the_message_names_the_extra(no_fashion_mnist, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras.datasets", None)
    with pytest.raises(MissingPackage, match=r"pip install 'edgecbam\[train\]'"):
        load(FULL)
