"""LiteRT (ai-edge-litert): .tflite on the CPU, through the XNNPACK delegate that its interpreter applies by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import litert_profile
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


class _LiteRtSession:
    """One interpreter with its tensors allocated."""

    def __init__(self, interpreter: Any, threads: int, kernels: str) -> None:
        self._interpreter = interpreter
        self._threads = threads
        self._kernels = kernels
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._input_indices = [detail["index"] for detail in inputs]
        self._output_indices = [detail["index"] for detail in outputs]
        self.inputs = tuple(tensor_info(detail) for detail in inputs)
        self.outputs = tuple(tensor_info(detail) for detail in outputs)

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        for index, array in zip(self._input_indices, check_arrays(self.inputs, arrays), strict=True):
            self._interpreter.set_tensor(index, array)

    def invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:  # a damaged file, or a kernel that refuses these values
            raise CannotRun(f"LiteRT does not get through the model: {one_line(error)}") from error

    def outputs_now(self) -> list[np.ndarray]:
        try:
            return [self._interpreter.get_tensor(index) for index in self._output_indices]
        except ValueError as error:  # an output that nothing makes
            raise CannotRun(f"LiteRT gives no output: {one_line(error)}") from error

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        """``xnnpack_partitions``: how many delegate calls; ``ops_outside``: names of the ops that stayed outside."""
        try:
            running = _running_ops(self._interpreter._get_ops_details(), self._output_indices)
        except UnicodeDecodeError:
            raise CannotRun("LiteRT cannot name the tensors of the model: one of the names is no UTF-8") from None
        return {
            "delegate": "xnnpack" if "DELEGATE" in running else None,
            "device": "cpu",
            "threads": self._threads,
            "kernels": self._kernels,
            "file_precision": _precision(self._interpreter.get_tensor_details()),
            "xnnpack_partitions": running.count("DELEGATE"),
            "ops_outside": sorted(name for name in running if name != "DELEGATE"),
        }

    def close(self) -> None:
        self._interpreter = None


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open a .tflite file with ``threads`` threads; see Opener for the errors."""
    return _open(model, threads, device, shapes, "AUTO", "built-in kernels and XNNPACK")


def open_reference(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open a .tflite file with LiteRT's reference kernels and no delegate; see Opener for the errors.

    A few ops have no reference kernel (DEPTH_TO_SPACE of version 2): a file with one gets the built-in kernels, still
    without a delegate, and ``placement`` says so.
    """
    try:
        return _open(model, threads, device, shapes, "BUILTIN_REF", "reference kernels")
    except CannotRun:
        return _open(model, threads, device, shapes, "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "built-in kernels")


def _open(model: Path, threads: int, device: str, shapes: Shapes | None, resolver: str, kernels: str) -> Session:
    check_threads(threads)
    check_device(LITERT, device)
    check_file(model, LITERT.formats)
    litert = LITERT.load()
    try:
        interpreter = litert.Interpreter(
            model_path=str(model),
            num_threads=threads,
            experimental_op_resolver_type=litert.OpResolverType[resolver],
        )
    except ValueError as error:  # "The model is not a valid Flatbuffer buffer"
        if "flatbuffer" in str(error).lower() or "model allocation" in str(error).lower():
            raise InputError(f"{model} is damaged or no .tflite model: {one_line(error)}") from None
        raise CannotRun(f"LiteRT cannot run {model.name}: {one_line(error)}") from error
    except RuntimeError as error:
        raise CannotRun(f"LiteRT cannot run {model.name}: {one_line(error)}") from error
    try:
        details = {detail["name"]: detail for detail in interpreter.get_input_details()}
        interpreter.get_output_details()
    except UnicodeDecodeError:
        raise InputError(f"{model} is damaged: the name of an input or output is no UTF-8") from None
    wanted = check_shapes([tensor_info(detail) for detail in details.values()], shapes)
    try:
        for name, shape in wanted.items():
            interpreter.resize_tensor_input(details[name]["index"], shape, strict=True)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:  # a missing op, or XNNPACK could not be created
        if not str(error):  # what it cannot do it names
            raise CannotRun(f"LiteRT cannot run {model.name} and gives no reason: out of memory, it seems") from error
        raise CannotRun(f"LiteRT cannot run {model.name}: {one_line(error)}") from error
    return _LiteRtSession(interpreter, threads, kernels)


def _precision(tensors: list[dict[str, Any]]) -> str:
    """What a file is made of: ``"int8"`` where a tensor is quantized, ``"float16"`` where one is of 16 bits."""
    if any(
        np.dtype(tensor["dtype"]).kind in "iu" and len(tensor["quantization_parameters"]["scales"])
        for tensor in tensors
    ):
        return "int8"
    return "float16" if any(tensor["dtype"] == np.float16 for tensor in tensors) else "float32"


def tensor_info(detail: dict[str, Any]) -> TensorInfo:
    """A tensor of the interpreter's ``get_input_details`` and the like."""
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    known = dtype.kind in "iu" and scale > 0
    signature = detail["shape_signature"]  # -1 where a dimension is free
    return TensorInfo(
        detail["name"],
        tuple(int(size) for size in (signature if len(signature) else detail["shape"])),
        dtype.name,
        float(scale) if known else None,
        int(zero_point) if known else None,
    )


def _running_ops(ops: list[dict[str, Any]], outputs: list[int]) -> list[str]:
    """Names of the ops that run: DELEGATE once per partition, and every op left to the plain kernels.

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


LITERT = Runtime(
    name="litert",
    package="ai-edge-litert",
    module="ai_edge_litert.interpreter",
    extra="litert",
    formats=(".tflite",),
    open=open_model,
    reference=open_reference,
    profile=litert_profile.profile,
)
