"""The intervals hold the truth as often as they say, and the gate errs as seldom, on simulated machines.

Limits: an interval that covers 95 % shows less than 92 % of 1500 measurements once in 10 million times, and one that
covers 90 % shows more than 92 % once in 200 times. Seeds are fixed besides.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgecbam.benchmarks import simulation, statistics
from edgecbam.benchmarks.protocol import PROTOCOLS, Protocol
from edgecbam.benchmarks.simulation import MACHINES, Machine

QUICK, STANDARD = PROTOCOLS["quick"], PROTOCOLS["standard"]
CALM, USUAL, BUSY = MACHINES[:3]
MEASUREMENTS = 1500
STILL = Machine("still", noise=0.0, correlation=0.0, bursts=0.0, burst_runs=1, burst_size=0.0, process=0.0, drift=0.0)


def only(**disturbance: float) -> Machine:
    return dataclasses.replace(STILL, **disturbance)


@pytest.mark.parametrize(
    ("machine", "protocol"),
    [(CALM, QUICK), (USUAL, QUICK), (BUSY, QUICK), (CALM, STANDARD), (USUAL, STANDARD), (BUSY, STANDARD)],
    ids=lambda value: value.name,
)
def test_every_interval_covers_the_truth_as_often_as_it_says(machine: Machine, protocol: Protocol) -> None:
    covered = simulation.simulate(machine, protocol, MEASUREMENTS).covered
    assert set(covered) == {"ratio", "p50", "p90"} | ({"p99"} if protocol is STANDARD else set())
    for name, hits in covered.items():
        assert len(hits) == MEASUREMENTS
        assert 0.92 <= hits.mean() <= 0.99, name


def test_intervals_that_do_not_cover_are_found_out() -> None:
    """Those that edgecbam does not use: all samples as if independent, and the bootstrap of five processes."""
    rng = np.random.default_rng(1)
    times = simulation.draw(USUAL, QUICK, MEASUREMENTS, 2, rng)
    truth = simulation.truth(USUAL, QUICK)["p50"]
    pooled = np.sort(times[:, 0].reshape(MEASUREMENTS, -1), axis=-1)
    low, high = statistics.enclosing_ranks(pooled.shape[-1], 0.5)
    assert np.mean((pooled[:, low] <= truth) & (truth <= pooled[:, high])) < 0.5
    logs = statistics.log_ratios(times[:, 1], times[:, 0])
    means = logs[:, rng.integers(0, 5, (400, 5))].mean(axis=-1)
    bounds = np.quantile(means, [0.025, 0.975], axis=-1)
    assert np.mean((bounds[0] <= 0) & (bounds[1] >= 0)) < 0.92


@pytest.fixture(scope="module")
def equal() -> statistics.Floats:
    """[measurements, processes] log ratios of a file to itself."""
    return simulation.simulate(USUAL, STANDARD, MEASUREMENTS).ratios


@pytest.mark.parametrize("percent", [0.0, 1.0, 5.0])
def test_the_gate_accuses_no_more_often_than_it_may(equal: statistics.Floats, percent: float) -> None:
    slower, _ = simulation.verdict_rates(equal, 0.0, percent)
    assert slower <= 0.05
    slower, not_slower = simulation.verdict_rates(equal, percent, percent)  # as slow as is just allowed
    assert slower <= 0.05
    assert not_slower <= 0.05


def test_the_gate_finds_planted_slowdowns(equal: statistics.Floats) -> None:
    found = {slowdown: simulation.verdict_rates(equal, slowdown, 5.0) for slowdown in (3.0, 6.0, 10.0, 20.0)}
    assert found[20.0][0] == 1.0
    assert found[10.0][0] >= 0.95
    assert found[6.0][0] < found[10.0][0]
    assert found[3.0][0] <= 0.01
    assert found[3.0][1] > 0.5, "3 % is beyond doubt not 5 %"


def test_a_gate_of_several_candidates_errs_no_more_often_than_one_of_one() -> None:
    rates = simulation.family_alarms(USUAL, QUICK, 10, 800)
    assert rates["corrected"] <= 0.05 < rates["plain"]


def test_the_noise_is_as_wide_and_as_correlated_as_it_says() -> None:
    times = simulation.draw(only(noise=0.02, correlation=0.5), QUICK, 200, 1, np.random.default_rng(0))
    runs = times.reshape(-1, QUICK.rounds * QUICK.block)
    assert times.shape == (200, 1, 5, 20, 5)
    assert runs.std() == pytest.approx(0.02, rel=0.03)
    assert np.mean(runs[:, 1:] * runs[:, :-1]) / 0.02**2 == pytest.approx(0.5, abs=0.03)


def test_bursts_are_as_frequent_as_long_and_as_large_as_they_say() -> None:
    machine = only(bursts=0.05, burst_runs=4, burst_size=0.3)
    runs = simulation.draw(machine, QUICK, 800, 1, np.random.default_rng(0)).reshape(-1, 100)
    disturbed = runs > 0
    begun = np.count_nonzero(disturbed[:, 1:] & ~disturbed[:, :-1])
    assert disturbed.mean() == pytest.approx(0.05, rel=0.05)
    assert np.count_nonzero(disturbed[:, 1:]) / begun == pytest.approx(4, rel=0.1)
    assert runs[disturbed].mean() == pytest.approx(0.3, rel=0.05)


def test_processes_differ_and_the_drift_is_common_to_all_cells_of_a_round() -> None:
    rng = np.random.default_rng(0)
    processes = simulation.draw(only(process=0.01), QUICK, 400, 2, rng)
    assert np.ptp(processes, axis=(-2, -1)).max() == 0, "one offset for a whole process"
    assert processes[..., 0, 0].std() == pytest.approx(0.01, rel=0.05)
    drift = simulation.draw(only(drift=0.02), QUICK, 400, 2, rng)
    assert np.array_equal(drift[:, 0], drift[:, 1])
    assert np.ptp(drift, axis=-1).max() == 0, "one value for a round"
    assert drift.std() == pytest.approx(0.02, rel=0.05)
    first, last = drift[:, 0, 0, 0, 0], drift[:, 0, 1, 0, 0]
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.15, "the next session is another time"
    assert np.corrcoef(drift[:, 0, 0, 0, 0], drift[:, 0, 0, 1, 0])[0, 1] > 0.7


def test_a_trend_goes_from_the_first_round_to_the_last() -> None:
    way = simulation.draw(only(trend=0.1), QUICK, 1, 1, np.random.default_rng(0))[0, 0, :, :, 0].ravel()
    assert way[0] == 0
    assert way[-1] == pytest.approx(0.1)
    assert np.diff(way) == pytest.approx(0.1 / 99, rel=1e-3)


@pytest.mark.parametrize("protocol", [QUICK, STANDARD], ids=lambda protocol: protocol.name)
def test_the_truth_is_that_of_closed_forms(protocol: Protocol) -> None:
    normal = simulation.truth(only(noise=0.02, correlation=0.5, process=0.01), protocol)
    assert normal == pytest.approx({"p50": 0, "p90": 0.02 * 1.28155, "p99": 0.02 * 2.32635}, abs=2e-4)
    slow = simulation.truth(only(slow_share=0.2, slow_size=0.05), protocol)
    assert slow == pytest.approx({"p50": 0.01, "p90": 0.01, "p99": 0.01}, abs=1e-9)
    bursts = simulation.truth(only(bursts=0.05, burst_runs=4, burst_size=0.3), protocol)
    assert bursts["p99"] == pytest.approx(0.3 * math.log(5), rel=0.02)  # an exponential's quantile at 1 - 1/5
    steady = simulation.truth(only(trend=0.1), protocol)
    assert steady["p50"] == pytest.approx(0.05, abs=1e-4)
    assert steady["p90"] - steady["p50"] == pytest.approx(0.04 / protocol.processes, rel=0.1)


def test_the_command_writes_every_protocol_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "QUICK_MEASUREMENTS", 10)
    monkeypatch.setattr(simulation, "PROTOCOLS", {"quick": QUICK})
    simulation.main([str(tmp_path / "results" / "coverage.json"), "--quick"])
    report = json.loads((tmp_path / "results" / "coverage.json").read_text())
    assert report["command"] == "make bench-coverage ARGS=--quick"
    assert {(row["machine"], row["interval"]) for row in report["coverage"]} == {
        (machine.name, name) for machine in MACHINES for name in ("ratio", "p50", "p90")
    }
    assert len(report["gate"]) == len(MACHINES) * len(simulation.THRESHOLDS) * len(simulation.SLOWDOWNS)
    assert [row["candidates"] for row in report["families"]] == list(simulation.FAMILIES)
