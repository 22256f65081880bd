"""Random changes to training images, in NumPy: first all draws of a batch, from one generator, then what they ask for.

In this order:

- brightness, contrast, saturation: each by a factor drawn evenly from 1 ± its value. With y the ITU-R 601 luma of a
  pixel and m the mean of y over the image: ``p * brightness``, then ``m + (p - m) * contrast``, then
  ``y + (p - y) * saturation``; computed in float32, then rounded and clipped to 0…255 once.
- flip: left to right, with probability 1/2.
- shift: by up to ``shift_pixels`` in each direction; what comes in at the edge are pixels of value 0.
- random erasing, Zhong et al., "Random Erasing Data Augmentation", https://arxiv.org/abs/1708.04896: with probability
  ``random_erasing`` a rectangle is overwritten by random pixels. Its area is 2 to 33 % of the image, its aspect ratio
  0.3 to 1/0.3; of ten random rectangles the first that fits is taken, and none where none fits.
- mixup, Zhang et al., "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412: image i of a batch
  becomes ``share * image i + (1 - share) * image partner(i)``, and so do the targets; ``share`` is drawn from
  Beta(mixup, mixup) once a batch, ``partner`` is a random permutation of it. This is done to normalized images.

Because the draws do not depend on pixels, a worker that holds a part of a batch changes it as one that holds the whole.
"""

import math
from dataclasses import dataclass

import numpy as np

from edgecbam.recipe import TrainConfig

ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 1 / 0.3)  # height / width; tall and wide are equally likely
_TRIES = 10
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's conversion to grey


@dataclass(frozen=True)
class Draws:
    """What happens to each of the b images of a batch.

    Attributes:
        flipped: [b] bool.
        moves: [b, 2] int64, how far an image moves up and to the left, in pixels; negative for down and right.
        factors: [b, 3] float32: brightness, contrast, saturation.
        erased: [b, 4] int64: top, left, height, width of the rectangle in pixels; a height of 0 for none.
        noise: [b] int64, the seed of the pixels that fill it.
        share: of the image itself in a mixture; 1 without mixup.
        partner: [b] int64, position of the image that it is mixed with.
    """

    flipped: np.ndarray
    moves: np.ndarray
    factors: np.ndarray
    erased: np.ndarray
    noise: np.ndarray
    share: float
    partner: np.ndarray


def draw(random: np.random.Generator, count: int, size: tuple[int, int], config: TrainConfig) -> Draws:
    """Draw for ``count`` images of ``size`` (height, width) in pixels.

    The same numbers are drawn whatever is switched on, so that one setting does not change what another does; only
    ``shift_pixels = 0`` draws no moves, and so other numbers for what follows.
    """
    flipped = random.random(count) < 0.5
    moves = random.integers(0, 2 * config.shift_pixels, (count, 2), endpoint=True) - config.shift_pixels
    spread = np.array([config.brightness, config.contrast, config.saturation])
    factors = (1 + spread * random.uniform(-1, 1, (count, 3))).astype(np.float32)
    erased = _rectangles(random, count, size)
    erased[random.random(count) >= config.random_erasing] = 0
    noise = random.integers(0, 2**63 - 1, count)
    if config.mixup == 0:
        return Draws(flipped & config.flip, moves, factors, erased, noise, 1.0, np.arange(count))
    share = float(random.beta(config.mixup, config.mixup))
    return Draws(flipped & config.flip, moves, factors, erased, noise, share, random.permutation(count))


def apply(images: np.ndarray, draws: Draws, chosen: np.ndarray) -> np.ndarray:
    """All but mixup.

    Args:
        images: [k, h, w, c] uint8; not altered.
        draws: of the whole batch.
        chosen: [k] int64, which of the batch the images are.

    Returns:
        [k, h, w, c] uint8.
    """
    images = color(images, draws.factors[chosen])
    images = move(images, draws.flipped[chosen], draws.moves[chosen])
    return erase(images, draws.erased[chosen], draws.noise[chosen])


def color(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Change brightness, contrast and saturation; see the module.

    Args:
        images: [b, h, w, c] uint8; grey ones have no saturation to change.
        factors: [b, 3] float32.

    Returns:
        [b, h, w, c] uint8; ``images`` themselves where all factors are 1.
    """
    if (factors == 1).all():
        return images
    changed = np.empty_like(images)
    # an image at a time stays in the processor's cache, and its result cannot depend on the batch that it is in
    for position, (brightness, contrast, saturation) in enumerate(factors):
        values = images[position].astype(np.float32)
        if images.shape[-1] == 1:
            luma, saturation = values, np.float32(1)
        else:
            luma = (_LUMA[0] * values[..., 0] + _LUMA[1] * values[..., 1] + _LUMA[2] * values[..., 2])[..., np.newaxis]
        # the three steps of the module multiplied out
        strength = brightness * contrast
        values *= strength * saturation
        values += strength * (1 - saturation) * luma + (1 - contrast) * brightness * luma.mean()
        np.rint(values, out=values)
        changed[position] = np.clip(values, 0, 255, out=values)
    return changed


def move(images: np.ndarray, flipped: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Flip images left to right, then move them within their frame; pixels of value 0 come in at the edge.

    Args:
        images: [b, h, w, c] uint8; not altered.
        flipped: [b] bool.
        moves: [b, 2] int64, up and to the left, each smaller than the image.

    Returns:
        [b, h, w, c] uint8; ``images`` themselves where nothing is to be done.
    """
    if not flipped.any() and not moves.any():
        return images
    height, width = images.shape[1:3]
    moved = np.zeros_like(images)
    # a loop of block copies; gathering all pixels of the batch by index at once takes 1.5 to 3 times as long
    for position, (flip, (up, left)) in enumerate(zip(flipped.tolist(), moves.tolist(), strict=True)):
        rows = slice(max(up, 0), height - max(-up, 0)), slice(max(left, 0), width - max(-left, 0))
        into = moved[position, max(-up, 0) : height - max(up, 0), max(-left, 0) : width - max(left, 0)]
        if flip:
            for channel in range(images.shape[-1]):  # backwards, NumPy is three times as fast a channel at a time
                into[..., channel] = images[position, :, ::-1, channel][rows]
        else:
            into[:] = images[position][rows]
    return moved


def erase(images: np.ndarray, rectangles: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Overwrite a rectangle of each image by random pixels.

    Args:
        images: [b, h, w, c] uint8; not altered.
        rectangles: [b, 4] int64: top, left, height, width.
        noise: [b] int64 seeds.

    Returns:
        [b, h, w, c] uint8.
    """
    chosen = np.flatnonzero(rectangles[:, 2])
    if not len(chosen):
        return images
    images = images.copy()
    for position in chosen.tolist():
        top, left, height, width = rectangles[position].tolist()
        fill = np.random.default_rng(noise[position]).integers(0, 256, (height, width, images.shape[-1]), np.uint8)
        images[position, top : top + height, left : left + width] = fill
    return images


def mix(values: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """``share * values + (1 - share) * others`` in float32."""
    mixed = np.float32(share) * values
    mixed += np.float32(1 - share) * others
    return mixed


def _rectangles(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """[count, 4] int64 top, left, height, width within an image of ``size``; zeros where no try fits."""
    area = random.uniform(*ERASED_AREA, (count, _TRIES)) * size[0] * size[1]
    low, high = math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])
    ratio = np.exp(random.uniform(low, high, (count, _TRIES)))
    place = random.random((count, 2))
    heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (heights >= 1) & (widths >= 1) & (heights < size[0]) & (widths < size[1])
    first = np.argmax(fits, axis=1)[:, np.newaxis]
    sides = np.concatenate([np.take_along_axis(heights, first, 1), np.take_along_axis(widths, first, 1)], axis=1)
    corners = np.floor(place * (np.array(size) - sides + 1))
    return np.where(fits.any(axis=1, keepdims=True), np.concatenate([corners, sides], axis=1), 0).astype(np.int64)
