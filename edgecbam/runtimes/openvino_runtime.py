"""OpenVINO: .onnx and .tflite on the CPU or on a GPU of Intel's. (A file named openvino.py would shadow the package.)

On CPUs with AMX it runs float models in bfloat16 unless told otherwise, which would make a float row a lie: this
adapter asks for ``INFERENCE_PRECISION_HINT=f32`` and ``placement`` says so. ``openvino_bf16`` is the same runtime asked
for bfloat16. Where the CPU has none, OpenVINO takes that request, says bf16, and runs something else: it is refused.
On a GPU the default is float16, and float32 is asked for likewise. A model is compiled for the GPU alone, which fails
where OpenVINO lacks a kernel, so nothing stays on the CPU.

Importing OpenVINO starts a process that reports the import to an analytics server. That is nobody's business and
disturbs a measurement, so the module that does it is withheld during the import; OpenVINO then takes its own stub.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import openvino_profile
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


class _OpenVinoSession:
    """One compiled model with one inference request."""

    def __init__(self, compiled: Any, tensor: Any, threads: int, adapter: str | None) -> None:
        self._compiled = compiled
        self._adapter = adapter  # None on the CPU
        self._request = compiled.create_infer_request()
        self._tensor = tensor
        self._threads = threads
        self.inputs = tuple(_info(port) for port in compiled.inputs)
        self.outputs = tuple(_info(port) for port in compiled.outputs)
        self._held: list[np.ndarray] = []  # shared with the request

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        self._held = [np.array(array) for array in check_arrays(self.inputs, arrays)]
        for index, array in enumerate(self._held):
            self._request.set_input_tensor(index, self._tensor(array, shared_memory=True))

    def invoke(self) -> None:
        # the synchronous call: start_async and wait measured a thread's wake-up on top (0.12 ms against 0.02)
        self._request.infer(share_outputs=True)

    def outputs_now(self) -> list[np.ndarray]:
        return [np.array(self._request.get_output_tensor(i).data, copy=True) for i in range(len(self.outputs))]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        devices = ", ".join(self._compiled.get_property("EXECUTION_DEVICES")).lower()
        common = {
            "inference_precision_hint": precision,
            "precision": precision,
            "streams": int(self._compiled.get_property("NUM_STREAMS")),
        }
        if self._adapter is None:
            threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
            return {"device": devices, "threads": threads, **common}
        return {
            "device": "gpu",
            "threads": self._threads,
            "adapter": self._adapter,
            "software": False,  # its plugin drives Intel's GPUs alone
            "execution_devices": devices,
            **common,
            "proof": "compiled for the GPU alone; OpenVINO says where it runs",
            "inference_ends": "outputs in host memory",
        }

    def close(self) -> None:
        self._request = None
        self._compiled = None
        self._held = []


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open an .onnx or .tflite file with one stream of ``threads`` threads, in float32; see Opener for the errors."""
    return _open(OPENVINO, model, threads, device, shapes, "f32")


def open_bfloat16(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """As ``open_model``, with float operations in bfloat16; raises CannotRun where the CPU has none."""
    return _open(OPENVINO_BF16, model, threads, device, shapes, "bf16")


def _open(runtime: Runtime, model: Path, threads: int, device: str, shapes: Shapes | None, precision: str) -> Session:
    check_threads(threads)
    check_device(runtime, device)
    check_file(model, OPENVINO.formats)
    openvino = OPENVINO.load()
    core = openvino.Core()
    adapter = gpu_name(core) if device == "gpu" else None
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CannotRun("this CPU has no bfloat16")
    try:
        network = core.read_model(str(model))
    except RuntimeError as error:
        if any(words in str(error).lower() for words in ("not support", "unsupported", "no conversion rule")):
            raise CannotRun(f"OpenVINO cannot run {model.name}: {_last_line(error)}") from error
        raise InputError(f"{model} is damaged or not readable by OpenVINO: {_last_line(error)}") from None
    wanted = check_shapes([_info(port) for port in network.inputs], shapes)
    if wanted:
        network.reshape({name: list(shape) for name, shape in wanted.items()})
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if device == "cpu":
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core.compile_model(network, device.upper(), settings)
    except RuntimeError as error:
        raise CannotRun(f"OpenVINO cannot run {model.name}: {_last_line(error)}") from error
    return _OpenVinoSession(compiled, openvino.Tensor, threads, adapter)


def gpu_name(core: Any) -> str:
    """Name of the first GPU that OpenVINO has; raises CannotRun that names what it has instead.

    Args:
        core: an openvino.Core.
    """
    devices = list(core.available_devices)
    found = [device for device in devices if device.split(".")[0] == "GPU"]
    if not found:
        raise CannotRun(
            f"OpenVINO has no GPU here, only {', '.join(devices)}: it needs one of Intel's with the driver for OpenCL "
            "(Debian: intel-opencl-icd)"
        )
    return str(core.get_property(found[0], "FULL_DEVICE_NAME"))


def _info(port: Any) -> TensorInfo:
    sizes = [dimension.get_length() if dimension.is_static else -1 for dimension in port.get_partial_shape()]
    dtype = port.get_element_type().to_dtype()
    if dtype.kind not in "fiub":
        raise CannotRun(f"OpenVINO: {port.get_any_name()} is of type {dtype.name}, which edgecbam does not feed")
    return TensorInfo(port.get_any_name(), tuple(sizes), dtype.name)


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's errors are a trail of source locations; what is wrong stands on the last line that holds text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else error)


OPENVINO = Runtime(
    name="openvino",
    package="openvino",
    module="openvino",
    extra="openvino",
    formats=(".onnx", ".tflite"),
    open=open_model,
    devices=("cpu", "gpu"),
    withheld=("openvino_telemetry",),
    profile=openvino_profile.profile,
)
OPENVINO_BF16 = dataclasses.replace(
    OPENVINO,
    name="openvino_bf16",
    open=open_bfloat16,
    devices=("cpu",),
    profile=openvino_profile.profile_bfloat16,
)
