"""What every source of images gives: decoded pixels in three parts, and the names of the classes or targets."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

_CHUNK_BYTES = 8 * 2**20  # of pixels held at once while a data set is digested


class Images(Protocol):
    """Images of one size: an array, or what decodes them when they are asked for. [n, height, width, channels] uint8.

    ``images[i]`` gives one image, ``images[i:j]`` and ``images[positions]`` give an array of several.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, height, width, channels)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""

    @property
    def nbytes(self) -> int:
        """Bytes of all images decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Dataset:
    """Images of one size, ready for ``preprocessing.normalize``, and their labels.

    Attributes:
        classes: the class names, a label is an index into it; in a regression the names of the targets.
        train_images: [n, height, width, channels] uint8.
        train_labels: [n] int64; in a regression [n, targets] float32, (value - target_mean) / target_std.
        validation_images: [m, height, width, channels] uint8; m is 0 where ``data.validation_fraction`` is 0.
        validation_labels: as train_labels, of m images.
        test_images: [k, height, width, channels] uint8.
        test_labels: as train_labels, of k images.
        bad_files: files left out under ``data.skip_bad``, relative to the folder, sorted.
        split: which images went into which part, ready for JSON: ``seed``, and for train, validation and test the
            names of the files relative to the folder, or the positions in the parts of the source that ``parts``
            names, such as ``{"train": "train", "validation": "train", "test": "test"}``.
        target_mean: of each target over the training images; zeros where the targets are not standardised; empty
            for classes.
        target_std: likewise; ones where the targets are not standardised.
    """

    classes: tuple[str, ...]
    train_images: Images
    train_labels: np.ndarray
    validation_images: Images
    validation_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    bad_files: tuple[str, ...] = ()
    split: dict[str, Any] = field(default_factory=dict)
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()


def digest(dataset: Dataset) -> str:
    """sha256 (hex) over names, pixels and labels; the same wherever the decoded images are kept.

    The record of the split has no part in it: pixels and labels say what was trained on.
    """
    hasher = hashlib.sha256(repr(dataset.classes).encode())
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.validation_images, dataset.validation_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        step = max(1, _CHUNK_BYTES * len(images) // max(1, images.nbytes))
        for start in range(0, len(images), step):
            hasher.update(np.ascontiguousarray(images[start : start + step]).data)
        hasher.update(labels.tobytes())
    hasher.update(repr(dataset.bad_files).encode())
    if dataset.target_mean:
        hasher.update(repr((dataset.target_mean, dataset.target_std)).encode())
    return hasher.hexdigest()
