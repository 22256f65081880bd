"""What every source of images gives: decoded pixels in three parts, and the names of the classes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Images of one size, ready for ``preprocessing.normalize``, and their class indices.

    Attributes:
        classes: the class names; a label is an index into it.
        train_images: [n, height, width, channels] uint8.
        train_labels: [n] int64.
        validation_images: [m, height, width, channels] uint8; m is 0 where ``data.validation_fraction`` is 0.
        validation_labels: [m] int64.
        test_images: [k, height, width, channels] uint8.
        test_labels: [k] int64.
        bad_files: files left out under ``data.skip_bad``, relative to the folder, sorted.
    """

    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    bad_files: tuple[str, ...] = ()
