"""Small quantized graphs, from nothing: what a pass is tried on.

Scales are powers of two, so that float32 holds every sum exactly and equal means equal.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


class QdqGraph:
    """Collects nodes; ``quantized`` values are uint8 with a scale and a zero point, on their way from op to op."""

    def __init__(self, shape: Sequence[int], scale: float = 2.0**-5, zero_point: int = 131) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = list(shape)
        self.input = self.quantize("x", scale, zero_point)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def quantize(self, real: str, scale: float, zero_point: int) -> tuple[str, str, str]:
        s, z = self.constant(np.float32(scale)), self.constant(np.uint8(zero_point))
        return self.op("QuantizeLinear", [real, s, z]), s, z

    def real(self, quantized: tuple[str, str, str]) -> str:
        return self.op("DequantizeLinear", quantized)

    def weights(self, integers: np.ndarray, scale: Any) -> str:
        s = np.asarray(scale, np.float32)
        zero = np.zeros(s.shape, integers.dtype)
        axis = {"axis": 0} if s.ndim else {}
        return self.op("DequantizeLinear", [self.constant(integers), self.constant(s), self.constant(zero)], **axis)

    def model(self, output: tuple[str, str, str], opset: int = 17) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("DequantizeLinear", output, ["y"], name="y"))
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(made, full_check=True)
        return made


def run(model: onnx.ModelProto, x: np.ndarray, level: str = "ORT_DISABLE_ALL") -> np.ndarray:
    """The output of a model for an input, under a level of graph optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def operators(model: onnx.ModelProto, level: str = "ORT_ENABLE_ALL") -> list[str]:
    """The ops that ONNX Runtime makes of a model."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
