"""Stratified random choices: every part of a split has the classes in the proportions of the whole.

``numpy.random.RandomState`` draws them because its stream is frozen: a seed means the same images under every
version of NumPy, which ``default_rng`` does not promise.
"""

import numpy as np

from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

TEST, VALIDATION, TRAIN_SUBSET, TEST_SUBSET, ORDER = range(5)  # what a draw is for; keeps draws of one seed apart


def stratified(
    labels: np.ndarray, count: int, seed: int, purpose: int, *, at_least: int = 0, leave: int = 0
) -> np.ndarray:
    """Choose ``count`` positions at random, with the classes in proportion.

    Args:
        labels: [n] class indices.
        count: how many to choose.
        seed: of the draw.
        purpose: TEST, VALIDATION, …; draws for different purposes are independent.
        at_least: the least to take of every class.
        leave: the least to leave of every class.

    Returns:
        [count] int64 positions, ascending; fewer or more where ``at_least`` and ``leave`` demand it.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    taken = _shares(sizes, count, at_least, leave)
    random = np.random.RandomState([seed, purpose])
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, taken, strict=True)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _shares(sizes: np.ndarray, count: int, at_least: int, leave: int) -> np.ndarray:
    """How many to take of each class: proportional, rounded by the largest remainder, within the bounds."""
    most = np.maximum(sizes - leave, 0)
    least = np.minimum(at_least, most)
    count = int(np.clip(count, least.sum(), most.sum()))
    ideal = count * sizes / max(1, sizes.sum())
    taken: np.ndarray = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while taken.sum() < count:
        taken[np.argmax(np.where(taken < most, ideal - taken, -np.inf))] += 1
    while taken.sum() > count:
        taken[np.argmin(np.where(taken > least, ideal - taken, np.inf))] -= 1
    return taken


def complement(count: int, positions: np.ndarray) -> np.ndarray:
    """The positions of 0…count-1 that are not in ``positions``, ascending."""
    rest = np.ones(count, bool)
    rest[positions] = False
    return np.flatnonzero(rest)


def subset(labels: np.ndarray, wanted: int, seed: int, purpose: int, key: str) -> np.ndarray:
    """``wanted`` stratified positions, or all of them where ``wanted`` is 0.

    Args:
        key: the recipe's key that asked, for the message.

    Raises:
        InputError: more are wanted than there are, or fewer than there are classes.
    """
    classes = len(np.unique(labels))
    if wanted == 0:
        return np.arange(len(labels))
    if wanted > len(labels):
        raise InputError(f"{key} = {wanted}, but there are only {len(labels)}: give at most that, or 0 for all")
    if wanted < classes:
        raise InputError(f"{key} = {wanted} is too few for {classes} classes: give at least {classes}, or 0 for all")
    return stratified(labels, wanted, seed, purpose, at_least=1)


def split_train(labels: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Split off ``data.validation_fraction``, at least one image, then keep ``data.train_images`` of the rest.

    Every class keeps at least one image to train on.

    Args:
        labels: [n] class indices of the images that are not for testing.

    Returns:
        Positions to train and to validate on, ascending.

    Raises:
        InputError: as subset.
    """
    validation = np.zeros(0, np.int64)
    if data.validation_fraction > 0:
        count = max(1, round(data.validation_fraction * len(labels)))
        validation = stratified(labels, count, data.seed, VALIDATION, leave=1)
    rest = complement(len(labels), validation)
    kept = subset(labels[rest], data.train_images, data.seed, TRAIN_SUBSET, "data.train_images")
    return rest[kept], validation
