"""Whole sessions of a file against a copy of itself: does the ratio stay at 1, and how wide is its interval?

    python -m edgecbam.benchmarks.control_sessions REPORT.json MODEL [--runtime NAME] [--sessions N] [--protocol NAME]

Each session is what ``edgecbam benchmark COPY --baseline MODEL`` measures.
"""

import argparse
import dataclasses
import datetime
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore

from . import environment, measure, study_command
from .measure import Request
from .protocol import find_protocol

STAGE = "control_sessions"
SESSIONS = 20
LIMIT = 0.02  # of the ratio's distance from 1, and of the half-width of its interval

Benchmark = Callable[[Path, Path, Request], dict[str, Any]]


def benchmark(copy: Path, model: Path, request: Request) -> dict[str, Any]:
    """A report of the copy with the model as its baseline."""
    return measure.benchmark_models([copy], request, baseline=model)


def run(
    model: Path,
    runtime: str | None,
    sessions: int,
    protocol: str,
    on_event: OnEvent = ignore,
    measure_one: Benchmark = benchmark,
) -> dict[str, Any]:
    """Measure the sessions.

    Args:
        model: a .tflite or .onnx file.
        runtime: name; None: the first that is usual for its format.
        sessions: how many.
        protocol: of each.
        on_event: told of every session.
        measure_one: measures one.

    Raises:
        InputError: no such file, runtime or protocol.
        EnvironmentFailure: a session could not be measured.
    """
    if sessions < 1:
        raise InputError(f"sessions must be at least 1, got {sessions}")
    find_protocol(protocol)
    runtimes.check_file(model, (".tflite", ".onnx"))
    chosen = runtimes.find(runtime or ("litert" if model.suffix.lower() == ".tflite" else "onnxruntime")).name
    request = Request(runtimes=(chosen,), threads=(1,), protocol=protocol)
    surroundings = environment.describe([chosen])
    surroundings["started_utc"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    surroundings["load_before"] = environment.load_average()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgecbam-") as folder:
        copy = Path(shutil.copy(model, Path(folder) / f"copy{model.suffix}"))
        for number in range(sessions):
            on_event(Event(STAGE, f"session {number + 1} of {sessions}"))
            rows.append(_row(measure_one(copy, model, request)))
    surroundings["load_after"] = environment.load_average()
    worst = max(abs(row["ratio"]["value"] - 1) for row in rows)
    widest = max(row["half_width"] for row in rows)
    return {
        "schema_version": 1,
        "model": {"name": model.name, "bytes": model.stat().st_size, "sha256": artifacts.sha256_file(model)},
        "runtime": chosen,
        "threads": 1,
        "protocol": dataclasses.asdict(find_protocol(protocol)),
        "environment": surroundings,
        "sessions": rows,
        "summary": {
            "sessions": len(rows),
            "worst": worst,
            "widest": widest,
            "covered": sum(row["ratio"]["low"] <= 1 <= row["ratio"]["high"] for row in rows),
            "inconclusive": sum(row["verdict"] == "inconclusive" for row in rows),
            "limit": LIMIT,
            "met": worst <= LIMIT and widest <= LIMIT,
        },
    }


def _row(report: dict[str, Any]) -> dict[str, Any]:
    """What a session says of the copy; the control, a second process of the model, says the same once more."""
    found = {comparison["kind"]: comparison for comparison in report["comparisons"]}
    if not {"candidate", "control"} <= set(found):
        reasons = "; ".join(f"{row['model']}: {row['status']}: {row['reason']}" for row in report["results"])
        raise EnvironmentFailure(f"nothing was compared: {reasons}")
    candidate = found["candidate"]
    ratio = candidate["ratio"]
    if ratio["low"] is None:
        raise EnvironmentFailure("a session of one process has no interval: choose another protocol")
    return {
        "started_utc": report["measurements"][0]["started_utc"],
        "p50_ms": {row["model"]: row["latency_ms"]["p50"] for row in report["results"]},
        "ratio": ratio,
        "half_width": math.sqrt(ratio["high"] / ratio["low"]) - 1,
        "process_ratios": candidate["process_ratios"],
        "verdict": candidate["verdict"],
        "control": found["control"]["ratio"],
    }


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.benchmarks.control_sessions", description=__doc__)
    parser.add_argument("report", type=Path, help="the JSON file to write")
    parser.add_argument("model", type=Path, help="a .tflite or .onnx file")
    parser.add_argument("--runtime", help="litert for .tflite and onnxruntime for .onnx, unless told")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--protocol", default="standard")
    options = parser.parse_args(arguments)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    report = run(options.model, options.runtime, options.sessions, options.protocol, study_command.say)
    artifacts.write_json(options.report, report)


if __name__ == "__main__":
    main(sys.argv[1:])
