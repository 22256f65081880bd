"""Small image folders and IDX files, made anew for each test."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecbam.datasets import fashion


@pytest.fixture(autouse=True)
def image_cache(tmp_path, monkeypatch):
    """The folder of decoded images, which must not be the user's."""
    monkeypatch.setenv("EDGECBAM_CACHE", str(tmp_path / "image-cache"))
    return tmp_path / "image-cache"


class Events(list):
    """Listens, and keeps what it heard."""

    def __call__(self, event):
        self.append(event)

    @property
    def messages(self):
        return [event.message for event in self if event.message]


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def make_folder(tmp_path):
    """Make DIR/CLASS/NN.png; every image is even, and its grey level tells class and number apart."""

    def make(counts, below="", size=(20, 20), suffix="png"):
        for label, (name, count) in enumerate(counts.items()):
            folder = tmp_path / "images" / below / name
            folder.mkdir(parents=True)
            for number in range(count):
                level = 100 * label + number
                Image.new("RGB", size, (level, level, level)).save(folder / f"{number:02}.{suffix}")
        return tmp_path / "images"

    return make


def _idx_bytes(array, kind=0x08):
    return struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx_bytes():
    """Turn an array into the bytes of an IDX file, unpacked; ``kind`` is the element type it claims."""
    return _idx_bytes


@pytest.fixture
def make_idx_folder():
    """Write the four files of a small Fashion-MNIST: in each image the first pixels tell its number and label."""

    def make(folder: Path, train=100, test=40):
        folder.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", train), ("t10k", test)):
            labels = np.random.default_rng(count).permutation(np.arange(count) % 10).astype(np.uint8)
            images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
            images[:, 0, 0], images[:, 0, 1] = np.arange(count), labels
            for name, array in ((f"{part}-images-idx3-ubyte.gz", images), (f"{part}-labels-idx1-ubyte.gz", labels)):
                (folder / name).write_bytes(gzip.compress(_idx_bytes(array)))
        return folder

    return make


@pytest.fixture
def no_fashion_mnist(tmp_path, monkeypatch):
    """A machine with neither Keras' cache nor Debian's folder; returns where the cache would be."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path / "debian")
    return tmp_path / "keras" / "datasets" / "fashion-mnist"
