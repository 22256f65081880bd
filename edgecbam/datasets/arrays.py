"""Data sets that come as two arrays, to train and to test on: split, brought to the recipe's size, and kept."""

import functools
import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from edgecbam import preprocessing
from edgecbam.datasets import cache, memory, sampling
from edgecbam.datasets.dataset import Dataset, Images
from edgecbam.datasets.decode import each
from edgecbam.datasets.lazy import take
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import DataConfig

PARTS = {"train": "train", "validation": "train", "test": "test"}  # whence the images of each part come


@dataclass(frozen=True)
class Arrays:
    """Images [n, h, w] or [n, h, w, 3] uint8, and their labels [n] of any integer type."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def split(
    name: str, classes: tuple[str, ...], arrays: Arrays, data: DataConfig, on_event: OnEvent
) -> tuple[Dataset, DataConfig]:
    """Split and size as ``data`` says; validation images are taken from those to train on.

    Args:
        name: of the data set, for messages.
        classes: the class names.
        arrays: all images.
        data: height, width and channels of 0 are taken from the images; of height and width one takes the other's
            value.
        on_event: told of progress.

    Raises:
        InputError, EnvironmentFailure: as cache.keep, or ``data`` asks for more images than there are.
    """
    height, width = arrays.train_images.shape[1:3]
    channels = 1 if arrays.train_images.ndim == 3 else 3
    data = replace(
        data,
        height=data.height or data.width or height,
        width=data.width or data.height or width,
        channels=data.channels or channels,
    )
    preprocessing.describe(data)
    train, validation = sampling.split_train(arrays.train_labels, data)
    test = sampling.subset(arrays.test_labels, data.test_images, data.seed, sampling.TEST_SUBSET, "data.test_images")
    rows = (train, validation, test)
    if (data.height, data.width, data.channels) == (height, width, channels) and (
        data.cache == "memory" or (data.cache == "auto" and memory.fits(sum(map(len, rows)), data))
    ):
        images = _as_they_are(arrays, rows, data, on_event)
    else:
        images = _fitted(name, arrays, rows, data, on_event)
    dataset = Dataset(
        classes,
        images[0],
        arrays.train_labels[train].astype(np.int64),
        images[1],
        arrays.train_labels[validation].astype(np.int64),
        images[2],
        arrays.test_labels[test].astype(np.int64),
        split=record(data.seed, rows, PARTS),
    )
    return dataset, data


def record(seed: int, rows: tuple[np.ndarray, np.ndarray, np.ndarray], parts: dict[str, str]) -> dict[str, object]:
    """The split for ``Dataset.split``: the positions of each part's images in the parts of the source."""
    named = zip(("train", "validation", "test"), rows, strict=True)
    return {"seed": seed, "parts": parts} | {part: positions.tolist() for part, positions in named}


def _as_they_are(
    arrays: Arrays, rows: tuple[np.ndarray, np.ndarray, np.ndarray], data: DataConfig, on_event: OnEvent
) -> list[Images]:
    total = sum(map(len, rows))
    memory.check(total, data)
    sources = (arrays.train_images, arrays.train_images, arrays.test_images)
    shape = (data.height, data.width, data.channels)
    images: list[Images] = [source[part].reshape(-1, *shape) for source, part in zip(sources, rows, strict=True)]
    on_event(Event(stage="data", step=total, total=total, unit="image"))
    return images


def _fitted(
    name: str,
    arrays: Arrays,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    data: DataConfig,
    on_event: OnEvent,
) -> list[Images]:
    wanted = preprocessing.describe(data)
    train, validation, test = rows
    trained = len(train) + len(validation)
    chosen = np.concatenate([train, validation, test])

    def one(position: int) -> np.ndarray:
        source = arrays.train_images if position < trained else arrays.test_images
        return preprocessing.fit(Image.fromarray(source[chosen[position]]), wanted)

    @functools.cache
    def fingerprint() -> str:
        hasher = hashlib.sha256()
        for array in (arrays.train_images, arrays.test_images, np.sort(chosen[:trained]), np.sort(test)):
            hasher.update(repr(array.shape).encode() + array.tobytes())
        return hasher.hexdigest()

    source = cache.Source(
        count=len(chosen),
        items=lambda order: order,
        one=one,
        fingerprint=fingerprint,
        name=name,
        names=lambda: [b"%d %09d" % (place >= trained, row) for place, row in enumerate(chosen.tolist())],
    )
    images, _ = cache.keep(source, data, each, on_event)
    return [
        take(images, slice(0, len(train))),
        take(images, slice(len(train), trained)),
        take(images, slice(trained, None)),
    ]
