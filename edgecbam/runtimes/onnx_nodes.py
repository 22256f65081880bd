"""Which nodes run on integers and which in float, and why, as ONNX Runtime itself tells in the trace of an inference.

A file says what is quantized; what runs is decided by ONNX Runtime when it optimises the graph. DequantizeLinear,
an op and QuantizeLinear become one integer kernel where it knows how, and stay three nodes where it does not. The
trace lists the nodes that ran, with the types of what they took and gave, and needs no other package to be read.

The two lists of ops below were found by running each op; tests/runtimes/test_onnx_nodes.py runs them all again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# fmt: off
# DequantizeLinear, the op and QuantizeLinear become one integer kernel.
FUSED = frozenset((
    "Add", "ArgMax", "AveragePool", "Clip", "Concat", "Conv", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "Gemm", "GlobalAveragePool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "ReduceMax",
    "ReduceMin", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze", "Where",
))
# fmt: on
# They have kernels for 8-bit integers, but stay float between DequantizeLinear and QuantizeLinear.
NOT_FUSED = frozenset(("GatherND", "Max", "Min", "Pad", "SpaceToDepth"))

FLOAT_MODEL = "a float model"
INPUT = "converts the input"
OUTPUT = "converts the output"
INSIDE = "converts between integers and float inside the graph"
CONSTANT = "converts weights or another constant at every inference"
DID_NOT_FUSE = "it has an integer kernel, but is not between DequantizeLinear and QuantizeLinear that fuse with it"
NEVER_FUSES = "ONNX Runtime does not fuse DequantizeLinear and QuantizeLinear with it, though it has an integer kernel"
NO_KERNEL = "ONNX Runtime's CPU provider has no integer kernel for it"
LAYOUT = "rearranges data for a float Conv"
MIXED = "takes integers and float at once"

EVERY_NODE = "every node"  # stands for the ops of a float model
_KERNEL = "_kernel_time"
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
_QUANTIZED = ("int8", "uint8", "int16", "uint16", "int4", "uint4")
_TRACE_NAMES = {"float32": "float", "float64": "double"}

Tensor = tuple[str, tuple[int, ...]]  # type, as the trace names it, and shape


@dataclass(frozen=True)
class Node:
    """A node that ran. ``constant``: all its inputs are fixed, such as a DequantizeLinear of weights."""

    name: str
    op: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constant: bool

    @property
    def kind(self) -> str:
        """``"integer"`` where data and outputs are quantized integers, ``"float"``, or ``"other"``, such as shapes."""
        types = [kind for kind, _ in (*self.inputs, *self.outputs)]
        # QLinear… take scales among their inputs, some of them first; Resize takes them after its data
        data_is_float = bool(self.inputs) and _is_float(self.inputs[0][0]) and not self.op.startswith("Q")
        if data_is_float or self.op in _CONVERSIONS[:3] or any(_is_float(kind) for kind, _ in self.outputs):
            return "float"
        return "integer" if any(kind in _QUANTIZED for kind in types) else "other"


def count(
    events: Iterable[Mapping[str, Any]], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Count the nodes of a trace.

    Args:
        events: the trace of one inference.
        inputs: what the model took, to know the conversions at its start.
        outputs: what it gave, to know those at its end.

    Returns:
        JSON values: ``total``, ``integer``, ``float`` and ``other`` are numbers of nodes; ``in_float`` lists the float
        ones, as ``{"op", "count", "reason", "names"}`` for each op and reason. A float model has one entry without
        names.

    Raises:
        ValueError: the trace lists no node.
    """
    nodes = executed(events)
    if not nodes:
        raise ValueError("the trace lists no node")
    kinds = [node.kind for node in nodes]
    groups: dict[tuple[str, str], list[str]] = {}
    for index, node in enumerate(nodes):
        if node.kind == "float":
            groups.setdefault((node.op, _reason(index, nodes, _ends(inputs), _ends(outputs))), []).append(node.name)
    in_float = [
        {"op": op, "count": len(names), "reason": reason, "names": names} for (op, reason), names in groups.items()
    ]
    in_floats = kinds.count("float")
    if in_float and not any(_is_quantized(node.op) for node in nodes):
        in_float = [{"op": EVERY_NODE, "count": in_floats, "reason": FLOAT_MODEL, "names": []}]
    return {
        "total": len(nodes),
        "integer": kinds.count("integer"),
        "float": in_floats,
        "other": kinds.count("other"),
        "in_float": in_float,
    }


def executed(events: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes of a trace in the order in which they ran, each once, though a loop may run it often."""
    nodes: dict[tuple[str, str], Node] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL):
            continue
        arguments = event["args"]
        name = event["name"].removesuffix(_KERNEL)
        node = Node(
            name,
            arguments["op_name"],
            _tensors(arguments["input_type_shape"]),
            _tensors(arguments["output_type_shape"]),
            int(arguments["activation_size"]) == 0 and int(arguments["parameter_size"]) > 0,
        )
        nodes.setdefault((name, arguments["node_index"]), node)
    return list(nodes.values())


def _tensors(listed: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple((kind, tuple(shape)) for entry in listed for kind, shape in entry.items())


def _ends(arrays: Sequence[np.ndarray]) -> set[Tensor]:
    return {(_TRACE_NAMES.get(array.dtype.name, array.dtype.name), array.shape) for array in arrays}


def _is_float(kind: str) -> bool:
    return kind == "double" or kind.startswith(("float", "bfloat"))


def _is_quantized(op: str) -> bool:
    """Whether an op is only found in quantized graphs."""
    return "Quantize" in op or "Integer" in op or "NBits" in op or op.startswith(("QLinear", "QGemm", "QAttention"))


def _reason(index: int, nodes: Sequence[Node], starts: set[Tensor], ends: set[Tensor]) -> str:
    """Why a node is float. The trace names no edges, so where a conversion stands is told by type and shape."""
    node = nodes[index]
    op = node.op.removeprefix("Fused")
    if op in _CONVERSIONS and _converts(node):
        if node.constant:
            return CONSTANT
        if node.inputs[0] in starts and not any(node.inputs[0] in earlier.outputs for earlier in nodes[:index]):
            return INPUT
        if node.outputs[0] in ends and not any(node.outputs[0] in later.inputs for later in nodes[index + 1 :]):
            return OUTPUT
        return INSIDE
    if op in ("ReorderInput", "ReorderOutput"):
        return LAYOUT
    if any(kind in _QUANTIZED for kind, _ in node.inputs):
        return MIXED
    if op in FUSED:
        return DID_NOT_FUSE
    return NEVER_FUSES if op in NOT_FUSED else NO_KERNEL


def _converts(node: Node) -> bool:
    """Float on one side and integers on the other; a Cast from float16 to float32 is no such thing."""
    return _is_float(node.inputs[0][0]) != _is_float(node.outputs[0][0])
