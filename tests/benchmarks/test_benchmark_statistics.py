"""The statistics hold what they promise, on data whose answer is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from edgecbam.benchmarks import statistics

# Student's t, two-sided 95 % and 99 %, as printed in every textbook.
T_TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 4: (2.776, 4.604), 7: (2.365, 3.499), 14: (2.145, 2.977),
           30: (2.042, 2.750), 120: (1.980, 2.617)}  # fmt: skip


@pytest.mark.parametrize("degrees", T_TABLE)
def test_student_t_is_that_of_the_tables(degrees: int) -> None:
    assert statistics.student_t(0.95, degrees) == pytest.approx(T_TABLE[degrees][0], abs=6e-4)
    assert statistics.student_t(0.99, degrees) == pytest.approx(T_TABLE[degrees][1], abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 40])
def test_student_t_distribution_matches_its_density(degrees: int) -> None:
    t = np.linspace(-1.7, 1.7, 20001)
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = constant * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert statistics.student_t_cdf_two_sided(1.7, degrees) == pytest.approx(np.trapezoid(density, t), abs=1e-6)


def test_student_t_refuses_nonsense() -> None:
    for confidence, degrees in ((0.95, 0), (1.0, 3), (0.0, 3)):
        with pytest.raises(ValueError, match="degrees"):
            statistics.student_t(confidence, degrees)


@pytest.mark.parametrize("processes", [5, 8])
def test_t_interval_covers_the_truth_as_often_as_it_says(processes: int) -> None:
    rng = np.random.default_rng(5)
    values = 0.3 + 0.1 * rng.standard_normal((4000, processes))
    covered = [low <= 0.3 <= high for low, high in map(statistics.t_interval, values)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("n", "quantile"), [(6, 0.5), (50, 0.5), (500, 0.5), (100, 0.9), (500, 0.9), (662, 0.99)])
def test_ranks_enclose_the_quantile_and_are_as_narrow_as_they_can_be(n: int, quantile: float) -> None:
    low, high = statistics.enclosing_ranks(n, quantile)

    def at_most(count: int) -> float:  # P(at most so many of n samples lie below the quantile)
        return sum(math.comb(n, k) * quantile**k * (1 - quantile) ** (n - k) for k in range(count + 1))

    assert at_most(low) <= 0.025 < at_most(low + 1)
    assert at_most(high) >= 0.975 > at_most(high - 1)


@pytest.mark.parametrize(("n", "quantile"), [(5, 0.5), (20, 0.9), (100, 0.99)])
def test_too_few_samples_cannot_enclose_a_quantile(n: int, quantile: float) -> None:
    assert statistics.enclosing_ranks(n, quantile)[1] == n
    assert statistics.enclosing_ranks(5, 0.5)[0] == -1


def sessions(
    rng: np.random.Generator, factor: float, count: int = 5, rounds: int = 20, runs: int = 5
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Candidate and baseline times with drift of the machine, differences between processes, noise and outliers."""
    candidate, baseline = [], []
    for _ in range(count):
        drift = np.exp(np.cumsum(0.1 * rng.standard_normal(rounds)))[:, None]  # shared: the rounds are interleaved
        for speed, kept in ((factor, candidate), (1.0, baseline)):
            process = math.exp(0.01 * rng.standard_normal())
            noise = np.exp(0.02 * rng.standard_normal((rounds, runs)))
            outliers = np.where(rng.random((rounds, runs)) < 0.03, 20.0, 1.0)
            kept.append(1e6 * speed * process * drift * noise * outliers)
    return candidate, baseline


def test_paired_ratio_survives_drift_and_outliers() -> None:
    rng = np.random.default_rng(7)
    ratio = statistics.ratio(*sessions(rng, 1.0))
    assert ratio["value"] == pytest.approx(1.0, abs=0.03)


def test_a_planted_slowdown_is_found_and_a_control_is_not() -> None:
    rng = np.random.default_rng(8)
    slowed, equal = [], []
    for _ in range(100):
        for factor, kept in ((1.1, slowed), (1.0, equal)):
            ratio = statistics.ratio(*sessions(rng, factor))
            kept.append(statistics.verdict(ratio["low"], ratio["high"]))
    assert slowed.count("slower") >= 95
    assert slowed.count("faster") == 0
    assert equal.count("inconclusive") >= 88


def test_ratio_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(9)
    ratios = [statistics.ratio(*sessions(rng, 0.8, rounds=7, runs=3)) for _ in range(800)]
    covered = [low is not None and high is not None and low <= 0.8 <= high for r in ratios
               for low, high in [(r["low"], r["high"])]]  # fmt: skip
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_ratio_by_hand() -> None:
    baseline = [np.full((3, 3), 100), np.full((3, 3), 200)]
    candidate = [np.full((3, 3), 200), np.full((3, 3), 800)]
    ratio = statistics.ratio(candidate, baseline)
    assert ratio["value"] == pytest.approx(math.sqrt(2 * 4))
    assert statistics.ratio(candidate[:1], baseline[:1]) == {"value": pytest.approx(2), "low": None, "high": None}


def test_one_disturbed_round_or_run_does_not_move_the_ratio() -> None:
    baseline = np.full((5, 5), 100)
    candidate = np.full((5, 5), 200)
    candidate[1] = 100_000  # a whole block while something else had the machine
    candidate[:, 0] = 50_000  # and the first run of every block
    assert math.exp(statistics.paired_log_ratio(candidate, baseline)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.7, 0.9, "faster"),
        (1.1, 1.3, "slower"),
        (0.9, 1.1, "inconclusive"),
        (0.9, 1.0, "inconclusive"),
        (0.9, 0.995, "inconclusive"),
        (0.9, 0.989, "faster"),
        (1.005, 1.1, "inconclusive"),
        (1.011, 1.1, "slower"),
        (1.0, 1.1, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_verdict(low: float | None, high: float | None, expected: str) -> None:
    assert statistics.verdict(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.11, 1.3, "slower"),
        (1.1, 1.3, "inconclusive"),
        (1.09, 1.3, "inconclusive"),
        (0.9, 1.1, "not slower"),
        (0.9, 1.11, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_the_gate_needs_the_whole_interval(low: float | None, high: float | None, expected: str) -> None:
    assert statistics.gate_verdict({"value": 1.0, "low": low, "high": high}, 10) == expected


def test_a_gate_of_several_candidates_asks_for_more_confidence() -> None:
    assert statistics.family_confidence(1) == statistics.CONFIDENCE
    assert statistics.family_confidence(5) == pytest.approx(0.99)
    with pytest.raises(ValueError, match="at least one"):
        statistics.family_confidence(0)


def test_the_ratio_of_processes_is_as_wide_as_its_confidence_asks() -> None:
    ratios = [1.0, 1.1, 1.2, 1.3]
    logs = np.log(ratios)
    for confidence, t in ((0.95, 3.182), (0.99, 5.841)):  # three degrees of freedom
        found = statistics.ratio_of_processes(ratios, confidence)
        assert found["value"] == pytest.approx(math.exp(logs.mean()))
        assert found["high"] is not None
        assert math.log(found["high"]) == pytest.approx(logs.mean() + t * logs.std(ddof=1) / 2, abs=1e-3)


def test_latency_keeps_every_sample_and_gives_p99_only_with_enough() -> None:
    few = statistics.latency([np.full((20, 5), 1_000_000)] * 5)
    assert (few["n"], few["p50"], few["p99"], few["intervals"]["p99"]) == (500, 1.0, None, None)
    samples = np.full((40, 10), 1_000_000)
    samples[0, 0] = 50_000_000
    many = statistics.latency([samples, samples])
    assert (many["n"], many["max"], many["min"]) == (800, 50.0, 1.0)
    assert many["mean"] == pytest.approx(1 + 2 * 49 / 800)
    assert statistics.latency([np.ones((1, 661))])["p99"] is None
    assert statistics.latency([np.ones((1, 662))])["p99"] is not None


@pytest.mark.parametrize("medians", [(1.0, 1.1, 1.2, 1.3, 1.4), (1.0, 1.0, 1.0, 1.0, 5.0)])
def test_latency_intervals_reflect_differences_between_processes(medians: Sequence[float]) -> None:
    rng = np.random.default_rng(3)
    processes = [m * 1e6 * np.exp(0.001 * rng.standard_normal((40, 5))) for m in medians]
    summary = statistics.latency(processes)
    assert summary["p50"] == pytest.approx(math.exp(np.mean(np.log(medians))), rel=1e-3)
    for name in ("p50", "p90", "p99"):
        low, high = summary["intervals"][name]
        assert low < summary[name] < high
        assert high / low > 1.2, "the spread inside a process says little about the next process"
    assert summary["process_p50"] == pytest.approx(list(medians), rel=1e-3)
    assert summary["p50"] < summary["p90"] < summary["p99"]


def test_p50_has_the_interval_of_the_geometric_mean_of_medians() -> None:
    medians = [1.0, 2.0, 4.0]
    summary = statistics.latency([np.full((4, 5), median * 1e6) for median in medians])
    half = 4.303 * math.log(2) / math.sqrt(3)  # two degrees of freedom; the logs differ by log 2
    assert summary["p50"] == pytest.approx(2.0)
    assert summary["intervals"]["p50"] == pytest.approx([2 * math.exp(-half), 2 * math.exp(half)], rel=1e-3)
    assert summary["p90"] == pytest.approx(2.0), "inside a process nothing differs"


def test_a_tail_is_that_of_times_relative_to_their_own_process() -> None:
    one = np.concatenate([np.full(85, 1.0), np.full(15, 3.0)]) * 1e6
    summary = statistics.latency([one, 100 * one])
    assert summary["p50"] == pytest.approx(10.0)
    assert summary["p90"] == pytest.approx(30.0), "and not 100, of the slower process alone"


def test_a_tail_in_some_processes_only_is_less_certain_than_one_in_all() -> None:
    rng = np.random.default_rng(4)
    quiet = np.exp(0.01 * rng.standard_normal((8, 1, 400)))
    spread, lumped = quiet.copy(), quiet.copy()
    spread[:, :, :8] *= 2 + rng.random((8, 1, 8))  # 64 disturbed runs, the same number in each process
    lumped[:2, :, :32] *= 2 + rng.random((2, 1, 32))  # or all of them in two
    widths = []
    for samples in (spread, lumped):
        low, high = statistics.latency(list(1e6 * samples))["intervals"]["p99"]
        widths.append(math.log(high / low))
    assert widths[1] > 2 * widths[0]


def test_a_single_process_has_no_intervals() -> None:
    summary = statistics.latency([np.full((100, 10), 1_000_000)])
    assert summary["p99"] == 1.0
    assert summary["intervals"] == {"p50": None, "p90": None, "p99": None}


def test_outliers_leave_the_median_ratio_alone() -> None:
    calm = [0.98, 0.99, 1.0, 1.0, 1.0, 1.01, 1.02, 1.0, 0.99, 1.01]
    found = statistics.median_ratio(calm)
    assert found["value"] == 1.0
    assert (found["low"], found["high"]) == (0.99, 1.01), "ranks 2 and 9 of ten"
    assert statistics.median_ratio([0.5, *calm[1:6], 9.0, *calm[7:]]) == found
    assert statistics.median_ratio(calm[:5]) == {"value": 1.0, "low": None, "high": None}


def test_the_interval_of_the_median_ratio_covers() -> None:
    rng = np.random.default_rng(1)
    ratios = np.exp(rng.standard_t(2, (2000, 30)) * 0.02)
    held = [statistics.median_ratio(list(one)) for one in ratios]
    covered = np.mean([one["low"] <= 1 <= one["high"] for one in held])
    assert 0.94 <= covered <= 0.985, "at least 95 %: ranks are whole numbers"
