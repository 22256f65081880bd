"""Maxima of integers: the largest integer stands for the largest number."""

import numpy as np
import onnx_ir as ir

from .graph import Editor, constant, quantized_op, replace

OVER_PIXELS = (2, 3)


def maximum_of_integers(model: ir.Model) -> int:
    """Take maxima that keep scale and zero point from the integers themselves; returns how many.

    ReduceMax and MaxPool know 8-bit integers; GlobalMaxPool does not and becomes a ReduceMax. Scales are positive.
    """
    count = 0
    for node in list(model.graph):
        op = quantized_op(node) if node.op_type in ("ReduceMax", "GlobalMaxPool", "MaxPool") else None
        if op is None or not op.inputs[0].same_meaning(op.output) or len(node.outputs) > 1:
            continue
        edit = Editor(model, node)
        if node.op_type == "GlobalMaxPool":
            result = reduce_max(edit, op.inputs[0].integers, OVER_PIXELS)
        else:
            result = edit.node(node.op_type, [op.inputs[0].integers, *node.inputs[1:]], **dict(node.attributes))
        replace(op.output.integers, result)
        count += 1
    return count


def reduce_max(edit: Editor, x: ir.Value, axes: tuple[int, ...]) -> ir.Value:
    """ReduceMax that keeps its axes; from opset 18 on they are an input."""
    if edit.graph.opset_imports[""] >= 18:
        return edit.node("ReduceMax", [x, edit.constant(np.array(axes, np.int64))], keepdims=1)
    return edit.node("ReduceMax", [x], axes=list(axes), keepdims=1)


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that a Reduce op names and keeps, or None where they are not constant or are dropped."""
    return named_axes(node) if keeps_axes(node) else None


def named_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that a Reduce op names, as attribute or as constant input, or None."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axes is None else tuple(int(axis) for axis in axes)


def keeps_axes(node: ir.Node) -> bool:
    """Whether a Reduce op keeps the axes that it reduces, as sizes of 1."""
    keeps = node.attributes.get("keepdims")
    return keeps is None or keeps.as_int() == 1
