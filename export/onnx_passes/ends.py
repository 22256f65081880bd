"""What goes in and comes out of a file: the type of the images and how many there are at once."""

import numpy as np
import onnx
import onnx_ir as ir

from edgecbam.errors import EnvironmentFailure

from .graph import Editor, Pass, constant, replace


def input_quantization(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """(scale float32, zero point uint8) with which an int8 model quantizes its input; int8 is moved by 128.

    Raises:
        EnvironmentFailure: its input is not quantized first of all.
    """
    graph = ir.from_proto(model).graph
    for use in graph.inputs[0].uses():
        scale, zero_point = (constant(value) for value in use.node.inputs[1:])
        if use.node.op_type == "QuantizeLinear" and scale is not None and zero_point is not None:
            moved = 128 if zero_point.dtype == np.int8 else 0
            return scale, (zero_point.astype(np.int16) + moved).astype(np.uint8)
    raise EnvironmentFailure("the ONNX model does not quantize its input: use a tested version of tf2onnx")


def take_integers(scale: np.ndarray, zero_point: np.ndarray) -> Pass:
    """A pass that lets a model take its images as uint8: real = scale * (integer - zero point).

    The QuantizeLinear at the input of an int8 model goes; a float model gets a DequantizeLinear.
    """

    def take_integers(model: ir.Model) -> int:
        image = model.graph.inputs[0]
        first = [use.node for use in image.uses()]
        image.dtype = ir.DataType.UINT8
        if all(node.op_type == "QuantizeLinear" for node in first):
            for node in first:
                replace(node.outputs[0], image)
            return 1
        edit = Editor(model, first[0])
        real = edit.node("DequantizeLinear", [image, edit.constant(scale), edit.constant(zero_point)])
        for node in first:
            for index, value in enumerate(node.inputs):
                if value is image:
                    node.replace_input_with(index, real)
        return 1

    return take_integers


def set_batch(model: onnx.ModelProto, batch: int) -> None:
    """State the leading size of input and output; 0 leaves it free under the name ``batch``."""
    for value in [*model.graph.input, *model.graph.output]:
        leading = value.type.tensor_type.shape.dim[0]
        leading.Clear()
        if batch:
            leading.dim_value = batch
        else:
            leading.dim_param = "batch"
