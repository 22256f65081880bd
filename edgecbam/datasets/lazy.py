"""Images that are not held in memory: decoded, or read from a file of decoded ones, when they are asked for.

Both behave like an array of [n, height, width, channels] uint8 as far as training needs it: ``len``, ``shape``,
``dtype``, ``nbytes``, and ``images[i]``, ``images[i:j]``, ``images[positions]``, which give NumPy arrays.
"""

import abc
import math
import os
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecbam.datasets.dataset import Images
from edgecbam.errors import EnvironmentFailure


class OnDemand(abc.ABC):
    """What the two kinds have in common: a choice of ``rows`` out of a source, and how to index it."""

    dtype = np.dtype(np.uint8)

    def __init__(self, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        self._rows = rows
        self.shape: tuple[int, ...] = (len(rows), *shape)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all images decoded."""
        return math.prod(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """One image by an integer; several by a slice, an array of integers or one of booleans."""
        chosen = self._rows[key]
        images = np.empty((chosen.size, *self.shape[1:]), np.uint8)
        self._read(np.atleast_1d(chosen), images)
        return images if chosen.ndim else images[0]

    @abc.abstractmethod
    def take(self, key: Any) -> "OnDemand":
        """Some of the images, in the given order, again on demand."""

    @abc.abstractmethod
    def _read(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Put the images of the rows of the source into ``images``."""


class DecodedOnDemand(OnDemand):
    """Images that are decoded anew each time, in threads: Pillow lets go of Python's lock while it works.

    Args:
        one: decodes a row of the source to [height, width, channels] uint8.
        rows: [n] int64 rows of the source.
        shape: height, width and channels.
    """

    def __init__(self, one: Callable[[int], np.ndarray], rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        super().__init__(rows, shape)
        self._one = one
        Image.init()  # Pillow registers formats at the first file that needs them, and threads would race for it
        # For the whole process and for good: filters of warnings cannot be set for a thread.
        warnings.filterwarnings("ignore", module=r"PIL\.")  # odd files that can be read, such as an EXIF cut short

    def take(self, key: Any) -> "DecodedOnDemand":
        """Some of the images, in the given order, again on demand."""
        return DecodedOnDemand(self._one, self._rows[key], (self.shape[1], self.shape[2], self.shape[3]))

    def _read(self, rows: np.ndarray, images: np.ndarray) -> None:
        def fill(position: int) -> None:
            images[position] = self._one(int(rows[position]))

        with ThreadPoolExecutor(max(1, min(16, os.cpu_count() or 1, len(rows)))) as pool:
            list(pool.map(fill, range(len(rows))))


class DecodedOnDisk(OnDemand):
    """Images in a file of decoded ones, one after the other.

    They are read and not mapped: a mapped file would grow the process by every page that it ever touched.

    Args:
        path: the file.
        rows: [n] int64 positions of the images in it.
        shape: height, width and channels.
    """

    def __init__(self, path: Path, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        super().__init__(rows, shape)
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)  # readable even where the cache is cleared meanwhile
        weakref.finalize(self, os.close, self._descriptor)

    def take(self, key: Any) -> "DecodedOnDisk":
        """Some of the images, in the given order, from the same file."""
        return DecodedOnDisk(self._path, self._rows[key], (self.shape[1], self.shape[2], self.shape[3]))

    def _read(self, rows: np.ndarray, images: np.ndarray) -> None:
        size = math.prod(self.shape[1:])
        flat = images.reshape(len(rows), size)
        # consecutive rows are read in one piece
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        start = 0
        for stop in ends:
            if stop > start:
                self._read_whole(flat[start:stop].reshape(-1).data, int(rows[start]) * size)
            start = stop

    def _read_whole(self, into: memoryview, offset: int) -> None:
        while into:
            count = os.preadv(self._descriptor, [into], offset)
            if not count:
                raise EnvironmentFailure(f"{self._path} has become shorter: delete its folder and start again")
            into, offset = into[count:], offset + count


def take(images: Images, key: Any) -> Images:
    """``images[key]``, without reading them where they are on demand."""
    return images.take(key) if isinstance(images, OnDemand) else images[key]
