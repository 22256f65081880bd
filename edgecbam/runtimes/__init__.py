"""The runtimes that edgecbam can run models with: one small adapter each, behind one interface.

Importing this package imports no runtime; opening a model does.

    session = find("litert").open(Path("model_int8.tflite"), threads=1)
    logits = to_real(session.run([to_input(image, session.inputs[0])])[0], session.outputs[0])
"""

import difflib

from edgecbam.errors import InputError
from edgecbam.runtimes.keras_runtime import KERAS
from edgecbam.runtimes.litert import LITERT
from edgecbam.runtimes.litert_compiled import LITERT_COMPILED, LITERT_COMPILED_FP16
from edgecbam.runtimes.onnx_runtime import ONNXRUNTIME
from edgecbam.runtimes.onnx_runtime_gpu import ONNXRUNTIME_CUDA, ONNXRUNTIME_TENSORRT, ONNXRUNTIME_WEBGPU
from edgecbam.runtimes.openvino_runtime import OPENVINO, OPENVINO_BF16
from edgecbam.runtimes.quantized import described, to_input, to_real
from edgecbam.runtimes.session import CannotRun, Opener, Runtime, Session, Shapes, TensorInfo, check_file
from edgecbam.runtimes.tflite_micro import TFLITE_MICRO

__all__ = [
    "RUNTIMES",
    "CannotRun",
    "Opener",
    "Runtime",
    "Session",
    "Shapes",
    "TensorInfo",
    "available",
    "check_file",
    "described",
    "find",
    "readers",
    "to_input",
    "to_real",
]

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        LITERT,
        ONNXRUNTIME,
        OPENVINO,
        OPENVINO_BF16,
        LITERT_COMPILED,
        LITERT_COMPILED_FP16,
        ONNXRUNTIME_CUDA,
        ONNXRUNTIME_TENSORRT,
        ONNXRUNTIME_WEBGPU,
        KERAS,
        TFLITE_MICRO,
    )
}


def find(name: str) -> Runtime:
    """The runtime of this name, installed or not; raises InputError with the nearest name."""
    if name in RUNTIMES:
        return RUNTIMES[name]
    close = difflib.get_close_matches(name.lower(), list(RUNTIMES), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(RUNTIMES)}"
    raise InputError(f"no runtime {name!r}: {hint}")


def available() -> list[Runtime]:
    """The runtimes whose packages are installed here."""
    return [runtime for runtime in RUNTIMES.values() if runtime.installed()]


def readers(suffix: str) -> list[Runtime]:
    """The runtimes, installed or not, that read files with this ending, such as ``".onnx"``."""
    return [runtime for runtime in RUNTIMES.values() if suffix.lower() in runtime.formats]
