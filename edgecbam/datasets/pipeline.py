"""Batches to train on: shuffled, augmented, normalized; each a pure function of seed, epoch and its number.

Augmentation flips each image left to right with probability 1/2 and shifts it by up to ``shift_pixels`` in each
direction, both at random; what comes in at the edge are pixels of value 0. Every batch draws from its own generator,
seeded by (seed, epoch, number of the batch), so a run resumed at epoch k sees what an uninterrupted one sees.

It is plain NumPy: at 28x28 that outruns a CPU's training many times over, and needs no second implementation to test.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecbam import preprocessing as pixels
from edgecbam.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

_READY_BATCHES = 2  # made ahead while the model trains


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    flip: bool,
    shift_pixels: int,
    preprocessing: Mapping[str, Any],
    shuffle: bool,
) -> "tf.data.Dataset":
    """One epoch of batches for Keras.

    Args:
        images: [n, h, w, c] uint8.
        labels: [n] int64.
        batch_size: images in a batch; the last one has what is left.
        seed: of the order and the augmentation.
        epoch: number of the epoch; each has its own order and augmentation.
        flip: flip half of the images left to right.
        shift_pixels: the largest shift, in pixels.
        preprocessing: see edgecbam.preprocessing.
        shuffle: whether to take the images in the order ``default_rng([seed, epoch]).permutation(n)``.

    Returns:
        A tf.data.Dataset of (images [b, h, w, c] float32, normalized; labels [b] int64), of known length.

    Raises:
        InputError: a shift could push a whole image out of view, or images and preprocessing do not fit.
    """
    _check(images, shift_pixels, preprocessing)
    order = epoch_order(len(images), seed, epoch) if shuffle else np.arange(len(images))

    def one(number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = order[number * batch_size : (number + 1) * batch_size]
        augmented = augment(images[chosen], batch_random(seed, epoch, number), flip, shift_pixels)
        return pixels.normalize(augmented, preprocessing), labels[chosen].astype(np.int64)

    return _as_tensors(one, -(-len(images) // batch_size), images.shape[1:]).prefetch(_READY_BATCHES)


def _as_tensors(
    one: Callable[[int], tuple[np.ndarray, np.ndarray]], count: int, shape: tuple[int, ...]
) -> "tf.data.Dataset":
    """A tf.data.Dataset that calls ``one(number)`` for each batch."""
    import tensorflow as tf

    def call(number: Any) -> tuple[Any, Any]:
        images, labels = tf.numpy_function(one, [number], (tf.float32, tf.int64))
        return tf.ensure_shape(images, (None, *shape)), tf.ensure_shape(labels, (None,))

    return tf.data.Dataset.range(count).map(call)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """In which order an epoch takes its images: [count] int64 positions."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_random(seed: int, epoch: int, number: int) -> np.random.Generator:
    """The generator that augments batch ``number`` (from 0) of an epoch."""
    return np.random.default_rng([seed, epoch, number + 1])  # to NumPy [seed, epoch, 0] is the seed [seed, epoch]


def augment(images: np.ndarray, random: np.random.Generator, flip: bool, shift_pixels: int) -> np.ndarray:
    """Flip and shift each image at random; see the module.

    Args:
        images: [b, h, w, c] uint8; not altered.

    Returns:
        [b, h, w, c] uint8.
    """
    flipped = random.random(len(images)) < 0.5
    corners = random.integers(0, 2 * shift_pixels, (len(images), 2), endpoint=True)
    if flip:
        images = np.where(flipped[:, np.newaxis, np.newaxis, np.newaxis], images[:, :, ::-1], images)
    if shift_pixels == 0:
        return images
    height, width = images.shape[1:3]
    edge = (shift_pixels, shift_pixels)
    padded = np.pad(images, ((0, 0), edge, edge, (0, 0)))
    shifted = np.empty_like(images)
    # a loop of block copies; gathering all pixels of the batch by index at once takes 1.5 to 3 times as long
    for position, (top, left) in enumerate(corners.tolist()):
        shifted[position] = padded[position, top : top + height, left : left + width]
    return shifted


def _check(images: np.ndarray, shift_pixels: int, preprocessing: Mapping[str, Any]) -> None:
    pixels.normalize(images[:0], preprocessing)
    smaller = min(images.shape[1:3])
    if shift_pixels >= smaller:
        raise InputError(
            f"train.shift_pixels = {shift_pixels} would push whole images of {images.shape[1]}x{images.shape[2]} "
            f"out of view: give less than {smaller}"
        )
