"""Means: of integers with ties that round as in LiteRT, of float channels as one product."""

import numpy as np
import onnx_ir as ir

from .graph import BATCH, Editor, Quantized, quantized_op, replace, shape
from .maxima import OVER_PIXELS, keeps_axes, named_axes, reduced_axes

MEANS = ("ReduceMean", "GlobalAveragePool")
OVER_PIXELS_FIRST = (1, 2)  # of a map [n, h, w, c]


def average_integers(model: ir.Model) -> int:
    """Average the integers themselves; returns how many means were rewritten.

    A mean over 2^k values that keeps their scale ends exactly half-way between two integers in one case of 2^k. LiteRT
    then rounds the mean of the stored integers, zero point included, half to even; a mean of dequantized values is off
    by float rounding and breaks such ties at random. DequantizeLinear with scale 1 keeps the sum exact, QuantizeLinear
    takes the quotient of the two scales, and where input and output share scale and zero point both have zero point 0.

    A ReduceMean over all pixels becomes a GlobalAveragePool: ONNX Runtime has an integer kernel for that one alone.
    """
    count = 0
    for node in list(model.graph):
        op = quantized_op(node) if node.op_type in MEANS else None
        if op is None or op.inputs[0].scale.size != 1:
            continue
        x, output = op.inputs[0], op.output
        kept = x.same_meaning(output)
        zero = np.zeros_like(x.zero_point)
        edit = Editor(model, node)
        unit = Quantized(x.integers, np.ones_like(x.scale), zero if kept else x.zero_point)
        quotient = Quantized(output.integers, output.scale / x.scale, zero if kept else output.zero_point)
        pooled = _pool(edit, node, unit, quotient)
        if pooled is None:
            mean = edit.node(node.op_type, [edit.dequantize(unit), *node.inputs[1:]], **dict(node.attributes))
            pooled = edit.quantize(mean, quotient)
        replace(output.integers, pooled)
        count += 1
    return count


def _pool(edit: Editor, node: ir.Node, unit: Quantized, quotient: Quantized) -> ir.Value | None:
    """A ReduceMean over all pixels of a map as a GlobalAveragePool; None for any other mean."""
    x, axes = shape(node.inputs[0]), named_axes(node) if node.op_type == "ReduceMean" else None
    if x is None or len(x) != 4 or axes not in (OVER_PIXELS, OVER_PIXELS_FIRST):
        return None
    integers = edit.channels_first(unit.integers) if axes == OVER_PIXELS_FIRST else unit.integers
    real = edit.dequantize(Quantized(integers, unit.scale, unit.zero_point))
    pooled = edit.quantize(edit.node("GlobalAveragePool", [real]), quotient)
    if not keeps_axes(node):
        return edit.reshape(pooled, (BATCH, x[3] if axes == OVER_PIXELS_FIRST else x[1]))
    return edit.channels_last(pooled) if axes == OVER_PIXELS_FIRST else pooled


def average_by_product(model: ir.Model) -> int:
    """Take float32 means over channels as products with a row of 1/c; returns how many.

    A runtime reduces an axis that is not the last with short strides. [1, c] times [n, c, h*w] reads whole rows; it is
    faster in ONNX Runtime on x86. The sum has another order.
    """
    count = 0
    for node in list(model.graph):
        x = shape(node.inputs[0]) if node.op_type == "ReduceMean" and reduced_axes(node) == (1,) else None
        if x is None or len(x) != 4 or x[1] == 1 or node.inputs[0].dtype != ir.DataType.FLOAT:
            continue
        edit = Editor(model, node)
        shares = edit.constant(np.full((1, x[1]), 1 / x[1], np.float32))
        product = edit.node("MatMul", [shares, edit.reshape(node.inputs[0], (BATCH, x[1], x[2] * x[3]))])
        replace(node.outputs[0], edit.reshape(product, (BATCH, 1, x[2], x[3])))
        count += 1
    return count
