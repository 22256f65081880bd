"""Look-ups and edits that the passes share, on onnx_ir's graph (https://onnx.ai/ir-py).

The quantized form is QDQ: a float op between DequantizeLinear and QuantizeLinear, which a runtime may fuse into an
integer kernel. A tensor of integers with its scale and zero point is a Quantized here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

Pass = Callable[[ir.Model], int]
BATCH = 0  # in the shape of a Reshape: as in the input


@dataclass(frozen=True)
class Quantized:
    """Integers and what they mean: real = scale * (integers - zero_point)."""

    integers: ir.Value
    scale: np.ndarray
    zero_point: np.ndarray

    def same_meaning(self, other: "Quantized") -> bool:
        """Whether equal integers are equal real numbers."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)


@dataclass(frozen=True)
class QuantizedOp:
    """A float op whose inputs are dequantized and whose only reader quantizes."""

    node: ir.Node
    inputs: tuple[Quantized, ...]
    output: Quantized


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant, None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return np.asarray(value.const_value.numpy())


def shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape, with -1 for a free batch; None where another dimension is unknown."""
    if value.shape is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in value.shape]
    return None if -1 in sizes[1:] else tuple(sizes)


def dequantized(value: ir.Value | None) -> Quantized | None:
    """What a DequantizeLinear with constant scale and zero point reads, or None where ``value`` is not made by one."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) != 3 or node.inputs[0] is None:
        return None
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2])
    return None if scale is None or zero_point is None else Quantized(node.inputs[0], scale, zero_point)


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, or None."""
    readers = list(value.uses())
    return readers[0].node if len(readers) == 1 and not value.is_graph_output() else None


def quantized_op(node: ir.Node) -> QuantizedOp | None:
    """A node with what stands around it, or None where that is not QDQ; constants such as axes may be among inputs."""
    found = [dequantized(value) for value in node.inputs if constant(value) is None]
    reader = only_reader(node.outputs[0])
    if None in found or reader is None or reader.op_type != "QuantizeLinear" or len(reader.inputs) != 3:
        return None
    scale, zero_point = constant(reader.inputs[1]), constant(reader.inputs[2])
    if scale is None or zero_point is None:
        return None
    inputs = tuple(entry for entry in found if entry is not None)
    return QuantizedOp(node, inputs, Quantized(reader.outputs[0], scale, zero_point))


class Editor:
    """Puts new nodes in front of a node of the graph."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        self.graph = model.graph
        self.before = before

    def constant(self, value: Any) -> ir.Value:
        """A new initializer with this value; ``tidy`` makes equal ones one."""
        number = len(self.graph.initializers)
        while f"constant_{number}" in self.graph.initializers:
            number += 1
        made = ir.val(f"constant_{number}", const_value=ir.tensor(np.asarray(value)))
        self.graph.register_initializer(made)
        return made

    def node(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A new node; returns its output."""
        made = ir.node(op, inputs, attributes=attributes or None)
        self.graph.insert_before(self.before, made)
        return made.outputs[0]

    def dequantize(self, tensor: Quantized, axis: int | None = None) -> ir.Value:
        """Real numbers."""
        attributes = {} if axis is None else {"axis": axis}
        inputs = [tensor.integers, self.constant(tensor.scale), self.constant(tensor.zero_point)]
        return self.node("DequantizeLinear", inputs, **attributes)

    def quantize(self, real: ir.Value, like: Quantized) -> ir.Value:
        """Integers of the scale and zero point of ``like``."""
        return self.node("QuantizeLinear", [real, self.constant(like.scale), self.constant(like.zero_point)])

    def reshape(self, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
        """The same numbers in another shape; a size of BATCH is that of the input."""
        return self.node("Reshape", [value, self.constant(np.array(sizes, np.int64))])

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """The axes in another order."""
        return self.node("Transpose", [value], perm=list(order))

    def channels_first(self, value: ir.Value) -> ir.Value:
        """[n, h, w, c] as [n, c, h, w]."""
        return self.transpose(value, (0, 3, 1, 2))

    def channels_last(self, value: ir.Value) -> ir.Value:
        """[n, c, h, w] as [n, h, w, c]."""
        return self.transpose(value, (0, 2, 3, 1))


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads ``old`` read ``new``; what has no reader then is swept by ``tidy``."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
        new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def tidy(model: ir.Model) -> None:
    """Drop what nothing reads, make equal constants and equal nodes one, and infer all shapes anew."""
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape, output.type = None, None
    common.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
