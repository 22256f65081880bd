"""Measure latency so that two measurements can be compared, and make the report.

    value = benchmark_models([Path("a.tflite"), Path("b.tflite")], runtimes=("litert",), protocol="quick")

How it is measured: sessions.py. On which machines: devices.py. What the report holds: report.schema.json.
"""

import contextlib
import dataclasses
import datetime
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import __version__, array_file, artifacts, runtimes
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent, ignore

from . import cells as making
from . import environment, profiles, references, report_schema, statistics
from .cells import Cell
from .child import ChildFailed, Worker
from .devices import Device, LocalDevice, Settings, Unreachable, connect
from .protocol import Protocol, find_protocol
from .sessions import STAGE, Outcome, Start, ask_profile, run_sessions

SCHEMA_VERSION = 3
REPORT_FILE = "report.json"
RAW_FILE = "samples.npz"
RAW_KEY = "raw_ns"
MAX_RAW = 64 * 2**20  # bytes of single latencies: those of 900 cells of the longest protocol
MEASURED = ("ok", "functional_only", "wrong_output")  # what measuring again would not change


@dataclass(frozen=True)
class Request:
    """What is asked for beyond the models.

    Attributes:
        runtimes: names; None: what the device has or what is usual there.
        threads: numbers of threads of one inference.
        protocol: ``"quick"``, ``"standard"`` or ``"rigorous"``.
        devices: ``cpu``, ``gpu``, ``ssh:HOST``, ``adb:SERIAL``.
        settings: what remote devices need to know.
        shapes: whole shapes of inputs that have free dimensions.
        inputs: .npz with real inputs for bare files, instead of random ones.
        profile: whether to time the ops too, in a separate run.
        attention: regular expression of the names of ops that count as attention.
    """

    runtimes: tuple[str, ...] | None = None
    threads: tuple[int, ...] = (1,)
    protocol: str = "standard"
    devices: tuple[str, ...] = ("cpu",)
    settings: Settings = field(default_factory=Settings)
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    inputs: Path | None = None
    profile: bool = False
    attention: str = profiles.ATTENTION


def benchmark_models(
    models: Sequence[Path],
    request: Request,
    *,
    baseline: Path | None = None,
    earlier: Mapping[str, Any] | None = None,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Measure model files that belong to no run: latency, and parity with a plain run of the same file on the CPU.

    Args:
        models: .tflite, .onnx and .keras files.
        request: where and how.
        baseline: file that all others are compared with in the same place; measured too.
        earlier: an unfinished report of the same measurement, with its raw samples: only what it lacks is measured.
        on_event: told of every round.

    Returns:
        The value of ``report.json``, with the raw samples under ``"raw_ns"`` (see write_report).

    Raises:
        InputError: an unknown runtime, device or protocol, a file that is missing or damaged, or a free dimension that
            nobody gave. Nothing was timed then.
    """
    protocol = find_protocol(request.protocol)
    devices = _connect(request)
    shapes = dict(request.shapes)
    where = making.spots(request.runtimes, devices, request.threads, {path.suffix.lower() for path in models})
    cells, entries = making.bare_cells(models, where, baseline, shapes)
    with tempfile.TemporaryDirectory(prefix="edgecbam-") as folder:
        cells = _with_references(cells, entries, Path(folder), request, protocol.seed, on_event)
        return measure(cells, entries, protocol, on_event, devices=devices, request=request, earlier=earlier)


def benchmark_run(
    run: Path, request: Request, *, earlier: Mapping[str, Any] | None = None, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Measure the exported files of a run: parity first, then latency, beside accuracy and size.

    Arguments, value and errors as for benchmark_models; the baseline is the float32 file in the same place.
    """
    protocol = find_protocol(request.protocol)
    devices = _connect(request)
    cells, entries = making.run_cells(run, making.spots(request.runtimes, devices, request.threads))
    return measure(cells, entries, protocol, on_event, devices=devices, request=request, earlier=earlier)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` and ``samples.npz`` into an existing folder.

    ``samples.npz`` holds one array [processes, rounds, runs] of int64 nanoseconds for each cell, named by its key.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **raw_samples(report))
    artifacts.write_whole(folder / RAW_FILE, buffer.getvalue())
    artifacts.write_json(folder / REPORT_FILE, {key: value for key, value in report.items() if key != RAW_KEY})


def raw_samples(report: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The raw samples of a report by cell key: [processes, rounds, runs] int64 nanoseconds."""
    return {key: np.asarray(samples, np.int64) for key, samples in report.get(RAW_KEY, {}).items()}


def read_report(folder: Path) -> dict[str, Any]:
    """What ``write_report`` wrote, raw samples included; raises InputError where it is damaged or missing."""
    report = report_schema.resumable(artifacts.read_json(folder / REPORT_FILE))
    problem = report_schema.problem(report)
    if problem:
        raise InputError(f"{folder / REPORT_FILE} is no whole report of this edgecbam ({problem}): measure anew")
    try:
        report[RAW_KEY] = array_file.load(folder / RAW_FILE, MAX_RAW)
    except (OSError, ValueError):
        raise InputError(f"{folder / RAW_FILE} is missing, damaged or too large: measure into another --out") from None
    return dict(report)


def measure(
    cells: Sequence[Cell],
    models: list[dict[str, Any]],
    protocol: Protocol,
    on_event: OnEvent = ignore,
    *,
    start: Start | None = None,
    devices: Sequence[Device] | None = None,
    request: Request | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the cells and make the report.

    Args:
        cells: what to measure, controls included.
        models: the report's ``models``.
        protocol: how long.
        on_event: told of every round.
        start: starts a worker for a cell, for tests; None: the cell's device does.
        devices: where; None: this machine's CPU.
        request: what was asked for; None: nothing beyond the cells.
        earlier: see benchmark_models.

    Raises:
        InputError: a model file is damaged, or ``earlier`` is of another measurement.
    """
    asked = request or Request()
    by_name = {device.name: device for device in devices or [LocalDevice("cpu")]}
    told_inputs = _inputs(asked)
    todo = list(cells) if earlier is None else _unfinished(cells, models, protocol, told_inputs, earlier)
    finished = [] if earlier is None or not asked.profile else _unprofiled(cells, todo, earlier)
    if earlier is not None and not todo and not finished:
        return {**earlier, "gate": None}
    names = list(dict.fromkeys(cell.runtime for cell in cells if cell.runtime in runtimes.RUNTIMES))
    host = environment.describe(names)
    started = _now()
    host["started_utc"], host["load_before"] = started, environment.load_average()
    with contextlib.ExitStack() as stack:
        for device in by_name.values():
            stack.callback(device.close)
        reached, machines = _reach([*todo, *finished], by_name, names, on_event)
        ready = [cell for cell in reached if cell.key not in {one.key for one in finished}]
        begin = start or _starter(by_name)
        outcomes = run_sessions(ready, protocol, on_event, begin)
        to_profile = [cell for cell in reached if cell.key not in outcomes or outcomes[cell.key].status == "ok"]
        told = _profiles(to_profile, protocol, asked, begin, on_event) if asked.profile else []
        for name, machine in machines.items():
            machine["after"] = _snapshot(by_name[name])
    host["load_after"] = environment.load_average()
    versions = {name: machine["environment"].get("versions", {}) for name, machine in machines.items()}
    sizes = {model["name"]: model["bytes"] for model in models}
    report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "edgecbam", "version": __version__},
        "environment": host,
        "devices": machines,
        "protocol": protocol.describe(),
        "inputs": told_inputs,
        "models": models,
        "results": [
            _result(cell, outcomes[cell.key], sizes, versions.get(cell.device, {}))
            for cell in ready
            if not cell.control
        ],
        "comparisons": compare(ready, outcomes),
        "profiles": told,
        "measurements": [{"started_utc": started, "finished_utc": _now(), "cells": [cell.key for cell in ready]}],
        "gate": None,
        RAW_KEY: {key: outcome.samples_ns for key, outcome in outcomes.items() if outcome.samples_ns},
    }
    return report if earlier is None else _merge(cells, earlier, report)


def _connect(request: Request) -> list[Device]:
    if not request.devices:
        raise InputError("no device to measure on: give cpu, gpu, ssh:HOST or adb:SERIAL")
    if len(set(request.devices)) < len(request.devices):
        raise InputError(f"a device is named twice: {', '.join(request.devices)}")
    return [connect(name, request.settings) for name in request.devices]


def _with_references(
    cells: Sequence[Cell],
    models: list[dict[str, Any]],
    folder: Path,
    request: Request,
    seed: int,
    on_event: OnEvent,
) -> list[Cell]:
    """The cells with what their outputs should be; notes the precision of each file in ``models``."""
    entries = {model["name"]: model for model in models}
    made: dict[str, references.Made] = {}
    for cell in cells:
        if cell.model not in made and cell.path.suffix.lower() in references.FORMATS:
            target = folder / f"reference{len(made)}.npz"
            made[cell.model] = references.make(cell.path, target, seed, dict(cell.shapes), request.inputs)
            entries[cell.model]["precision"] = made[cell.model].precision
            if made[cell.model].path is None:
                on_event(Event(STAGE, f"{cell.model}: outputs cannot be checked: {made[cell.model].reason}"))
    known = [one.names for one in made.values()]
    for name, _ in request.shapes:
        if not any(names is None or name in names for names in known):
            told = ", ".join(sorted({one for names in known for one in names or ()}))
            raise InputError(f"--shape {name}: no model has such an input; there are {told}")
    return [
        dataclasses.replace(cell, reference=made[cell.model].path, unchecked=made[cell.model].reason)
        if cell.model in made
        else cell
        for cell in cells
    ]


def _reach(
    cells: Sequence[Cell], devices: Mapping[str, Device], names: Sequence[str], on_event: OnEvent
) -> tuple[list[Cell], dict[str, dict[str, Any]]]:
    """The cells, those of devices that cannot be reached as skipped, and what the others are."""
    machines: dict[str, dict[str, Any]] = {}
    lost: dict[str, str] = {}
    for name, device in devices.items():
        mine = [cell for cell in cells if cell.device == name and not cell.status]
        if not mine:
            continue
        try:
            device.prepare(_files(mine))
            machines[name] = {"environment": device.describe(names), "before": device.snapshot(), "after": None}
        except Unreachable as error:
            lost[name] = str(error)
            on_event(Event(STAGE, f"{name}: {error}"))
    ready = [
        dataclasses.replace(cell, status="skipped", reason=lost[cell.device])
        if cell.device in lost and not cell.status
        else cell
        for cell in cells
    ]
    return [cell for cell in ready if not (cell.control and cell.status)], machines


def _files(cells: Sequence[Cell]) -> list[Path]:
    """All files that workers of these cells read."""
    files: dict[Path, None] = {}
    for cell in cells:
        files[cell.path] = None
        if cell.reference is not None:
            files[cell.reference] = None
        if cell.export is not None:
            files |= {cell.export / artifacts.MANIFEST_FILE: None, cell.export / artifacts.SAMPLES_FILE: None}
    return list(files)


def _starter(devices: Mapping[str, Device]) -> Start:
    def start(cell: Cell, task: dict[str, Any]) -> Worker:
        try:
            return devices[cell.device].start(task)
        except Unreachable as error:
            raise ChildFailed("skipped", str(error)) from None

    return start


def _snapshot(device: Device) -> dict[str, Any] | None:
    try:
        return device.snapshot()
    except Unreachable:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _profiles(
    cells: Sequence[Cell], protocol: Protocol, request: Request, start: Start, on_event: OnEvent
) -> list[dict[str, Any]]:
    """One entry of ``profiles`` for each cell, one after another."""
    told = []
    for cell in cells:
        if cell.control:
            continue
        on_event(Event(STAGE, f"profile of {cell.key}"))
        place = {"model": cell.model, "runtime": cell.runtime, "device": cell.device, "threads": cell.threads}
        try:
            if cell.status:
                raise ChildFailed(cell.status, cell.reason)
            told.append(profiles.entry(place, ask_profile(cell, protocol, start), request.attention))
        except ChildFailed as failure:
            told.append(profiles.failed(place, failure.status, failure.reason))
    return told


def _result(cell: Cell, outcome: Outcome, sizes: Mapping[str, int], versions: Mapping[str, Any]) -> dict[str, Any]:
    """One row of ``results``. A cell that failed has no latency, whatever it measured before."""
    ok = outcome.status == "ok"
    ran = outcome.status in ("ok", "functional_only")
    check = outcome.check or {}
    return {
        "model": cell.model,
        "runtime": cell.runtime,
        "runtime_version": versions.get(cell.runtime, _version(cell)),
        "device": cell.device,
        "threads": cell.threads,
        "baseline": cell.baseline,
        "status": outcome.status,
        "reason": outcome.reason,
        "parity": _parity(cell, check),
        "accuracy": check.get("accuracy"),
        "agreement": check.get("agreement"),
        "rmse": check.get("rmse"),
        "bytes": sizes.get(cell.model),
        "init_ms": _median(outcome.opened, "init_ms") if ok else None,
        "first_ms": _median(outcome.opened, "first_ms") if ok else None,
        "latency_ms": _latency(outcome) if ok else None,
        "memory": _memory(outcome.opened) if ran else None,
        "placement": outcome.opened[0]["placement"] if outcome.opened else None,
        "cpus": outcome.cpus if ok and any(outcome.cpus) else None,
        "nodes": outcome.nodes,
        "nodes_reason": outcome.nodes_reason,
        "measurement": 0,
    }


def _parity(cell: Cell, check: Mapping[str, Any]) -> dict[str, Any] | None:
    parity: dict[str, Any] | None = check.get("parity")
    if parity is not None and not parity["checked"] and cell.unchecked:
        return {**parity, "reason": cell.unchecked}
    return parity


def _latency(outcome: Outcome) -> dict[str, Any]:
    """Of samples that are no single inferences but already medians of many (see placement), only p50 means anything."""
    summary = statistics.latency(outcome.samples_ns)
    if "statistic" in outcome.opened[0]["placement"]:
        summary |= dict.fromkeys(("min", "mean", "max", "p90", "p99"))
        summary["intervals"] |= dict.fromkeys(("p90", "p99"))
    return summary


def _version(cell: Cell) -> str | None:
    local = cell.device in ("cpu", "gpu") and cell.runtime in runtimes.RUNTIMES
    return runtimes.find(cell.runtime).version() if local else None


def _median(opened: Sequence[dict[str, Any]], key: str) -> float | None:
    known = [entry[key] for entry in opened if entry[key] is not None]
    return float(np.median(known)) if known else None


def _memory(opened: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Medians over processes: resident after importing the runtime, and the peak up to the first inference."""
    medians: dict[str, int | None] = {}
    for key in ("imported_bytes", "peak_bytes"):
        known = [entry["memory"][key] for entry in opened if entry["memory"][key] is not None]
        medians[key] = int(np.median(known)) if known else None
    return medians


def compare(cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Every measured cell against the baseline in its own place, and the controls."""
    baselines = {(cell.model, cell.place): cell for cell in cells if not cell.control}
    comparisons = []
    for cell in cells:
        baseline = baselines.get((cell.baseline or "", cell.place))
        if baseline is None or baseline is cell:
            continue
        if outcomes[cell.key].status != "ok" or outcomes[baseline.key].status != "ok":
            continue
        times = [[np.asarray(process) for process in outcomes[c.key].samples_ns] for c in (cell, baseline)]
        ratio = statistics.ratio(*times)
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
                "process_ratios": statistics.process_ratios(*times),
                "verdict": statistics.verdict(ratio["low"], ratio["high"]),
                "measurement": 0,
            }
        )
    return comparisons


def _inputs(request: Request) -> dict[str, Any]:
    """What models were fed with, as far as it was asked for: figures of other inputs are figures of something else."""
    return {
        "shapes": {name: list(shape) for name, shape in request.shapes},
        "file_sha256": None if request.inputs is None else artifacts.sha256_file(request.inputs),
    }


def _unfinished(
    cells: Sequence[Cell],
    models: Sequence[Mapping[str, Any]],
    protocol: Protocol,
    inputs: Mapping[str, Any],
    earlier: Mapping[str, Any],
) -> list[Cell]:
    """What an earlier report lacks, each with the baseline and the control of its place: old times are not compared.

    Where the baseline is lacking, its whole place is.
    """
    then = {model["name"]: model["sha256"] for model in earlier["models"]}
    now = {model["name"]: model["sha256"] for model in models}
    for what, same in (
        ("models", then == now),
        ("protocol", earlier["protocol"] == protocol.describe()),
        ("inputs", earlier["inputs"] == inputs),
    ):
        if not same:
            raise InputError(f"the report to go on with is of another choice of {what}: measure into another --out")
    done = {_row_key(row) for row in earlier["results"] if row["status"] in MEASURED}
    lacking = {cell.key for cell in cells if not cell.control and cell.key not in done}
    places = {cell.place for cell in cells if cell.key in lacking}
    anchors = {(cell.model, cell.place) for cell in cells if cell.control}  # a control is of its place's baseline
    bare = {cell.place for cell in cells if cell.key in lacking and (cell.model, cell.place) in anchors}
    return [
        cell
        for cell in cells
        if cell.key in lacking or cell.place in bare or (cell.place in places and (cell.model, cell.place) in anchors)
    ]


def _unprofiled(cells: Sequence[Cell], todo: Sequence[Cell], earlier: Mapping[str, Any]) -> list[Cell]:
    """Cells that an earlier report has measured, and not profiled."""
    have = {_row_key(entry) for entry in earlier["profiles"] if entry["status"] == "ok"}
    have |= {cell.key for cell in todo}
    timed = {_row_key(row) for row in earlier["results"] if row["status"] == "ok"}
    return [cell for cell in cells if not cell.control and cell.key in timed - have]


def _merge(cells: Sequence[Cell], earlier: Mapping[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The earlier report with what was measured since; each row and comparison says in which measurement it was."""
    number = len(earlier["measurements"])
    old = {_row_key(row): row for row in earlier["results"]}
    new = {_row_key(row): {**row, "measurement": number} for row in later["results"]}
    keys = [*old, *(cell.key for cell in cells if not cell.control and cell.key not in old)]
    rows = [old[key] if key in old and (key not in new or old[key]["status"] in MEASURED) else new[key] for key in keys]
    added = [{**comparison, "measurement": number} for comparison in later["comparisons"]]
    again = {(c["kind"], _row_key({**c, "model": c["candidate"]})) for c in added if c["kind"] == "candidate"}
    kept = [c for c in earlier["comparisons"] if (c["kind"], _row_key({**c, "model": c["candidate"]})) not in again]
    raw = dict(earlier.get(RAW_KEY, {}))
    raw |= {f"{key}|measurement {number}" if key in raw else key: value for key, value in later[RAW_KEY].items()}
    profiled = {_row_key(entry) for entry in later["profiles"]}
    return {
        **later,
        "devices": {**earlier["devices"], **later["devices"]},
        "results": rows,
        "comparisons": [*kept, *added],
        "profiles": [*(e for e in earlier["profiles"] if _row_key(e) not in profiled), *later["profiles"]],
        "measurements": [*earlier["measurements"], *later["measurements"]],
        RAW_KEY: raw,
    }


def _row_key(row: Mapping[str, Any]) -> str:
    return "|".join(str(row[name]) for name in ("model", "runtime", "device", "threads"))
