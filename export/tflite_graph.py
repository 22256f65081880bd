"""A .tflite file that can be rewritten: ops found by name, tensors and ops added, what nothing reads left out.

The schema is that of tensorflow/compiler/mlir/lite/schema/schema.fbs, as ai-edge-litert ships it for Python. Files with
one subgraph are handled, which is what a classifier converts to.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecbam.errors import InputError

from . import tflite_file

DTYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32}


class TfliteGraph:
    """The only subgraph of a model. ``ops`` may be replaced; look-ups are made new by ``refresh``.

    Raises:
        InputError: the content is no whole .tflite file or has several subgraphs.
    """

    def __init__(self, content: bytes, where: str) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.model: Any = tflite_file.parse(content, where)
        if len(self.model.subgraphs) != 1:
            raise InputError(f"{where} has {len(self.model.subgraphs)} subgraphs: only files with one can be rewritten")
        self.graph: Any = self.model.subgraphs[0]
        self._op_names = tflite_file.names(self.schema.BuiltinOperator)
        self._type_names = tflite_file.names(self.schema.TensorType)
        self.refresh()

    def refresh(self) -> None:
        """Renew the look-ups ``producer`` (op by tensor) and ``consumers`` (ops by tensor) from the list of ops."""
        self.producer: dict[int, Any] = {}
        self.consumers: dict[int, list[Any]] = defaultdict(list)
        for op in self.graph.operators:
            self.producer.update((int(tensor), op) for tensor in op.outputs)
            for tensor in op.inputs:
                self.consumers[int(tensor)].append(op)

    def kind(self, op: Any) -> str:
        """Name of an op, such as ``CONV_2D``."""
        code = self.model.operatorCodes[op.opcodeIndex]
        return str(self._op_names[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def version(self, op: Any) -> int:
        """Version of an op's kernel interface."""
        return int(self.model.operatorCodes[op.opcodeIndex].version)

    def name(self, tensor: int) -> str:
        """Name of a tensor."""
        return str(self.graph.tensors[tensor].name.decode("utf-8", "replace"))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor; () for a scalar."""
        shape = self.graph.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, tensor: int) -> str:
        """Type of a tensor as in the schema, such as ``INT8``."""
        return str(self._type_names[self.graph.tensors[tensor].type])

    def constant(self, tensor: int) -> np.ndarray | None:
        """The value of a constant tensor; None for one that is computed or of a type not in DTYPES."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        dtype = DTYPES.get(self.dtype(tensor))
        if data is None or len(data) == 0 or dtype is None:
            return None
        return np.frombuffer(bytes(data), dtype).reshape(self.shape(tensor))

    def quantization(self, tensor: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(scales float32, zero points int64) of a tensor; None where it is not quantized."""
        found = self.graph.tensors[tensor].quantization
        if found is None or found.scale is None or not len(found.scale):
            return None
        return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint, np.int64)

    def same_quantization(self, first: int, second: int) -> bool:
        """Whether two tensors have the same scales and zero points, or both none."""
        a, b = self.quantization(first), self.quantization(second)
        if a is None or b is None:
            return a is b
        return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])

    def axes(self, op: Any) -> tuple[int, ...]:
        """The reduced axes of a MEAN or REDUCE_MAX, from 0, sorted."""
        value = self.constant(int(op.inputs[1]))
        rank = len(self.shape(int(op.inputs[0])))
        return () if value is None else tuple(sorted(int(axis) % rank for axis in np.ravel(value)))

    def requantization_scales(self) -> dict[str, float]:
        """scale_in * scale_weight / scale_out of int8 convolutions and dense layers, the largest, by output name."""
        found = {}
        for op in self.graph.operators:
            if self.kind(op) not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                continue
            three = [self.quantization(int(t)) for t in (op.inputs[0], op.inputs[1], op.outputs[0])]
            if self.dtype(int(op.outputs[0])) != "INT8" or None in three:
                continue
            source, weights, output = (float(q[0].max()) for q in three if q is not None)
            found[self.name(int(op.outputs[0]))] = source * weights / output
        return found

    def cut_biases(self) -> list[str]:
        """Names of the outputs of int8 convolutions and dense layers with a bias at the end of what int32 holds."""
        found = []
        for op in self.graph.operators:
            if self.kind(op) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and len(op.inputs) > 2:
                bias = None if int(op.inputs[2]) < 0 else self.constant(int(op.inputs[2]))
                if bias is not None and bias.dtype == np.int32 and np.abs(bias.astype(np.int64)).max() >= 2**31 - 1:
                    found.append(self.name(int(op.outputs[0])))
        return found

    def only_consumer(self, tensor: int) -> Any | None:
        """The op that reads a tensor, if there is just one and the tensor is no output of the model."""
        readers = self.consumers[tensor]
        if len(readers) != 1 or tensor in [int(output) for output in self.graph.outputs]:
            return None
        return readers[0]

    def add_tensor(self, name: str, shape: Sequence[int], like: int, data: np.ndarray | None = None) -> int:
        """Add a tensor with type and quantization of ``like``; with ``data`` a constant, which must have that type."""
        tensor = copy.deepcopy(self.graph.tensors[like])
        tensor.name, tensor.shape, tensor.shapeSignature = name.encode(), np.array(shape, np.int32), None
        tensor.isVariable = False
        tensor.buffer = 0 if data is None else self._add_buffer(data)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_int32(self, name: str, values: Any) -> int:
        """Add an int32 constant: a shape, an order, paddings, a bias."""
        array = np.asarray(values, np.int32)
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), np.array(array.shape, np.int32), self._type("INT32")
        tensor.buffer = self._add_buffer(array)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def set_quantization(self, tensor: int, scale: float, zero_point: int) -> None:
        """Give a tensor one scale and zero point."""
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = np.array([scale], np.float32)
        quantization.zeroPoint = np.array([zero_point], np.int64)
        quantization.quantizedDimension = 0
        self.graph.tensors[tensor].quantization = quantization

    def unsigned_like(self, tensor: int) -> int:
        """Add a uint8 tensor that stands for the same real values as a quantized int8 one, each integer 128 larger."""
        quantization = self.quantization(tensor)
        assert quantization is not None
        added = self.add_tensor(self.name(tensor), self.shape(tensor), like=tensor)
        self.graph.tensors[added].type = self.schema.TensorType.UINT8
        self.set_quantization(added, float(quantization[0][0]), int(quantization[1][0]) + 128)
        return added

    def to_uint8(self, tensor: int) -> int:
        """Put a QUANTIZE op behind a quantized int8 tensor; returns its uint8 output."""
        added = self.unsigned_like(tensor)
        self.graph.operators = [*self.graph.operators, self.new_op("QUANTIZE", [tensor], [added])]
        return added

    def set_channel_scales(self, tensor: int, scales: Sequence[float]) -> None:
        """Give a constant a scale for each slice along its first axis, and zero points of 0."""
        self.set_quantization(tensor, 1.0, 0)
        quantization = self.graph.tensors[tensor].quantization
        quantization.scale = np.asarray(scales, np.float32)
        quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)

    def new_op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> Any:
        """Make an op that is not yet in the list. ``options`` are fields of the schema's options table of the kind."""
        op = self.schema.OperatorT()
        op.opcodeIndex = self._operator_code(kind, version)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        table = OPTIONS.get(kind)
        if table is not None:
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, table)
            op.builtinOptions = getattr(self.schema, f"{table}T")()
            for key, value in options.items():
                if not hasattr(op.builtinOptions, key):
                    raise AttributeError(f"{table} has no field {key}")
                setattr(op.builtinOptions, key, value)
        return op

    def replace(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Put ``new`` where the last of ``old`` stands in the list and take out all of ``old``."""
        gone = {id(op) for op in old}
        last = max(index for index, op in enumerate(self.graph.operators) if id(op) in gone)
        before = [op for op in self.graph.operators[:last] if id(op) not in gone]
        self.graph.operators = [*before, *new, *self.graph.operators[last + 1 :]]
        self.refresh()

    def to_bytes(self) -> bytes:
        """The file, without ops, tensors and buffers that nothing reads."""
        import flatbuffers

        self._drop_unused()
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _type(self, name: str) -> int:
        return int(getattr(self.schema.TensorType, name))

    def _add_buffer(self, data: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def _operator_code(self, kind: str, version: int) -> int:
        value = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == value and code.version == version:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = value, version
        code.deprecatedBuiltinCode = min(value, 127)  # 127 says: see builtinCode (schema.fbs)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _drop_unused(self) -> None:
        read = {int(tensor) for tensor in self.graph.outputs}
        kept = []
        for op in reversed(self.graph.operators):
            if read & {int(tensor) for tensor in op.outputs}:
                kept.append(op)
                read |= {int(tensor) for tensor in op.inputs}
        self.graph.operators = kept[::-1]
        made = {int(tensor) for op in kept for tensor in op.outputs}
        tensors = sorted((read | made | {int(tensor) for tensor in self.graph.inputs}) - {-1})
        number = {old: new for new, old in enumerate(tensors)} | {-1: -1}  # -1: an input that is left out
        self.graph.tensors = [self.graph.tensors[old] for old in tensors]
        for holder, field in [*((op, "inputs") for op in kept), *((op, "outputs") for op in kept)]:
            setattr(holder, field, np.array([number[int(t)] for t in getattr(holder, field)], np.int32))
        for field in ("inputs", "outputs"):
            setattr(self.graph, field, np.array([number[int(t)] for t in getattr(self.graph, field)], np.int32))
        for signature in self.model.signatureDefs or []:
            for entry in [*signature.inputs, *signature.outputs]:
                entry.tensorIndex = number[entry.tensorIndex]
        self._drop_unused_codes()
        self._drop_unused_buffers()
        self.refresh()

    def _drop_unused_codes(self) -> None:
        used = sorted({op.opcodeIndex for op in self.graph.operators})
        number = {old: new for new, old in enumerate(used)}
        self.model.operatorCodes = [self.model.operatorCodes[old] for old in used]
        for op in self.graph.operators:
            op.opcodeIndex = number[op.opcodeIndex]

    def _drop_unused_buffers(self) -> None:
        metadata = self.model.metadata or []
        held = {tensor.buffer for tensor in self.graph.tensors} | {entry.buffer for entry in metadata}
        used = sorted({0} | held)  # buffer 0 is empty by definition
        number = {old: new for new, old in enumerate(used)}
        self.model.buffers = [self.model.buffers[old] for old in used]
        for holder in [*self.graph.tensors, *metadata]:
            holder.buffer = number[holder.buffer]


OPTIONS = {
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "REDUCE_MAX": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "TRANSPOSE": "TransposeOptions",
}


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a shape."""
    return math.prod(shape)
