"""The gates of attention inside a .tflite file, made outputs of it.

The layers of every family name their gates ``BLOCK_channel_gate`` and ``BLOCK_spatial_gate``, or ``BLOCK_gate`` where
there is one kind alone; converter and lowering keep these names on the tensors that multiply the maps.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .tflite_graph import TfliteGraph

_NAME = re.compile(r"(?:^|[/;])(?:quant_)?([^/;]+?)(?:_(?:channel|spatial))?_gate/Sigmoid")


@dataclass(frozen=True)
class Gate:
    """A gate. ``block``: the prefix of its layers; ``kind``: ``channel`` [1, 1, 1, c] or ``spatial`` [1, h, w, 1]."""

    block: str
    kind: Literal["channel", "spatial"]


def expose(content: bytes, where: str, unsigned: bool = False) -> tuple[bytes, tuple[Gate, ...]]:
    """The file with its gates as further outputs, behind those that it has, and which gates they are, in order.

    A file without attention stays as it is.

    Args:
        content: a .tflite file.
        where: what errors call it.
        unsigned: whether int8 gates come out as uint8 of the same scale, for runtimes that give no int8.

    Raises:
        InputError: no whole .tflite file.
    """
    graph = TfliteGraph(content, where)
    gates, tensors = [], []
    for op in graph.graph.operators:
        for output in map(int, op.outputs):
            found = _NAME.search(graph.name(output))
            shape = graph.shape(output)
            if found and len(shape) == 4 and (shape[3] == 1 or shape[1:3] == (1, 1)):
                gates.append(Gate(found[1], "channel" if shape[1:3] == (1, 1) and shape[3] > 1 else "spatial"))
                tensors.append(output)
    if not gates:
        return content, ()
    if unsigned:
        tensors = [graph.to_uint8(tensor) if graph.dtype(tensor) == "INT8" else tensor for tensor in tensors]
    graph.graph.outputs = np.array([*graph.graph.outputs, *tensors], np.int32)
    graph.model.signatureDefs = []  # which names the old outputs alone
    return graph.to_bytes(), tuple(gates)
