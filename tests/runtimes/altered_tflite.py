"""Model files that differ from those of tests/fixtures in one thing, made from their flatbuffers."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IMAGE, DENSE, KERNEL, CONVOLVED = 0, 2, 5, 6  # tensors of tiny_fp32.tflite


def enlarged(source: Path, target: Path, size: int) -> Path:
    """tiny_fp32.tflite for images of ``size`` x ``size``: an inference that takes a while."""
    model = _read(source)
    for index in (IMAGE, CONVOLVED):
        tensor = model.subgraphs[0].tensors[index]
        tensor.shape = [1, size, size, tensor.shape[3]]
    return _write(model, target)


def half_weights(source: Path, target: Path) -> Path:
    """tiny_fp32.tflite with its weights in 16-bit floats, as a converter that shrinks files writes it."""
    model = _read(source)
    graph = model.subgraphs[0]
    code = _code("DEQUANTIZE")
    model.operatorCodes.append(code)
    for index in (DENSE, KERNEL):
        tensor = graph.tensors[index]
        weights = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
        buffer, stored, widen = schema.BufferT(), schema.TensorT(), schema.OperatorT()
        buffer.data = np.frombuffer(weights.astype(np.float16).tobytes(), np.uint8)
        model.buffers.append(buffer)
        stored.name, stored.shape, stored.type = tensor.name + b"/half", tensor.shape, schema.TensorType.FLOAT16
        stored.buffer, tensor.buffer = len(model.buffers) - 1, 0
        graph.tensors.append(stored)
        widen.opcodeIndex, widen.inputs, widen.outputs = len(model.operatorCodes) - 1, [len(graph.tensors) - 1], [index]
        graph.operators.insert(0, widen)
    return _write(model, target)


def other_last_op(source: Path, target: Path, name: str) -> Path:
    """A model whose last op is another one without options, such as BITWISE_XOR."""
    model = _read(source)
    model.operatorCodes.append(_code(name))
    last = model.subgraphs[0].operators[-1]
    last.opcodeIndex = len(model.operatorCodes) - 1
    last.builtinOptionsType, last.builtinOptions = schema.BuiltinOptions.NONE, None
    return _write(model, target)


def _code(name: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1
    return code


def _read(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(path.read_bytes()), 0))


def _write(model: Any, path: Path) -> Path:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
