"""Figures that compare outputs: accuracy, agreement, error in LSB; for regression RMSE, MAE and closeness.

Everything is on logits, never on softmax; in regression on the values as the network gives them, unless said otherwise.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top1(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of images whose largest logit is the label.

    Args:
        logits: [images, classes], float or integer.
        labels: [images], class indices.
    """
    scores = np.asarray(logits)
    return float(np.mean(np.argmax(scores, axis=1) == np.asarray(labels)))


def agreement(candidate: ArrayLike, reference: ArrayLike, tie: float = 0.0) -> float:
    """Fraction of images on which two models choose the same class.

    Args:
        candidate: [images, classes] logits.
        reference: [images, classes] logits in the same unit.
        tie: two classes whose candidate logits differ by at most this count as equal; pass one LSB (the scale) for
            dequantized logits and 1 for raw integers.
    """
    scores = np.asarray(candidate, dtype=np.float64)
    chosen = np.argmax(np.asarray(reference), axis=1)
    best = scores.max(axis=1)
    margin = best - scores[np.arange(len(scores)), chosen]
    return float(np.mean(margin <= tie * (1 + 1e-6)))


def lsb_error(candidate: ArrayLike, reference: ArrayLike) -> NDArray[np.int64]:
    """Absolute difference of integer outputs, elementwise, in LSB; raises TypeError for floats."""
    a, b = np.asarray(candidate), np.asarray(reference)
    if a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
        raise TypeError(f"LSB errors are of integer outputs, got {a.dtype} and {b.dtype}")
    return np.abs(a.astype(np.int64) - b.astype(np.int64))


def relative_error(candidate: ArrayLike, reference: ArrayLike) -> float:
    """Largest absolute difference divided by the largest absolute reference value."""
    a, b = np.asarray(candidate, np.float64), np.asarray(reference, np.float64)
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12))


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities [n, classes] of logits [n, classes]."""
    values = np.asarray(logits, np.float64)
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: how far the probability of the chosen class is from how often it is right.

    Images are sorted into ``bins`` of equal width by that probability; the difference between its mean and the share of
    right answers is averaged over the bins, weighted by their images (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        logits: [images, classes], real numbers.
        labels: [images], class indices.
        bins: how many.
    """
    probabilities = softmax(logits)
    chosen, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = chosen == np.asarray(labels)
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(right[place == i].mean() - sure[place == i].mean()) * np.mean(place == i) for i in np.unique(place)]
    return float(np.sum(gaps))


def confusion(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """[classes, classes]: how many images of class i (row) the model gave class j (column).

    Args:
        logits: [images, classes], float or integer.
        labels: [images], class indices.
    """
    scores = np.asarray(logits)
    counts = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(counts, (np.asarray(labels), scores.argmax(axis=1)), 1)
    return counts


def rmse(outputs: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Root of the mean squared error of each target over all images, in the unit of the values.

    Args:
        outputs: [images, k] values.
        targets: [images, k] true values in the same unit.

    Returns:
        [k]; NaN where there are no images.
    """
    return np.asarray(np.sqrt(_mean(_differences(outputs, targets) ** 2)))


def mae(outputs: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Mean absolute error of each target over all images, in the unit of the values; arguments as for ``rmse``."""
    return _mean(np.abs(_differences(outputs, targets)))


def by_target(errors: ArrayLike, names: Sequence[str], std: Sequence[float]) -> dict[str, float]:
    """Errors of standardised values by target, each in the target's own unit.

    Args:
        errors: [k], such as ``rmse`` gives.
        names: of the k targets.
        std: [k] what the targets were divided by.
    """
    real = np.asarray(errors, np.float64) * np.asarray(std, np.float64)
    return {name: float(value) for name, value in zip(names, real, strict=True)}


def distance(candidate: ArrayLike, reference: ArrayLike) -> float:
    """How far two models' values lie apart, as a share of what different images make of the reference.

    For each output the root mean square of the difference over that of the reference about its own mean; the largest
    of all outputs. 0 is equal; what says the same of every image is about 1 away, the answers to other images 1.4.

    Args:
        candidate: [images, k] values.
        reference: [images, k] values in the same unit; an output of it that is constant makes the distance infinite,
            unless the candidate equals it.
    """
    b = np.asarray(reference, np.float64)
    error = np.sqrt(_mean(_differences(candidate, reference) ** 2))
    spread = np.std(b, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(error == 0.0, 0.0, error / spread)
    return float(np.max(shares))


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"values to compare must both be [images, k], got {list(x.shape)} and {list(y.shape)}")
    return x - y


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.mean(values, axis=0) if len(values) else np.full(values.shape[1:], np.nan)
