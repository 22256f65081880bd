"""What each op of an .onnx or .tflite file takes, as OpenVINO's own profiling says.

OpenVINO merges and rewrites what it reads. Its runtime model names, for each op that runs, the ops that it was made of;
where it has made an op of its own, such as a change of layout, the ops before and behind it say where it stands.

Its times are means over all inferences since the model was compiled, in whole microseconds, rounded down, and an op
whose mean is below one is said not to have run. So the means after the warm-up are taken out of those at the end, and
the ops that ran are those that had a time at any reading: the first inferences are slow enough to show most.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes.session import CannotRun, check_file, check_threads, one_line

WARM_UP = 10
_DEQUANTIZATION = re.compile(r"/Dequantization[A-Za-z]*$")  # what it appends to the name of the op before
_MADE_UP = re.compile(r"([A-Za-z]+_)?\d+")  # a name that it gives where the file has none, such as Transpose_2352
_ENDS = ("Parameter", "Constant", "Result")


@dataclass(frozen=True)
class Made:
    """An op of the runtime model: names of the ops that it was made of, and of those of the runtime that it takes from.

    ``constant``: it holds a constant.
    """

    of: tuple[str, ...]
    takes: tuple[str, ...]
    constant: bool = False


@dataclass(frozen=True)
class _Reading:
    """Of one op: its kind with its kernel, the mean microseconds since the model was compiled, and whether it ran."""

    kind: str
    us: float
    ran: bool


def profile(model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int) -> dict[str, Any]:
    """Time the ops of a file with float operations in float32; see Profiler for arguments, value and errors.

    ``op`` is OpenVINO's kind of the op and the kernel that ran it; ``graph`` holds the ops as they were read.
    """
    return _profile(model, threads, device, arrays, runs, "f32")


def profile_bfloat16(model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int) -> dict[str, Any]:
    """As ``profile``, with float operations in bfloat16."""
    return _profile(model, threads, device, arrays, runs, "bf16")


def _profile(
    model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int, precision: str
) -> dict[str, Any]:
    # the registry entry in that file names this one, so neither can import the other first
    from edgecbam.runtimes.openvino_runtime import OPENVINO

    check_threads(threads)
    check_file(model, OPENVINO.formats)
    core = OPENVINO.load().Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
    }
    if device == "cpu":
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        network = core.read_model(str(model))
    except RuntimeError as error:
        raise InputError(f"{model} is damaged or not readable by OpenVINO: {one_line(error)}") from None
    try:
        if network.is_dynamic():
            network.reshape({port: list(array.shape) for port, array in zip(network.inputs, arrays, strict=True)})
        compiled = core.compile_model(network, device.upper(), settings)
        ops = _timed(compiled.create_infer_request(), arrays, runs)
        made = {op.get_friendly_name(): _made(op) for op in compiled.get_runtime_model().get_ordered_ops()}
        read = [op for op in network.get_ordered_ops() if op.get_type_name() not in _ENDS]
    except RuntimeError as error:
        raise CannotRun(f"OpenVINO gives no profile of {model.name}: {one_line(error)}") from error
    nodes = origins([name for name, _, _ in ops], made, [op.get_friendly_name() for op in read])
    return {
        "runs": runs,
        "delegate": None,
        "resolution_us": (WARM_UP + runs) / runs,  # the error of the mean at the end, on the runs that count
        "ops": [
            {"name": name, "op": kind, "us": us, "where": device, "nodes": own}
            for (name, kind, us), own in zip(ops, nodes, strict=True)
        ],
        "graph": [_node(op) for op in read],
        "graph_reason": None,
    }


def origins(ran: Iterable[str], made: Mapping[str, Made], read: Sequence[str]) -> list[list[int]]:
    """Positions of the ops as read that each op that ran was made of, or stands between.

    Args:
        ran: names of ops of the runtime model.
        made: the runtime model.
        read: names of the ops as read.
    """
    positions: dict[str, list[int]] = {}
    for index, name in enumerate(read):
        positions.setdefault(name, []).append(index)
    gives: dict[str, list[str]] = {}
    for name, op in made.items():
        for source in op.takes:
            gives.setdefault(source, []).append(name)

    def own(name: str) -> list[int]:
        of = made[name].of if name in made else ()
        direct = [index for origin in of for index in positions.get(origin, [])]
        # what it puts behind an op to get its real values is that op's, unless it was merged into another
        behind = [i for origin in of for i in positions.get(_DEQUANTIZATION.sub("", origin), [])]
        return sorted({*(direct or behind)})

    def nearest(name: str, onward: Mapping[str, Sequence[str]]) -> set[int]:
        found, seen, waiting = set[int](), {name}, [name]
        while waiting:
            for other in onward.get(waiting.pop(), ()):
                if other in seen or (other in made and made[other].constant):
                    continue
                seen.add(other)
                known = own(other)
                found |= {*known}
                if not known:
                    waiting.append(other)
        return found

    takes = {name: op.takes for name, op in made.items()}
    return [own(name) or sorted(nearest(name, takes) | nearest(name, gives)) for name in ran]


def _timed(request: Any, arrays: Sequence[np.ndarray], runs: int) -> list[tuple[str, str, float]]:
    """Name, kind and mean microseconds of the ops that ran, in their order."""
    readings: list[dict[str, _Reading]] = []
    for _ in range(WARM_UP):
        request.infer(list(arrays))
        readings.append(_read(request))
    warm = readings[-1]
    for _ in range(runs):
        request.infer(list(arrays))
    end = _read(request)
    readings.append(end)
    ops = []
    for name, last in end.items():
        kinds = [reading[name].kind for reading in readings if name in reading and reading[name].ran]
        if kinds:
            earlier = warm[name].us if name in warm else 0.0
            ops.append((name, kinds[-1], max(0.0, (last.us * (WARM_UP + runs) - earlier * WARM_UP) / runs)))
    return ops


def _read(request: Any) -> dict[str, _Reading]:
    found = {}
    for info in request.get_profiling_info():
        us = info.real_time.total_seconds() * 1e6
        found[info.node_name] = _Reading(f"{info.node_type} ({info.exec_type})", us, info.status.name == "EXECUTED")
    return found


def _made(op: Any) -> Made:
    about = op.get_rt_info()
    of = str(_value(about["originalLayersNames"])).split(",") if "originalLayersNames" in about else []
    kind = str(_value(about["layerType"])) if "layerType" in about else ""
    takes = tuple(port.get_source_output().get_node().get_friendly_name() for port in op.inputs())
    return Made(tuple(name for name in of if name), takes, kind == "Const")


def _value(entry: Any) -> Any:
    """What is in one of its boxes for any type; a string comes without one."""
    return getattr(entry, "value", entry)


def _node(op: Any) -> dict[str, Any]:
    """An op as read, with the names of the tensors that it makes, and its own where that is not made up."""
    tensors = [name for port in op.outputs() for name in sorted(port.get_names())]
    own = op.get_friendly_name()
    sources = [port.get_source_output() for port in op.inputs()]
    return {
        "name": ";".join([*([] if _MADE_UP.fullmatch(own) else [own]), *tensors]),
        "op": op.get_type_name(),
        "inputs": [_tensor(port) for port in sources if port.get_node().get_type_name() != "Constant"],
        "outputs": [_tensor(port) for port in op.outputs()],
    }


def _tensor(port: Any) -> str:
    return f"{port.get_node().get_name()}:{port.get_index()}"
