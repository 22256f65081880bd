"""ONNX Runtime: .onnx on the CPU execution provider. (A file named onnxruntime.py would shadow the package.)"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes.session import (
    CannotRun,
    Runtime,
    Session,
    TensorInfo,
    check_arrays,
    check_file,
    check_threads,
    one_line,
)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class _OnnxRuntimeSession:
    """One InferenceSession with its inputs and outputs bound, so that ``invoke`` copies nothing."""

    def __init__(self, session: Any, ort_value: Any, threads: int) -> None:
        self._session = session
        self._ort_value = ort_value
        self._threads = threads
        self.inputs = tuple(_info(argument) for argument in session.get_inputs())
        self.outputs = tuple(_info(argument) for argument in session.get_outputs())
        self._binding: Any = None
        self._held: list[Any] = []  # the binding does not keep its inputs alive

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        binding = self._session.io_binding()
        own = [array.copy() for array in check_arrays(self.inputs, arrays)]
        self._held = [(array, self._ort_value.ortvalue_from_numpy(array)) for array in own]
        for info, (_, value) in zip(self.inputs, self._held, strict=True):
            binding.bind_ortvalue_input(info.name, value)
        for info in self.outputs:
            binding.bind_output(info.name, "cpu")
        self._binding = binding

    def invoke(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs_now(self) -> list[np.ndarray]:
        # numpy() looks into memory that the next run overwrites
        return [np.array(value.numpy(), copy=True) for value in self._binding.get_outputs()]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        return {"device": "cpu", "providers": list(self._session.get_providers()), "threads": self._threads}

    def close(self) -> None:
        self._binding = None
        self._held = []
        self._session = None


def open_model(model: Path, threads: int = 1) -> Session:
    """Open an .onnx file with ``threads`` threads inside an op, ops one after another; see Opener for the errors."""
    check_threads(threads)
    check_file(model, ONNXRUNTIME.formats)
    ort = ONNXRUNTIME.load()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions derive from Exception alone
        damaged = type(error).__name__ in ("InvalidProtobuf", "InvalidGraph") or "No graph was found" in str(error)
        if damaged and "No Op registered" not in str(error):  # an operator too new or of another domain
            raise InputError(f"{model} is damaged or no .onnx model: {one_line(error)}") from None
        raise CannotRun(f"ONNX Runtime cannot run {model.name}: {one_line(error)}") from error
    unknown = [a.type for a in [*session.get_inputs(), *session.get_outputs()] if a.type not in _DTYPES]
    if unknown:
        raise CannotRun(f"ONNX Runtime: {model.name} has a tensor of type {unknown[0]}, which edgecbam does not feed")
    return _OnnxRuntimeSession(session, ort.OrtValue, threads)


def _info(argument: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape)
    return TensorInfo(argument.name, shape, _DTYPES[argument.type])


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    package="onnxruntime",
    module="onnxruntime",
    extra="onnxruntime",
    formats=(".onnx",),
    open=open_model,
)
