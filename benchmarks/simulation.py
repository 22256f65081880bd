"""How often the intervals hold the truth and the gate errs, on simulated machines whose truth is known.

    python -m edgecbam.benchmarks.simulation REPORT.json [--quick]

Every simulated time goes through the functions of statistics.py that make a report of real ones. The report has the
coverage of each interval, the false alarms of the gate (the same file against itself) and how often it finds a planted
slowdown, for each protocol on each machine.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecbam import artifacts
from edgecbam.events import Event, OnEvent, ignore

from . import statistics, study_command
from .protocol import PROTOCOLS, Protocol
from .statistics import Floats

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
THRESHOLDS = (0.0, 1.0, 5.0)  # percent, of the gate
SLOWDOWNS = (0.0, 3.0, 6.0, 10.0, 20.0)  # percent, planted; 0 is the same file against itself
FAMILIES = (1, 2, 5, 10)  # candidates judged by one gate
MEASUREMENTS, QUICK_MEASUREMENTS = 10_000, 200
AT_ONCE = 6_000_000  # samples held in memory
STAGE = "simulation"


@dataclass(frozen=True)
class Machine:
    """What disturbs a time on a simulated machine. Standard deviations are of its logarithm: 0.01 is about 1 %.

    Attributes:
        noise: standard deviation from run to run.
        correlation: of the noise of a run with that of the next.
        bursts: share of all runs that something else disturbs.
        burst_runs: mean number of runs in a row that it does.
        burst_size: mean of what it adds to the logarithm, exponentially distributed.
        process: standard deviation from process to process.
        drift: standard deviation of a slow change of the whole machine, the same for all cells of a round.
        drift_sessions: in how many sessions that change forgets itself to a part of 1/e; between two sessions passes
            as much time as one takes.
        trend: what is added to the logarithm from the first round of a measurement to the last, evenly.
        slow_share: of the processes, those of another kind that are slower by ``slow_size``.
        slow_size: in the logarithm.
        limit: whether it stands for what the intervals are not made for.
    """

    name: str
    noise: float
    correlation: float
    bursts: float
    burst_runs: float
    burst_size: float
    process: float
    drift: float
    drift_sessions: float = 0.2
    trend: float = 0.0
    slow_share: float = 0.0
    slow_size: float = 0.0
    limit: bool = False


MACHINES = (
    Machine("calm", 0.01, 0.3, 0.002, 3, 0.3, 0.005, 0.005),
    Machine("usual", 0.02, 0.5, 0.01, 4, 0.4, 0.01, 0.02),
    Machine("busy", 0.05, 0.6, 0.03, 4, 0.5, 0.03, 0.03),
    Machine("slower and slower", 0.02, 0.5, 0.01, 4, 0.4, 0.01, 0.02, trend=0.10, limit=True),
    Machine(
        "one process in five 5 % slower",
        0.02,
        0.5,
        0.01,
        4,
        0.4,
        0.005,
        0.02,
        slow_share=0.2,
        slow_size=0.05,
        limit=True,
    ),
)


def draw(machine: Machine, protocol: Protocol, count: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Logarithms of simulated times, of cells that are all equally fast.

    Args:
        machine: how it disturbs them.
        protocol: processes, rounds and runs in a block.
        count: measurements, independent of each other.
        cells: measured side by side in each.
        rng: source of the randomness.

    Returns:
        [count, cells, processes, rounds, runs].
    """
    processes, rounds, block = protocol.processes, protocol.rounds, protocol.block
    shape = (count, cells, processes)
    times = _noise(machine, rounds * block, shape, rng)
    times += _bursts(machine, rounds * block, shape, rng)
    times = times.reshape(rounds, block, *shape)
    times += _drift(machine, protocol, count, rng)[:, None, :, None, :]
    offset = machine.process * rng.standard_normal(shape)
    offset += machine.slow_size * (rng.random(shape) < machine.slow_share)
    times += offset.astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(times, (0, 1), (-2, -1)))


def _noise(machine: Machine, runs: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """[runs, *shape]: normal, each run correlated with the one before."""
    times = rng.standard_normal((runs, *shape), dtype=np.float32)
    kept, fresh = np.float32(machine.correlation), np.float32(np.sqrt(1 - machine.correlation**2))
    for run in range(1, runs):
        times[run] = kept * times[run - 1] + fresh * times[run]
    return np.float32(machine.noise) * times


def _bursts(machine: Machine, runs: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """[runs, *shape]: what disturbances add, which begin and end at random."""
    ends = 1 / machine.burst_runs
    begins = machine.bursts / (1 - machine.bursts) * ends
    chance = rng.random((runs, *shape), dtype=np.float32)
    added = np.float32(machine.burst_size) * rng.standard_exponential((runs, *shape), dtype=np.float32)
    disturbed = chance[0] < machine.bursts
    for run in range(runs):
        if run:
            disturbed = np.where(disturbed, chance[run] >= ends, chance[run] < begins)
        added[run] *= disturbed
    return added


def _drift(machine: Machine, protocol: Protocol, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """[rounds, count, processes]: what the whole machine adds in each round, session after session."""
    processes, rounds = protocol.processes, protocol.rounds
    kept, fresh = _decay(1 / (machine.drift_sessions * rounds))
    kept_between, fresh_between = _decay(1 / machine.drift_sessions)
    drift = np.empty((rounds, count, processes))
    now = rng.standard_normal(count)
    for process in range(processes):
        now = kept_between * now + fresh_between * rng.standard_normal(count)
        for number in range(rounds):
            now = kept * now + fresh * rng.standard_normal(count)
            drift[number, :, process] = now
    way = (np.arange(rounds)[:, None] + rounds * np.arange(processes)) / (rounds * processes - 1)
    return np.asarray(machine.drift * drift + machine.trend * way[:, None, :], np.float32)


def _decay(elapsed: float) -> tuple[float, float]:
    """What is left of a slow change after some of its times, and what comes new."""
    kept = float(np.exp(-elapsed))
    return kept, float(np.sqrt(1 - kept**2))


@functools.lru_cache(maxsize=100)
def truth(machine: Machine, protocol: Protocol) -> dict[str, float]:
    """Logarithms of p50, p90 and p99 of a typical process, as statistics.log_quantile means them.

    Found from many sessions of the protocol's number of rounds with so many runs in each round that chance has no say.
    """
    sessions, runs = 400, 12_000 // protocol.rounds
    rng = np.random.default_rng(0)
    slow = Protocol("truth", 1, protocol.rounds, runs, 0, 0, "")
    drift = np.moveaxis(_drift(machine, slow, sessions, rng)[..., 0], 0, 1)[..., None]
    if machine.trend:  # that of a session is a part of the whole one
        drift += machine.trend * (np.linspace(0, 1, protocol.rounds)[:, None] - 0.5) * (1 / protocol.processes - 1)
    shape = (sessions, protocol.rounds, runs)
    times = drift + np.float32(machine.noise) * rng.standard_normal(shape, dtype=np.float32)
    added = np.float32(machine.burst_size) * rng.standard_exponential(shape, dtype=np.float32)
    times += added * (rng.random(shape, dtype=np.float32) < machine.bursts)
    medians = np.median(times.reshape(sessions, -1), axis=-1)
    p50 = float(np.mean(medians)) + machine.slow_share * machine.slow_size
    relative = times - medians[:, None, None]
    tails = np.quantile(relative, [QUANTILES["p90"], QUANTILES["p99"]])
    return {"p50": p50, "p90": p50 + float(tails[0]), "p99": p50 + float(tails[1])}


@dataclass(frozen=True)
class Simulated:
    """What many measurements of one file against itself gave.

    Attributes:
        ratios: [measurements, processes] log ratios.
        covered: by name, whether the interval held the truth; [measurements].
        half_widths: by name, of the interval, relative; [measurements].
    """

    ratios: Floats
    covered: dict[str, NDArray[np.bool_]]
    half_widths: dict[str, Floats]


def simulate(machine: Machine, protocol: Protocol, measurements: int, seed: int = 1) -> Simulated:
    """Measure the same file against itself many times. p99 only where the protocol has samples enough."""
    names = [name for name in QUANTILES if name != "p99" or _samples(protocol) >= statistics.P99_MIN_SAMPLES]
    true = truth(machine, protocol)
    ratios: list[Floats] = []
    covered: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ("ratio", *names)}
    widths: dict[str, list[Floats]] = {name: [] for name in ("ratio", *names)}
    for times in _chunks(machine, protocol, measurements, 2, seed):
        logs = statistics.log_ratios(times[:, 1], times[:, 0])
        half = statistics.t_half_width(logs)
        ratios.append(logs)
        covered["ratio"].append(np.abs(logs.mean(axis=-1)) <= half)
        widths["ratio"].append(np.expm1(half))
        runs = times[:, 0].reshape(*times.shape[:1], protocol.processes, -1)
        for name in names:
            _, bounds = statistics.log_quantile(runs, QUANTILES[name])
            if bounds is None:
                raise ValueError("intervals need two processes")
            covered[name].append((bounds[0] <= true[name]) & (true[name] <= bounds[1]))
            widths[name].append(np.expm1((bounds[1] - bounds[0]) / 2))
    return Simulated(
        np.concatenate(ratios),
        {name: np.concatenate(found) for name, found in covered.items()},
        {name: np.concatenate(found) for name, found in widths.items()},
    )


def verdict_rates(ratios: Floats, slowdown_percent: float, percent: float, family: int = 1) -> tuple[float, float]:
    """How often a gate says ``slower``, and how often ``not slower``, of a candidate that is slower by so much.

    Args:
        ratios: [measurements, processes] log ratios of a file against itself.
        slowdown_percent: planted: it multiplies every time of the candidate.
        percent: the gate's threshold.
        family: candidates that the gate judges, by which the interval is widened.
    """
    slowed = np.exp(ratios) * (1 + slowdown_percent / 100)
    confidence = statistics.family_confidence(family)
    said = [statistics.gate_verdict(statistics.ratio_of_processes(one, confidence), percent) for one in slowed]
    return said.count("slower") / len(said), said.count("not slower") / len(said)


def family_alarms(
    machine: Machine, protocol: Protocol, candidates: int, measurements: int, seed: int = 2
) -> dict[str, float]:
    """How often a gate at 0 % accuses at least one of several candidates, all equal to their common baseline.

    Returns:
        ``corrected``, with intervals of statistics.family_confidence; ``plain``, with each as if it stood alone.
    """
    alarms = {"corrected": 0, "plain": 0}
    confidences = {"corrected": statistics.family_confidence(candidates), "plain": statistics.CONFIDENCE}
    for times in _chunks(machine, protocol, measurements, candidates + 1, seed):
        logs = statistics.log_ratios(times[:, 1:], times[:, :1])
        for name, confidence in confidences.items():
            slower = logs.mean(axis=-1) > statistics.t_half_width(logs, confidence)
            alarms[name] += int(np.count_nonzero(slower.any(axis=1)))
    return {name: count / measurements for name, count in alarms.items()}


def _chunks(
    machine: Machine, protocol: Protocol, measurements: int, cells: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """``draw`` in parts that memory holds."""
    rng = np.random.default_rng(seed)
    size = max(1, AT_ONCE // (cells * _samples(protocol)))
    for first in range(0, measurements, size):
        yield draw(machine, protocol, min(size, measurements - first), cells, rng)


def _samples(protocol: Protocol) -> int:
    return protocol.processes * protocol.rounds * protocol.block


def run(quick: bool, on_event: OnEvent = ignore) -> dict[str, Any]:
    """The report: every protocol on every machine."""
    measurements = QUICK_MEASUREMENTS if quick else MEASUREMENTS
    coverage: list[dict[str, Any]] = []
    gate: list[dict[str, Any]] = []
    families: list[dict[str, Any]] = []
    for machine in MACHINES:
        for protocol in PROTOCOLS.values():
            on_event(Event(STAGE, f"{machine.name}: {protocol.name}"))
            place = {"machine": machine.name, "protocol": protocol.name}
            found = simulate(machine, protocol, measurements)
            for name, hits in found.covered.items():
                width = float(np.median(found.half_widths[name]))
                coverage.append({**place, "interval": name, "coverage": float(hits.mean()), "half_width": width})
            gate += [{**place, **row} for row in _gate_rows(found.ratios)]
    for protocol in PROTOCOLS.values():
        machine = MACHINES[1]
        on_event(Event(STAGE, f"several candidates: {protocol.name}"))
        for candidates in FAMILIES:
            rates = family_alarms(machine, protocol, candidates, measurements // 5)
            families.append({"machine": machine.name, "protocol": protocol.name, "candidates": candidates, **rates})
    return {
        "schema_version": 1,
        "command": "make bench-coverage" + (" ARGS=--quick" if quick else ""),
        "measurements": measurements,
        "family_measurements": measurements // 5,
        "nominal": statistics.CONFIDENCE,
        "machines": [asdict(machine) for machine in MACHINES],
        "protocols": [
            {name: getattr(protocol, name) for name in ("name", "processes", "rounds", "block")}
            for protocol in PROTOCOLS.values()
        ],
        "coverage": coverage,
        "gate": gate,
        "families": families,
    }


def _gate_rows(ratios: Floats) -> list[dict[str, float]]:
    rows = []
    for percent in THRESHOLDS:
        for slowdown in SLOWDOWNS:
            slower, not_slower = verdict_rates(ratios, slowdown, percent)
            rows.append({"threshold": percent, "slowdown": slowdown, "slower": slower, "not_slower": not_slower})
    return rows


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.benchmarks.simulation", description=__doc__)
    parser.add_argument("report", type=Path, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a fast look, not a publication")
    options = parser.parse_args(arguments)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(options.report, run(options.quick, study_command.say))


if __name__ == "__main__":
    main(sys.argv[1:])
