"""Batches to train on: shuffled, augmented, normalized; each a pure function of seed, epoch and its number.

Every batch draws from its own generator, seeded by (seed, epoch, number of the batch), so a run resumed in the midst
of an epoch sees what an uninterrupted one sees, and of several workers each sees its part of the same batch.

The pixels are worked on in NumPy, several batches at a time in threads, in a fixed order: no second implementation
needs testing, and a CPU's training is slower by far (``python -m edgecbam.datasets.speed`` measures both).
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecbam import preprocessing as pixels
from edgecbam.datasets import augment
from edgecbam.datasets.dataset import Images
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.recipe import TrainConfig

if TYPE_CHECKING:
    import tensorflow as tf

_READY_BATCHES = 2  # made ahead while the model trains
_MAKERS = 4  # batches in the making at the same time, at most; each may take hundreds of MB

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def batches(
    images: Images,
    labels: np.ndarray,
    *,
    classes: int | None,
    config: TrainConfig,
    epoch: int,
    preprocessing: Mapping[str, Any],
    start_batch: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset":
    """One epoch of batches, or what is left of it.

    The order is ``default_rng([seed, epoch]).permutation(n)``; a batch takes the next ``batch_size`` of it, the last
    one what is left.

    Args:
        images: [n, h, w, c] uint8, or what decodes them on demand.
        labels: [n] int64 classes, or [n, k] float32 standardised targets.
        classes: how many classes there are; None for a regression.
        config: seed, batch_size (of all workers together), augmentation, label smoothing and class weights.
        epoch: number of the epoch, from 0; each has its own order and augmentation.
        preprocessing: see edgecbam.preprocessing.
        start_batch: number of the first batch, from 0: how many were trained on before.
        shard: (index, count) of this worker. Worker i of k takes the i-th of k consecutive parts of every batch, whose
            lengths differ by one image at most. A part without images, in a last batch of fewer images than workers,
            is one image of weight 0.

    Returns:
        A tf.data.Dataset of known length: (images [b, h, w, c] float32, normalized; targets [b, classes] or [b, k]
        float32: one-hot, smoothed and mixed, or values; weights [b] float32). The loss of a batch is
        ``sum(weights * losses) / sum(weights)``, both sums over all workers.

    Raises:
        InputError: a shift could push a whole image out of view, images and preprocessing do not fit, or the class
            weights do not fit the classes.
    """
    check(images, labels, classes, config, preprocessing)
    order = epoch_order(len(images), config.seed, epoch)
    of_class = None if classes is None else class_weights(labels, classes, config)
    size = (images.shape[1], images.shape[2])

    def one(number: int) -> Batch:
        rows = order[number * config.batch_size : (number + 1) * config.batch_size]
        draws = augment.draw(batch_random(config.seed, epoch, number), len(rows), size, config)
        own, present = _part(len(rows), shard)
        plain = draws.share == 1
        needed, where = (own, own) if plain else np.unique(np.append(own, draws.partner[own]), return_inverse=True)
        chosen = labels[rows[needed]]
        changed = augment.apply(images[rows[needed]], draws, needed)
        values = pixels.normalize(changed, preprocessing)
        targets = _targets(chosen, classes, config.label_smoothing)
        weights = np.ones(len(needed), np.float32) if of_class is None else of_class[chosen]
        if not plain:
            first, second = where[: len(own)], where[len(own) :]
            values, targets, weights = (
                augment.mix(array[first], array[second], draws.share) for array in (values, targets, weights)
            )
        return values, targets, weights * np.float32(present)

    width = labels.shape[1] if classes is None else classes
    return _as_tensors(one, start_batch, batch_count(len(images), config), images.shape[1:], width)


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Around a loop over batches: an image that became unreadable is told as itself, not as TensorFlow wraps it.

    Raises:
        InputError, EnvironmentFailure: what the making of a batch raised.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"\b(UnreadableImage|InputError|EnvironmentFailure): (.+)", error.message)
        if found is None:
            raise
        kind = EnvironmentFailure if found[1] == "EnvironmentFailure" else InputError
        raise kind(found[2].strip()) from None


def batch_count(images: int, config: TrainConfig) -> int:
    """How many batches an epoch of ``images`` images has."""
    return -(-images // config.batch_size)


def _part(count: int, shard: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Which positions of a batch are this worker's, and whether there are any; without, position 0 stands in."""
    index, workers = shard
    own = np.arange(count * index // workers, count * (index + 1) // workers)
    return (own, True) if len(own) else (np.zeros(1, np.int64), False)


def _targets(labels: np.ndarray, classes: int | None, smoothing: float) -> np.ndarray:
    """One-hot and smoothed, ``(1 - smoothing) * one_hot + smoothing / classes``; or the values as they are."""
    if classes is None:
        return labels.astype(np.float32)
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
    return targets


def class_weights(labels: np.ndarray, classes: int, config: TrainConfig) -> np.ndarray | None:
    """The weight of each class: the recipe's, or ``n / (classes * images of the class)``, or None for equal ones.

    An image mixed of two has the mixture of their weights.

    Args:
        labels: [n] int64, of the training images.
        classes: how many classes there are.
        config: its ``class_weights`` and ``balance_classes``.

    Returns:
        [classes] float32, or None.

    Raises:
        InputError: a wrong number of weights, none above 0, or both settings at once.
    """
    if config.class_weights and config.balance_classes:
        raise InputError("train.class_weights and train.balance_classes exclude each other: give one of them")
    if config.class_weights:
        if len(config.class_weights) != classes:
            raise InputError(
                f"train.class_weights has {len(config.class_weights)} weights for {classes} classes: "
                "give one for each class, in the order of the labels"
            )
        weights = np.array(config.class_weights, np.float32)
        if not weights[labels].any():
            raise InputError("train.class_weights gives every training image the weight 0: give one above 0")
        return weights
    if config.balance_classes:
        counts = np.bincount(labels, minlength=classes)
        return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)
    return None


def _as_tensors(
    one: Callable[[int], Batch], start: int, stop: int, shape: tuple[int, ...], width: int
) -> "tf.data.Dataset":
    """A tf.data.Dataset that calls ``one(number)`` for each batch."""
    import tensorflow as tf

    def call(number: Any) -> tuple[Any, Any, Any]:
        # Stateless, for a batch depends on its number alone: under deterministic ops TensorFlow would call a stateful
        # function once at a time, and only when its batch is asked for.
        images, targets, weights = tf.numpy_function(
            one, [number], (tf.float32, tf.float32, tf.float32), stateful=False
        )
        return (
            tf.ensure_shape(images, (None, *shape)),
            tf.ensure_shape(targets, (None, width)),
            tf.ensure_shape(weights, (None,)),
        )

    makers = min(_MAKERS, os.cpu_count() or 1)
    stream = tf.data.Dataset.range(start, stop).map(call, num_parallel_calls=makers, deterministic=True)
    options = tf.data.Options()
    # There is nothing to tune, and the thread that would do it sleeps for 10 ms, 20 ms, 40 ms and so on up to a minute:
    # the end of an epoch often waits for it to wake.
    options.autotune.enabled = False
    return stream.prefetch(_READY_BATCHES).with_options(options)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """In which order an epoch takes its images: [count] int64 positions."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_random(seed: int, epoch: int, number: int) -> np.random.Generator:
    """The generator that augments batch ``number`` (from 0) of an epoch."""
    return np.random.default_rng([seed, epoch, number + 1])  # to NumPy [seed, epoch, 0] is the seed [seed, epoch]


def check(
    images: Images, labels: np.ndarray, classes: int | None, config: TrainConfig, preprocessing: Mapping[str, Any]
) -> None:
    """Refuse settings that do not fit the images; raises InputError as batches does."""
    pixels.normalize(images[:0], preprocessing)
    smaller = min(images.shape[1:3])
    if config.shift_pixels >= smaller:
        raise InputError(
            f"train.shift_pixels = {config.shift_pixels} would push whole images of {images.shape[1]}x"
            f"{images.shape[2]} out of view: give less than {smaller}"
        )
    if classes is not None:
        class_weights(labels, classes, config)
    elif config.class_weights or config.balance_classes or config.label_smoothing:
        raise InputError(
            "train.class_weights, train.balance_classes and train.label_smoothing are for classes, but data.targets "
            "asks for a regression: leave them out"
        )
