"""Small graph passes over tf2onnx's output: the int8 file computes what the int8 .tflite computes, on integers, fast.

Each pass changes one thing of an onnx_ir.Model in place, states its rule, and returns how often it found something to
do. docs/onnx.md explains them with figures.

    means.py         means whose ties round as in LiteRT; float channel means as products
    unsigned.py      uint8 activations; Relus that the clamp already does
    maxima.py        maxima of the integers themselves
    planes.py        gates and pools of attention on rows of pixels
    pixel_groups.py  convolutions from few channels on groups of pixels
    pixel_blocks.py  float convolutions to one channel on blocks of pixels
    weights.py       weights of its own for every reader
    shapes.py        a free batch; no Reshape too many
    ends.py          images as uint8; how many at once
    naming.py        equal graphs have equal bytes
"""

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from . import maxima, means, pixel_blocks, pixel_groups, planes, shapes, unsigned, weights
from .ends import input_quantization, set_batch, take_integers
from .graph import Pass, tidy
from .naming import order_and_number, rename_ends

__all__ = [
    "FLOAT",
    "FLOAT_LOWERING",
    "INT8",
    "INT8_LOWERING",
    "Pass",
    "input_quantization",
    "order_and_number",
    "rename_ends",
    "rewrite",
    "set_batch",
    "take_integers",
]

# What makes an int8 file compute the integers of the .tflite file in the types that runtimes have kernels for.
INT8: tuple[Pass, ...] = (
    shapes.free_batch,
    shapes.merge_reshapes,
    means.average_integers,
    unsigned.unsigned_activations,
    unsigned.drop_clamped_relus,
    maxima.maximum_of_integers,
)
FLOAT: tuple[Pass, ...] = (shapes.free_batch, shapes.merge_reshapes)
# Attention and thin convolutions in the form that runs fast.
INT8_LOWERING: tuple[Pass, ...] = (
    planes.gate_planes,
    planes.pool_planes,
    planes.reduce_planes,
    pixel_groups.group_pixels,
    shapes.merge_reshapes,
)
FLOAT_LOWERING: tuple[Pass, ...] = (means.average_by_product, pixel_blocks.convolve_blocks, shapes.merge_reshapes)


def rewrite(model: onnx.ModelProto, passes: Sequence[Pass]) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Run passes over a model.

    Args:
        model: with one graph; it is left alone.
        passes: what to do, in order.

    Returns:
        The new model, and how often each pass found something to do, by the name of the pass.
    """
    graph = ir.from_proto(model)
    tidy(graph)
    rewrites: dict[str, int] = {}
    for step in passes:
        found = step(graph)
        if found:
            tidy(graph)
            rewrites[step.__name__] = rewrites.get(step.__name__, 0) + found
    weights.own_weights(graph)
    common.RemoveUnusedNodesPass()(graph)
    common.RemoveUnusedOpsetsPass()(graph)
    return ir.to_proto(graph), rewrites
