"""TFLite -> ONNX, so that both formats hold the same folded weights and, in int8, the same scales.

tf2onnx loses per-channel scales when it starts from the Keras QAT graph but keeps them from the .tflite file. It starts
from the file as trained, not from the lowered one: what ONNX Runtime runs fast are other ops than what LiteRT does, and
the passes of onnx_passes/ make them.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgecbam import __version__
from edgecbam.errors import EnvironmentFailure
from edgecbam.recipe import ExportConfig

from . import onnx_passes
from .tflite_graph import TfliteGraph

WORKER = Path(__file__).with_name("tf2onnx_worker.py")
IR_VERSION = 8  # of opset 17: what runtimes read depends on it
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Converted:
    """An ONNX model, and how often each step of its lowering found something to do, by the name of the pass."""

    model: onnx.ModelProto
    rewrites: dict[str, int]


def convert(
    float_tflite: bytes, int8_tflite: bytes, settings: ExportConfig, metadata: Mapping[str, str] | None = None
) -> tuple[Converted, Converted]:
    """Convert the float32 file and the int8 file; equal files give equal models.

    Args:
        float_tflite: float32 throughout, attention as trained.
        int8_tflite: int8 with float32 input and output, attention as trained.
        settings: opset, input type and batch of the files; with the profile ``reference`` attention stays as trained.
        metadata: what goes into ``metadata_props``.

    Returns:
        Two models, ``image`` float32 [1, h, w, c] -> ``logits`` float32 [1, classes]. The second is QDQ with the
        scales of its file: uint8 activations with the zero point moved by 128, int8 weights per channel, int32 biases.
        With ``settings.onnx_input`` of uint8 the images of both are the integers that the int8 file's input would
        hold, plus 128; with ``settings.onnx_batch`` of 0 the batch is free.

    Raises:
        EnvironmentFailure: tf2onnx failed.
    """
    raw_float, raw_int8 = run_tf2onnx([float_tflite, int8_tflite], settings.onnx_opset)
    return rewritten(raw_float, raw_int8, settings, metadata)


def rewritten(
    raw_float: onnx.ModelProto,
    raw_int8: onnx.ModelProto,
    settings: ExportConfig,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Converted, Converted]:
    """What ``convert`` makes of tf2onnx's own conversions; arguments and result are those of ``convert``."""
    ends: list[onnx_passes.Pass] = []
    if settings.onnx_input == "uint8":
        ends = [onnx_passes.take_integers(*onnx_passes.input_quantization(raw_int8))]

    def converted(
        raw: onnx.ModelProto, passes: Sequence[onnx_passes.Pass], lowering: Sequence[onnx_passes.Pass]
    ) -> Converted:
        chosen = lowering if settings.profile != "reference" else ()
        model, found = onnx_passes.rewrite(raw, [*passes, *chosen, *ends])
        names = [step.__name__ for step in chosen if step not in passes]
        rewrites = {name: found[name] for name in names if name in found}
        return Converted(_finish(model, settings, metadata or {}), rewrites)

    return (
        converted(raw_float, onnx_passes.FLOAT, onnx_passes.FLOAT_LOWERING),
        converted(raw_int8, onnx_passes.INT8, onnx_passes.INT8_LOWERING),
    )


def run_tf2onnx(contents: list[bytes], opset: int) -> list[onnx.ModelProto]:
    """tf2onnx's own conversions of .tflite files; raises EnvironmentFailure with its reason."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for index, content in enumerate(contents):
            source = folder / f"{index}.tflite"
            source.write_bytes(_unshare_weights(content))
            paths += [str(source), str(folder / f"{index}.onnx")]
        # -P: this folder's modules, such as tflite.py, must not stand before installed packages
        command = [sys.executable, "-P", str(WORKER), str(opset), *paths]
        environment = os.environ | {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise EnvironmentFailure(f"tf2onnx cannot convert the model: {reason}")
        return [onnx.load(path) for path in paths[1::2]]


def _unshare_weights(content: bytes) -> bytes:
    """Give every convolution weights of its own: tf2onnx 1.17 turns shared ones around once for each reader.

    CBAM's MLP is used twice. Where it has one hidden channel the shape [o, 1, 1, 1] hides the mistake from tf2onnx, and
    the file computes something else.
    """
    graph = TfliteGraph(content, "the model")
    seen: set[int] = set()
    for op in graph.graph.operators:
        if graph.kind(op) not in WEIGHTED:
            continue
        weights = int(op.inputs[1])
        value = graph.constant(weights)
        if weights in seen and value is not None:
            copy = graph.add_tensor(f"{graph.name(weights)}/{len(graph.graph.tensors)}", value.shape, weights, value)
            op.inputs = np.array([op.inputs[0], copy, *op.inputs[2:]], np.int32)
        seen.add(weights)
    return graph.to_bytes()


def _finish(model: onnx.ModelProto, settings: ExportConfig, metadata: Mapping[str, str]) -> onnx.ModelProto:
    onnx_passes.rename_ends(model, "image", "logits")
    onnx_passes.set_batch(model, settings.onnx_batch)
    onnx_passes.order_and_number(model)
    model.producer_name, model.producer_version = "edgecbam", __version__
    model.graph.name = "edgecbam"
    model.graph.doc_string = ""
    model.ir_version = IR_VERSION
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model
