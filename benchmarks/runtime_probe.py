"""What becomes of .tflite files in the runtime that this interpreter has: one JSON object on standard output.

    python -P runtime_probe.py FILE... [--inputs 20] [--seed 0]

Runs where edgecbam is not installed: it needs NumPy and either ai-edge-litert (1.0 and later) or tflite-micro. -P keeps
the folder of this file off the path, where statistics.py would hide that of the standard library. The object holds
``runtime``, ``version``, ``python``, ``numpy`` and, by the name of each file, its answer:

    status, reason     "ok" and null, or "failed" and what the runtime said
    partitions         how many parts XNNPACK took; null for tflite-micro, which has no delegate
    outside            how often each op stayed outside of them; null for tflite-micro
    arena_bytes        what tflite-micro allocated; null for ai-edge-litert
    inputs_sha256      of all inputs, as proof that two runtimes saw the same
    outputs_sha256     of all outputs
    outputs            {"dtype", "shape": [inputs, classes], "base64"}
"""

import argparse
import base64
import collections
import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ARENA_BYTES = 64 << 20  # tflite-micro's own guess is too small for a map of 32x32
PATCH = 8  # pixels


def probe(paths: Sequence[Path], count: int, seed: int) -> dict[str, Any]:
    """Run files, each on the same ``count`` inputs that follow from ``seed``; see the docstring of the module."""
    runtime, version = find_runtime()
    return {
        "runtime": runtime,
        "version": version,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "files": {path.name: _probe_file(RUN[runtime], path, count, seed) for path in paths},
    }


def find_runtime() -> tuple[str, str]:
    """Name and version of the runtime that is installed; ends the process where there is none."""
    for name in RUN:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name, importlib.metadata.version(name)
    sys.exit(f"neither of {', '.join(RUN)} is installed in this environment")


def make_inputs(shape: Sequence[int], dtype: Any, count: int, seed: int) -> np.ndarray:
    """Noise and patches with a little noise, by turns.

    Args:
        shape: of one input, [1, height, width, channels].
        dtype: int8, or float32 for the same integers divided by 128.
        count: how many.
        seed: what they follow from.

    Returns:
        [count, 1, height, width, channels].

    Raises:
        ValueError: another shape or dtype.
    """
    if np.dtype(dtype) not in (np.int8, np.float32):
        raise ValueError(f"an input of {np.dtype(dtype).name}: int8 and float32 are known")
    one, height, width, channels = (int(size) for size in shape)
    random = np.random.default_rng(seed)
    inputs = random.uniform(-1, 1, (count, one, height, width, channels))
    coarse = random.uniform(-1, 1, (count, one, height // PATCH + 1, width // PATCH + 1, channels))
    patches = coarse.repeat(PATCH, axis=2).repeat(PATCH, axis=3)[:, :, :height, :width]
    inputs[1::2] = 0.8 * patches[1::2] + 0.2 * inputs[1::2]
    integers = np.floor(inputs * 128).astype(np.int8)
    return integers if np.dtype(dtype) == np.int8 else (integers / 128).astype(np.float32)


def running_ops(ops: Sequence[dict[str, Any]], outputs: Sequence[int]) -> list[str]:
    """Names of LiteRT's ops that run: DELEGATE for each partition, and every op left to the plain kernels.

    The interpreter lists a delegated op beside the DELEGATE node that replaced it. What runs is what the outputs
    need, taking the DELEGATE node wherever one makes a tensor.
    """
    maker: dict[int, dict[str, Any]] = {}
    for op in ops:
        for tensor in op["outputs"]:
            if op["op_name"] == "DELEGATE" or int(tensor) not in maker:
                maker[int(tensor)] = op
    running: dict[int, str] = {}
    wanted = list(outputs)
    while wanted:
        op = maker.get(int(wanted.pop()), {})  # inputs and constants have no maker
        if op and op["index"] not in running:
            running[op["index"]] = op["op_name"]
            wanted.extend(op["inputs"])
    return list(running.values())


def _run_litert(path: Path, count: int, seed: int) -> dict[str, Any]:
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    inputs = make_inputs(source["shape"], source["dtype"], count, seed)
    outputs = []
    for array in inputs:
        interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]))
    ops = collections.Counter(running_ops(interpreter._get_ops_details(), [target["index"]]))
    partitions = ops.pop("DELEGATE", 0)
    return {**_compute(inputs, outputs), "partitions": partitions, "outside": dict(ops), "arena_bytes": None}


def _run_micro(path: Path, count: int, seed: int) -> dict[str, Any]:
    with _captured() as said:
        try:
            runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
            interpreter = runtime.Interpreter.from_file(
                str(path),
                arena_size=ARENA_BYTES,
                intrepreter_config=runtime.InterpreterConfig.kAllocationRecording,  # its own spelling
            )
            source = interpreter.get_input_details(0)
            inputs = make_inputs(source["shape"], source["dtype"], count, seed)
            outputs = []
            for array in inputs:
                interpreter.set_input(array, 0)
                interpreter.invoke()
                outputs.append(np.array(interpreter.get_output(0)))
            interpreter.print_allocations()
            arena = re.search(r"Arena allocation total (\d+)", said())
        except Exception as error:  # it says why on standard error alone
            raise RuntimeError(f"{error} {said()}") from error
    return {
        **_compute(inputs, outputs),
        "partitions": None,
        "outside": None,
        "arena_bytes": int(arena[1]) if arena else None,
    }


RUN: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "ai-edge-litert": _run_litert,
    "tflite-micro": _run_micro,
}


def _probe_file(run: Callable[[Path, int, int], dict[str, Any]], path: Path, count: int, seed: int) -> dict[str, Any]:
    try:
        return {"status": "ok", "reason": None, **run(path, count, seed)}
    except Exception as error:  # whatever a runtime raises is what there is to report
        said = f"{type(error).__name__}: {error}".replace(str(path), path.name)
        return {"status": "failed", "reason": " ".join(said.split())[:300]}


def _compute(inputs: np.ndarray, outputs: Sequence[np.ndarray]) -> dict[str, Any]:
    stacked = np.concatenate(outputs)
    content = stacked.tobytes()
    return {
        "inputs_sha256": hashlib.sha256(inputs.tobytes()).hexdigest(),
        "outputs_sha256": hashlib.sha256(content).hexdigest(),
        "outputs": {
            "dtype": stacked.dtype.name,
            "shape": list(stacked.shape),
            "base64": base64.b64encode(content).decode("ascii"),
        },
    }


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Keep what native code writes to both standard streams; gives a function that returns it so far."""
    with tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
        for descriptor in (1, 2):
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(file.fileno(), descriptor)
        yield lambda: os.pread(file.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="runtime_probe.py", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help=".tflite files of different names: one input, one output")
    parser.add_argument("--inputs", type=int, default=20, help="how many inputs each file runs on")
    parser.add_argument("--seed", type=int, default=0, help="what the inputs follow from")
    options = parser.parse_args(arguments)
    answer = probe(options.files, options.inputs, options.seed)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
