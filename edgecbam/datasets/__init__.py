"""Images to train and test on: built in, by the name of a public set, or a folder of the user's own.

    dataset, data = load(DataConfig(source="builtin"))

TensorFlow is needed only to download a set of Keras and for ``tfds:``; ``pipeline`` needs it to feed the training.
"""

import difflib
import os
from pathlib import Path

from edgecbam.datasets import fashion, folder, keras_sets, targets, tfds
from edgecbam.datasets.dataset import Dataset, Images, digest
from edgecbam.errors import InputError
from edgecbam.events import OnEvent, ignore
from edgecbam.recipe import DataConfig

__all__ = ["SOURCES", "Dataset", "Images", "digest", "load"]

SOURCES = {
    "builtin": fashion.load_builtin,
    "fashion_mnist": fashion.load_full,
    "mnist": keras_sets.load_mnist,
    "cifar10": keras_sets.load_cifar10,
    "cifar100": keras_sets.load_cifar100,
}
_USE = f"use {', '.join(SOURCES)}, tfds:NAME, or a folder that holds one folder of images for each class"


def load(data: DataConfig, on_event: OnEvent = ignore) -> tuple[Dataset, DataConfig]:
    """Load, decode, split and size the images that ``data`` asks for.

    Args:
        data: the data section of a recipe; height, width and channels of 0 are taken from the images.
        on_event: told of each decoded image, and of files that were passed over.

    Returns:
        The images, and ``data`` with height, width and channels filled in. The same ``data`` and files give the same
        arrays in the same order.

    Raises:
        InputError: the source or its images are not usable; the message says how to mend it.
        EnvironmentFailure: a download failed, or the disk has no room for the decoded images.
    """
    if data.targets and (data.source in SOURCES or data.source.startswith(tfds.PREFIX)):
        raise InputError(f"data.targets needs a folder of images, but data.source = {data.source!r}: give a folder")
    if data.source in SOURCES:
        return SOURCES[data.source](data, on_event)
    if data.source.startswith(tfds.PREFIX):
        return tfds.load(data, on_event)
    if not data.source.strip() or "\0" in data.source:
        raise InputError(f"data.source = {data.source!r} names no data: {_USE}")
    try:
        root = Path(data.source).expanduser()
        found = root.exists()
    except (OSError, RuntimeError) as error:  # a name too long, no permission, ~nobody
        raise InputError(f"data.source = {data.source!r} cannot be looked up ({error}): {_USE}") from None
    if found:
        return targets.load(root, data, on_event) if data.targets else folder.load(root, data, on_event)
    if os.sep in data.source or data.source.startswith((".", "~")):
        raise InputError(f"the folder {data.source} does not exist: {_USE}")
    near = difflib.get_close_matches(data.source, SOURCES, n=1)
    raise InputError(
        f"data.source = {data.source!r} is neither a known name nor an existing folder: "
        + (f"did you mean {near[0]}?" if near else _USE)
    )
