"""Model files that differ from tiny_fp32.onnx of tests/fixtures in one thing, and one that no GPU takes whole."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def enlarged(source: Path, target: Path, size: int) -> Path:
    """For images of ``size`` x ``size``: an inference that takes a while."""
    model = onnx.load(source)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).tolist() == [1, 1, 8, 8]:  # the shape that the image gets
            tensor.CopyFrom(numpy_helper.from_array(np.array([1, 1, size, size]), tensor.name))
    onnx.save(model, target)
    return target


def halved(source: Path, target: Path) -> Path:
    """In 16-bit floats throughout."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, target)
    return target


def integer_convolution(target: Path) -> Path:
    """ConvInteger, Cast, Relu: WebGPU has no kernel for the first."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 8, 8])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 2, 6, 6])
    kernel = numpy_helper.from_array(np.arange(18, dtype=np.uint8).reshape(2, 1, 3, 3), "kernel")
    nodes = [
        helper.make_node("ConvInteger", ["image", "kernel"], ["sums"], name="convolution"),
        helper.make_node("Cast", ["sums"], ["real"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["real"], ["features"], name="relu"),
    ]
    graph = helper.make_graph(nodes, "main", [image], [features], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), target)
    return target
