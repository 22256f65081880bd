"""Decode many images at once, in a fixed order, and keep the pixels where the recipe says."""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecbam import preprocessing
from edgecbam.datasets import cache
from edgecbam.datasets.dataset import Images
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import UnreadableImage
from edgecbam.recipe import DataConfig

_FILES_A_THREAD = 16  # of a round: a task for each of a million files at once would take more memory than they


def decode(
    paths: tuple[Path, ...], root: Path, data: DataConfig, on_event: OnEvent
) -> tuple[Images, dict[int, UnreadableImage]]:
    """Decode image files to the size of ``data``, and keep them as ``data.cache`` says.

    Args:
        paths: the files.
        root: the folder that they lie in.
        data: with height, width and channels known.
        on_event: told how many are done.

    Returns:
        [n, height, width, channels] uint8 in the order of ``paths``, and by position the files that are unreadable;
        their pixels are undefined, or raise UnreadableImage again.

    Raises:
        InputError: the images would not fit where they are to be kept, or ``data`` is not usable.
        EnvironmentFailure: as cache.keep.
    """
    wanted = preprocessing.describe(data)

    def one(position: int) -> np.ndarray:
        return preprocessing.load_image(paths[position], wanted)

    source = cache.Source(
        count=len(paths),
        items=lambda order: order,
        one=one,
        fingerprint=functools.cache(lambda: cache.of_files(root, paths)),
        name=str(root),
        names=lambda: [os.fsencode(path) for path in paths],
    )
    images, reasons = cache.keep(source, data, each, on_event)
    return images, {position: UnreadableImage(paths[position], reason) for position, reason in reasons.items()}


def each(
    items: Iterable[Any],
    total: int,
    one: Callable[[Any], np.ndarray],
    put: Callable[[int, np.ndarray], None],
    on_event: OnEvent,
) -> dict[int, str]:
    """Decode items in threads (Pillow lets go of Python's lock while it works) and hand on what comes out.

    Args:
        items: what ``one`` decodes; taken a round at a time.
        total: how many there are.
        one: item -> [height, width, channels] uint8; an UnreadableImage that it raises is noted.
        put: told the number of each item, counted from 0, and its pixels, by any thread.
        on_event: told how many are done.

    Returns:
        By number, why an item is unreadable.
    """
    bad: dict[int, str] = {}

    def work(numbered: tuple[int, Any]) -> None:
        number, item = numbered
        try:
            put(number, one(item))
        except UnreadableImage as error:
            bad[number] = error.reason

    threads = min(16, os.cpu_count() or 1)
    numbered = enumerate(items)
    done = 0
    Image.init()  # Pillow registers formats at the first file that needs them, and threads would race for it
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd files that it can read, such as an EXIF block cut short
        while round_ := list(itertools.islice(numbered, threads * _FILES_A_THREAD)):
            list(pool.map(work, round_))
            done += len(round_)
            on_event(Event(stage="data", step=done, total=total, unit="image"))
    return bad
