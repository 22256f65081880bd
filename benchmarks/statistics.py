"""What timings allow one to say: quantiles, paired ratios and their intervals.

Nothing is ever trimmed. The unit of evidence is the **process**: timings inside one process hang together, and two
processes of the same model on the same machine can differ by more than their own spread. So a ratio is first taken
inside each session (fresh processes, interleaved rounds), as the median over rounds of

    log(median of the candidate's block / median of the baseline's block),

and the interval is Student's over these per-session figures. Simulated with five processes it covers 95.6 % of a
nominal 95 %, where a bootstrap of the processes covers 89.6 %.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
P99_MIN_SAMPLES = 662  # MLPerf's early-stopping bound for the 99th percentile


def order_statistics(n: int, quantile: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 0) of the samples that enclose a quantile, whatever the distribution.

    The number of ``n`` independent samples below the quantile is binomial; each side leaves out at most
    (1 - confidence) / 2 of it. None where so few samples cannot enclose the quantile at all.
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
    return (low, high) if low >= 0 and high <= n - 1 else None


def quantile_interval(
    samples: ArrayLike, quantile: float, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Distribution-free interval for a quantile of independent samples; None where there are too few."""
    values = np.sort(np.asarray(samples, np.float64).ravel())
    ranks = order_statistics(len(values), quantile, confidence) if len(values) else None
    return None if ranks is None else (float(values[ranks[0]]), float(values[ranks[1]]))


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


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Student's interval for the mean of independent values; None for fewer than two."""
    x = np.asarray(values, np.float64).ravel()
    if len(x) < 2:
        return None
    half = student_t(confidence, len(x) - 1) * float(np.std(x, ddof=1)) / math.sqrt(len(x))
    return float(np.mean(x)) - half, float(np.mean(x)) + half


def paired_log_ratio(candidate_ns: ArrayLike, baseline_ns: ArrayLike) -> float:
    """Median over rounds of the log ratio of block medians, for one session.

    Args:
        candidate_ns: [rounds, runs] times of the candidate's process.
        baseline_ns: [rounds, runs] times of the baseline's process, from the same rounds.
    """
    candidate = np.median(np.asarray(candidate_ns, np.float64), axis=1)
    baseline = np.median(np.asarray(baseline_ns, np.float64), axis=1)
    return float(np.median(np.log(np.maximum(candidate, 1) / np.maximum(baseline, 1))))


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
    """``ratio`` from what ``process_ratios`` gives, with an interval of another confidence."""
    logs = [math.log(one) for one in ratios]
    interval = t_interval(logs, confidence)
    low, high = (None, None) if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return {"value": math.exp(float(np.mean(logs))), "low": low, "high": high}


SMALLEST_DIFFERENCE = 0.01


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


def family_confidence(candidates: int) -> float:
    """Confidence of each interval at which a gate of several candidates raises a false alarm as rarely as one of one.

    Bonferroni's correction: the chance that any of ``candidates`` intervals misses is at most the sum of their own.
    """
    return 1 - (1 - CONFIDENCE) / max(candidates, 1)


def gate_verdict(ratio: Mapping[str, float | None], percent: float) -> str:
    """``slower`` where the whole interval lies above 1 + percent / 100, ``not slower`` below, else ``inconclusive``."""
    low, high, threshold = ratio["low"], ratio["high"], 1 + percent / 100
    if low is not None and low > threshold:
        return "slower"
    return "not slower" if high is not None and high <= threshold else "inconclusive"


def latency(processes_ns: Sequence[ArrayLike]) -> dict[str, Any]:
    """Summary in milliseconds of the raw samples of one cell, all of them.

    Args:
        processes_ns: [rounds, runs] nanoseconds for each process.

    The intervals of p50 and p90 are Student's over the logs of the processes' own quantiles, widened where needed to
    hold the pooled value; with a single process they are the distribution-free ones of its samples. p99 needs
    P99_MIN_SAMPLES samples and has the distribution-free interval of the pooled samples.
    """
    processes = [np.asarray(samples, np.float64).ravel() / 1e6 for samples in processes_ns]
    pooled = np.concatenate(processes)
    summary: dict[str, Any] = {
        "n": int(pooled.size),
        "processes": len(processes),
        "min": float(pooled.min()),
        "mean": float(pooled.mean()),
        "max": float(pooled.max()),
        "process_p50": [float(np.median(samples)) for samples in processes],
    }
    intervals: dict[str, list[float] | None] = {}
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        if name == "p99" and pooled.size < P99_MIN_SAMPLES:
            summary[name], intervals[name] = None, None
            continue
        value = float(np.quantile(pooled, quantile))
        interval = quantile_interval(pooled, quantile)
        if name != "p99" and len(processes) > 1:
            logs = t_interval([math.log(max(float(np.quantile(samples, quantile)), 1e-9)) for samples in processes])
            if logs is not None:
                interval = min(math.exp(logs[0]), value), max(math.exp(logs[1]), value)
        summary[name], intervals[name] = value, None if interval is None else list(interval)
    return {**summary, "intervals": intervals}
