"""Figures that compare outputs: accuracy, agreement and error in LSB. Everything is on logits, never on softmax."""

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
