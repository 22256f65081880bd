"""Reshapes and transposes: none more than needed."""

import onnx_ir as ir

from .graph import BATCH, Editor, constant, replace, shape


def free_batch(model: ir.Model) -> int:
    """Let every Reshape that keeps a leading 1 keep the leading size of its input instead; returns how many.

    Without it a file is bound to one image by its constants, whatever its input says.
    """
    count = 0
    for node in list(model.graph):
        sizes = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        source = None if sizes is None else shape(node.inputs[0])
        if sizes is None or source is None or not sizes.size or sizes[0] != 1 or source[0] != 1:
            continue
        free = sizes.copy()
        free[0] = BATCH
        node.replace_input_with(1, Editor(model, node).constant(free))
        count += 1
    return count


def merge_reshapes(model: ir.Model) -> int:
    """Let a Reshape read what the Reshape before it read, and drop those that change nothing; returns how many."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.outputs[0].is_graph_output():
            continue
        before = node.inputs[0].producer()
        if before is not None and before.op_type == "Reshape" and _is_free_view(node, before):
            node.replace_input_with(0, before.inputs[0])
            count += 1
        source, target = shape(node.inputs[0]), shape(node.outputs[0])
        if source is not None and source == target:
            replace(node.outputs[0], node.inputs[0])
            count += 1
    return count


def _is_free_view(node: ir.Node, before: ir.Node) -> bool:
    """Whether the new shape would be the same on the input of the Reshape before."""
    sizes, sizes_before = constant(node.inputs[1]), constant(before.inputs[1])
    if sizes is None or sizes_before is None or BATCH in sizes[1:] or not sizes.size or not sizes_before.size:
        return False
    return bool(sizes[0] != BATCH or sizes_before[0] == BATCH)
