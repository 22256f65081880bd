"""int8 weights that no two layers share, for a runtime that changes them layer by layer."""

import onnx_ir as ir

from .graph import Editor, constant


def own_weights(model: ir.Model) -> int:
    """Give every reader of int8 weights a DequantizeLinear, weights and zero points of its own; returns how many.

    CBAM's MLP reads its weights twice. Asked for exact sums on CPUs without VNNI (``session.x64quantprecision``), ONNX
    Runtime 1.32 rewrites int8 weights reader by reader and refuses a model where two share them. To come last, for
    ``tidy`` makes equal constants one again.
    """
    count = 0
    taken: set[ir.Value] = set()
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            source = None if value is None else value.producer()
            if value is None or source is None or source.op_type != "DequantizeLinear":
                continue
            weights, scale, zero_point = source.inputs
            integers, zero = constant(weights), constant(zero_point)
            if integers is None or zero is None or zero.dtype.name != "int8":
                continue
            if not {value, weights, zero_point} & taken:
                taken |= {value, weights, zero_point}
                continue
            edit = Editor(model, node)
            inputs = [edit.constant(integers), scale, edit.constant(zero)]
            made = edit.node("DequantizeLinear", inputs, **dict(source.attributes))
            node.replace_input_with(index, made)
            taken |= {made, *(entry for entry in made.producer().inputs if entry is not scale)}
            count += 1
    return count
