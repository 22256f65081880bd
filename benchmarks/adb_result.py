"""What Google's benchmark_model says of a run, read from its log.

The program (tensorflow/lite/tools/benchmark, later google-ai-edge/LiteRT, tflite/tools/benchmark) times every inference
in whole microseconds and prints nothing but statistics of them; its result file (``--result_file_path``) holds the same
statistics and no more. So the log is read, which all of its versions write:

    Running benchmark for at least 10 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
    count=10 first=1204 curr=1187 min=1180 max=1221 avg=1192.3 std=11 p5=1180 median=1190 p95=1221
    Inference timings in us: Init: 8312, First inference: 2310, Warmup (avg): 1305.2, Inference (avg): 1192.3

The first such pair of lines is the warm-up, the last the timed runs. Where all runs took the same, there is
``curr=N(all same)`` and no first, min, max, avg. Of an even number of runs the median is the upper of the middle two.
Old versions print no median, and no ``INFO: `` in front of a line.
"""

import re
import signal
from dataclasses import dataclass

from edgecbam.runtimes.session import one_line

STATISTICS = re.compile(r"^(?:INFO: )?(count=\d+ .*)$", re.MULTILINE)
PAIR = re.compile(r"(\w+)=([-+.\deE]+)")
INIT = re.compile(r"timings in us:.*?\bInit: ([-+.\deE]+)")
PEAK_MB = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([-+.\deE]+)")
REPLACED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\) node, yielding (\d+) partitions"
)
UNKNOWN = re.compile(r"Unconsumed cmdline flags: (.*)$", re.MULTILINE)
EXPLICIT_GPU = re.compile(r"^(?:INFO: )?Explicitly applied GPU delegate", re.MULTILINE)
ERROR = re.compile(r"^(?:ERROR|FATAL): (.*\S)", re.MULTILINE)
SUMMING_UP = ("Benchmarking failed.", "Failed to initialize the interpreter", "Registration failed.")

# By what an error says: whose fault it is. The first that matches counts.
DAMAGED = ("not a valid Flatbuffer", "Failed to load model", "Model provided has model identifier")
MISSING = (
    "Didn't find op for builtin opcode",
    "unresolved custom op",
    "Select TensorFlow op(s)",
    "failed to prepare",
    "Signature not specified",
    "Failed to apply",
    "Failed to allocate tensors",
)


@dataclass(frozen=True)
class Statistics:
    """Of the timed runs of one invocation, in microseconds. ``median_us`` is None where the program prints none."""

    count: int
    mean_us: float
    median_us: float | None


@dataclass(frozen=True)
class Replaced:
    """One delegate that took nodes of the graph over: how many, of how many, in how many partitions."""

    delegate: str
    nodes: int
    of_nodes: int
    partitions: int


@dataclass(frozen=True)
class Result:
    """One successful invocation.

    Attributes:
        init_us: loading the model and preparing the interpreter.
        first_us: the first inference of all.
        timed: the runs that count.
        peak_bytes: the most memory that the program held, None where it was not asked or does not tell.
        replaced: delegates in the order in which they took over; empty where the log says of none.
        gpu: whether the GPU delegate took over any node.
        unknown_options: options that this version of the program does not know, as it repeats them.
    """

    init_us: float
    first_us: float
    timed: Statistics
    peak_bytes: int | None
    replaced: tuple[Replaced, ...]
    gpu: bool
    unknown_options: str


def decode(log: str) -> Result:
    """Read the log of an invocation that ended with 0; raises ValueError where it is not that of benchmark_model."""
    init, lines = INIT.search(log), STATISTICS.findall(log)
    if init is None or len(lines) < 2:
        raise ValueError("no statistics in what it printed")
    warm_up, timed = ({name: float(value) for name, value in PAIR.findall(line)} for line in (lines[0], lines[-1]))
    first = _figure("first", warm_up if warm_up.get("count") else timed)
    peak = PEAK_MB.search(log)
    replaced = tuple(
        Replaced(name, int(nodes), int(of_nodes), int(partitions))
        for nodes, of_nodes, name, partitions in REPLACED.findall(log)
    )
    return Result(
        float(init[1]),
        first,
        Statistics(int(timed["count"]), _figure("avg", timed), timed.get("median")),
        round(float(peak[1]) * 2**20) if peak else None,
        replaced,
        EXPLICIT_GPU.search(log) is not None,
        " ".join(UNKNOWN.findall(log)),
    )


def failure(log: str, code: int) -> tuple[str, str]:
    """Status of the row and reason, for an invocation that ended with ``code``, not 0."""
    lines = log.strip().splitlines()
    if code == 126:
        return "unsupported", f"benchmark_model is not built for this phone: {one_line(lines[-1] if lines else '')}"
    if code == 127 or "CANNOT LINK EXECUTABLE" in log:
        return "unsupported", f"benchmark_model does not start here: {one_line(lines[-1] if lines else '')}"
    errors = ERROR.findall(log)
    telling = next((error for error in errors if error not in SUMMING_UP), lines[-1] if lines else "")
    for status, marks in (("input", DAMAGED), ("unsupported", MISSING)):
        for error in errors:
            if any(mark in error for mark in marks):
                return status, one_line(error)
    return "crash", f"benchmark_model {_ending(code)}" + (f": {one_line(telling)}" if telling else "")


def _ending(code: int) -> str:
    if code > 128:
        try:
            return f"died ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"ended with exit code {code}"


def _figure(name: str, values: dict[str, float]) -> float:
    """One figure of a line; where all runs took the same, ``curr`` stands for all of them."""
    if name in values:
        return values[name]
    if "curr" in values:
        return values["curr"]
    raise ValueError(f"no {name} among its statistics")
