"""Fashion-MNIST (Zalando SE, MIT licence): the sample that comes with the package, and the full set.

Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
https://arxiv.org/abs/1708.07747. 28x28 grey images, 10 classes; 60,000 to train, 10,000 to test. The sample has
6,000 and 2,000 of them, chosen by ``make_builtin``.
"""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecbam import preprocessing
from edgecbam.datasets import idx, memory, sampling
from edgecbam.datasets.dataset import Dataset
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import DataConfig

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28
BUILTIN_FILE = "fashion_mnist_sample.npz"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
IDX_FILES = {  # the four original files, and the number of axes in each
    "train-images-idx3-ubyte.gz": 3,
    "train-labels-idx1-ubyte.gz": 1,
    "t10k-images-idx3-ubyte.gz": 3,
    "t10k-labels-idx1-ubyte.gz": 1,
}


@dataclass(frozen=True)
class Files:
    """The content of the four files: images [n, 28, 28] uint8 and labels [n] uint8."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_builtin(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """The sample in the package, split and sized as ``data`` says."""
    return _split(read_builtin(), data, on_event)


def load_full(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """The full set, split and sized as ``data`` says.

    The files are taken from Keras' cache, else from Debian's folder, else downloaded into Keras' cache.

    Raises:
        InputError: files are damaged, or ``data`` asks for more images than there are.
        EnvironmentFailure: the files are nowhere and cannot be downloaded.
    """
    for folder in (keras_home() / "datasets" / "fashion-mnist", DEBIAN_FOLDER):
        if all((folder / name).is_file() for name in IDX_FILES):
            return _split(read_folder(folder), data, on_event)
    return _split(_download(on_event), data, on_event)


def read_builtin() -> Files:
    """The sample in the package, undivided; raises EnvironmentFailure where the installation is damaged."""
    try:
        with (resources.files("edgecbam.datasets") / "builtin" / BUILTIN_FILE).open("rb") as file, np.load(file) as npz:
            return Files(npz["train_images"], npz["train_labels"], npz["test_images"], npz["test_labels"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise EnvironmentFailure(f"the built-in images are damaged ({error}): install edgecbam again") from None


def read_folder(folder: Path) -> Files:
    """The four original files of a folder; raises InputError where one is missing, damaged or does not fit."""
    arrays = [idx.read(folder / name, axes) for name, axes in IDX_FILES.items()]
    files = Files(*arrays)
    for images, labels in ((files.train_images, files.train_labels), (files.test_images, files.test_labels)):
        if images.shape != (len(labels), SIDE, SIDE) or len(np.unique(labels)) != len(CLASSES) or labels.max() > 9:
            raise InputError(f"the files in {folder} are not those of Fashion-MNIST: replace them by the original four")
    return files


def keras_home() -> Path:
    """Keras' folder, where its data sets are cached: $KERAS_HOME, else ~/.keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _download(on_event: OnEvent) -> Files:
    try:
        from tf_keras.datasets import fashion_mnist
    except ImportError:
        raise MissingPackage("tf-keras", "train", "downloading Fashion-MNIST") from None
    home = keras_home()
    on_event(Event(stage="data", message=f"downloading Fashion-MNIST (30 MB) into {home}"))
    try:
        (train_images, train_labels), (test_images, test_labels) = fashion_mnist.load_data(cache_dir=str(home))
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise EnvironmentFailure(
            f"Fashion-MNIST is neither in {home / 'datasets' / 'fashion-mnist'} nor in {DEBIAN_FOLDER}, and the "
            f"download failed ({' '.join(str(error).split())}): apt install {DEBIAN_PACKAGE}, copy its four files to "
            "one of these folders, or use --data builtin"
        ) from None
    return Files(train_images, train_labels, test_images, test_labels)


def _split(files: Files, data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    square = data.height or data.width or SIDE
    data = replace(data, height=data.height or square, width=data.width or square, channels=data.channels or 1)
    wanted = preprocessing.describe(data)
    train, validation = sampling.split_train(files.train_labels, data)
    test = sampling.subset(files.test_labels, data.test_images, data.seed, sampling.TEST_SUBSET, "data.test_images")
    memory.check(len(train) + len(validation) + len(test), data)
    dataset = Dataset(
        CLASSES,
        _fit(files.train_images[train], wanted),
        files.train_labels[train].astype(np.int64),
        _fit(files.train_images[validation], wanted),
        files.train_labels[validation].astype(np.int64),
        _fit(files.test_images[test], wanted),
        files.test_labels[test].astype(np.int64),
    )
    total = len(train) + len(validation) + len(test)
    on_event(Event(stage="data", step=total, total=total, unit="image"))
    return dataset, data


def _fit(images: np.ndarray, wanted: Mapping[str, Any]) -> np.ndarray:
    """[n, 28, 28] as [n, height, width, channels]."""
    shape = (wanted["height"], wanted["width"], wanted["channels"])
    if shape == (SIDE, SIDE, 1):
        return images[..., np.newaxis]
    fitted = np.empty((len(images), *shape), np.uint8)
    for position, image in enumerate(images):
        fitted[position] = preprocessing.fit(Image.fromarray(image), wanted)
    return fitted
