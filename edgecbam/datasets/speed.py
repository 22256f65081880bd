"""How fast a folder of images feeds a training, with each of the caches.

    python -m edgecbam.datasets.speed DIR [IMAGES]

Prints, for memory, disk and none, images per second of loading (decoding and keeping), of an epoch of batches as the
default recipe augments them, and of a second load, which finds the disk's file again. IMAGES limits how many train.
The disk's file lies in a temporary folder, so that nothing is left behind; $TMPDIR says where.
"""

import collections
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from edgecbam import datasets, preprocessing
from edgecbam.datasets import pipeline
from edgecbam.errors import EdgeCbamError
from edgecbam.recipe import DataConfig, TrainConfig

T = TypeVar("T")
CACHES: tuple[Literal["memory", "disk", "none"], ...] = ("memory", "disk", "none")


def measure(source: str, images: int) -> list[str]:
    """One line for each cache; see the module."""
    lines = []
    for cache in CACHES:
        asked = DataConfig(source=source, cache=cache, train_images=images)
        seconds, (dataset, data) = _timed(functools.partial(datasets.load, asked))
        again, _ = _timed(functools.partial(datasets.load, asked))
        stream = pipeline.batches(
            dataset.train_images,
            dataset.train_labels,
            classes=len(dataset.classes),
            config=TrainConfig(),
            epoch=0,
            preprocessing=preprocessing.describe(data),
        )
        epoch, _ = _timed(functools.partial(collections.deque, stream, 0))
        loaded = len(dataset.train_images) + len(dataset.validation_images) + len(dataset.test_images)
        lines.append(
            f"{cache:6} load {loaded / seconds:8.0f}   again {loaded / again:8.0f}   "
            f"epoch {len(dataset.train_images) / epoch:8.0f} images/s   "
            f"({loaded} images of {data.height}x{data.width}x{data.channels}, {os.cpu_count()} processors)"
        )
    return lines


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    if len(arguments) not in (1, 2) or not (len(arguments) == 1 or arguments[1].isdigit()):
        sys.stderr.write("usage: python -m edgecbam.datasets.speed DIR [IMAGES]\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGECBAM_CACHE"] = folder
        try:
            for line in measure(arguments[0], int(arguments[1]) if len(arguments) == 2 else 0):
                sys.stdout.write(f"{line}\n")
        except EdgeCbamError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
