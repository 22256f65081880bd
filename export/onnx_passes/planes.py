"""Attention on planes: a map [n, c, h, w] as c rows of h*w pixels, [n, c, 1, h*w].

A runtime that keeps channels last does CBAM's ops with one short call a pixel: c products with the channel gate, c
with the spatial gate, a maximum and a mean of c neighbours. With each channel a row of its own the same ops work on
long rows. The Reshape is what makes a runtime turn the map around once before the attention and once after it.

    gate_planes            x * gate, for a gate [n, c, 1, 1] or [n, 1, h, w]
    pool_planes            channel maximum and channel mean, as pools over the rows that lie below one another
    reduce_planes          maximum over all pixels of a channel
"""

import math

import onnx_ir as ir

from .graph import BATCH, Editor, Quantized, QuantizedOp, quantized_op, replace, shape
from .maxima import OVER_PIXELS, reduce_max, reduced_axes

OVER_CHANNELS = (1,)


def gate_planes(model: ir.Model) -> int:
    """Multiply maps by channel gates and by spatial gates on planes; returns how many."""
    count = 0
    for node in list(model.graph):
        op = quantized_op(node) if node.op_type == "Mul" else None
        if op is None or len(op.inputs) != 2:  # two, or it is a product with a constant
            continue
        ends = [
            (shape(value) or (), tensor)
            for value, tensor in zip(node.inputs, op.inputs, strict=True)
            if value is not None
        ]
        (gate, opened), (x, source) = sorted(ends, key=lambda end: math.prod(end[0][1:]))
        if not _pays(x) or gate not in ((x[0], x[1], 1, 1), (x[0], 1, *x[2:])):
            continue
        edit = Editor(model, node)
        if gate[1] == 1:  # a spatial gate
            opened = Quantized(_planes(edit, opened.integers, gate), opened.scale, opened.zero_point)
        planes = Quantized(_planes(edit, source.integers, x), source.scale, source.zero_point)
        product = edit.node("Mul", [edit.dequantize(planes), edit.dequantize(opened)])
        replace(op.output.integers, _map(edit, edit.quantize(product, op.output), x))
        count += 1
    return count


def pool_planes(model: ir.Model) -> int:
    """Take channel maxima of integers and channel means on planes; returns how many.

    Each becomes a pool over "pixels" that are the channels, where the channels are the pixels: [n, h*w, c, 1].
    """
    count = 0
    for node in list(model.graph):
        if node.op_type not in ("ReduceMax", "ReduceMean") or reduced_axes(node) != OVER_CHANNELS:
            continue
        x = shape(node.inputs[0])
        op = quantized_op(node) if node.op_type == "ReduceMean" else None
        if x is None or not _pays(x) or x[1] == 1 or (op is None) != (node.op_type == "ReduceMax"):
            continue
        if op is None and node.inputs[0].dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
            continue
        edit = Editor(model, node)
        turned = edit.channels_first(_planes(edit, node.inputs[0] if op is None else op.inputs[0].integers, x))
        pooled = edit.node("MaxPool", [turned], kernel_shape=[x[1], 1]) if op is None else _mean(edit, op, turned)
        result = _map(edit, edit.channels_last(pooled), (x[0], 1, *x[2:]))
        replace(node.outputs[0] if op is None else op.output.integers, result)
        count += 1
    return count


def reduce_planes(model: ir.Model) -> int:
    """Take maxima of integers over all pixels on planes; returns how many."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "ReduceMax" or reduced_axes(node) != OVER_PIXELS:
            continue
        x = shape(node.inputs[0])
        if x is None or not _pays(x) or node.inputs[0].dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
            continue
        edit = Editor(model, node)
        replace(node.outputs[0], reduce_max(edit, _planes(edit, node.inputs[0], x), (3,)))
        count += 1
    return count


def _pays(x: tuple[int, ...]) -> bool:
    return len(x) == 4 and x[2] > 1


def _planes(edit: Editor, x: ir.Value, sizes: tuple[int, ...]) -> ir.Value:
    return edit.reshape(x, (BATCH, sizes[1], 1, sizes[2] * sizes[3]))


def _map(edit: Editor, x: ir.Value, sizes: tuple[int, ...]) -> ir.Value:
    return edit.reshape(x, (BATCH, *sizes[1:]))


def _mean(edit: Editor, op: QuantizedOp, turned: ir.Value) -> ir.Value:
    x = Quantized(turned, op.inputs[0].scale, op.inputs[0].zero_point)
    return edit.quantize(edit.node("GlobalAveragePool", [edit.dequantize(x)]), op.output)
