"""TFLite -> ONNX, so that both formats hold the same folded weights and, in int8, the same scales.

tf2onnx loses per-channel scales when it starts from the Keras QAT graph but keeps them from the .tflite file. What its
output needs before it computes the same integers is done by the passes in onnx_passes.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from edgecbam import __version__
from edgecbam.errors import EnvironmentFailure

from . import onnx_passes

WORKER = Path(__file__).with_name("tf2onnx_worker.py")


def convert(float_tflite: bytes, int8_tflite: bytes, opset: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Convert the float32 file and the int8 file; equal files give equal models.

    Args:
        float_tflite: float32 throughout.
        int8_tflite: int8 with float32 input and output.
        opset: ONNX operator set.

    Returns:
        Two models, ``image`` float32 [1, h, w, c] -> ``logits`` float32 [1, classes]. The second is QDQ with the
        scales of its file: uint8 activations with the zero point moved by 128, int8 weights per channel.

    Raises:
        EnvironmentFailure: tf2onnx failed.
    """
    float_model, int8_model = _run_tf2onnx([float_tflite, int8_tflite], opset)
    onnx_passes.average_integers(int8_model)
    onnx_passes.unsigned_activations(int8_model)
    onnx_passes.drop_clamped_relus(int8_model)
    return _finish(float_model), _finish(int8_model)


def _run_tf2onnx(contents: list[bytes], opset: int) -> list[onnx.ModelProto]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for index, content in enumerate(contents):
            source = folder / f"{index}.tflite"
            source.write_bytes(content)
            paths += [str(source), str(folder / f"{index}.onnx")]
        # -P: this folder's modules, such as tflite.py, must not stand before installed packages
        command = [sys.executable, "-P", str(WORKER), str(opset), *paths]
        environment = os.environ | {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise EnvironmentFailure(f"tf2onnx cannot convert the model: {reason}")
        return [onnx.load(path) for path in paths[1::2]]


def _finish(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx_passes.rename_ends(model, "image", "logits")
    onnx_passes.order_and_number(model)
    model.producer_name, model.producer_version = "edgecbam", __version__
    model.graph.name = "edgecbam"
    onnx.checker.check_model(model, full_check=True)
    return model
