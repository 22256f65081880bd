"""TFLite -> ONNX, so that both formats hold the same folded weights and, in int8, the same scales.

tf2onnx loses per-channel scales when it starts from the Keras QAT graph but keeps them from the .tflite file. What its
output needs before it computes the same integers is done by the passes in onnx_passes.py.
"""

import tempfile
import warnings
from pathlib import Path

import onnx

from edgecbam import __version__

from . import onnx_passes


def from_tflite_float(content: bytes, opset: int) -> onnx.ModelProto:
    """ONNX model from a float32 .tflite: input ``image`` float32 [1, h, w, c], output ``logits`` float32 [1, classes]."""
    return _finish(_convert(content, opset))


def from_tflite_int8(content: bytes, opset: int) -> onnx.ModelProto:
    """QDQ ONNX model from an int8 .tflite with float32 input and output.

    Scales are the file's; activations are uint8 with the zero point moved by 128, weights stay int8 per channel.
    """
    model = _convert(content, opset)
    onnx_passes.average_integers(model)
    onnx_passes.unsigned_activations(model)
    onnx_passes.drop_clamped_relus(model)
    return _finish(model)


def _convert(content: bytes, opset: int) -> onnx.ModelProto:
    import tf2onnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx reads the file with an interpreter that TensorFlow calls deprecated
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=opset)
    return model


def _finish(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx_passes.rename_ends(model, "image", "logits")
    model.producer_name, model.producer_version = "edgecbam", __version__
    model.graph.name = "edgecbam"
    onnx.checker.check_model(model, full_check=True)
    return model
