"""Small .onnx files around one op: DequantizeLinear, the op, QuantizeLinear; or the op on integers directly."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 8, 8, 8)
TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class Op:
    """What an op takes and gives.

    Attributes:
        attributes: by name.
        inputs: how many quantized activations it takes.
        shape: of each of them.
        weights: shapes of int8 weights, all 100, that it takes after them, behind a DequantizeLinear.
        constants: what else it takes, in this order; None for an input that is left out.
        first: whether the constants stand before the activations.
        outputs: how many it gives.
        result: type of its outputs where that is another than that of its inputs, and so not to be quantized.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: int = 1
    shape: Sequence[int | str] = SHAPE
    weights: Sequence[tuple[int, ...]] = ()
    constants: Sequence[np.ndarray | None] = ()
    first: bool = False
    outputs: int = 1
    result: str = ""


def _integers(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


_HALVES = {"kernel_shape": [2, 2], "strides": [2, 2]}
FUSED = {
    "Add": Op(inputs=2),
    "ArgMax": Op({"axis": 1}, result="int64"),
    "AveragePool": Op(_HALVES),
    "Clip": Op(),
    "Concat": Op({"axis": 1}, inputs=2),
    "Conv": Op({"pads": [1, 1, 1, 1]}, weights=[(8, 8, 3, 3)]),
    "DepthToSpace": Op({"blocksize": 2}),
    "Expand": Op(constants=[_integers(2, 8, 8, 8)]),
    "Flatten": Op(),
    "Gather": Op({"axis": 1}, constants=[_integers(0, 1)]),
    "GatherElements": Op({"axis": 1}, constants=[np.zeros(SHAPE, np.int64)]),
    "Gemm": Op(shape=(1, 8), weights=[(8, 8)]),
    "GlobalAveragePool": Op(),
    "Identity": Op(),
    "LeakyRelu": Op(),
    "MatMul": Op(shape=(1, 8), weights=[(8, 8)]),
    "MaxPool": Op(_HALVES),
    "Mul": Op(inputs=2),
    "ReduceMax": Op(constants=[_integers(1)]),
    "ReduceMin": Op(constants=[_integers(1)]),
    "Relu": Op(),
    "Reshape": Op(constants=[_integers(1, -1)]),
    "Resize": Op({"mode": "nearest"}, constants=[None, np.asarray([1, 1, 2, 2], np.float32)]),
    "Sigmoid": Op(),
    "Slice": Op(constants=[_integers(0), _integers(4), _integers(1)]),
    "Softmax": Op(),
    "Split": Op({"axis": 1, "num_outputs": 2}, outputs=2),
    "Squeeze": Op(constants=[_integers(0)]),
    "Tile": Op(constants=[_integers(2, 1, 1, 1)]),
    "Transpose": Op({"perm": [0, 2, 3, 1]}),
    "Unsqueeze": Op(constants=[_integers(0)]),
    "Where": Op(inputs=2, constants=[np.ones(SHAPE, bool)], first=True),
}
NOT_FUSED = {
    "GatherND": Op(constants=[_integers(0)]),
    "Max": Op(inputs=2),
    "Min": Op(inputs=2),
    "Pad": Op(constants=[_integers(0, 0, 1, 1, 0, 0, 1, 1)]),
    "SpaceToDepth": Op({"blocksize": 2}),
}
FLOAT = {
    "GlobalMaxPool": Op(),
    "HardSigmoid": Op(),
    "ReduceMean": Op(constants=[_integers(1)]),
    "ReduceSum": Op(constants=[_integers(1)]),
    "Tanh": Op(),
}


def write(path: Path, name: str, op: Op, activations: str = "uint8", ends: str = "quantized") -> Path:
    """Write the file.

    Args:
        path: where.
        name: of the op.
        op: what it takes.
        activations: ``"uint8"`` or ``"int8"``.
        ends: ``"quantized"``: integers at both ends, with DequantizeLinear and QuantizeLinear around the op;
            ``"float"``: the same with QuantizeLinear and DequantizeLinear around all that; ``"bare"``: the op alone,
            on integers.
    """
    zero_point = np.zeros((), activations)  # the lowest uint8: Relu then is part of the QuantizeLinear behind it
    constants = [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(zero_point, "zero")]
    nodes, taken = [], []
    outer, inner = TYPES["float32" if ends == "float" else activations], TYPES[activations]

    def add(kind: str, *names: str, output: str) -> str:
        nodes.append(helper.make_node(kind, [*names], [output], name=output))
        return output

    for i in range(op.inputs):
        at = f"in{i}"
        if ends == "float":
            at = add("QuantizeLinear", at, "scale", "zero", output=f"start{i}")
        taken.append(at if ends == "bare" else add("DequantizeLinear", at, "scale", "zero", output=f"real{i}"))
    for i, shape in enumerate(op.weights):
        constants += [
            numpy_helper.from_array(np.full(shape, 100, np.int8), f"weights{i}"),
            numpy_helper.from_array(np.float32(0.01), f"step{i}"),
            numpy_helper.from_array(np.int8(0), f"origin{i}"),
        ]
        taken.append(add("DequantizeLinear", f"weights{i}", f"step{i}", f"origin{i}", output=f"kernel{i}"))
    names = ["" if value is None else f"constant{i}" for i, value in enumerate(op.constants)]
    constants += [numpy_helper.from_array(v, n) for v, n in zip(op.constants, names, strict=True) if v is not None]
    results = [f"result{i}" for i in range(op.outputs)]
    order = [*names, *taken] if op.first else [*taken, *names]
    nodes.append(helper.make_node(name, order, results, name="the_op", **op.attributes))
    outs = []
    for i, at in enumerate(results):
        if op.result or ends == "bare":
            outs.append(helper.make_tensor_value_info(at, TYPES[op.result] if op.result else inner, None))
            continue
        at = add("QuantizeLinear", at, "scale", "zero", output=f"out{i}")
        if ends == "float":
            at = add("DequantizeLinear", at, "scale", "zero", output=f"end{i}")
        outs.append(helper.make_tensor_value_info(at, outer, None))
    ins = [helper.make_tensor_value_info(f"in{i}", outer, op.shape) for i in range(op.inputs)]
    graph = helper.make_graph(nodes, name, ins, outs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path
