"""MNIST, CIFAR-10 and CIFAR-100 from Keras' cache, or downloaded into it by Keras.

- MNIST: LeCun, Cortes, Burges, 28x28 grey, 10 digits, 60,000 images to train and 10,000 to test.
- CIFAR: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
  https://www.cs.toronto.edu/~kriz/cifar.html. 32x32 colour, 10 or 100 classes, 50,000 and 10,000 images.

CIFAR's files are pickles. They are read by an unpickler that knows NumPy's arrays and nothing else, so that a file from
elsewhere cannot run a program.
"""

import importlib
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.datasets import arrays, fashion
from edgecbam.datasets.arrays import Arrays
from edgecbam.datasets.dataset import Dataset
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import DataConfig

DIGITS = tuple(str(digit) for digit in range(10))
MNIST_FILE = "mnist.npz"
_MNIST_KEYS = ("x_train", "y_train", "x_test", "y_test")
_REMEDY = "replace it by an intact copy, or delete it to have it downloaded"
_ADMITTED = {  # what a pickled array is made of; NumPy 1 called the first one numpy.core
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class Cifar:
    """How the files of one of the two are called, and the keys in them."""

    folder: str
    url: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes


CIFAR10 = Cifar(
    "cifar-10-batches-py",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_batch",
    "batches.meta",
    b"labels",
    b"label_names",
)
CIFAR100 = Cifar(
    "cifar-100-python",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ("train",),
    "test",
    "meta",
    b"fine_labels",
    b"fine_label_names",
)


def load_mnist(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """MNIST, split and sized as ``data`` says.

    Raises:
        InputError: the file is damaged, or ``data`` asks for more images than there are.
        EnvironmentFailure: the file is not in Keras' cache and cannot be downloaded.
    """
    path = _folder() / MNIST_FILE
    if not path.is_file():
        _download("mnist", path, "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz", on_event)
    return arrays.split("mnist", DIGITS, read_mnist(path), data, on_event)


def load_cifar10(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """CIFAR-10, split and sized as ``data`` says; raises as load_mnist."""
    return _load_cifar("cifar10", CIFAR10, data, on_event)


def load_cifar100(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """CIFAR-100 with its 100 fine classes, split and sized as ``data`` says; raises as load_mnist."""
    return _load_cifar("cifar100", CIFAR100, data, on_event)


def read_mnist(path: Path) -> Arrays:
    """Read Keras' mnist.npz; raises InputError where it is damaged or something else."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            x_train, y_train, x_test, y_test = (npz[key] for key in _MNIST_KEYS)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or not MNIST ({error}): {_REMEDY}") from None
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        whole = images.ndim == 3 and images.shape[1:] == (28, 28) and images.dtype == np.uint8
        if not whole or not _are_labels(labels, len(images), len(DIGITS)):
            raise InputError(f"{path} is not MNIST: {_REMEDY}")
    return Arrays(x_train, y_train, x_test, y_test)


def read_cifar(folder: Path, kind: Cifar) -> tuple[tuple[str, ...], Arrays]:
    """Read the files of CIFAR-10 or CIFAR-100: the class names, and images [n, 32, 32, 3] with labels [n].

    Raises:
        InputError: a file is missing, damaged, or holds something else.
    """
    path = folder / kind.meta
    names = _unpickle(path).get(kind.names)
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise InputError(f"{path} names no classes: {_REMEDY}")
    classes = tuple(name.decode("utf-8", "replace") for name in names)
    parts = [_batch(folder / name, kind, len(classes)) for name in kind.train]
    images, labels = (np.concatenate(arrays_) for arrays_ in zip(*parts, strict=True))
    return classes, Arrays(images, labels, *_batch(folder / kind.test, kind, len(classes)))


def _load_cifar(name: str, kind: Cifar, data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    here = _folder() / kind.folder
    # Keras 3 unpacks into a folder of its own
    found = next((path for path in (here, _folder() / f"{kind.folder}-target" / kind.folder) if path.is_dir()), None)
    if found is None:
        _download(name, here, kind.url, on_event)
    classes, files = read_cifar(found or here, kind)
    return arrays.split(name, classes, files, data, on_event)


def _batch(path: Path, kind: Cifar, classes: int) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(path)
    pixels, labels = content.get(b"data"), content.get(kind.labels)
    try:
        numbers = np.array(labels, np.int64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(0, np.int64)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape[1:] != (3072,)
        or not _are_labels(numbers, len(pixels), classes)
    ):
        raise InputError(f"{path} does not hold images of CIFAR with their labels: {_REMEDY}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), numbers


def _are_labels(labels: np.ndarray, count: int, classes: int) -> bool:
    return (
        labels.shape == (count,)
        and count > 0
        and labels.dtype.kind in "iu"
        and int(labels.min()) >= 0
        and int(labels.max()) < classes
    )


class _Unpickler(pickle.Unpickler):
    """Admits NumPy arrays and Python's own plain types."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return getattr(importlib.import_module(module), name)


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_REMEDY.replace('replace it by', 'put there')}") from None
    except MemoryError:
        raise
    except Exception as error:  # what unpickling raises for hostile bytes is no closed list
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}): {_REMEDY}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no table of images: {_REMEDY}")
    return content


def _folder() -> Path:
    return fashion.keras_home() / "datasets"


def _download(name: str, path: Path, url: str, on_event: OnEvent) -> None:
    try:
        keras_set = importlib.import_module(f"tf_keras.datasets.{name}")
    except ImportError:
        raise MissingPackage("tf-keras", "train", f"downloading {name}") from None
    home = fashion.keras_home()
    on_event(Event(stage="data", message=f"downloading {name} into {home}"))
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.W_OK):
            raise OSError(f"{home} cannot be written")  # Keras would go elsewhere without a word
        keras_set.load_data(cache_dir=str(home))
    except Exception as error:  # Keras raises bare Exception for a failed download
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"{name} is not in {path}, and the download failed ({reason}): put it there from {url}, "
            "or use --data builtin"
        ) from None
