"""What an .onnx file consists of, read from its bytes without the package onnx, which an edge device does not have.

Protocol buffers are fields of (number << 3 | wire type), value; see https://protobuf.dev/programming-guides/encoding
and, for the numbers below, onnx.proto3. Everything else in the file is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecbam.errors import InputError

_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 7, 8, 14  # ModelProto
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # OperatorSetIdProto
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5  # GraphProto
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5  # NodeProto
_ATTRIBUTE_NAME, _ATTRIBUTE_STRING = 1, 4  # AttributeProto
_TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 2, 8, 13  # TensorProto
_ENTRY_KEY, _ENTRY_VALUE = 1, 2  # StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_FLOAT16, _BFLOAT16 = 10, 16  # TensorProto.DataType
_QUANTIZING = ("QLinear", "Quantize", "Dequantize", "DynamicQuantize", "Integer", "NBits")


@dataclass(frozen=True)
class OnnxContent:
    """What is in the main graph.

    Attributes:
        ops: kinds of its nodes.
        weight_types: data types of its weights, as numbers of TensorProto.DataType.
        external: names of the files beside it that hold weights.
    """

    ops: frozenset[str]
    weight_types: frozenset[int]
    external: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """``"int8"`` where anything is quantized, ``"float16"`` where a weight is of 16 bits, else ``"float32"``."""
        if any(word in op for op in self.ops for word in _QUANTIZING):
            return "int8"
        return "float16" if self.weight_types & {_FLOAT16, _BFLOAT16} else "float32"


@dataclass(frozen=True)
class OnnxNode:
    """A node of the main graph. ``inputs`` has no initializers; ``activation``: one that was merged into it, or ""."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str


def read(path: Path) -> OnnxContent:
    """Read a file; raises InputError where it is no sound protocol buffer."""
    data = memoryview(path.read_bytes())
    ops: set[str] = set()
    types: set[int] = set()
    external: set[str] = set()
    try:
        for graph in _messages(data, _MODEL_GRAPH):
            for node in _messages(graph, _GRAPH_NODE):
                ops |= {bytes(text).decode("utf-8") for text in _messages(node, _NODE_OP_TYPE)}
            for tensor in _messages(graph, _GRAPH_INITIALIZER):
                fields = _fields(tensor)
                types |= {value for n, value in fields if n == _TENSOR_DATA_TYPE and isinstance(value, int)}
                for entry in _messages(tensor, _TENSOR_EXTERNAL):
                    if _texts(entry, _ENTRY_KEY) == ["location"]:
                        external |= set(_texts(entry, _ENTRY_VALUE))
    except (ValueError, IndexError):
        raise InputError(f"{path} is damaged or no .onnx model") from None
    return OnnxContent(frozenset(ops), frozenset(types), tuple(sorted(external)))


def read_nodes(path: Path) -> list[OnnxNode]:
    """The nodes of the main graph in the order of the file; raises InputError where it is no sound protocol buffer."""
    data = memoryview(path.read_bytes())
    nodes: list[OnnxNode] = []
    try:
        for graph in _messages(data, _MODEL_GRAPH):
            constants = {
                name for tensor in _messages(graph, _GRAPH_INITIALIZER) for name in _texts(tensor, _TENSOR_NAME)
            }
            for node in _messages(graph, _GRAPH_NODE):
                activations = [
                    text
                    for attribute in _messages(node, _NODE_ATTRIBUTE)
                    if _texts(attribute, _ATTRIBUTE_NAME) == ["activation"]
                    for text in _texts(attribute, _ATTRIBUTE_STRING)
                ]
                nodes.append(
                    OnnxNode(
                        "".join(_texts(node, _NODE_NAME)),
                        "".join(_texts(node, _NODE_OP_TYPE)),
                        tuple(name for name in _texts(node, _NODE_INPUT) if name and name not in constants),
                        tuple(name for name in _texts(node, _NODE_OUTPUT) if name),
                        "".join(activations),
                    )
                )
    except (ValueError, IndexError):
        raise InputError(f"{path} is damaged or no .onnx model") from None
    return nodes


def read_metadata(path: Path) -> tuple[int | None, dict[str, str]]:
    """The version of the standard operator set, and ``metadata_props``.

    Raises:
        InputError: no sound protocol buffer.
    """
    data = memoryview(path.read_bytes())
    opset, properties = None, {}
    try:
        for entry in _messages(data, _MODEL_OPSET):
            if "".join(_texts(entry, _OPSET_DOMAIN)) in ("", "ai.onnx"):
                numbers = [value for n, value in _fields(entry) if n == _OPSET_VERSION and isinstance(value, int)]
                opset = numbers[-1] if numbers else None
        for entry in _messages(data, _MODEL_METADATA):
            properties["".join(_texts(entry, _ENTRY_KEY))] = "".join(_texts(entry, _ENTRY_VALUE))
    except (ValueError, IndexError):
        raise InputError(f"{path} is damaged or no .onnx model") from None
    return opset, properties


def _texts(data: memoryview, wanted: int) -> list[str]:
    return [bytes(text).decode("utf-8") for text in _messages(data, wanted)]


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(data: memoryview) -> "Iterator[tuple[int, int | memoryview]]":
    """Number and value of every field: an integer, or the bytes of a string, message or fixed-size number."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(data):
            raise ValueError("a field ends beyond the file")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
