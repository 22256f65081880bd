"""ONNX Runtime: .onnx on the CPU execution provider. (A file named onnxruntime.py would shadow the package.)

On x86-64 CPUs without VNNI its kernels for uint8 activations and int8 weights add pairs of products in 16 bits, which
saturate: sums come out too small, silently. Its session option ``session.x64quantprecision`` makes int8 weights beyond
±64 uint8, whose kernels are exact. It does so on CPUs with VNNI too, where nothing saturates, so this adapter sets it
only where it is needed or where the CPU does not say, and ``placement`` tells.
"""

import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import onnx_nodes, onnx_profile
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

DTYPES = {
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
_CPUINFO = Path("/proc/cpuinfo")
_EXACT_FLAGS = {"avx512_vnni", "avx_vnni"}  # instructions that multiply uint8 by int8 into 32 bits at once
_PRECISION_KEY = "session.x64quantprecision"


class _OnnxRuntimeSession:
    """One InferenceSession with its inputs and outputs bound, so that ``invoke`` copies nothing."""

    def __init__(self, session: Any, ort_value: Any, threads: int, precision: str) -> None:
        self._session = session
        self._ort_value = ort_value
        self._threads = threads
        self._precision = precision
        self.inputs = tuple(tensor_info(argument) for argument in session.get_inputs())
        self.outputs = tuple(tensor_info(argument) for argument in session.get_outputs())
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
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # of ONNX Runtime's own kinds
            raise CannotRun(f"ONNX Runtime does not get through the model: {one_line(error)}") from error

    def outputs_now(self) -> list[np.ndarray]:
        # numpy() looks into memory that the next run overwrites
        return [np.array(value.numpy(), copy=True) for value in self._binding.get_outputs()]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "providers": list(self._session.get_providers()),
            "threads": self._threads,
            "x64quantprecision": self._precision,
        }

    def close(self) -> None:
        self._binding = None
        self._held = []
        self._session = None


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open an .onnx file with ``threads`` threads inside an op, ops one after another; see Opener for the errors."""
    return _open_session(model, threads, device, shapes, rewrite=True)


def open_reference(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open an .onnx file and run its nodes as they stand, none fused or rewritten; see Opener for the errors."""
    return _open_session(model, threads, device, shapes, rewrite=False)


def _open_session(model: Path, threads: int, device: str, shapes: Shapes | None, rewrite: bool) -> Session:
    check_threads(threads)
    check_device(ONNXRUNTIME, device)
    check_file(model, ONNXRUNTIME.formats)
    ort = ONNXRUNTIME.load()
    needs_precision = saturates(platform.machine(), _read_cpuinfo())
    options = session_options(ort, threads, needs_precision)
    if not rewrite:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create_session(ort, model, options)
    unknown = [a.type for a in [*session.get_inputs(), *session.get_outputs()] if a.type not in DTYPES]
    if unknown:
        raise CannotRun(f"ONNX Runtime: {model.name} has a tensor of type {unknown[0]}, which edgecbam does not feed")
    opened = _OnnxRuntimeSession(session, ort.OrtValue, threads, "1" if needs_precision else "not needed")
    check_shapes(opened.inputs, shapes)  # the arrays decide: ONNX Runtime plans anew for each shape
    return opened


def count_nodes(model: Path, threads: int, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """Which nodes run on integers and which in float, from the trace of one inference in a session of its own.

    See NodeCounter for arguments and errors, ``onnx_nodes.count`` for the value.
    """
    check_threads(threads)
    check_file(model, ONNXRUNTIME.formats)
    ort = ONNXRUNTIME.load()
    options = session_options(ort, threads, saturates(platform.machine(), _read_cpuinfo()))
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgecbam-", ignore_cleanup_errors=True) as folder:
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = create_session(ort, model, options)
        try:
            names = [argument.name for argument in session.get_inputs()]
            outputs = session.run(None, dict(zip(names, arrays, strict=True)))
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
            return onnx_nodes.count(events, arrays, outputs)
        except Exception as error:  # its exceptions derive from Exception alone, and its trace is not documented
            reason = one_line(f"{type(error).__name__}: {error}")
            raise CannotRun(f"ONNX Runtime gives no readable trace of {model.name}: {reason}") from error


def saturates(machine: str, cpuinfo: str | None) -> bool:
    """Whether products of uint8 and int8 may saturate on a CPU: x86-64 without VNNI, or that does not say.

    Args:
        machine: as ``platform.machine()`` names it.
        cpuinfo: text of /proc/cpuinfo; None where there is none.
    """
    if machine.lower() not in ("x86_64", "amd64"):
        return False
    for line in (cpuinfo or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not _EXACT_FLAGS & set(value.split())
    return True


def _read_cpuinfo() -> str | None:
    try:
        return _CPUINFO.read_text("utf-8", errors="replace")
    except OSError:
        return None


def session_options(ort: Any, threads: int, needs_precision: bool) -> Any:
    """``threads`` threads inside an op, ops one after another, and whether int8 weights are made uint8 (see above)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    if needs_precision:
        options.add_session_config_entry(_PRECISION_KEY, "1")
    return options


def create_session(ort: Any, model: Path, options: Any, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> Any:
    """An InferenceSession, without falling back to other providers; raises InputError or CannotRun."""
    try:
        return ort.InferenceSession(str(model), options, providers=list(providers), enable_fallback=False)
    except Exception as error:  # its exceptions derive from Exception alone
        damaged = type(error).__name__ in ("InvalidProtobuf", "InvalidGraph") or "No graph was found" in str(error)
        if damaged and "No Op registered" not in str(error):  # an operator too new or of another domain
            raise InputError(f"{model} is damaged or no .onnx model: {one_line(error)}") from None
        raise CannotRun(f"ONNX Runtime cannot run {model.name}: {one_line(error)}") from error


def tensor_info(argument: Any) -> TensorInfo:
    """An input or output of an InferenceSession whose type is one of DTYPES."""
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape)
    return TensorInfo(argument.name, shape, DTYPES[argument.type])


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    package="onnxruntime",
    module="onnxruntime",
    extra="onnxruntime",
    formats=(".onnx",),
    open=open_model,
    nodes=count_nodes,
    reference=open_reference,
    profile=onnx_profile.profile,
)
