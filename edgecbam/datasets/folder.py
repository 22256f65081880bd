"""A folder of the user's own images as a data set.

Without ``DIR/test`` a stratified ``data.test_fraction`` of the images is set apart for testing, without a validation
folder ``data.validation_fraction`` of the rest for validation. Images are in a random order that ``data.seed`` fixes,
so that the first so many of them are a fair sample.

Where ``data`` leaves them open: channels is 1 if all of the first 64 images to train on are grey files, else 3;
height and width are the median of those images' shorter sides, rounded to the nearest multiple of 8 (halves up),
at least 16 and at most 224. If only one of height and width is open, it takes the value of the other.
"""

import statistics
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import preprocessing
from edgecbam.datasets import sampling
from edgecbam.datasets.dataset import Dataset, Images
from edgecbam.datasets.decode import decode
from edgecbam.datasets.lazy import take
from edgecbam.datasets.scan import Part, Tree, scan
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import UnreadableImage, printable
from edgecbam.recipe import DataConfig

SHAPE_SAMPLE = 64  # images whose headers decide an open height, width or channels
_NAMED = 3  # unreadable files named in a message


def load(root: Path, data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """Scan, split, decode; see the module.

    Raises:
        InputError: the folder or its images are not usable; the message says how to mend it.
    """
    tree = scan(root)
    if tree.ignored:
        on_event(Event(stage="data", message=_note(root, tree.ignored)))
    train, validation, test = (_shuffled(part, data.seed) for part in _split(root, tree, data))
    data = with_shape(data, train.paths)
    paths = train.paths + validation.paths + test.paths
    images, bad = decode(paths, root, data, on_event)
    if bad and not data.skip_bad:
        raise InputError(complaint(root, bad, len(paths)))
    if bad:
        on_event(Event(stage="data", message=f"left out {len(bad)} unreadable of {len(paths)} images"))
    labels = np.concatenate([train.labels, validation.labels, test.labels])
    kept = readable(bad, (len(train), len(validation), len(test)))
    for name, rows in (("train", kept[0]), ("test", kept[2])):
        for label in set(range(len(tree.classes))) - set(labels[rows].tolist()):
            raise InputError(
                f"class {printable(tree.classes[label])} of {printable(root)} has no readable image left to {name} on: "
                "add intact images"
            )
    bad_files = tuple(sorted(names(root, paths, list(bad))))
    return assemble(tree.classes, images, labels, kept, bad_files, split_record(root, paths, kept, data.seed)), data


def assemble(
    classes: tuple[str, ...],
    images: Images,
    labels: np.ndarray,
    kept: Sequence[slice | np.ndarray],
    bad_files: tuple[str, ...],
    split: dict[str, Any],
) -> Dataset:
    """A data set of the rows of ``images`` and ``labels`` that are kept for train, validation and test."""
    pairs = [(take(images, rows), labels[rows]) for rows in kept]
    return Dataset(classes, *pairs[0], *pairs[1], *pairs[2], bad_files, split)


def readable(bad: Collection[int], counts: tuple[int, int, int]) -> list[slice | np.ndarray]:
    """Which of the consecutive images of train, validation and test are readable: of each part, for ``take``.

    A part without unreadable images is a slice, because a slice of decoded pixels is a view and no copy.
    """
    kept: list[slice | np.ndarray] = []
    for start, stop in pairwise(np.cumsum([0, *counts]).tolist()):
        rows = np.array([row for row in range(start, stop) if row not in bad], np.int64)
        kept.append(slice(start, stop) if len(rows) == stop - start else rows)
    return kept


def split_record(root: Path, paths: tuple[Path, ...], kept: Sequence[slice | np.ndarray], seed: int) -> dict[str, Any]:
    """The split for ``Dataset.split``: the files of each part, in the order of the images."""
    everything = np.arange(len(paths))
    parts = zip(("train", "validation", "test"), kept, strict=True)
    return {"seed": seed} | {part: list(names(root, paths, everything[rows].tolist())) for part, rows in parts}


def names(root: Path, paths: tuple[Path, ...], rows: Sequence[int]) -> tuple[str, ...]:
    """The names of files relative to the folder, printable."""
    return tuple(printable(paths[row].relative_to(root)) for row in rows)


def _split(root: Path, tree: Tree, data: DataConfig) -> tuple[Part, Part, Part]:
    """Divide the files into those to train, to validate and to test on, in sorted order."""
    train, test = tree.train, tree.test
    if test is None:
        train, test = _set_test_apart(root, tree, data)
    if tree.validation is None:
        kept, split_off = sampling.split_train(train.labels, data)
        train, validation = train.take(kept), train.take(split_off)
    else:
        validation = tree.validation
        train = train.take(
            sampling.subset(train.labels, data.train_images, data.seed, sampling.TRAIN_SUBSET, "data.train_images")
        )
    test = test.take(
        sampling.subset(test.labels, data.test_images, data.seed, sampling.TEST_SUBSET, "data.test_images")
    )
    return train, validation, test


def _set_test_apart(root: Path, tree: Tree, data: DataConfig) -> tuple[Part, Part]:
    labels = tree.train.labels
    for label, count in enumerate(np.bincount(labels)):
        if count < 2:
            raise InputError(
                f"class {printable(tree.classes[label])} of {printable(root)} has 1 image: a class needs at least 2, "
                "one to train and one to test on; add images, or remove the class"
            )
    count = round(data.test_fraction * len(labels))
    test = sampling.stratified(labels, count, data.seed, sampling.TEST, at_least=1, leave=1)
    return tree.train.take(sampling.complement(len(labels), test)), tree.train.take(test)


def _shuffled(part: Part, seed: int) -> Part:
    return part.take(np.random.RandomState([seed, sampling.ORDER]).permutation(len(part)))


def with_shape(data: DataConfig, paths: tuple[Path, ...], encoded: Sequence[Path | bytes] | None = None) -> DataConfig:
    """``data`` with what it leaves open of height, width and channels filled in from the files; see the module.

    Args:
        data: what is given.
        paths: the files, or their names.
        encoded: what is in them; None to read them.
    """
    if data.height and data.width and data.channels:
        return data
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in decode
        for path, source in zip(paths[:SHAPE_SAMPLE], (encoded or paths)[:SHAPE_SAMPLE], strict=True):
            try:
                seen.append(preprocessing.peek(source, path))
            except UnreadableImage:
                continue  # decoding comes upon it again, and counts it
    sides, grey = zip(*seen, strict=True) if seen else ((), ())
    median = statistics.median(sides) if sides else 0
    square = data.height or data.width or min(224, max(16, 8 * int(median / 8 + 0.5)))
    return replace(
        data,
        height=data.height or square,
        width=data.width or square,
        channels=data.channels or (1 if seen and all(grey) else 3),
    )


def _note(root: Path, ignored: dict[str, int]) -> str:
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(ignored.items()))
    return f"passed over {sum(ignored.values())} files in {printable(root)} that are no images by their name: {kinds}"


def complaint(root: Path, bad: dict[int, UnreadableImage], total: int) -> str:
    """The message about unreadable files of a folder."""
    errors = sorted(bad.values(), key=lambda error: str(error.path))
    named = "; ".join(f"{printable(error.path.relative_to(root))} {error.reason}" for error in errors[:_NAMED])
    more = f"; and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
    return (
        f"{len(errors)} of {total} images in {printable(root)} cannot be read: {named}{more}: "
        "mend or remove them, or go on without them with --skip-bad"
    )
