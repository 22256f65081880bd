"""Other ways to an int8 ONNX file of the same network, for onnx_study.py to measure ours against."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import EnvironmentFailure
from edgecbam.runtimes.session import one_line


def quantize_static(model: bytes, batches: Sequence[np.ndarray]) -> bytes:
    """ONNX Runtime's own post-training quantization: uint8 activations, int8 weights per channel, as QDQ.

    Args:
        model: a float32 .onnx file with one input.
        batches: what the ranges are taken from, float32 [n, height, width, channels] each.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._feeds = iter([{name: image[None]} for batch in batches for image in batch])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, prepared, made = (folder / f"{stem}.onnx" for stem in ("source", "prepared", "made"))
        source.write_bytes(model)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # symbolic shapes want one more package, SymPy
        quantization.quantize_static(
            prepared,
            made,
            Reader(onnx.load(prepared).graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return made.read_bytes()


def reduce_range(model: bytes) -> bytes:
    """The same QDQ file with weights of 7 bits, ±64, whose products with uint8 saturate on no CPU.

    Weights are halved and their scales doubled. A fused kernel takes the scale of a bias to be that of its input times
    that of its weights, whatever its DequantizeLinear says; so biases are halved too and keep what they stand for.
    Constants that have no more than 7 bits stay as they are.
    """
    import onnx

    proto = onnx.load_from_string(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    dequantize = {
        node.output[0]: node
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    reduced = {name for name, node in dequantize.items() if _has_eight_bits(constants[node.input[0]])}
    biases = {
        node.input[2]
        for node in proto.graph.node
        if len(node.input) > 2 and node.input[1] in reduced and node.input[2] in dequantize
    }

    def replace(node: Any, index: int, value: np.ndarray) -> None:
        """Constants are shared, so each change makes its own."""
        name = f"{node.output[0]}/reduced{index}"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        node.input[index] = name

    for name in sorted(reduced | biases):
        node = dequantize[name]
        integers, scale = constants[node.input[0]], constants[node.input[1]]
        low, high = (-64, 63) if integers.dtype == np.int8 else (-(2**30), 2**30)
        replace(node, 0, np.clip(np.rint(integers / 2), low, high).astype(integers.dtype))
        replace(node, 1, np.asarray(scale * 2, scale.dtype))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return bytes(proto.SerializeToString())


def at_opset(model: bytes, opset: int) -> bytes:
    """The same file at a later opset, by onnx's own converter.

    Raises:
        EnvironmentFailure: it cannot be converted, is not valid then, or ONNX Runtime does not open it.
    """
    import onnx
    import onnxruntime
    from onnx import version_converter

    try:
        proto = version_converter.convert_version(onnx.load_from_string(model), opset)
        proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
        onnx.checker.check_model(proto, full_check=True)
        content = bytes(proto.SerializeToString())
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # those of ONNX Runtime derive from nothing narrower
        raise EnvironmentFailure(f"no file at opset {opset}: {one_line(error)}") from error
    return content


def _has_eight_bits(value: np.ndarray) -> bool:
    return value.dtype == np.int8 and bool(np.any((value < -64) | (value > 63)))
