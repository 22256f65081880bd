"""A maximum over square windows as one over columns and one over rows: MAX_POOL_2D k x k of stride 1.

The largest of all pixels of a window is the largest of its rows' largest: 2k comparisons instead of k². Only compares,
so it is exact, also at the border, where SAME padding leaves out what lies outside the map.
"""

from typing import Any

from edgecbam.export.tflite_graph import TfliteGraph

SAME = 0  # Padding in schema.fbs
NONE = 0  # ActivationFunctionType
MIN_SIDE = 4  # a window of 3x3 is one pass of XNNPACK's kernel as it is


def slide_by_axis(graph: TfliteGraph) -> int:
    """Rewrite MAX_POOL_2D of stride 1 and SAME padding with windows of at least MIN_SIDE a side; returns how many."""
    count = 0
    for op in list(graph.graph.operators):
        if graph.kind(op) == "MAX_POOL_2D" and _slides(op.builtinOptions):
            x, output = int(op.inputs[0]), int(op.outputs[0])
            rows = graph.add_tensor(f"edgecbam/window{count}", graph.shape(output), like=output)
            options = vars(op.builtinOptions)
            along = {**options, "filterHeight": 1}, {**options, "filterWidth": 1}
            version = graph.version(op)
            first = graph.new_op("MAX_POOL_2D", [x], [rows], version, **along[0])
            second = graph.new_op("MAX_POOL_2D", [rows], [output], version, **along[1])
            graph.replace([op], [first, second])
            count += 1
    return count


def _slides(options: Any) -> bool:
    strides = options.strideH, options.strideW
    sides = options.filterHeight, options.filterWidth
    fused = options.fusedActivationFunction
    return strides == (1, 1) and min(sides) >= MIN_SIDE and options.padding == SAME and fused == NONE
