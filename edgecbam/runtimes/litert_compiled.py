"""LiteRT's CompiledModel (ai-edge-litert): .tflite on the CPU through XNNPACK, or on a GPU through its GPU delegate.

On a GPU a file is compiled for the GPU alone. LiteRT then refuses it as soon as it would leave one op to the CPU, and
says which, so that a session is proof that every op runs on the GPU. (``is_fully_accelerated()`` is none: it also holds
where XNNPACK took everything.) Which adapter it chose LiteRT tells on standard error alone, and there it is read.

LiteRT enqueues GPU work and returns. Its benchmark mode waits for the end, and its log must confirm that mode; an
``invoke`` also reads the outputs, because they are what an inference is for, and because no result can be read before
it is there.

float32 is asked for (``enforce_f32``); by default LiteRT takes 16-bit floats where the adapter has them and float32
where not, without a word. ``litert_compiled_fp16`` is that default, and ``placement`` refuses it where its outputs show
that nothing was computed in 16 bits.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import gpus, native_log
from edgecbam.runtimes.litert import tensor_info
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
    import_runtime,
    one_line,
)

HALF_BITS = 2.0**-17  # of the largest output: what float32 never and 16-bit floats always leave behind
_DTYPES = ("float32", "float16", "int32", "int8", "uint8", "bool")  # that its buffers can be filled with
_ADAPTER = re.compile(r"Selected adapter: (?P<name>.+?), arch=.*backend=(?P<backend>\w+), adapterType=(?P<kind>.+)")
_ACCELERATOR = "Dynamically loaded GPU accelerator"
_BENCHMARK_MODE = "Benchmark mode is enabled"
_LEFT = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
_UNSUPPORTED = "not supported by GPU delegate"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The adapter that LiteRT chose. ``api``: what reaches it, such as ``"vulkan"``."""

    name: str
    api: str
    software: bool


class _CompiledSession:
    """A compiled model with its buffers."""

    def __init__(self, compiled: Any, tensors: "_Tensors", threads: int, adapter: Adapter | None, model: Path) -> None:
        self._compiled = compiled
        self._threads = threads
        self._adapter = adapter
        self._model = model
        self.inputs, self.outputs = tensors.inputs, tensors.outputs
        signature = compiled.get_signature_by_index(0)
        given = compiled.get_input_tensor_details(signature["key"])
        described = compiled.get_output_tensor_details(signature["key"])
        self._order_in = _order(signature["inputs"], given, tensors.input_indices)
        self._order_out = _order(signature["outputs"], described, tensors.output_indices)
        self._shapes_in = [tuple(given[signature["inputs"][k]]["shape"]) for k in self._order_in]
        self._shapes_out = [tuple(described[signature["outputs"][k]]["shape"]) for k in self._order_out]
        self._buffers_in = compiled.create_input_buffers(0)
        self._buffers_out = compiled.create_output_buffers(0)
        self._arrays: list[np.ndarray] = []
        self._read: list[np.ndarray] = []

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        own = [array.copy() for array in check_arrays(self.inputs, arrays)]
        for info, array, shape in zip(self.inputs, own, self._shapes_in, strict=True):
            if array.shape != shape:
                raise InputError(f"input {info.name} was opened for {list(shape)}, got {list(array.shape)}")
        self._arrays = own
        for position, array in zip(self._order_in, self._arrays, strict=True):
            self._buffers_in[position].write(array)

    def invoke(self) -> None:
        self._compiled.run_by_index(0, self._buffers_in, self._buffers_out)
        if self._adapter is not None:
            self._read = self._outputs()

    def outputs_now(self) -> list[np.ndarray]:
        return [array.copy() for array in (self._outputs() if self._adapter is None else self._read)]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        """On a GPU ``ops_outside`` is always empty: raises CannotRun where an op fell back to the CPU after all."""
        delegated = self._compiled.is_fully_accelerated()
        if self._adapter is None:
            return {"device": "cpu", "threads": self._threads, "fully_delegated": delegated}
        if not delegated:  # given other shapes, LiteRT delegates anew, and does not refuse any more
            raise CannotRun(f"LiteRT's GPU delegate leaves ops of {self._model.name} to the CPU in these shapes")
        return {
            "device": "gpu",
            "threads": self._threads,
            "adapter": self._adapter.name,
            "software": self._adapter.software,
            "api": self._adapter.api,
            "precision": self._precision(),
            "ops_outside": [],
            "proof": "compiled for the GPU alone, which LiteRT refuses where an op would stay on the CPU",
            "inference_ends": "outputs in host memory, in benchmark mode",
        }

    def _precision(self) -> str:
        return "f32"

    def _outputs(self) -> list[np.ndarray]:
        return [
            self._buffers_out[position].read(int(np.prod(shape)), np.dtype(info.dtype)).reshape(shape)
            for position, shape, info in zip(self._order_out, self._shapes_out, self.outputs, strict=True)
        ]

    def close(self) -> None:
        self._buffers_in, self._buffers_out = [], []
        self._arrays, self._read = [], []
        self._compiled = None


class _HalfSession(_CompiledSession):
    """One that was allowed to compute in 16-bit floats."""

    _shown = False

    def _precision(self) -> str:
        """``"f16"``; raises CannotRun where the outputs are those of float32, and where there are none yet."""
        if not self._read:
            raise CannotRun("whether LiteRT computes in 16-bit floats only shows after an inference")
        if not self._shown:
            shapes = {info.name: array.shape for info, array in zip(self.inputs, self._arrays, strict=True)}
            exact = open_model(self._model, self._threads, "gpu", shapes)
            try:
                self._shown = differs(self._read, exact.run(self._arrays))
            finally:
                exact.close()
        if not self._shown:
            name = self._adapter.name if self._adapter else "the adapter"
            raise CannotRun(f"{name} computes {self._model.name} in float32 although 16-bit floats are allowed")
        return "f16"


@dataclasses.dataclass(frozen=True)
class _Tensors:
    """Inputs and outputs of the main graph in the order of the file, which a signature may not keep."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_indices: tuple[int, ...]
    output_indices: tuple[int, ...]


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open a .tflite file; see Opener for the errors. On a GPU in float32, for the GPU alone."""
    return _open(LITERT_COMPILED, model, threads, device, shapes)


def open_half(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """As ``open_model`` on a GPU, with float operations in 16 bits; see Opener for the errors.

    Raises:
        CannotRun: later also from ``placement``, where the outputs show that the adapter has no 16-bit floats.
    """
    return _open(LITERT_COMPILED_FP16, model, threads, device, shapes)


def _open(runtime: Runtime, model: Path, threads: int, device: str, shapes: Shapes | None) -> Session:
    check_threads(threads)
    check_file(model, runtime.formats)
    check_device(runtime, device)
    litert = runtime.load()
    tensors = _tensors(model)
    wanted = check_shapes(tensors.inputs, shapes)
    half = runtime is LITERT_COMPILED_FP16
    compiled, adapter = compile_model(litert, model, threads, device, litert.GpuOptions(not half, benchmark_mode=True))
    try:
        for name, shape in wanted.items():
            compiled.resize_input_tensor([info.name for info in tensors.inputs].index(name), shape)
        return (_HalfSession if half else _CompiledSession)(compiled, tensors, threads, adapter, model)
    except (RuntimeError, ValueError) as error:
        raise CannotRun(f"LiteRT cannot run {model.name}: {_last_line(error)}") from error


def compile_model(litert: Any, model: Path, threads: int, device: str, options: Any) -> tuple[Any, Adapter | None]:
    """A CompiledModel, and the adapter that it runs on; None on the CPU.

    Args:
        litert: the module ai_edge_litert.compiled_model.
        model: a sound .tflite file.
        threads: of the CPU.
        device: ``"cpu"`` or ``"gpu"``.
        options: GpuOptions of that module.

    Raises:
        CannotRun: as Opener, and where LiteRT does not confirm its benchmark mode.
    """
    accelerators = litert.HardwareAccelerator
    settings = litert.Options(
        hardware_accelerators=accelerators.GPU if device == "gpu" else accelerators.CPU,
        cpu_options=litert.CpuOptions(num_threads=threads),
        gpu_options=options if device == "gpu" else None,
    )
    if device == "cpu":
        try:
            return litert.CompiledModel.from_file(str(model), options=settings), None
        except (RuntimeError, ValueError) as error:
            raise CannotRun(f"LiteRT cannot run {model.name}: {_last_line(error)}") from error
    with native_log.captured() as log:
        try:
            compiled, failure = litert.CompiledModel.from_file(str(model), options=settings), None
        except (RuntimeError, ValueError) as error:
            compiled, failure = None, error
    adapter = selected_adapter(log.text)
    if failure is not None:
        raise CannotRun(why_not(log.text, model.name, _last_line(failure))) from failure
    if adapter is None:
        raise CannotRun(f"LiteRT compiled {model.name} for a GPU without saying for which")
    if _BENCHMARK_MODE not in log.text:
        raise CannotRun("LiteRT did not confirm its benchmark mode: it may return before an inference is done")
    return compiled, adapter


def selected_adapter(log: str) -> Adapter | None:
    """The adapter that LiteRT's log names, or None."""
    found = _ADAPTER.search(log)
    if found is None:
        return None
    kind = "cpu" if found["kind"].strip().upper().startswith("CPU") else None
    return Adapter(found["name"], found["backend"].lower(), gpus.is_software(found["name"], kind))


def why_not(log: str, model: str, error: str) -> str:
    """Why a model could not be compiled for the GPU.

    Args:
        log: what LiteRT wrote meanwhile.
        model: name of the file.
        error: what it raised, on one line.
    """
    if _ACCELERATOR not in log:
        return "this build of ai-edge-litert has no GPU accelerator"
    if selected_adapter(log) is None:
        listing = gpus.vulkan()
        seen = f"Vulkan lists {', '.join(gpu.name for gpu in listing.gpus)}" if listing.gpus else listing.reason
        return f"LiteRT finds no GPU that it can use: {seen}"
    left = _LEFT.search(log)
    if left:
        told = log[: left.start()].rpartition(_UNSUPPORTED)[2].splitlines()[1:]
        kinds = sorted({line.partition(":")[0].strip() for line in told if line.strip()})
        count = int(left[1]) + int(left[2])
        return f"LiteRT's GPU delegate leaves {left[2]} of {count} ops of {model} to the CPU: no {', '.join(kinds)}"
    return f"LiteRT cannot run {model} on the GPU: {error}"


def differs(half: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> bool:
    """Whether outputs differ from those in float32 by what 16-bit floats leave behind."""
    for a, b in zip(half, exact, strict=True):
        real, wanted = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if wanted.size and np.max(np.abs(real - wanted)) > HALF_BITS * max(float(np.max(np.abs(wanted))), 1e-30):
            return True
    return False


def _tensors(model: Path) -> _Tensors:
    """Names, shapes and scales, as the interpreter tells them without allocating anything."""
    interpreter_module = import_runtime("ai_edge_litert.interpreter", LITERT_COMPILED.package, LITERT_COMPILED.extra)
    try:
        interpreter = interpreter_module.Interpreter(model_path=str(model))
    except (ValueError, RuntimeError) as error:
        if "flatbuffer" in str(error).lower() or "model allocation" in str(error).lower():
            raise InputError(f"{model} is damaged or no .tflite model: {one_line(error)}") from None
        raise CannotRun(f"LiteRT cannot run {model.name}: {one_line(error)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    tensors = _Tensors(
        tuple(tensor_info(detail) for detail in inputs),
        tuple(tensor_info(detail) for detail in outputs),
        tuple(int(detail["index"]) for detail in inputs),
        tuple(int(detail["index"]) for detail in outputs),
    )
    strange = [info for info in (*tensors.inputs, *tensors.outputs) if info.dtype not in _DTYPES]
    if strange:
        raise CannotRun(f"LiteRT's CompiledModel cannot be given {strange[0].dtype}, the type of {strange[0].name}")
    return tensors


def _order(names: Sequence[str], details: dict[str, Any], indices: Sequence[int]) -> list[int]:
    """For each tensor of the file, by index, its place in the signature."""
    places = {int(details[name]["index"]): place for place, name in enumerate(names)}
    if sorted(places) != sorted(indices):
        raise ValueError("its first signature has other tensors than its main graph")
    return [places[index] for index in indices]


def _last_line(error: BaseException) -> str:
    """LiteRT's errors are a trail of source locations; what is wrong stands on the last line."""
    lines = [line.strip(" └") for line in str(error).splitlines() if line.strip(" └")]
    return one_line(lines[-1] if lines else error)


LITERT_COMPILED = Runtime(
    name="litert_compiled",
    package="ai-edge-litert",
    module="ai_edge_litert.compiled_model",
    extra="litert",
    formats=(".tflite",),
    open=open_model,
    devices=("cpu", "gpu"),
)
LITERT_COMPILED_FP16 = dataclasses.replace(
    LITERT_COMPILED, name="litert_compiled_fp16", open=open_half, devices=("gpu",)
)
