"""tflite-micro: .tflite as a microcontroller would compute it, and how much memory ("arena") it would need there.

Its interpreter has one thread, a fixed arena and kernels written to be small. On this machine it shows that a file
runs and what it computes; how fast a microcontroller would be, it cannot show.

The arena is that of this machine: structures with pointers are larger here than on a controller of 32 bits. While it
allocates, the interpreter needs a little more than what it then holds.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import native_log
from edgecbam.runtimes.session import (
    CannotRun,
    Runtime,
    Session,
    Shapes,
    TensorInfo,
    check_arrays,
    check_device,
    check_file,
    check_shapes,
    check_threads,
    one_line,
)

# Sizes to try: memory of this machine that nothing touches until the interpreter does. Its own guess, ten times the
# file, is too small for small networks on large images.
ARENAS_BYTES = (64 << 20, 1 << 30)
_TOO_SMALL = re.compile(r"missing: \d+|too small|failed to (allocate|resize)", re.IGNORECASE)
_MISSING_OP = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
_UNKNOWN_OP = re.compile(r"Op builtin_code out of range: (\d+)")
_ALLOCATION = re.compile(r"Arena allocation (total|head|tail) (\d+)")


class _MicroSession:
    """One interpreter with its arena allocated."""

    def __init__(self, interpreter: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
        self._interpreter = interpreter
        self.inputs = inputs
        self.outputs = outputs
        with native_log.captured() as log:
            interpreter.print_allocations()
        self._bytes = {name: int(count) for name, count in _ALLOCATION.findall(log.text)}

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        for index, array in enumerate(check_arrays(self.inputs, arrays)):
            self._interpreter.set_input(array, index)

    def invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise CannotRun(f"tflite-micro cannot run the model: {self._complaint() or one_line(error)}") from None

    def _complaint(self) -> str:
        """What it says on standard error when it fails once more."""
        with native_log.captured() as log, contextlib.suppress(RuntimeError):
            self._interpreter.invoke()
        return one_line(log.text)

    def outputs_now(self) -> list[np.ndarray]:
        return [np.array(self._interpreter.get_output(index)) for index in range(len(self.outputs))]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        """``arena_bytes``: what the interpreter holds of its arena, of which the head is free again between inferences
        (activations) and the tail is not (tensors, ops, their state). None where it does not tell.
        """
        return {
            "device": "cpu",
            "threads": 1,
            "arena_bytes": self._bytes.get("total"),
            "arena_head_bytes": self._bytes.get("head"),
            "arena_tail_bytes": self._bytes.get("tail"),
        }

    def close(self) -> None:
        self._interpreter = None


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open a .tflite file; see Opener for the errors. It has one thread, and shapes are those of the file."""
    check_threads(threads)
    check_device(TFLITE_MICRO, device)
    check_file(model, TFLITE_MICRO.formats)
    if threads > 1:
        raise CannotRun(f"tflite-micro has one thread, not {threads}")
    package = TFLITE_MICRO.load()
    data = model.read_bytes()
    signatures, names = _read(package, model, data)
    interpreter = _interpreter(package, model, data)
    inputs = _infos(interpreter.get_input_details, names[0])
    _check_shapes(model, signatures, inputs, shapes)
    return _MicroSession(interpreter, inputs, _infos(interpreter.get_output_details, names[1]))


def _read(package: Any, model: Path, data: bytes) -> tuple[list[TensorInfo], tuple[list[str], list[str]]]:
    """Inputs with -1 where a dimension is free, and the names of inputs and outputs, which the interpreter lacks.

    The interpreter looks at no offset of the file before it follows it; reading all of it here finds those that lead
    out of the file.
    """
    try:
        graph = package.convert_bytearray_to_object(data).subgraphs[0]
        tensors = graph.tensors
        inputs, outputs = [tensors[i] for i in graph.inputs], [tensors[i] for i in graph.outputs]
        shapes = [tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature for tensor in inputs]
        names = [_name(tensor) for tensor in inputs], [_name(tensor) for tensor in outputs]
        free = [
            TensorInfo(name, tuple(int(size) for size in shape), "")
            for name, shape in zip(names[0], shapes, strict=True)
        ]
    except Exception as error:  # of many kinds, from reading bytes that are no such structure
        raise InputError(f"{model} is damaged or no .tflite model: {one_line(error)}") from None
    return free, names


def _name(tensor: Any) -> str:
    return bytes(tensor.name or b"").decode("utf-8", "replace")


def _interpreter(package: Any, model: Path, data: bytes) -> Any:
    for size in ARENAS_BYTES:
        with native_log.captured() as log:
            try:
                return package.Interpreter.from_bytes(
                    data,
                    arena_size=size,
                    intrepreter_config=package.InterpreterConfig.kAllocationRecording,  # its own spelling
                )
            except (RuntimeError, MemoryError, ValueError) as error:
                failure = error
        if not _TOO_SMALL.search(log.text):
            break
    else:
        raise CannotRun(
            f"tflite-micro cannot run {model.name}: it needs an arena of more than {ARENAS_BYTES[-1]} bytes"
        )
    raise CannotRun(f"tflite-micro cannot run {model.name}: {_reason(log.text) or one_line(failure)}") from failure


def _reason(said: str) -> str:
    """What it said on standard error, with the name of the op that it lacks up front."""
    if missing := _MISSING_OP.search(said):
        return f"it has no op {missing[1]}"
    if unknown := _UNKNOWN_OP.search(said):
        return f"it knows no op of the number {unknown[1]}"
    return one_line(said) if said.strip() else ""


def _infos(details_of: Any, names: list[str]) -> tuple[TensorInfo, ...]:
    return tuple(_info(name, details_of(index)) for index, name in enumerate(names))


def _info(name: str, detail: dict[str, Any]) -> TensorInfo:
    dtype = np.dtype(detail["dtype"])
    scales = detail["quantization_parameters"]["scales"]
    zero_points = detail["quantization_parameters"]["zero_points"]
    known = dtype.kind in "iu" and len(scales) == 1 and scales[0] > 0
    return TensorInfo(
        name,
        tuple(int(size) for size in detail["shape"]),
        dtype.name,
        float(scales[0]) if known else None,
        int(zero_points[0]) if known else None,
    )


def _check_shapes(
    model: Path, signatures: Sequence[TensorInfo], inputs: Sequence[TensorInfo], shapes: Shapes | None
) -> None:
    """Raise InputError where a shape does not fit its input, CannotRun where it is not the one in the file."""
    wanted = check_shapes(signatures, shapes)
    for info in inputs:
        if tuple(wanted.get(info.name, info.shape)) != info.shape:
            raise CannotRun(
                f"tflite-micro cannot run {model.name}: it cannot change the shape {list(info.shape)} "
                f"of the input {info.name} to {list(wanted[info.name])}"
            )


TFLITE_MICRO = Runtime(
    name="tflite_micro",
    package="tflite-micro",
    module="tflite_micro.python.tflite_micro.runtime",
    extra="micro",
    formats=(".tflite",),
    open=open_model,
    functional="an interpreter for microcontrollers: how fast it is on this machine says nothing of one",
)
