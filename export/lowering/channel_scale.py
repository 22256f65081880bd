"""x * gate with a gate [1, 1, 1, c]: spread the gate over a row first, then multiply whole rows.

A runtime multiplies [1, h, w, c] by [1, 1, 1, c] with one short call a pixel. By [1, 1, w, c] it takes one call a row.
The spreading is RESIZE_BILINEAR from 1x1 to 1xw: interpolation between equal values, in int8 exact.

It paid on x86 where rows of channels are short: most at 16, hardly at 64, and it lost from 96 channels on.
"""

from typing import Any

import numpy as np

from edgecbam.export.tflite_graph import TfliteGraph, elements

MAX_CHANNELS = 64
MIN_PIXELS = 144


def spread_gates(graph: TfliteGraph) -> int:
    """Spread the channel gates of maps of at most 64 channels and at least 144 pixels; returns how many."""
    count = 0
    for op in list(graph.graph.operators):
        if graph.kind(op) == "MUL" and _pays(graph, op):
            _spread(graph, op, f"edgecbam/spread{count}")
            count += 1
    return count


def _pays(graph: TfliteGraph, op: Any) -> bool:
    x, gate = (int(tensor) for tensor in op.inputs)
    shape = graph.shape(x)
    if len(shape) != 4 or shape[0] != 1 or graph.shape(gate) != (1, 1, 1, shape[3]):
        return False
    if graph.dtype(gate) not in ("INT8", "FLOAT32") or gate not in graph.producer:
        return False
    return shape[3] <= MAX_CHANNELS and elements(shape[1:3]) >= MIN_PIXELS and shape[2] > 1


def _spread(graph: TfliteGraph, op: Any, name: str) -> None:
    x, gate = (int(tensor) for tensor in op.inputs)
    _, _, width, channels = graph.shape(x)
    row = graph.add_tensor(name, (1, 1, width, channels), like=gate)
    size = graph.add_int32(f"{name}/size", (1, width))
    version = 2 if graph.dtype(gate) == "INT8" else 1
    resize = graph.new_op("RESIZE_BILINEAR", [gate, size], [row], version, alignCorners=False, halfPixelCenters=False)
    op.inputs = np.array([x, row], np.int32)
    graph.replace([op], [resize, op])
