"""What each op of a .tflite file takes, as LiteRT's own profiler says.

Neither the Python interface of ai-edge-litert offers it nor does the package bring a benchmark tool, but its library
exports the C interface that has it. That interface promises no fixed layout: the two structs below are those of
version 2.3, and any other version is refused rather than misread.

The profiler belongs to LiteRT's CompiledModel, which hands the model to the same XNNPACK delegate as the Interpreter.
It counts whole microseconds, rounded down: of an op that takes less, little or nothing is left. It also asks the clock
around every op, so the sum over ops is not the latency that a measurement without it gives.
"""

import contextlib
import ctypes
import importlib.metadata
import os
from collections.abc import Sequence
from ctypes import byref, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import xnnpack_ops
from edgecbam.runtimes.session import CannotRun, check_file, check_threads, import_runtime, one_line

VERSION = "2.3"
WARM_UP = 10
RESOLUTION_US = 1.0
DELEGATE = "xnnpack"
CPU = 1  # LiteRtHwAccelerators
WRITE = 1  # LiteRtTensorBufferLockMode
OUTSIDE, IN_DELEGATE = 1 << 1, 1 << 3  # event types: an op of the plain kernels, an op inside XNNPACK
NESTED = ("CALL_ONCE", "IF", "WHILE")  # ops whose time holds the time of others


class _Layout(ctypes.Structure):
    """LiteRtLayout."""

    _fields_ = (
        ("rank", c_uint, 7),
        ("has_strides", c_uint, 1),
        ("dimensions", c_int32 * 8),
        ("strides", c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (("element_type", c_int), ("layout", _Layout))


class _Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = (
        ("tag", c_char_p),
        ("type", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory_before", c_size_t * 3),
        ("memory_after", c_size_t * 3),
        ("metadata", c_uint64 * 2),
        ("source", c_int),
    )


@dataclass(frozen=True)
class Ran:
    """An op that ran. ``position``: in the model's list of ops, or for an op inside XNNPACK in the partition's."""

    kind: str
    position: int
    inside: bool


@dataclass(frozen=True)
class _Operator:
    """An op of the model, or DELEGATE for a partition. Tensors are named by their numbers."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


_keep = ctypes.CFUNCTYPE(None, c_void_p)(lambda payload: None)  # how to free what Python owns: not at all


def profile(model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int) -> dict[str, Any]:
    """Time the ops of a .tflite file on the CPU; see Profiler for arguments, value and errors.

    ``op`` is XNNPACK's name of the op, or LiteRT's outside of it; ``name`` is the tensor that the model's op makes,
    or the op's kind where XNNPACK's op cannot be told among the model's. ``graph`` holds the model's own ops.

    Raises:
        InputError: the file is missing or no sound .tflite file.
    """
    if device != "cpu":
        raise CannotRun("LiteRT's profiler does not tell the ops of its GPU accelerator apart")
    check_threads(threads)
    check_file(model, (".tflite",))
    library = _library()
    described = _Described(model, arrays)
    with contextlib.ExitStack() as stack:
        compiled = _Compiled(library, model, threads, described, arrays, stack)
        for _ in range(WARM_UP):
            compiled.run()
        records = [compiled.profiled_run() for _ in range(runs)]
    ran = [op for op, _ in records[0]]
    if any([op for op, _ in record] != ran for record in records):
        raise CannotRun(f"LiteRT ran other ops of {model.name} from run to run: its profile cannot be averaged")
    nested = sorted({op.kind for op in ran if op.kind in NESTED})
    if nested:
        raise CannotRun(f"{model.name} has {', '.join(nested)}: the times of the ops inside cannot be told apart")
    times = np.mean([[elapsed for _, elapsed in record] for record in records], axis=0).tolist()
    graph, nodes, reason = described.graph(ran)
    names = [[graph[node]["name"] for node in of] for of in nodes]
    return {
        "runs": runs,
        "delegate": DELEGATE,
        "resolution_us": RESOLUTION_US,
        "ops": [
            {
                "name": short_name(of[0]) if len(of) == 1 else op.kind,
                "op": op.kind,
                "us": elapsed,
                "where": DELEGATE if op.inside else "cpu",
                "nodes": own,
            }
            for op, elapsed, own, of in zip(ran, times, nodes, names, strict=True)
        ],
        "graph": graph,
        "graph_reason": reason,
    }


def short_name(tensor: str) -> str:
    """The last op of those that the converter merged: it joins their names by semicolons, the last one first."""
    return tensor.split(";")[0]


def origins(
    ran: Sequence[Ran], operators: Sequence[tuple[int, str]], partitions: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Positions of the model's ops that each op that ran may come from.

    Args:
        ran: in order.
        operators: position and kind of the model's ops.
        partitions: for each, the positions of its ops in order.

    Raises:
        ValueError: they do not fit together.
    """
    kinds = dict(operators)
    outside = {op.position for op in ran if not op.inside}
    if outside != {*kinds} - {position for partition in partitions for position in partition}:
        raise ValueError("LiteRT's CompiledModel, which has the profiler, delegated other ops than its Interpreter")
    groups: list[list[Ran]] = []
    for op in ran:
        if op.inside:
            if op.position == 0:
                groups.append([])
            if not groups or op.position != len(groups[-1]):
                raise ValueError("XNNPACK did not number its ops in order")
            groups[-1].append(op)
    if len(groups) != len(partitions):
        raise ValueError(f"LiteRT ran {len(groups)} partitions where its Interpreter has {len(partitions)}")
    found = []
    for group, partition in zip(groups, partitions, strict=True):
        inner = xnnpack_ops.origins([kinds[position] for position in partition], [op.kind for op in group])
        found += [[partition[index] for index in sources] for sources in inner]
    inside = iter(found)
    return [next(inside) if op.inside else [op.position] for op in ran]


class _Described:
    """What LiteRT's Interpreter tells of a file: names, shapes and the model's own ops."""

    def __init__(self, model: Path, arrays: Sequence[np.ndarray]) -> None:
        litert = import_runtime("ai_edge_litert.interpreter", "ai-edge-litert", "litert")
        try:
            interpreter = litert.Interpreter(model_path=str(model))
        except ValueError as error:
            raise InputError(f"{model} is damaged or no .tflite model: {one_line(error)}") from None
        inputs = interpreter.get_input_details()
        if len(inputs) != len(arrays):
            raise InputError(f"{model.name} takes {len(inputs)} inputs, got {len(arrays)}")
        try:
            for detail, array in zip(inputs, arrays, strict=True):
                if tuple(detail["shape"]) != array.shape:
                    interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
            interpreter.allocate_tensors()
            for detail, array in zip(inputs, arrays, strict=True):
                interpreter.set_tensor(detail["index"], array)
            interpreter.invoke()  # shapes of outputs may be known only then
        except (RuntimeError, ValueError) as error:
            raise CannotRun(f"LiteRT cannot run {model.name}: {one_line(error)}") from error
        outputs = interpreter.get_output_details()
        self.inputs = [str(detail["name"]) for detail in inputs]
        self.free = [bool(np.any(detail["shape_signature"] == -1)) for detail in inputs]
        self.output_shapes = {str(d["name"]): interpreter.get_tensor(d["index"]).shape for d in outputs}
        self._names = {int(detail["index"]): str(detail["name"]) for detail in interpreter.get_tensor_details()}
        self._ends = {int(detail["index"]) for detail in inputs}
        self._ops = [
            _Operator(op["op_name"], _numbers(op["inputs"]), _numbers(op["outputs"]))
            for op in interpreter._get_ops_details()
        ]

    def graph(self, ran: Sequence[Ran]) -> tuple[list[dict[str, Any]], list[list[int]], str | None]:
        """The model's ops, which of them each op that ran may come from, and why that cannot be told."""
        operators = [op for op in self._ops if op.kind != "DELEGATE"]
        computed = self._ends | {tensor for op in operators for tensor in op.outputs}
        graph = [
            {
                "name": ";".join(self._names.get(tensor, "") for tensor in op.outputs),
                "op": op.kind,
                "inputs": [str(tensor) for tensor in op.inputs if tensor in computed],
                "outputs": [str(tensor) for tensor in op.outputs],
            }
            for op in operators
        ]
        try:
            partitions = [_members(op, operators) for op in self._ops if op.kind == "DELEGATE"]
            return graph, origins(ran, list(enumerate(op.kind for op in operators)), partitions), None
        except ValueError as error:
            outside = [[] if op.inside or op.position >= len(graph) else [op.position] for op in ran]
            return graph, outside, str(error)


def _members(partition: _Operator, operators: Sequence[_Operator]) -> list[int]:
    """Positions of the ops of a partition: what its outputs need, back to its inputs."""
    maker = {tensor: position for position, op in enumerate(operators) for tensor in op.outputs}
    members: set[int] = set()
    wanted = list(partition.outputs)
    while wanted:
        tensor = wanted.pop()
        position = maker.get(tensor)
        if position is None or position in members:
            continue
        members.add(position)
        wanted += [source for source in operators[position].inputs if source not in partition.inputs]
    return sorted(members)


def _numbers(tensors: Any) -> tuple[int, ...]:
    return tuple(int(tensor) for tensor in tensors)


class _Compiled:
    """A compiled model with its profiler and buffers; everything is freed when the stack unwinds."""

    def __init__(
        self,
        library: ctypes.CDLL,
        path: Path,
        threads: int,
        described: _Described,
        arrays: Sequence[np.ndarray],
        stack: contextlib.ExitStack,
    ) -> None:
        self._library, self._path, self._stack = library, path, stack
        environment = self._make("LiteRtCreateEnvironment", 0, None)
        model = self._make("LiteRtCreateModelFromFile", environment, os.fsencode(path))
        options = self._make("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        settings = {
            b"runtime_options_string": b"enable_profiling = true\n",
            b"xnnpack": b"num_threads = %d\n" % threads,
        }
        self._payloads = [ctypes.create_string_buffer(text) for text in settings.values()]
        for setting, payload in zip(settings, self._payloads, strict=True):
            option = self._get("LiteRtCreateOpaqueOptions", setting, ctypes.cast(payload, c_void_p), _keep)
            self._call("LiteRtAddOpaqueOptions", options, option)  # which owns it from then on
        self._compiled = self._make("LiteRtCreateCompiledModel", environment, model, options)
        self._profiler = self._get("LiteRtCompiledModelGetProfiler", self._compiled)
        signature = self._get("LiteRtGetModelSignature", model, c_size_t(0))
        given = dict(zip(described.inputs, arrays, strict=True))
        inputs = self._tensors(signature, "Input")
        outputs = self._tensors(signature, "Output")
        if {*inputs} != {*given} or not {*outputs} <= {*described.output_shapes}:
            raise CannotRun(f"the first signature of {path.name} has other inputs or outputs than its main graph")
        free = {name for name, is_free in zip(described.inputs, described.free, strict=True) if is_free}
        for index, name in enumerate(inputs):
            if name in free:
                self._resize(index, given[name].shape)
        if free:  # what the outputs need is known only after this
            layouts = (_Layout * len(outputs))()
            place = (c_size_t(0), c_size_t(len(outputs)))
            self._call("LiteRtGetCompiledModelOutputTensorLayouts", self._compiled, *place, layouts, c_bool(True))
        self._inputs = (c_void_p * len(inputs))(
            *(
                self._buffer(environment, tensor, "Input", index, given[name].shape)
                for index, (name, tensor) in enumerate(inputs.items())
            )
        )
        self._outputs = (c_void_p * len(outputs))(
            *(
                self._buffer(environment, tensor, "Output", index, described.output_shapes[name])
                for index, (name, tensor) in enumerate(outputs.items())
            )
        )
        for buffer, name in zip(self._inputs, inputs, strict=True):
            self._fill(buffer, given[name])

    def run(self) -> None:
        """One inference."""
        ends = (c_size_t(len(self._inputs)), self._inputs, c_size_t(len(self._outputs)), self._outputs)
        self._call("LiteRtRunCompiledModel", self._compiled, c_size_t(0), *ends)

    def profiled_run(self) -> list[tuple[Ran, int]]:
        """One inference: the ops that ran with their microseconds."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return [
            (
                Ran((event.tag or b"").decode("utf-8", "replace"), event.metadata[0], event.type == IN_DELEGATE),
                event.elapsed_us,
            )
            for event in events
            if event.type in (OUTSIDE, IN_DELEGATE)
        ]

    def _tensors(self, signature: c_void_p, end: str) -> dict[str, c_void_p]:
        """Name and handle of the tensors at one end, ``Input`` or ``Output``."""
        count = c_size_t()
        self._call(f"LiteRtGetNumSignature{end}s", signature, byref(count))
        found = {}
        for index in range(count.value):
            tensor = self._get(f"LiteRtGetSignature{end}TensorByIndex", signature, c_size_t(index))
            text = c_char_p()
            self._call("LiteRtGetTensorName", tensor, byref(text))
            found[(text.value or b"").decode("utf-8", "replace")] = tensor
        if len(found) != count.value:
            raise CannotRun(f"{self._path.name} has tensors of the same name: which is which cannot be told")
        return found

    def _resize(self, index: int, shape: Sequence[int]) -> None:
        sizes = (c_int * len(shape))(*shape)
        place = (c_size_t(0), c_size_t(index))
        self._call("LiteRtCompiledModelResizeInputTensor", self._compiled, *place, sizes, c_size_t(len(shape)))

    def _buffer(self, environment: c_void_p, tensor: c_void_p, end: str, index: int, shape: Sequence[int]) -> c_void_p:
        """A buffer for a tensor at one end, ``Input`` or ``Output``."""
        kind = _TensorType()
        self._call("LiteRtGetRankedTensorType", tensor, byref(kind))
        for axis, size in enumerate(shape):  # some may be free
            kind.layout.dimensions[axis] = size
        get = f"LiteRtGetCompiledModel{end}BufferRequirements"
        needs = self._get(get, self._compiled, c_size_t(0), c_size_t(index))
        buffer = self._get("LiteRtCreateManagedTensorBufferFromRequirements", environment, byref(kind), needs)
        self._stack.callback(self._library.LiteRtDestroyTensorBuffer, buffer)
        return buffer

    def _fill(self, buffer: int | None, array: np.ndarray) -> None:
        """LiteRT's own buffers begin with whatever lay in memory."""
        size = c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", c_void_p(buffer), byref(size))
        if size.value != array.nbytes:
            raise CannotRun(f"LiteRT wants {size.value} bytes for an input of {self._path.name}, not {array.nbytes}")
        address = c_void_p()
        self._call("LiteRtLockTensorBuffer", c_void_p(buffer), byref(address), WRITE)
        ctypes.memmove(address, array.tobytes(), array.nbytes)
        self._call("LiteRtUnlockTensorBuffer", c_void_p(buffer))

    def _make(self, function: str, *arguments: object) -> c_void_p:
        """The handle that ``LiteRtCreate…`` gives, to be destroyed at the end."""
        handle = self._get(function, *arguments)
        kind = function.removeprefix("LiteRtCreate").removesuffix("FromFile")
        self._stack.callback(getattr(self._library, f"LiteRtDestroy{kind}"), handle)
        return handle

    def _get(self, function: str, *arguments: object) -> c_void_p:
        """The handle that a function writes to its last argument."""
        handle = c_void_p()
        self._call(function, *arguments, byref(handle))
        return handle

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise CannotRun(f"LiteRT cannot profile {self._path.name}: {function} answers {status}")


def _library() -> ctypes.CDLL:
    module = import_runtime("ai_edge_litert.interpreter", "ai-edge-litert", "litert")
    try:
        version = importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    if not version.startswith(f"{VERSION}."):
        raise CannotRun(f"profiles are read from ai-edge-litert {VERSION}, and {version} is installed")
    folder = Path(str(module.__file__)).parent
    for path in sorted(folder.glob("libLiteRt.*")):  # .so, .dylib or .dll
        return ctypes.CDLL(str(path))
    raise CannotRun(f"ai-edge-litert {version} came without its library libLiteRt: a profile needs it")
