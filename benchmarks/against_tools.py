"""p50 beside that of the runtimes' own benchmark tools, on the same files, and what the harness itself takes.

    python -m edgecbam.benchmarks.against_tools REPORT.json MODEL… [--smallest MODEL] [--rounds N] [--quick]

In each round, in a new random order, a fresh worker of edgecbam and a fresh process of the tool measure the same file:
as many runs in a row, after as many untimed ones, on the same CPU. A second worker of edgecbam runs along as a control.
Processes of a round run one after another, so a burst of the machine falls on one of them: the ratio is the median over
rounds, with its distribution-free interval.
"""

import argparse
import concurrent.futures
import datetime
import functools
import importlib.metadata
import multiprocessing
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgecbam import artifacts, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.runtimes import Session

from . import environment, pinning, statistics, study_command, worker
from .cells import short_names
from .child import Child, ChildFailed
from .public_tools import Job, Tool, tool_for

STAGE = "against_tools"
ROUNDS, QUICK_ROUNDS = 30, 6
SECONDS, QUICK_SECONDS = 1.0, 0.1  # of timed runs in each process
LIMIT = 0.03  # how far the whole interval may be from 1
THREADS = 1
WARM_UP = 20
TIMEOUT_S = 300.0
SEED = 1
OVERHEAD_PROCESSES = 8
OVERHEAD_RUNS = 20_000

Measure = Callable[[], float]


def worker_ms(job: Job, runtime: str) -> float:
    """p50 in a fresh worker of edgecbam, of one block.

    Raises:
        EnvironmentFailure: the runtime cannot run the file.
    """
    task = {
        "model": str(job.model),
        "runtime": runtime,
        "device": "cpu",
        "threads": job.threads,
        "seed": job.seed,
        "shapes": {},
        "export": None,
        "reference": None,
    }
    try:
        with Child(task) as child:
            child.hear(TIMEOUT_S)
            child.ask({"command": "open"}, TIMEOUT_S)
            child.ask({"command": "warm", "runs": job.warm_up, "seconds": 0.0}, TIMEOUT_S)
            times_ns = child.ask({"command": "block", "lead_in": 0, "runs": job.runs}, TIMEOUT_S)["ns"]
    except ChildFailed as failure:
        raise EnvironmentFailure(f"{job.model.name} on {runtime}: {failure.status}: {failure.reason}") from None
    return float(np.median(times_ns)) / 1e6


def compare(
    name: str,
    model: Path,
    tool: Tool,
    rounds: int,
    seconds: float,
    measure_ours: Callable[[Job, str], float] = worker_ms,
) -> list[dict[str, Any]]:
    """Measure one file with its tool and with edgecbam, side by side.

    Args:
        name: of the file, for the report.
        model: the file.
        tool: its tool.
        rounds: fresh processes of each.
        seconds: of timed runs in each process, about.
        measure_ours: p50 in milliseconds of a fresh process of edgecbam on a runtime.

    Returns:
        The rows: edgecbam on each runtime over the tool, and the control, two processes of edgecbam.
    """
    warm_up = WARM_UP if tool.warm_up is None else tool.warm_up
    once_ms = measure_ours(Job(model, THREADS, warm_up, 20, SEED), tool.runtime)
    job = Job(model, THREADS, warm_up, int(min(max(1000 * seconds / once_ms, 20), 20_000)), SEED)
    contenders: dict[str, Measure] = {
        tool.name: functools.partial(tool.measure, job, TIMEOUT_S),
        **{runtime: functools.partial(measure_ours, job, runtime) for runtime in (tool.runtime, *tool.others)},
        "control": functools.partial(measure_ours, job, tool.runtime),
    }
    p50_ms: dict[str, list[float]] = {contender: [] for contender in contenders}
    order = random.Random(SEED)
    for number in range(rounds):
        with pinning.inherited(pinning.choose(number, THREADS)):
            for contender in order.sample(list(contenders), len(contenders)):
                p50_ms[contender].append(contenders[contender]())
    pairs = [(runtime, tool.name) for runtime in (tool.runtime, *tool.others)] + [("control", tool.runtime)]
    return [_row(name, tool, job, above, below, p50_ms) for above, below in pairs]


def _row(name: str, tool: Tool, job: Job, above: str, below: str, p50_ms: dict[str, list[float]]) -> dict[str, Any]:
    ratio = statistics.median_ratio([a / b for a, b in zip(p50_ms[above], p50_ms[below], strict=True)])
    low, high = ratio["low"], ratio["high"]
    alike = above == tool.runtime
    within = None
    if alike and low is not None and high is not None:
        within = low >= 1 - LIMIT and high <= 1 + LIMIT
    return {
        "model": name,
        "kind": "control" if above == "control" else "tool",
        "tool": tool.name,
        "runtime": tool.runtime if above == "control" else above,
        "alike": alike,
        "threads": job.threads,
        "rounds": len(p50_ms[above]),
        "warm_up": job.warm_up,
        "runs": job.runs,
        "edgecbam_ms": float(np.median(p50_ms[above])),
        "other_ms": float(np.median(p50_ms[below])),
        "ratio": ratio,
        "limit": LIMIT if alike else None,
        "within": within,
        "process_ms": {"edgecbam": p50_ms[above], "other": p50_ms[below]},
    }


class _Nothing:
    """A session whose inference takes no time."""

    def invoke(self) -> None:
        pass


def empty_block_ns(runs: int) -> float:
    """p50 in nanoseconds that the worker's own loop tells of an inference that does nothing."""
    return float(np.median(worker._block(cast(Session, _Nothing()), runs)))


def overhead(smallest: Sequence[tuple[str, Path]], processes: int, runs: int) -> dict[str, Any]:
    """What a time holds beside the inference, in nanoseconds, and what the smallest models take, in milliseconds.

    Args:
        smallest: name and path of models that compute next to nothing.
        processes: fresh ones for each figure.
        runs: in each.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        empty = list(pool.map(empty_block_ns, [runs] * processes))
    rows: list[dict[str, Any]] = []
    for name, path in smallest:
        for runtime in runtimes.readers(path.suffix):
            if runtime.installed() and "cpu" in runtime.devices and not runtime.functional:
                job = Job(path, THREADS, 1000, runs, SEED)
                try:
                    p50_ms = [worker_ms(job, runtime.name) for _ in range(processes)]
                except EnvironmentFailure as failure:
                    rows.append({"model": name, "runtime": runtime.name, "reason": str(failure)})
                    continue
                rows.append({"model": name, "runtime": runtime.name, "reason": "", "p50_ms": _summary(p50_ms)})
    return {"processes": processes, "runs": runs, "empty_ns": _summary(empty), "smallest": rows}


def _summary(p50: Sequence[float]) -> dict[str, Any]:
    interval = statistics.t_interval(p50)
    return {"value": float(np.mean(p50)), "interval": None if interval is None else list(interval)}


def run(
    models: Sequence[Path], smallest: Sequence[Path], rounds: int, quick: bool, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Measure everything; returns the report.

    Raises:
        InputError: a file is missing, or no model is given.
        EnvironmentFailure: a tool or a runtime is missing or failed.
    """
    if not models:
        raise InputError("no model file to measure: give at least one .tflite or .onnx file")
    for path in (*models, *smallest):
        runtimes.check_file(path, (".tflite", ".onnx"))
    tools = [tool_for(path) for path in models]
    names = short_names(models)
    used = list(dict.fromkeys(name for tool in tools for name in (tool.runtime, *tool.others)))
    surroundings = environment.describe(used)
    surroundings["started_utc"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    surroundings["load_before"] = environment.load_average()
    rows: list[dict[str, Any]] = []
    for name, path, tool in zip(names, models, tools, strict=True):
        on_event(Event(STAGE, f"{name} beside {tool.name}"))
        rows += compare(name, path, tool, rounds, QUICK_SECONDS if quick else SECONDS)
    on_event(Event(STAGE, "the harness itself"))
    named = list(zip(short_names(smallest), smallest, strict=True))
    processes, runs = (2, 200) if quick else (OVERHEAD_PROCESSES, OVERHEAD_RUNS)
    taken = overhead(named, processes, runs)
    surroundings["load_after"] = environment.load_average()
    return {
        "schema_version": 1,
        "quick": quick,
        "environment": surroundings,
        "versions": {tool.name: _version(tool) for tool in tools},
        "confidence": statistics.CONFIDENCE,
        "models": [
            {"name": name, "bytes": path.stat().st_size, "sha256": artifacts.sha256_file(path)}
            for name, path in zip(names, models, strict=True)
        ],
        "comparisons": rows,
        "overhead": taken,
    }


def _version(tool: Tool) -> str:
    return importlib.metadata.version(runtimes.find(tool.runtime).package)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.benchmarks.against_tools", description=__doc__)
    parser.add_argument("report", type=Path, help="the JSON file to write")
    parser.add_argument("models", type=Path, nargs="+", help=".tflite and .onnx files with static shapes")
    parser.add_argument(
        "--smallest", type=Path, action="append", default=[], help="a model that computes next to nothing"
    )
    parser.add_argument("--rounds", type=int, help=f"fresh processes of each side; {ROUNDS} unless told")
    parser.add_argument("--quick", action="store_true", help="a fast look, not a publication")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    report = run(options.models, options.smallest, rounds, options.quick, study_command.say)
    artifacts.write_json(options.report, report)


if __name__ == "__main__":
    main(sys.argv[1:])
