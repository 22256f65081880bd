"""The runtimes' own benchmark tools, each started as a fresh process on one model, and what p50 it tells.

They are run as published, but for two things: their figures are taken before they are rounded to 10 microseconds, and
OpenVINO does not report to its analytics server. benchmark_app is given the inputs that edgecbam takes: its own, up to
255 for floats, saturate gates, and arithmetic on the denormal numbers that come of it is slower.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecbam import runtimes
from edgecbam.errors import EnvironmentFailure, MissingPackage
from edgecbam.runtimes.session import one_line

from . import parity

LITERT_TOOL = """
from ai_edge_litert.tools import benchmark_litert_model as tool
tool.round = lambda value, digits=0: value
tool.main()
"""
OPENVINO_TOOL = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark import main as tool
tool.format_console_latency = lambda value_ms, average_ms: f"{1000 * value_ms:.4f} us"
sys.exit(tool.main())
"""
# What benchmark_app calls the dtypes of inputs. Told nothing, it makes any input that looks like an image 8 bits wide
# and adds a conversion to the model.
PRECISIONS = {
    "float16": "f16",
    "float32": "f32",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
}


@dataclass(frozen=True)
class Job:
    """What a tool is to measure: ``runs`` timed inferences in a row after ``warm_up`` untimed ones.

    ``seed`` is that of random inputs, for a tool that can be given them.
    """

    model: Path
    threads: int
    warm_up: int
    runs: int
    seed: int


@dataclass(frozen=True)
class Tool:
    """One of the public tools.

    Attributes:
        name: of its command.
        suffix: of the files that it is given.
        runtime: the one of edgecbam that does the same through the same interface.
        others: runtimes of edgecbam for the same files through another interface, for information.
        warm_up: untimed runs that it cannot be talked out of; None: as many as it is told.
        measure: runs it in a fresh process and returns its p50 in milliseconds.
    """

    name: str
    suffix: str
    runtime: str
    others: tuple[str, ...]
    warm_up: int | None
    measure: Callable[[Job, float], float]


def litert_benchmark_ms(job: Job, timeout_s: float) -> float:
    """p50 of ai-edge-litert's ``litert-benchmark``: a CompiledModel on the CPU, timed around its Python call.

    Raises:
        EnvironmentFailure: it failed, or did something else than it was asked for.
    """
    with tempfile.TemporaryDirectory(prefix="edgecbam-") as folder:
        result = Path(folder) / "result.json"
        settings = {
            "model": job.model,
            "num_runs": job.runs,
            "warmup_runs": job.warm_up,
            "num_threads": job.threads,
            "result_json": result,
        }
        _run("litert-benchmark", LITERT_TOOL, [f"--{name}={value}" for name, value in settings.items()], timeout_s)
        try:
            told = json.loads(result.read_text("utf-8"))
            latency = told["latency"]
            done = told["num_threads"], told["accelerators"], latency["num_runs"]
            median_ms = float(latency["median_ms"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFailure(f"litert-benchmark wrote no result as expected: {one_line(error)}") from None
    if done != (job.threads, ["CPU"], job.runs):
        raise EnvironmentFailure(f"litert-benchmark did something else: threads, accelerators, runs are {done}")
    return median_ms


def benchmark_app_ms(job: Job, timeout_s: float) -> float:
    """p50 of OpenVINO's ``benchmark_app -hint latency``: float32, inputs in place, timed inside OpenVINO.

    The number of threads goes in by ``-load_config``: with a hint the tool refuses ``-nthreads``.

    Raises:
        EnvironmentFailure: it failed, or did something else than it was asked for.
    """
    with tempfile.TemporaryDirectory(prefix="edgecbam-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": str(job.threads), "NUM_STREAMS": "1"}}), "utf-8")
        settings = ["-m", job.model, "-d", "CPU", "-hint", "latency", "-api", "sync", "-niter", job.runs]
        settings += ["-infer_precision", "f32", "-load_config", config, "-inference_only", "true"]
        settings += _inputs(job, Path(folder))
        text = _run("benchmark_app", OPENVINO_TOOL, [str(setting) for setting in settings], timeout_s)
    wanted = {
        "INFERENCE_NUM_THREADS": str(job.threads),
        "INFERENCE_PRECISION_HINT": r"<Type: 'float32'>",
        "PERFORMANCE_HINT": "LATENCY",
        "Count": f"{job.runs} iterations",
    }
    for name, value in wanted.items():
        if not re.search(rf"{name}: +{re.escape(value)}\s*$", text, re.MULTILINE):
            raise EnvironmentFailure(f"benchmark_app did something else: {name} is not {value}")
    median = re.search(r"Median: +([0-9.]+) us", text)
    if median is None:
        raise EnvironmentFailure("benchmark_app told no median")
    return float(median[1]) / 1000


TOOLS = (
    Tool("litert-benchmark", ".tflite", "litert_compiled", ("litert",), None, litert_benchmark_ms),
    Tool("benchmark_app", ".onnx", "openvino", (), 1, benchmark_app_ms),
)


def tool_for(model: Path) -> Tool:
    """The tool that measures a file; raises EnvironmentFailure where there is none for it."""
    for tool in TOOLS:
        if model.suffix.lower() == tool.suffix:
            runtime = runtimes.find(tool.runtime)
            if not runtime.installed():
                raise MissingPackage(runtime.package, runtime.extra, f"{tool.name}")
            return tool
    raise EnvironmentFailure(f"no public tool for {model}: give {' or '.join(tool.suffix for tool in TOOLS)}")


def _inputs(job: Job, folder: Path) -> list[str]:
    """The arguments that say what benchmark_app feeds; writes the arrays."""
    session = runtimes.find("openvino").open(job.model, threads=1)
    try:
        infos = session.inputs
        arrays = parity.random_inputs(session, job.seed, count=1)[0]
    finally:
        session.close()
    dtypes = {info.dtype for info in infos}
    if len(dtypes) > 1 or not dtypes <= set(PRECISIONS):
        raise EnvironmentFailure(f"benchmark_app takes one dtype; {job.model.name} has {', '.join(sorted(dtypes))}")
    given = []
    for number, (info, array) in enumerate(zip(infos, arrays, strict=True)):
        path = folder / f"input{number}.npy"
        np.save(path, array)
        given.append(str(path) if len(infos) == 1 else f"{info.name}:{path}")
    return ["-ip", PRECISIONS[dtypes.pop()], "-i", *given]


def _run(name: str, program: str, arguments: list[str], timeout_s: float) -> str:
    """What a tool printed; raises EnvironmentFailure where it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailure(f"{name} was not done within {timeout_s:g} s") from None
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        raise EnvironmentFailure(f"{name} failed (exit code {done.returncode}): {one_line(lines[-1])}")
    return done.stdout
