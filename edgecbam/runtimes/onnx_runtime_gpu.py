"""ONNX Runtime on a GPU: its CUDA, TensorRT and WebGPU execution providers, one runtime each.

ONNX Runtime falls back to the CPU where a provider cannot start, and node by node where a provider lacks a kernel, in
both cases without an error. So ``open`` looks at which providers a session really has, and ``placement`` runs the model
once in a session with a trace and counts the nodes of each provider. Some nodes on the CPU, such as those that compute
shapes, are usual and shown; where convolutions or matrix products run there, the session is refused.

An ``invoke`` ends when the outputs lie in host memory. Left on the device they may not be there yet: with WebGPU
``synchronize_outputs`` returns before the work is done. Inputs are copied to the device by ``prepare``.

float32 is float32: CUDA and TensorRT would otherwise multiply in TensorFloat-32 on GPUs that have it.

The wheels onnxruntime, onnxruntime-gpu and onnxruntime-webgpu all install the module onnxruntime, over one another.
Which of them is really there, the module's own files tell.

CUDA and TensorRT are untested: no machine that edgecbam has been tested on has an NVIDIA GPU.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgecbam.errors import MissingPackage
from edgecbam.runtimes import gpus, native_log, onnx_file
from edgecbam.runtimes.onnx_runtime import DTYPES, create_session, session_options, tensor_info
from edgecbam.runtimes.session import (
    CannotRun,
    Opener,
    Runtime,
    Session,
    Shapes,
    check_arrays,
    check_device,
    check_file,
    check_shapes,
    check_threads,
    one_line,
)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
WEBGPU = "WebGpuExecutionProvider"
# Parts of the names of nodes that do the bulk of the arithmetic: on the CPU, none of these may be.
HEAVY = ("Conv", "Gemm", "MatMul", "Attention", "Einsum", "LSTM", "GRU", "RNN")
UNTESTED = "untested: no machine that edgecbam has been tested on has an NVIDIA GPU"
_PRECISIONS = {"float32": "f32", "float16": "f16", "int8": "int8"}
_EMULATED_DRIVERS = "*lvp*,*llvmpipe*,*swiftshader*"  # as their manifests are named
_KERNEL = "_kernel_time"
_COPY = "Memcpy"
_BUILD = re.compile(r"^package_name\s*=\s*'([^']+)'", re.MULTILINE)
_MISSING_LIBRARY = re.compile(r"error: (\S+): cannot open shared object file")
_DEMAND = re.compile(r"Require (cuDNN \S+ and CUDA \S+)\.")


@dataclass(frozen=True)
class ProviderRuntime(Runtime):
    """A runtime that is one execution provider of one build of ONNX Runtime.

    Attributes:
        provider: its name in ONNX Runtime.
        untested: why nothing is known of it beyond what its documentation says; "" where it is tested.
    """

    provider: str = ""
    untested: str = ""

    def installed(self) -> bool:
        """Whether the module onnxruntime comes from this package. Imports nothing heavy."""
        return build() == self.package

    def load(self) -> ModuleType:
        """Import the package and settle what has to be settled before its first session.

        Raises:
            MissingPackage: no build of ONNX Runtime is installed.
            EnvironmentFailure: it cannot be imported.
            CannotRun: the build here is another, or which GPU it would take cannot be told.
        """
        there = build()
        if there != self.package:
            if there is None:
                raise MissingPackage(self.package, self.extra, f"the runtime {self.name}")
            state = "is not installed" if self.version() is None else "was installed here but overwritten"
            raise CannotRun(
                f"{self.package} {state}: the module onnxruntime here is that of {there}, and only one of them can be "
                f"in an environment; make another one for {self.package}"
            )
        if self.provider == WEBGPU:
            _leave_out_emulations()
        else:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT has no option for it
        module = super().load()
        if self.provider != WEBGPU and hasattr(module, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
                module.preload_dlls()  # CUDA and cuDNN as packages of NVIDIA, where they are installed
        return module


class _GpuSession:
    """One InferenceSession with its inputs on the device and its outputs bound to host memory."""

    def __init__(self, runtime: ProviderRuntime, ort: Any, session: Any, model: Path, threads: int) -> None:
        self._runtime = runtime
        self._ort = ort
        self._session = session
        self._model = model
        self._threads = threads
        self.inputs = tuple(tensor_info(argument) for argument in session.get_inputs())
        self.outputs = tuple(tensor_info(argument) for argument in session.get_outputs())
        self._binding: Any = None
        self._held: list[Any] = []  # the binding does not keep its inputs alive
        self._arrays: list[np.ndarray] = []
        self._nodes: dict[str, Any] | None = None

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = [array.copy() for array in check_arrays(self.inputs, arrays)]
        self._held = [self._ort.OrtValue.ortvalue_from_numpy(array) for array in self._arrays]
        binding = self._session.io_binding()
        for info, value in zip(self.inputs, self._held, strict=True):
            binding.bind_ortvalue_input(info.name, value)  # copies it to where its first node runs
        for info in self.outputs:
            binding.bind_output(info.name, "cpu")
        binding.synchronize_inputs()
        self._binding = binding

    def invoke(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs_now(self) -> list[np.ndarray]:
        return [np.array(value.numpy(), copy=True) for value in self._binding.get_outputs()]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        """``nodes``: how many each provider ran; ``on_cpu``: those of the CPU by kind; ``copies``: between the two.

        Raises:
            CannotRun: nothing has been prepared, or the work stays on the CPU.
        """
        if self._nodes is None:
            self._nodes = self._count()
        listing = gpus.vulkan() if self._runtime.provider == WEBGPU else gpus.nvidia()
        adapter, software = only_one(listing.gpus)
        return {
            "device": "gpu",
            "threads": self._threads,
            "adapter": adapter,
            "software": software,
            "providers": list(self._session.get_providers()),
            "precision": _PRECISIONS[onnx_file.read(self._model).precision],
            **self._nodes,
            "proof": "nodes by provider, from the trace of an inference",
            "inference_ends": "outputs in host memory",
            **({"untested": self._runtime.untested} if self._runtime.untested else {}),
        }

    def _count(self) -> dict[str, Any]:
        if not self._arrays:
            raise CannotRun("which provider runs which node only shows once inputs are prepared")
        events = _trace(self._runtime, self._ort, self._model, self._threads, self._arrays)
        counted = count_nodes(events)
        problem = refusal(counted, self._runtime.provider)
        if problem:
            raise CannotRun(f"ONNX Runtime {problem} of {self._model.name}")
        return counted

    def close(self) -> None:
        self._binding = None
        self._held, self._arrays = [], []
        self._session = None


def _opener(name: str) -> Opener:
    def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
        """Open an .onnx file on the GPU; see Opener for the errors."""
        runtime = PROVIDERS[name]
        check_threads(threads)
        check_file(model, runtime.formats)
        check_device(runtime, device)
        ort = runtime.load()
        session = _create(runtime, ort, model, session_options(ort, threads, False))
        unknown = [a.type for a in [*session.get_inputs(), *session.get_outputs()] if a.type not in DTYPES]
        if unknown:
            raise CannotRun(
                f"ONNX Runtime: {model.name} has a tensor of type {unknown[0]}, which edgecbam does not feed"
            )
        opened = _GpuSession(runtime, ort, session, model, threads)
        check_shapes(opened.inputs, shapes)  # the arrays decide: ONNX Runtime plans anew for each shape
        return opened

    return open_model


def _create(runtime: ProviderRuntime, ort: Any, model: Path, options: Any) -> Any:
    """A session that has the provider; raises InputError or CannotRun."""
    with native_log.captured() as log:
        try:
            session, failure = create_session(ort, model, options, _providers(runtime, model)), None
        except CannotRun as error:
            session, failure = None, error
    if failure is not None:
        raise CannotRun(why_not(runtime, log.text, str(failure.__cause__))) from failure
    if runtime.provider not in session.get_providers():
        raise CannotRun(why_not(runtime, log.text, "ONNX Runtime fell back to the CPU"))
    return session


def _providers(runtime: ProviderRuntime, model: Path) -> list[Any]:
    """Providers with options, in the order of preference. ONNX Runtime adds the CPU to every list."""
    cuda = (CUDA, {"use_tf32": "0"})
    if runtime.provider == CUDA:
        return [cuda]
    if runtime.provider == TENSORRT:
        precision = onnx_file.read(model).precision
        half, integer = precision == "float16", precision == "int8"
        return [(TENSORRT, {"trt_fp16_enable": str(int(half)), "trt_int8_enable": str(int(integer))}), cuda]
    return [runtime.provider]


def why_not(runtime: ProviderRuntime, log: str, error: str) -> str:
    """Why there is no session with the provider.

    Args:
        runtime: whose provider.
        log: what ONNX Runtime wrote meanwhile.
        error: what it raised.
    """
    missing = _MISSING_LIBRARY.search(log)
    if missing:
        demand = _DEMAND.search(log)
        needs = f"; it needs {demand[1]}" if demand else ""
        return f"{runtime.provider} does not start: no library {missing[1]}{needs}"
    if "WebGPU adapter" in error:
        listing = gpus.vulkan()
        seen = f"Vulkan lists {', '.join(gpu.name for gpu in listing.gpus)}" if listing.gpus else listing.reason
        return f"{runtime.provider} finds no GPU that it can use: {seen}"
    tail = " ".join(error.split())
    return f"{runtime.provider} does not take the model: {tail if len(tail) <= 200 else '…' + tail[-200:]}"


def _trace(
    runtime: ProviderRuntime, ort: Any, model: Path, threads: int, arrays: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """The trace of one inference in a session of its own; raises CannotRun."""
    options = session_options(ort, threads, False)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgecbam-", ignore_cleanup_errors=True) as folder:
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = _create(runtime, ort, model, options)
        try:
            names = [argument.name for argument in session.get_inputs()]
            session.run(None, dict(zip(names, arrays, strict=True)))
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
            return events
        except Exception as error:  # its exceptions derive from Exception alone, and its trace is not documented
            reason = one_line(f"{type(error).__name__}: {error}")
            raise CannotRun(f"ONNX Runtime gives no readable trace of {model.name}: {reason}") from error


def count_nodes(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """``nodes``, ``on_cpu`` and ``copies`` of ``placement``, from the events of a trace."""
    nodes: Counter[str] = Counter()
    on_cpu: Counter[str] = Counter()
    copies = 0
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith(_KERNEL):
            continue
        told = event.get("args", {})
        kind, provider = str(told.get("op_name", "")), str(told.get("provider", ""))
        if kind.startswith(_COPY):
            copies += 1
            continue
        nodes[provider] += 1
        if provider == CPU:
            on_cpu[kind] += 1
    return {"nodes": dict(sorted(nodes.items())), "on_cpu": dict(sorted(on_cpu.items())), "copies": copies}


def refusal(counted: Mapping[str, Any], provider: str) -> str:
    """Why what ``count_nodes`` found is no inference on this provider, or ""."""
    nodes, on_cpu = counted["nodes"], counted["on_cpu"]
    total = sum(nodes.values())
    if not nodes.get(provider):
        return f"gave {provider} none of the {total} nodes"
    heavy = {kind: count for kind, count in on_cpu.items() if any(part in kind for part in HEAVY)}
    if heavy:
        told = ", ".join(f"{count} {kind}" for kind, count in heavy.items())
        return f"keeps {sum(on_cpu.values())} of the {total} nodes on the CPU, among them {told},"
    return ""


def only_one(found: Sequence[gpus.Gpu]) -> tuple[str | None, bool | None]:
    """Name and emulation of the adapter that a runtime took without saying: None where it may be one or another."""
    names, kinds = {gpu.name for gpu in found}, {gpu.software for gpu in found}
    return (names.pop() if len(names) == 1 else None), (kinds.pop() if len(kinds) == 1 else None)


def _leave_out_emulations() -> None:
    """Where Vulkan lists both GPUs and emulations, hide the emulations: WebGPU does not say which of them it takes.

    Raises:
        CannotRun: the loader does not let itself be told.
    """
    if {gpu.software for gpu in gpus.vulkan().gpus} == {True, False}:
        os.environ.setdefault("VK_LOADER_DRIVERS_DISABLE", _EMULATED_DRIVERS)
        if {gpu.software for gpu in gpus.vulkan().gpus} != {False}:
            raise CannotRun(
                "Vulkan lists a GPU and an emulation on the CPU, and WebGPU does not say which it takes: "
                "name the driver to use in VK_ICD_FILENAMES"
            )


def build() -> str | None:
    """The package that the module onnxruntime comes from, as its files say; None where there is none."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            found = _BUILD.search((Path(folder) / "capi" / "build_and_package_info.py").read_text("utf-8"))
        except OSError:
            continue
        if found:
            return found[1]
    return None


def _runtime(name: str, package: str, provider: str, untested: str = "") -> ProviderRuntime:
    return ProviderRuntime(
        name=name,
        package=package,
        module="onnxruntime",
        extra=package,
        formats=(".onnx",),
        open=_opener(name),
        devices=("gpu",),
        provider=provider,
        untested=untested,
    )


ONNXRUNTIME_CUDA = _runtime("onnxruntime_cuda", "onnxruntime-gpu", CUDA, UNTESTED)
ONNXRUNTIME_TENSORRT = _runtime("onnxruntime_tensorrt", "onnxruntime-gpu", TENSORRT, UNTESTED)
ONNXRUNTIME_WEBGPU = _runtime("onnxruntime_webgpu", "onnxruntime-webgpu", WEBGPU)
PROVIDERS = {runtime.name: runtime for runtime in (ONNXRUNTIME_CUDA, ONNXRUNTIME_TENSORRT, ONNXRUNTIME_WEBGPU)}
