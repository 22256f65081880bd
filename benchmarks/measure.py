"""Measure latency so that two measurements can be compared.

Measuring A and then B on a shared machine compares two moments, not two models. So every cell is a process of its
own, all of them ready before the first timed run, and the parent takes a short block of runs from each in a new
random order, round after round; then come fresh processes, because processes differ too. A second process of the
baseline runs along as a control: it shows what difference two equal things have on this machine, today.
"""

import contextlib
import datetime
import io
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import __version__, artifacts, runtimes
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent, ignore

from . import cells as making
from . import environment, statistics
from .cells import Cell
from .child import Child, ChildFailed
from .protocol import Protocol, find_protocol

STAGE = "benchmark"
PARITY_IMAGES = 64  # in every process after the first, which checks all samples
REPORT_FILE = "report.json"
RAW_FILE = "samples.npz"
RAW_KEY = "raw_ns"
ALL_IMAGES = 2**31
CHECK_PATIENCE = 5  # a check is many inferences

Start = Callable[[dict[str, Any]], Child]


@dataclass
class Outcome:
    """What became of one cell. ``samples_ns`` holds [rounds, runs] for each process that went through.

    ``nodes`` counts those on integers and in float; where the runtime should have told and did not, it is None and
    ``nodes_reason`` says why. That is no failure of the cell.
    """

    status: str = "ok"
    reason: str = ""
    opened: list[dict[str, Any]] = field(default_factory=list)
    check: dict[str, Any] | None = None
    samples_ns: list[list[list[int]]] = field(default_factory=list)
    nodes: dict[str, Any] | None = None
    nodes_reason: str = ""


def benchmark_models(
    models: Sequence[Path],
    *,
    runtimes: Sequence[str],
    threads: int,
    protocol: str,
    baseline: Path | None = None,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Measure model files that belong to no run: latency only, for there are no references to check against.

    Args:
        models: .tflite and .onnx files.
        runtimes: names of runtimes; each measures the files that it reads.
        threads: threads of one inference.
        protocol: ``"quick"``, ``"standard"`` or ``"rigorous"``.
        baseline: file that all others are compared with on the same runtime; measured too.
        on_event: told of every round.

    Returns:
        The value of ``report.json``, with the raw samples under ``"raw_ns"`` (see write_report).

    Raises:
        InputError: an unknown runtime or protocol, or a file that is missing or damaged. Nothing was timed then.
    """
    chosen = find_protocol(protocol)
    _check_threads(threads)
    cells, entries = making.bare_cells(models, runtimes, threads, baseline)
    return measure(cells, entries, runtimes, chosen, on_event)


def benchmark_run(
    run: Path, *, runtimes: Sequence[str], threads: int, protocol: str, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Measure the exported files of a run: parity first, then latency, beside accuracy and size.

    Arguments, value and errors as for benchmark_models; the baseline is the float32 file on the same runtime.
    """
    chosen = find_protocol(protocol)
    _check_threads(threads)
    cells, entries = making.run_cells(run, runtimes, threads)
    return measure(cells, entries, runtimes, chosen, on_event)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` and ``samples.npz`` into an existing folder.

    ``samples.npz`` holds one array [processes, rounds, runs] of int64 nanoseconds for each cell, named by its key.
    """
    buffer = io.BytesIO()
    raw = {key: np.asarray(samples, np.int64) for key, samples in report.get(RAW_KEY, {}).items()}
    np.savez_compressed(buffer, allow_pickle=False, **raw)
    artifacts.write_whole(folder / RAW_FILE, buffer.getvalue())
    artifacts.write_json(folder / REPORT_FILE, {key: value for key, value in report.items() if key != RAW_KEY})


def measure(
    cells: Sequence[Cell],
    models: list[dict[str, Any]],
    names: Sequence[str],
    protocol: Protocol,
    on_event: OnEvent = ignore,
    start: Start = Child,
) -> dict[str, Any]:
    """Measure the cells and make the report.

    Args:
        cells: what to measure, controls included.
        models: the report's ``models``.
        names: runtimes whose versions are recorded.
        protocol: how long.
        on_event: told of every round.
        start: starts a worker, for tests.
    """
    surroundings = environment.describe(names)
    surroundings["started_utc"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    surroundings["load_before"] = environment.load_average()
    outcomes = run_sessions(cells, protocol, on_event, start)
    surroundings["load_after"] = environment.load_average()
    sizes = {model["name"]: model["bytes"] for model in models}
    return {
        "schema_version": 1,
        "tool": {"name": "edgecbam", "version": __version__},
        "environment": surroundings,
        "protocol": protocol.describe(),
        "models": models,
        "results": [_result(cell, outcomes[cell.key], sizes) for cell in cells if not cell.control],
        "comparisons": compare(cells, outcomes),
        RAW_KEY: {key: outcome.samples_ns for key, outcome in outcomes.items() if outcome.samples_ns},
    }


def run_sessions(
    cells: Sequence[Cell], protocol: Protocol, on_event: OnEvent = ignore, start: Start = Child
) -> dict[str, Outcome]:
    """Run every session of a protocol; returns the outcome of each cell by key. No process is left behind.

    Raises:
        InputError: a model file is damaged.
    """
    outcomes = {cell.key: Outcome(cell.status or "ok", cell.reason) for cell in cells}
    order = random.Random(protocol.seed)
    for number in range(protocol.processes):
        alive = [cell for cell in cells if outcomes[cell.key].status == "ok"]
        order.shuffle(alive)
        if alive:
            _run_session(number, alive, outcomes, protocol, order, on_event, start)
    return outcomes


def _run_session(
    number: int,
    cells: Sequence[Cell],
    outcomes: dict[str, Outcome],
    protocol: Protocol,
    order: random.Random,
    on_event: OnEvent,
    start: Start,
) -> None:
    """One fresh process for each cell: start, open, check, warm up, then rounds of blocks."""
    children: dict[str, Child] = {}
    samples: dict[str, list[list[int]]] = {cell.key: [] for cell in cells}
    total = protocol.processes * protocol.rounds
    at_once = max(1, (os.cpu_count() or 1) // cells[0].threads)

    def step(key: str, action: Callable[[Child], dict[str, Any]]) -> dict[str, Any] | None:
        """Do something with a child that is still there; a failure costs this cell and no other."""
        if key not in children:
            return None
        try:
            return action(children[key])
        except ChildFailed as failure:
            children.pop(key).kill()
            if failure.status == "input":
                raise InputError(failure.reason) from None
            which = f" (process {number + 1} of {protocol.processes})" if number else ""
            outcomes[key].status, outcomes[key].reason = failure.status, failure.reason + which
            on_event(Event(STAGE, f"{key}: {failure.status}: {failure.reason}{which}"))
            return None

    with contextlib.ExitStack() as stack:
        for cell in cells:
            children[cell.key] = stack.enter_context(start(_task(cell, protocol)))
        for cell in cells:  # importing goes on side by side: nothing is timed yet
            step(cell.key, lambda child: child.hear(protocol.timeout_s))
        for cell in cells:  # one after another, for init_ms and first_ms are times
            opened = step(cell.key, lambda child: child.ask({"command": "open"}, protocol.timeout_s))
            if opened is not None:
                outcomes[cell.key].opened.append(opened)
        images = PARITY_IMAGES if number else ALL_IMAGES
        for group in _groups(list(children), at_once):
            for key in group:
                children[key].tell({"command": "check", "images": images})
            for key in group:
                check = step(key, lambda child: child.hear(CHECK_PATIENCE * protocol.timeout_s))
                if check is not None:
                    _note_check(check, outcomes[key], number)
                    if not check["passed"]:
                        children.pop(key).kill()
        for cell in cells:
            step(cell.key, lambda child: child.ask({"command": "warm", "runs": protocol.warm_up}, protocol.timeout_s))
        block = {"command": "block", "lead_in": protocol.lead_in, "runs": protocol.block}
        for round_number in range(protocol.rounds):
            keys = list(children)
            order.shuffle(keys)
            for key in keys:
                answer = step(key, lambda child: child.ask(block, protocol.timeout_s))
                if answer is not None:
                    samples[key].append(answer["ns"])
            on_event(Event(STAGE, step=number * protocol.rounds + round_number + 1, total=total, unit="round"))
        for key in children:
            outcomes[key].samples_ns.append(samples[key])
        for cell in cells if number == 0 else ():  # it opens the file a second time: nothing is timed any more
            if cell.key in children and not cell.control and runtimes.find(cell.runtime).nodes is not None:
                _ask_nodes(children[cell.key], outcomes[cell.key], protocol.timeout_s)


def _ask_nodes(child: Child, outcome: Outcome, timeout_s: float) -> None:
    try:
        outcome.nodes = child.ask({"command": "nodes"}, timeout_s)["nodes"]
    except ChildFailed as failure:
        outcome.nodes_reason = failure.reason


def _groups(keys: list[str], size: int) -> list[list[str]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def _task(cell: Cell, protocol: Protocol) -> dict[str, Any]:
    return {
        "model": str(cell.path),
        "runtime": cell.runtime,
        "threads": cell.threads,
        "seed": protocol.seed,
        "export": None if cell.export is None else str(cell.export),
    }


def _note_check(check: dict[str, Any], outcome: Outcome, number: int) -> None:
    if outcome.check is None:
        outcome.check = check
    if not check["passed"]:
        which = f" (process {number + 1})" if number else ""
        outcome.status, outcome.reason = "wrong_output", check["reason"] + which


def _result(cell: Cell, outcome: Outcome, sizes: dict[str, int]) -> dict[str, Any]:
    """One row of ``results``. A cell that failed has no latency, whatever it measured before."""
    ok = outcome.status == "ok"
    check = outcome.check or {}
    return {
        "model": cell.model,
        "runtime": cell.runtime,
        "runtime_version": runtimes.find(cell.runtime).version(),
        "device": cell.device,
        "threads": cell.threads,
        "status": outcome.status,
        "reason": outcome.reason,
        "parity": check.get("parity"),
        "accuracy": check.get("accuracy"),
        "agreement": check.get("agreement"),
        "bytes": sizes.get(cell.model),
        "init_ms": _median(outcome.opened, "init_ms") if ok else None,
        "first_ms": _median(outcome.opened, "first_ms") if ok else None,
        "latency_ms": statistics.latency(outcome.samples_ns) if ok else None,
        "memory": _memory(outcome.opened) if ok else None,
        "placement": outcome.opened[0]["placement"] if outcome.opened else None,
        "nodes": outcome.nodes,
        "nodes_reason": outcome.nodes_reason,
    }


def _median(opened: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.median([entry[key] for entry in opened]))


def _memory(opened: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Medians over processes: resident after importing the runtime, and the peak up to the first inference."""
    medians: dict[str, int | None] = {}
    for key in ("imported_bytes", "peak_bytes"):
        known = [entry["memory"][key] for entry in opened if entry["memory"][key] is not None]
        medians[key] = int(np.median(known)) if known else None
    return medians


def compare(cells: Sequence[Cell], outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """Every measured cell against the baseline on its own runtime, and the controls."""
    baselines = {(cell.model, cell.runtime): cell for cell in cells if not cell.control}
    comparisons = []
    for cell in cells:
        baseline = baselines.get((cell.baseline or "", cell.runtime))
        if baseline is None or baseline is cell:
            continue
        if outcomes[cell.key].status != "ok" or outcomes[baseline.key].status != "ok":
            continue
        ratio = statistics.ratio(
            [np.asarray(process) for process in outcomes[cell.key].samples_ns],
            [np.asarray(process) for process in outcomes[baseline.key].samples_ns],
        )
        comparisons.append(
            {
                "kind": "control" if cell.control else "candidate",
                "baseline": baseline.model,
                "candidate": cell.model,
                "runtime": cell.runtime,
                "device": cell.device,
                "threads": cell.threads,
                "processes": len(outcomes[cell.key].samples_ns),
                "ratio": ratio,
                "verdict": statistics.verdict(ratio["low"], ratio["high"]),
            }
        )
    return comparisons


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
