"""Activations in the type that runtimes have the fast kernels for."""

import numpy as np
import onnx_ir as ir

from .graph import Editor, constant, replace


def unsigned_activations(model: ir.Model) -> int:
    """Store activations as uint8 with the zero point moved by 128; returns how many conversions changed.

    The real numbers stay the same. On x86 ONNX Runtime fuses convolutions of uint8 activations alone.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or constant(node.inputs[0]) is not None:
            continue
        zero_point = constant(node.inputs[2])
        if zero_point is not None and zero_point.dtype == np.int8:
            shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            node.replace_input_with(2, Editor(model, node).constant(shifted))
            count += 1
    return count


def drop_clamped_relus(model: ir.Model) -> int:
    """Remove each Relu that is only quantized with the lowest integer as zero point; returns how many.

    The clamp of QuantizeLinear does its work, and a Relu in between keeps a runtime from fusing.
    """
    count = 0
    for node in list(model.graph):
        readers = [use.node for use in node.outputs[0].uses()] if node.op_type == "Relu" else []
        if readers and not node.outputs[0].is_graph_output() and all(_clamps_at_zero(reader) for reader in readers):
            replace(node.outputs[0], node.inputs[0])
            count += 1
    return count


def _clamps_at_zero(node: ir.Node) -> bool:
    if node.op_type != "QuantizeLinear":
        return False
    zero_point = constant(node.inputs[2])
    return zero_point is not None and bool(np.all(zero_point == np.iinfo(zero_point.dtype).min))
