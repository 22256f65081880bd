"""What CBAM costs, plain and lowered: measures the files of export/lowering_study.py.

    python -m edgecbam.benchmarks.lowering FOLDER REPORT.json [--quick]

The six files of a network (int8 and float32; without CBAM, plain, lowered) are measured side by side in the same
sessions, so that every ratio is of times from the same rounds. Two more processes of the files without CBAM run along
as controls.
"""

import datetime
import sys
import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import artifacts, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore

from . import environment, litert_profile, sessions, statistics, study_command
from .cells import Cell
from .protocol import Protocol
from .sessions import Outcome

RUNTIME = "litert"
INDEX_FILE = "index.json"
FORMS = ("none", "plain", "lowered")
ITEM_BYTES = {"int8": 1, "float32": 4}
# What latency with lowered CBAM may be, against none; and how much faster int8 must be than float32 as trained.
TARGETS = {
    "int8": {
        "resnet 16/32/64 at 96x96": 1.25,
        "resnet 32/64/128 at 96x96": 1.25,
        "resnet 16/32/64 at 224x224": 1.30,
        "resnet-20 at 32x32": 1.40,
    },
    "float32": {
        "resnet 16/32/64 at 96x96": 1.15,
        "resnet 32/64/128 at 96x96": 1.15,
        "resnet 16/32/64 at 224x224": 1.15,
    },
}
SPEEDUP_TARGETS = {"resnet 16/32/64 at 96x96": 2.3, "resnet 32/64/128 at 96x96": 5.0}

FAST = Protocol("lowering", 8, 30, 5, 1, 20, "networks of up to 20 ms: fit to publish, with the environment beside it")
SLOW = Protocol("lowering_slow", 8, 15, 3, 1, 5, "networks above 20 ms: as fit, in a third of the runs")
QUICK = Protocol("quick", 2, 5, 3, 1, 5, "a look, not a publication")
SLOW_MS = 20.0
PROFILE_RUNS, QUICK_PROFILE_RUNS = 200, 20
# Of every attended map, CBAM must read all for the two pools over pixels, read and write for the channel gate, read
# for the channels' maximum and for their mean, read and write for the spatial gate.
PASSES = 8
COPIES = 200


@dataclass(frozen=True)
class Network:
    """An entry of the study's index.

    Attributes:
        whole: a network; otherwise one CBAM on one map, to see that lowering it is never slower.
        maps: height, width and channels of each map that a CBAM attends to.
        files: path by dtype and form.
    """

    name: str
    height: int
    width: int
    whole: bool
    maps: tuple[tuple[int, int, int], ...]
    files: Mapping[str, Mapping[str, Path]]


def read_index(folder: Path) -> list[Network]:
    """The networks of a study; raises InputError where ``index.json`` is missing or no such index."""
    path = folder / INDEX_FILE
    raw = artifacts.read_json(path)
    try:
        return [
            Network(
                entry["name"],
                int(entry["height"]),
                int(entry["width"]),
                entry["kind"] == "network",
                tuple((int(h), int(w), int(c)) for h, w, c in entry["maps"]),
                {
                    dtype: {form: folder / entry["files"][dtype][form] for form in FORMS}
                    for dtype in sorted(entry["files"], key=list(ITEM_BYTES).index)
                },
            )
            for entry in raw["networks"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no index of a lowering study ({error!r}): make it again") from None


def cells(network: Network) -> list[Cell]:
    """A cell for each file, and a control for each file without CBAM."""
    found = []
    for dtype, files in network.files.items():
        none = _model(dtype, "none")
        found += [Cell(_model(dtype, form), files[form], RUNTIME, 1, None, none) for form in FORMS]
        found.append(Cell(none, files["none"], RUNTIME, 1, None, none, control=True))
    return found


def rows(network: Network, outcomes: Mapping[str, Outcome], protocol: str) -> list[dict[str, Any]]:
    """One row for each dtype.

    Args:
        network: what was measured.
        outcomes: of its cells, by key.
        protocol: name of the protocol.

    Raises:
        EnvironmentFailure: a cell was not measured.
    """
    found = []
    for dtype in network.files:
        samples = {form: _samples(network, outcomes, dtype, form) for form in (*FORMS, "control")}
        latencies = {form: statistics.latency(samples[form]) for form in FORMS}
        plain = statistics.ratio(samples["plain"], samples["none"])
        lowered = statistics.ratio(samples["lowered"], samples["none"])
        change = statistics.ratio(samples["lowered"], samples["plain"])
        target = TARGETS[dtype].get(network.name)
        found.append(
            {
                "network": network.name,
                "height": network.height,
                "width": network.width,
                "dtype": dtype,
                "runtime": RUNTIME,
                "protocol": protocol,
                **{f"{form}_ms": latencies[form]["p50"] for form in FORMS},
                "plain_ratio": plain["value"],
                "plain_interval": [plain["low"], plain["high"]],
                "lowered_ratio": lowered["value"],
                "interval": [lowered["low"], lowered["high"]],
                "lowered_to_plain": {**change, "verdict": statistics.verdict(change["low"], change["high"])},
                "control": statistics.ratio(samples["control"], samples["none"]),
                "n": latencies["lowered"]["n"],
                "processes": latencies["lowered"]["processes"],
                "target": target,
                "met": None if target is None else bool(_value(lowered) <= target),
            }
        )
    return found


def against_float(network: Network, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """How many times faster int8 with lowered CBAM is than float32 with plain CBAM; arguments and errors as rows."""
    speedup = statistics.ratio(
        _samples(network, outcomes, "float32", "plain"), _samples(network, outcomes, "int8", "lowered")
    )
    target = SPEEDUP_TARGETS.get(network.name)
    met = None if target is None else bool(_value(speedup) >= target)
    return {"network": network.name, "runtime": RUNTIME, **speedup, "target": target, "met": met}


def attention_bytes(network: Network, dtype: str) -> int:
    """What the ops of CBAM must read and write in one inference, however they are done."""
    return PASSES * _elements(network.maps) * ITEM_BYTES[dtype]


def copy_bandwidth(size: int) -> float:
    """Bytes per second, read and written, of a copy of ``size`` bytes; the best of many, the cost of the call apart."""
    calls = min(200, max(1, 1_000_000 // size))

    def best_s(length: int) -> float:
        source, target = np.ones(length, np.uint8), np.zeros(length, np.uint8)
        return min(timeit.repeat(lambda: np.copyto(target, source), number=calls, repeat=COPIES)) / calls

    whole = best_s(size)
    taken = whole - best_s(1)
    return 2 * size / (taken if taken > 0 else whole)


def profile(network: Network, dtype: str, row: Mapping[str, Any], runs: int) -> dict[str, Any]:
    """Where the time goes, op by op, and what part of CBAM's time is no more than its bytes.

    Args:
        network: a whole network.
        dtype: of its files.
        row: what ``rows`` says of them.
        runs: profiled inferences.
    """
    size = ITEM_BYTES[dtype]
    bandwidth = copy_bandwidth(max(_elements([shape]) for shape in network.maps) * size)
    moved = attention_bytes(network, dtype)
    bound_ms = moved / bandwidth * 1e3
    extra_ms = row["lowered_ms"] - row["none_ms"]
    return {
        "network": network.name,
        "dtype": dtype,
        "runs": runs,
        **{f"{form}_us": _by_op(network.files[dtype][form], runs) for form in ("none", "lowered")},
        "attention_bytes": moved,
        "bandwidth_gb_s": bandwidth / 1e9,
        "bound_ms": bound_ms,
        "extra_ms": extra_ms,
        "extra_over_bound": extra_ms / bound_ms,
    }


def run(folder: Path, quick: bool, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Measure a study.

    Args:
        folder: what export/lowering_study.py wrote.
        quick: a fast look.
        on_event: told of every network.

    Raises:
        InputError: no study, or a file is damaged.
        EnvironmentFailure: a file could not be measured.
    """
    networks = read_index(folder)
    surroundings = environment.describe([RUNTIME])
    surroundings["started_utc"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    surroundings["load_before"] = environment.load_average()
    report: dict[str, Any] = {"rows": [], "against_float": [], "profiles": []}
    for network in networks:
        protocol = QUICK if quick else _protocol(network)
        on_event(Event("lowering", message=f"{network.name}: {protocol.name}"))
        outcomes = sessions.run_sessions(cells(network), protocol)
        found = rows(network, outcomes, protocol.name)
        report["rows"] += found
        if network.whole:
            report["against_float"].append(against_float(network, outcomes))
            runs = QUICK_PROFILE_RUNS if quick else PROFILE_RUNS
            report["profiles"] += [profile(network, row["dtype"], row, runs) for row in found]
    surroundings["load_after"] = environment.load_average()
    return {
        "schema_version": 1,
        "command": "make bench-lowering" + (" ARGS=--quick" if quick else ""),
        "environment": surroundings,
        "protocol": [protocol.describe() for protocol in ([QUICK] if quick else [FAST, SLOW])],
        **report,
    }


def _model(dtype: str, form: str) -> str:
    return f"{dtype} {form}"


def _samples(network: Network, outcomes: Mapping[str, Outcome], dtype: str, form: str) -> list[np.ndarray]:
    """[rounds, runs] nanoseconds of each process."""
    control = form == "control"
    wanted = _model(dtype, "none" if control else form)
    key = next(cell.key for cell in cells(network) if (cell.model, cell.control) == (wanted, control))
    outcome = outcomes[key]
    if outcome.status != "ok":
        raise EnvironmentFailure(f"{network.name}, {dtype} {form}, was not measured: {outcome.reason}")
    return [np.asarray(process) for process in outcome.samples_ns]


def _value(ratio: Mapping[str, float | None]) -> float:
    value = ratio["value"]
    if value is None:
        raise ValueError("a ratio without a value")
    return value


def _elements(maps: Sequence[tuple[int, int, int]]) -> int:
    return sum(height * width * channels for height, width, channels in maps)


def _by_op(path: Path, runs: int) -> dict[str, float]:
    """Microseconds of one inference by the name of the op."""
    times: dict[str, float] = {}
    for name, elapsed in litert_profile.profile_apart(path, runs):
        times[name] = times.get(name, 0.0) + elapsed
    return times


def _protocol(network: Network) -> Protocol:
    """By the slowest file, plain float32: best of three."""
    session = runtimes.find(RUNTIME).open(network.files["float32"]["plain"], threads=1)
    try:
        best_s = min(timeit.repeat(session.invoke, number=1, repeat=3))
    finally:
        session.close()
    return SLOW if best_s * 1e3 > SLOW_MS else FAST


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    study_command.main("lowering", __doc__, "lowering_study", run, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
