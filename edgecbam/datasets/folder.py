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
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgecbam import preprocessing
from edgecbam.datasets import sampling
from edgecbam.datasets.dataset import Dataset
from edgecbam.datasets.decode import decode
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
    data = _with_shape(data, train.paths)
    paths = train.paths + validation.paths + test.paths
    images, bad = decode(paths, data, on_event)
    if bad and not data.skip_bad:
        raise InputError(_complaint(root, bad, len(paths)))
    if bad:
        on_event(Event(stage="data", message=f"left out {len(bad)} unreadable of {len(paths)} images"))
    labels = np.concatenate([train.labels, validation.labels, test.labels])
    good = np.array([position not in bad for position in range(len(paths))])
    bounds = np.cumsum([0, len(train), len(validation), len(test)])
    parts = []
    for start, stop in pairwise(bounds):
        keep = good[start:stop]
        # basic slices are views: without bad files the decoded pixels are not copied
        parts.append((images[start:stop] if keep.all() else images[start:stop][keep], labels[start:stop][keep]))
    (train_images, train_labels), (validation_images, validation_labels), (test_images, test_labels) = parts
    for name, left in (("train", train_labels), ("test", test_labels)):
        for label in set(range(len(tree.classes))) - set(left.tolist()):
            raise InputError(
                f"class {printable(tree.classes[label])} of {printable(root)} has no readable image left to {name} on: "
                "add intact images"
            )
    names = tuple(sorted(printable(paths[position].relative_to(root)) for position in bad))
    dataset = Dataset(
        tree.classes,
        train_images,
        train_labels,
        validation_images,
        validation_labels,
        test_images,
        test_labels,
        names,
    )
    return dataset, data


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


def _with_shape(data: DataConfig, paths: tuple[Path, ...]) -> DataConfig:
    if data.height and data.width and data.channels:
        return data
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in decode
        for path in paths[:SHAPE_SAMPLE]:
            try:
                seen.append(preprocessing.peek(path))
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


def _complaint(root: Path, bad: dict[int, UnreadableImage], total: int) -> str:
    errors = sorted(bad.values(), key=lambda error: str(error.path))
    named = "; ".join(f"{printable(error.path.relative_to(root))} {error.reason}" for error in errors[:_NAMED])
    more = f"; and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
    return (
        f"{len(errors)} of {total} images in {printable(root)} cannot be read: {named}{more}: "
        "mend or remove them, or go on without them with --skip-bad"
    )
