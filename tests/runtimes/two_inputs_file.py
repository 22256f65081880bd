"""Writes (a + b) * a with two inputs [rows, 4], as a .tflite and as an .onnx file, in any type and with free rows."""

from typing import Any

import numpy as np

ROWS, COLUMNS = 1, 4


def tflite(dtype: str, free: bool = False) -> bytes:
    """``dtype`` as NumPy names it; ``free``: the number of rows is left open."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated

    schema: Any = schema_py_generated
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.subgraphs, model.buffers = 3, b"test", [graph], [schema.BufferT()]
    model.operatorCodes, graph.tensors, graph.operators, graph.name = [], [], [], b"main"
    for name in ("b", "a", "total", "product"):  # not in the order of the alphabet
        tensor = schema.TensorT()
        tensor.name, tensor.type = name.encode(), getattr(schema.TensorType, dtype.upper())
        tensor.shape = np.array((ROWS, COLUMNS), np.int32)
        if free:
            tensor.shapeSignature = np.array((-1, COLUMNS), np.int32)
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs = np.array([0, 1], np.int32), np.array([3], np.int32)
    for index, (kind, inputs, output) in enumerate((("ADD", (1, 0), 2), ("MUL", (2, 1), 3))):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        table = f"{kind.title()}Options"
        op.opcodeIndex, op.builtinOptionsType = index, getattr(schema.BuiltinOptions, table)
        op.builtinOptions = getattr(schema, f"{table}T")()
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        model.operatorCodes.append(code)
        graph.operators.append(op)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def onnx(dtype: str, free: bool = False) -> bytes:
    """As ``tflite``; a free number of rows is called ``rows``."""
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = {
        n: onnx.helper.make_tensor_value_info(n, kind, ["rows" if free else ROWS, COLUMNS]) for n in ("b", "a", "y")
    }
    nodes = [
        onnx.helper.make_node("Add", ["a", "b"], ["total"], name="total"),
        onnx.helper.make_node("Mul", ["total", "a"], ["y"], name="product"),
    ]
    graph = onnx.helper.make_graph(nodes, "main", [ends["b"], ends["a"]], [ends["y"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
