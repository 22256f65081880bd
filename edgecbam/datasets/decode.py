"""Decode many image files at once, in a fixed order."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from edgecbam import preprocessing
from edgecbam.datasets import memory
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import UnreadableImage
from edgecbam.recipe import DataConfig

_FILES_A_THREAD = 16  # of a round: a task for each of a million files at once would take more memory than they


def decode(
    paths: tuple[Path, ...], data: DataConfig, on_event: OnEvent
) -> tuple[np.ndarray, dict[int, UnreadableImage]]:
    """Decode image files to the size of ``data``, in threads: Pillow lets go of Python's lock while it works.

    Args:
        paths: the files.
        data: with height, width and channels known.
        on_event: told how many are done.

    Returns:
        [n, height, width, channels] uint8 in the order of ``paths``, and by position the files that are unreadable;
        their pixels are 0.

    Raises:
        InputError: the images would not fit into memory, or ``data`` is not usable.
    """
    wanted = preprocessing.describe(data)
    memory.check(len(paths), data)
    images = np.zeros((len(paths), data.height, data.width, data.channels), np.uint8)
    bad: dict[int, UnreadableImage] = {}

    def one(position: int) -> None:
        try:
            images[position] = preprocessing.load_image(paths[position], wanted)
        except UnreadableImage as error:
            bad[position] = error

    threads = min(16, os.cpu_count() or 1)
    size = threads * _FILES_A_THREAD
    Image.init()  # Pillow registers formats at the first file that needs them, and threads would race for it
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd files that it can read, such as an EXIF block cut short
        for start in range(0, len(paths), size):
            stop = min(start + size, len(paths))
            list(pool.map(one, range(start, stop)))
            on_event(Event(stage="data", step=stop, total=len(paths), unit="image"))
    return images, bad
