"""Fashion-MNIST (Zalando SE, MIT licence): the sample that comes with the package, and the full set.

Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
https://arxiv.org/abs/1708.07747. 28x28 grey images, 10 classes; 60,000 to train, 10,000 to test. The sample has
6,000 and 2,000 of them, chosen by ``make_builtin``.
"""

import os
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np

from edgecbam.datasets import arrays, idx
from edgecbam.datasets.arrays import Arrays
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


def load_builtin(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """The sample in the package, split and sized as ``data`` says."""
    return arrays.split("the built-in sample", CLASSES, read_builtin(), data, on_event)


def load_full(data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """The full set, split and sized as ``data`` says.

    The files are taken from Keras' cache, else from Debian's folder, else downloaded into Keras' cache.

    Raises:
        InputError: files are damaged, or ``data`` asks for more images than there are.
        EnvironmentFailure: the files are nowhere and cannot be downloaded.
    """
    for folder in (keras_home() / "datasets" / "fashion-mnist", DEBIAN_FOLDER):
        if all((folder / name).is_file() for name in IDX_FILES):
            return arrays.split("fashion_mnist", CLASSES, read_folder(folder), data, on_event)
    return arrays.split("fashion_mnist", CLASSES, _download(on_event), data, on_event)


def read_builtin() -> Arrays:
    """The sample in the package, undivided; raises EnvironmentFailure where the installation is damaged."""
    try:
        with (resources.files("edgecbam.datasets") / "builtin" / BUILTIN_FILE).open("rb") as file, np.load(file) as npz:
            return Arrays(npz["train_images"], npz["train_labels"], npz["test_images"], npz["test_labels"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise EnvironmentFailure(f"the built-in images are damaged ({error}): install edgecbam again") from None


def read_folder(folder: Path) -> Arrays:
    """The four original files of a folder; raises InputError where one is missing, damaged or does not fit."""
    files = Arrays(*(idx.read(folder / name, axes) for name, axes in IDX_FILES.items()))
    for images, labels in ((files.train_images, files.train_labels), (files.test_images, files.test_labels)):
        if images.shape != (len(labels), SIDE, SIDE) or len(np.unique(labels)) != len(CLASSES) or labels.max() > 9:
            raise InputError(f"the files in {folder} are not those of Fashion-MNIST: replace them by the original four")
    return files


def keras_home() -> Path:
    """Keras' folder, where its data sets are cached: $KERAS_HOME, else ~/.keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _download(on_event: OnEvent) -> Arrays:
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
    return Arrays(train_images, train_labels, test_images, test_labels)
