"""Writes one CBAM as a .tflite file, op for op as the converter does, in milliseconds and for any map.

The weights and scales are random: what is tested is that a rewritten file gives the same bytes, whatever they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOGISTIC_SCALE, LOGISTIC_ZERO_POINT = 1 / 256, -128
RELU = 1


@dataclass(frozen=True)
class Attention:
    """What to write. ``zero_point`` is that of the map whose channels are pooled, in int8."""

    height: int
    width: int
    channels: int
    dtype: str = "INT8"
    kernel: int = 7
    zero_point: int = -14
    seed: int = 0


def write(case: Attention) -> bytes:
    """x [1, h, w, c] -> relu(cbam(x) + x), with input and output of the case's type."""
    return _Writer(case).cbam()


class _Writer:
    def __init__(self, case: Attention) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.case, self.rng = case, np.random.default_rng(case.seed)
        self.int8 = case.dtype == "INT8"
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], b"main"
        self.model = self.schema.ModelT()
        self.model.version, self.model.description = 3, b"test"
        self.model.subgraphs, self.model.buffers = [self.graph], [self.schema.BufferT()]
        self.model.operatorCodes = []
        self.model.metadata, self.model.signatureDefs = [], []

    def cbam(self) -> bytes:
        import flatbuffers

        case = self.case
        x = self.tensor((1, case.height, case.width, case.channels), 0.05, 3)
        width = max(1, case.channels // 8)
        mean, largest = self.reduce("MEAN", x, (1, 2), 0.01, -5), self.reduce("REDUCE_MAX", x, (1, 2), 0.05, 3)
        first = self.rng.integers(-127, 128, (width, 1, 1, case.channels))
        second = self.rng.integers(-127, 128, (case.channels, 1, 1, width))
        hiddens = [self.convolve(pool, first, 0.02, -128, RELU) for pool in (mean, largest)]
        ends = [self.convolve(hidden, second, 0.02, 4) for hidden in hiddens]
        gate = self.logistic(self.elementwise("ADD", ends[0], ends[1], 0.03, 2))
        scaled = self.elementwise("MUL", x, gate, 0.04, case.zero_point)
        pools = [self.reduce(kind, scaled, (3,), 0.04, case.zero_point) for kind in ("REDUCE_MAX", "MEAN")]
        pooled = self.tensor((1, case.height, case.width, 2), 0.04, case.zero_point)
        self.op("CONCATENATION", pools, [pooled], "ConcatenationOptions", axis=3)
        kernel = self.rng.integers(-127, 128, (1, case.kernel, case.kernel, 2))
        spatial = self.logistic(self.convolve(pooled, kernel, 0.05, 6))
        attended = self.elementwise("MUL", scaled, spatial, 0.03, 1)
        output = self.elementwise("ADD", attended, x, 0.05, -128, RELU)
        self.graph.inputs, self.graph.outputs = np.array([x], np.int32), np.array([output], np.int32)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def tensor(
        self, shape: Sequence[int], scale: float = 0.0, zero_point: int = 0, data: Any = None, dtype: str = ""
    ) -> int:
        tensor = self.schema.TensorT()
        dtype = dtype or self.case.dtype
        tensor.type = getattr(self.schema.TensorType, dtype)
        tensor.shape, tensor.name = np.array(shape, np.int32), b"t%d" % len(self.graph.tensors)
        if data is not None:
            buffer = self.schema.BufferT()
            stored = {"INT8": np.int8, "INT32": np.int32, "FLOAT32": np.float32}[dtype]
            buffer.data = np.frombuffer(np.ascontiguousarray(data, stored).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale and self.int8:
            quantization = self.schema.QuantizationParametersT()
            quantization.scale = np.array([scale], np.float32)
            quantization.zeroPoint = np.array([zero_point], np.int64)
            tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], table: str, **options: Any) -> None:
        value = getattr(self.schema.BuiltinOperator, kind)
        codes = [code.builtinCode for code in self.model.operatorCodes]
        if value not in codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)
            code.version = 3 if self.int8 and kind == "CONV_2D" else 2 if self.int8 else 1
            self.model.operatorCodes.append(code)
            codes.append(value)
        op = self.schema.OperatorT()
        op.opcodeIndex = codes.index(value)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if table:
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, table)
            op.builtinOptions = getattr(self.schema, f"{table}T")()
            for name, setting in options.items():
                setattr(op.builtinOptions, name, setting)
        self.graph.operators.append(op)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(size) for size in self.graph.tensors[tensor].shape)

    def reduce(self, kind: str, x: int, axes: tuple[int, ...], scale: float, zero_point: int) -> int:
        shape = [1 if axis in axes else size for axis, size in enumerate(self.shape(x))]
        output = self.tensor(shape, scale, zero_point)
        self.op(
            kind, [x, self.tensor((len(axes),), data=axes, dtype="INT32")], [output], "ReducerOptions", keepDims=True
        )
        return output

    def elementwise(
        self, kind: str, first: int, second: int, scale: float, zero_point: int, activation: int = 0
    ) -> int:
        output = self.tensor(np.broadcast_shapes(self.shape(first), self.shape(second)), scale, zero_point)
        table = {"ADD": "AddOptions", "MUL": "MulOptions"}[kind]
        self.op(kind, [first, second], [output], table, fusedActivationFunction=activation)
        return output

    def logistic(self, x: int) -> int:
        output = self.tensor(self.shape(x), LOGISTIC_SCALE, LOGISTIC_ZERO_POINT)
        self.op("LOGISTIC", [x], [output], "")
        return output

    def convolve(self, x: int, kernel: np.ndarray, scale: float, zero_point: int, activation: int = 0) -> int:
        step = 0.5 / 127 / max(1.0, kernel[0].size / 8)  # so that sums neither vanish nor saturate
        stored = kernel if self.int8 else kernel * step
        weights = self.tensor(kernel.shape, step, 0, stored)
        quantization = self.graph.tensors[x].quantization
        bias_values = self.rng.integers(-2000, 2000, len(kernel))
        bias = self.tensor(
            (len(kernel),),
            float(quantization.scale[0]) * step if self.int8 else 0.0,
            0,
            bias_values if self.int8 else bias_values / 1e4,
            "INT32" if self.int8 else "FLOAT32",
        )
        output = self.tensor((*self.shape(x)[:3], len(kernel)), scale, zero_point)
        options = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
        self.op("CONV_2D", [x, weights, bias], [output], "Conv2DOptions", fusedActivationFunction=activation, **options)
        return output
