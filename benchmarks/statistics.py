"""What timings allow one to say: quantiles, paired ratios and their intervals.

Nothing is ever trimmed. The unit of evidence is the **process**: timings inside one process hang together, and two
processes of the same model on the same machine can differ by more than their own spread. An interval that takes all
samples for independent is several times too narrow; every interval here is one over processes.

- A **ratio** is first taken inside each session (fresh processes, interleaved rounds), as the median over rounds of
  log(median of the candidate's block / median of the baseline's block); the interval is Student's over the sessions.
- **p50** is that of a typical process: the geometric mean of the processes' medians, with Student's interval.
- **p90 and p99** are p50 times a tail: the quantile of all samples, each divided by its own process's median. The
  tail's interval is the distribution-free one for as many independent samples as these are worth, which the
  differences between processes tell (Korn and Graubard, Confidence intervals for proportions with small expected number
  of positive counts estimated from survey data, 1998). Its distances to the value are added in squares to those of p50
  (Zou and Donner, Construction of confidence limits about effect measures, 2008).

simulation.py measures how often these intervals hold the truth.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
P99_MIN_SAMPLES = 662  # MLPerf's early-stopping bound for the 99th percentile
SMALLEST_DIFFERENCE = 0.01

Floats = NDArray[np.float64]


@functools.lru_cache(maxsize=100_000)
def enclosing_ranks(n: int, quantile: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Ranks (from 0) of the samples that enclose a quantile, whatever the distribution.

    The number of ``n`` independent samples below the quantile is binomial; each side leaves out at most
    (1 - confidence) / 2 of it. -1 stands for below all samples, ``n`` for above all: too few samples to enclose it.
    """
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_mass = (
        log_factorial[n]
        - log_factorial[k]
        - log_factorial[n - k]
        + k * math.log(quantile)
        + (n - k) * math.log1p(-quantile)
    )
    below = np.cumsum(np.exp(log_mass))  # below[i] = P(count <= i)
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(below, tail, side="right")) - 1  # largest i with P(count <= i) <= tail
    high = int(np.searchsorted(below, 1 - tail, side="left"))  # smallest i with P(count <= i) >= 1 - tail
    return low, min(high, n)


def student_t_cdf_two_sided(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's distribution with a whole number of degrees of freedom, in closed form.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 if odd else 1, degrees, 2):  # k = 2, 4, … for odd degrees, 1, 3, … for even ones
        total += term
        term *= cosine * cosine * k / (k + 1)
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total


@functools.lru_cache(maxsize=1000)
def student_t(confidence: float, degrees: int) -> float:
    """The factor t with P(|T| <= t) = confidence, by bisection; 2.776 for 0.95 and 4 degrees of freedom."""
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError(f"need degrees >= 1 and 0 < confidence < 1, got {degrees} and {confidence}")
    low, high = 0.0, 1.0
    while student_t_cdf_two_sided(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if student_t_cdf_two_sided(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_half_width(values: ArrayLike, confidence: float = CONFIDENCE) -> Floats:
    """Half of Student's interval for the mean of independent values along the last axis, of which there are >= 2."""
    x = np.asarray(values, np.float64)
    count = x.shape[-1]
    return np.asarray(student_t(confidence, count - 1) * np.std(x, axis=-1, ddof=1) / math.sqrt(count))


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Student's interval for the mean of independent values; None for fewer than two."""
    x = np.asarray(values, np.float64).ravel()
    if len(x) < 2:
        return None
    half = float(t_half_width(x, confidence))
    return float(np.mean(x)) - half, float(np.mean(x)) + half


def log_ratios(candidate_log: ArrayLike, baseline_log: ArrayLike) -> Floats:
    """Median over rounds of the log ratio of block medians.

    Args:
        candidate_log: [..., rounds, runs] logarithms of the times of the candidate's process.
        baseline_log: likewise of the baseline's process, from the same rounds.

    Returns:
        [...]: one figure for each session.
    """
    candidate, baseline = (np.median(np.asarray(times), axis=-1) for times in (candidate_log, baseline_log))
    return np.asarray(np.median(candidate - baseline, axis=-1), np.float64)


def paired_log_ratio(candidate_ns: ArrayLike, baseline_ns: ArrayLike) -> float:
    """``log_ratios`` of one session, from [rounds, runs] nanoseconds."""
    return float(log_ratios(_logarithms(candidate_ns), _logarithms(baseline_ns)))


def process_ratios(candidate: Sequence[ArrayLike], baseline: Sequence[ArrayLike]) -> list[float]:
    """Latency of the candidate over that of the baseline in each session; arguments as for ``ratio``."""
    return [math.exp(paired_log_ratio(c, b)) for c, b in zip(candidate, baseline, strict=True)]


def ratio(candidate: Sequence[ArrayLike], baseline: Sequence[ArrayLike]) -> dict[str, float | None]:
    """Latency of the candidate over that of the baseline: ``value``, and ``low`` and ``high`` of the 95 % interval.

    Args:
        candidate: [rounds, runs] times for each session.
        baseline: likewise, same sessions in the same order.

    ``low`` and ``high`` are None with a single session, which says nothing about the next one.
    """
    return ratio_of_processes(process_ratios(candidate, baseline))


def ratio_of_processes(ratios: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float | None]:
    """As ``ratio``, from the ratio of each session and with any confidence."""
    logs = np.log(np.asarray(ratios, np.float64))
    interval = t_interval(logs, confidence)
    low, high = (None, None) if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return {"value": math.exp(float(np.mean(logs))), "low": low, "high": high}


def verdict(low: float | None, high: float | None) -> str:
    """``faster``, ``slower`` or ``inconclusive``, from the interval of candidate / baseline latency.

    The whole interval must lie beyond 1 by SMALLEST_DIFFERENCE: less is of no use to anybody and too near to what two
    processes of the same file differ by.
    """
    if low is None or high is None:
        return "inconclusive"
    if high < 1 / (1 + SMALLEST_DIFFERENCE):
        return "faster"
    return "slower" if low > 1 + SMALLEST_DIFFERENCE else "inconclusive"


def median_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> dict[str, float | None]:
    """The median of independent ratios with its distribution-free interval, which outliers on either side leave alone.

    ``low`` and ``high`` are None with too few ratios: six are needed for 95 %.
    """
    values = sorted(ratios)
    low, high = enclosing_ranks(len(values), 0.5, confidence)
    enough = low >= 0 and high < len(values)
    return {
        "value": float(np.median(values)),
        "low": values[low] if enough else None,
        "high": values[high] if enough else None,
    }


def family_confidence(candidates: int) -> float:
    """Confidence of each of several intervals, so that together they err no more often than one of CONFIDENCE.

    Bonferroni's inequality, which holds however the candidates hang together; and they do, by their baseline.
    """
    if candidates < 1:
        raise ValueError(f"need at least one candidate, got {candidates}")
    return 1 - (1 - CONFIDENCE) / candidates


def gate_verdict(ratio: Mapping[str, float | None], percent: float) -> str:
    """Whether the candidate is slower than the baseline by more than ``percent``.

    Args:
        ratio: ``low`` and ``high`` of candidate / baseline latency; of family_confidence where several are judged.
        percent: the threshold.

    Returns:
        ``"slower"`` where the whole interval lies above the threshold, ``"not slower"`` where none of it does, else
        ``"inconclusive"``.
    """
    threshold = 1 + percent / 100
    low, high = ratio["low"], ratio["high"]
    if low is None or high is None:
        return "inconclusive"
    if low > threshold:
        return "slower"
    return "not slower" if high <= threshold else "inconclusive"


def log_quantile(log_times: ArrayLike, quantile: float) -> tuple[Floats, tuple[Floats, Floats] | None]:
    """A quantile of a typical process, and its 95 % interval; see the head of this file.

    Args:
        log_times: [..., processes, runs] logarithms of all times of a cell.
        quantile: 0.5 or above.

    Returns:
        The quantile's logarithm and the bounds of its interval, each [...]; no bounds with a single process.
    """
    x = np.asarray(log_times)
    processes, count = x.shape[-2], x.shape[-2] * x.shape[-1]
    medians = np.median(x, axis=-1)
    centre: Floats = np.asarray(np.mean(medians, axis=-1, dtype=np.float64))
    if quantile == 0.5:
        if processes < 2:
            return centre, None
        half = t_half_width(medians)
        return centre, (centre - half, centre + half)
    relative = x - medians[..., None]
    pooled = np.sort(relative.reshape(*x.shape[:-2], count), axis=-1)
    tail = np.asarray(np.quantile(pooled, quantile, axis=-1, method="median_unbiased"), np.float64)
    value: Floats = centre + tail
    if processes < 2:
        return value, None
    shares = np.mean(relative <= tail[..., None, None], axis=-1)  # of each process, below the common quantile
    low, high = _enclosing(pooled, quantile, _independent_samples(shares, quantile, count))
    half = t_half_width(medians)
    return value, (value - np.hypot(half, tail - low), value + np.hypot(half, high - tail))


def _independent_samples(shares: NDArray[Any], quantile: float, count: int) -> NDArray[np.int64]:
    """How many independent samples would leave the share below a quantile as uncertain as these processes do.

    Args:
        shares: [..., processes] of each process's samples.
        quantile: their common quantile.
        count: of all samples, which is the most they can be worth.
    """
    processes = shares.shape[-1]
    variance = np.var(shares, axis=-1, ddof=1) / processes
    few = (student_t(CONFIDENCE, count - 1) / student_t(CONFIDENCE, processes - 1)) ** 2  # as Korn and Graubard
    worth = few * quantile * (1 - quantile) / np.maximum(variance, 1e-12)
    return np.asarray(np.clip(worth, 1, count), np.int64)


def _enclosing(pooled: NDArray[Any], quantile: float, worth: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The samples that enclose a quantile if they were as many as they are worth; [..., count] in ascending order."""
    count = pooled.shape[-1]
    bounds = []
    for side in (0, 1):
        ranks = np.array([enclosing_ranks(int(n), quantile)[side] for n in worth.ravel()]).reshape(worth.shape)
        places = np.rint((ranks + 1) / (worth + 1) * (count + 1) - 1).astype(np.int64)
        taken = np.take_along_axis(pooled, np.clip(places, 0, count - 1)[..., None], axis=-1)
        bounds.append(np.asarray(taken[..., 0], np.float64))
    return bounds[0], bounds[1]


def latency(processes_ns: Sequence[ArrayLike]) -> dict[str, Any]:
    """Summary in milliseconds of the raw samples of one cell, all of them.

    Args:
        processes_ns: [rounds, runs] nanoseconds for each process, as many for each.

    Returns:
        ``n``, ``min``, ``mean`` and ``max`` of all samples; ``process_p50``, each process's own median; ``p50``,
        ``p90`` and ``p99`` of a typical process, and their ``intervals``, which are None with a single process. p99 is
        None below P99_MIN_SAMPLES samples.
    """
    times_ms = np.stack([np.asarray(samples, np.float64).ravel() for samples in processes_ns]) / 1e6
    logs = np.log(np.maximum(times_ms, 1e-6))  # a clock may tell 0 ns
    summary: dict[str, Any] = {
        "n": int(times_ms.size),
        "processes": len(times_ms),
        "min": float(times_ms.min()),
        "mean": float(times_ms.mean()),
        "max": float(times_ms.max()),
        "process_p50": [float(median) for median in np.median(times_ms, axis=1)],
    }
    intervals: dict[str, list[float] | None] = {}
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        if name == "p99" and times_ms.size < P99_MIN_SAMPLES:
            summary[name], intervals[name] = None, None
            continue
        value, bounds = log_quantile(logs, quantile)
        summary[name] = math.exp(float(value))
        intervals[name] = None if bounds is None else [math.exp(float(bound)) for bound in bounds]
    return {**summary, "intervals": intervals}


def _logarithms(times_ns: ArrayLike) -> Floats:
    return np.log(np.maximum(np.asarray(times_ns, np.float64), 1))
