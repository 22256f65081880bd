"""What an .onnx file consists of, read from its bytes without the package onnx, which an edge device does not have.

Protocol buffers are fields of (number << 3 | wire type), value; see https://protobuf.dev/programming-guides/encoding
and, for the numbers below, onnx.proto3. Everything else in the file is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecbam.errors import InputError

_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 14, 20, 25  # ModelProto
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # OperatorSetIdProto
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15  # GraphProto
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11  # FunctionProto
_TRAINING_GRAPHS = (1, 2)  # TrainingInfoProto: initialization, algorithm
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5  # NodeProto
_ATTRIBUTE_NAME, _ATTRIBUTE_STRING = 1, 4  # AttributeProto
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)  # SparseTensorProto: values, indices
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
        external: names of the files that hold weights, wherever in the file they are named.
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
            ops |= {_text(node, _NODE_OP_TYPE) for node in _messages(graph, _GRAPH_NODE)}
            for tensor in _messages(graph, _GRAPH_INITIALIZER):
                types |= {value for n, value in _fields(tensor) if n == _TENSOR_DATA_TYPE and isinstance(value, int)}
        for tensor in _tensors(data):
            for entry in _messages(tensor, _TENSOR_EXTERNAL):
                if "location" in _texts(entry, _ENTRY_KEY):  # whichever of several a reader takes
                    external |= set(_texts(entry, _ENTRY_VALUE))
    except (ValueError, IndexError):
        raise InputError(f"{path} is damaged or no .onnx model") from None
    return OnnxContent(frozenset(ops), frozenset(types), tuple(sorted(external)))


def _tensors(model: memoryview) -> Iterator[memoryview]:
    """Every tensor of a model: of graphs inside nodes too, of their attributes, of functions, and for training."""
    graphs = [*_messages(model, _MODEL_GRAPH)]
    graphs += [graph for training in _messages(model, _MODEL_TRAINING) for graph in _both(training, _TRAINING_GRAPHS)]
    attributes: list[memoryview] = []
    for function in _messages(model, _MODEL_FUNCTIONS):
        attributes += _messages(function, _FUNCTION_ATTRIBUTE)
        attributes += [
            part for node in _messages(function, _FUNCTION_NODE) for part in _messages(node, _NODE_ATTRIBUTE)
        ]
    while graphs or attributes:
        sparse: list[memoryview] = []
        if graphs:
            graph = graphs.pop()
            yield from _messages(graph, _GRAPH_INITIALIZER)
            sparse += _messages(graph, _GRAPH_SPARSE)
            attributes += [part for node in _messages(graph, _GRAPH_NODE) for part in _messages(node, _NODE_ATTRIBUTE)]
        while attributes:
            attribute = attributes.pop()
            yield from _both(attribute, _ATTRIBUTE_TENSORS)
            graphs += _both(attribute, _ATTRIBUTE_GRAPHS)
            sparse += _both(attribute, _ATTRIBUTE_SPARSE)
        for tensor in sparse:
            yield from _both(tensor, _SPARSE_TENSORS)


def _both(data: memoryview, wanted: tuple[int, int]) -> Iterator[memoryview]:
    for number in wanted:
        yield from _messages(data, number)


def read_nodes(path: Path) -> list[OnnxNode]:
    """The nodes of the main graph in the order of the file; raises InputError where it is no sound protocol buffer."""
    data = memoryview(path.read_bytes())
    nodes: list[OnnxNode] = []
    try:
        for graph in _messages(data, _MODEL_GRAPH):
            constants = {_text(tensor, _TENSOR_NAME) for tensor in _messages(graph, _GRAPH_INITIALIZER)}
            for node in _messages(graph, _GRAPH_NODE):
                activations = [
                    _text(attribute, _ATTRIBUTE_STRING)
                    for attribute in _messages(node, _NODE_ATTRIBUTE)
                    if _text(attribute, _ATTRIBUTE_NAME) == "activation"
                ]
                nodes.append(
                    OnnxNode(
                        _text(node, _NODE_NAME),
                        _text(node, _NODE_OP_TYPE),
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
            if _text(entry, _OPSET_DOMAIN) in ("", "ai.onnx"):
                numbers = [value for n, value in _fields(entry) if n == _OPSET_VERSION and isinstance(value, int)]
                opset = numbers[-1] if numbers else None
        for entry in _messages(data, _MODEL_METADATA):
            properties[_text(entry, _ENTRY_KEY)] = _text(entry, _ENTRY_VALUE)
    except (ValueError, IndexError):
        raise InputError(f"{path} is damaged or no .onnx model") from None
    return opset, properties


def _text(data: memoryview, wanted: int) -> str:
    """A field that is there once; of several the last one counts."""
    return (_texts(data, wanted) or [""])[-1]


def _texts(data: memoryview, wanted: int) -> list[str]:
    return [bytes(text).decode("utf-8") for text in _messages(data, wanted)]


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(data: memoryview) -> "Iterator[tuple[int, int | memoryview]]":
    """Number and value of every field but those of fixed size: an integer, or the bytes of a string or message."""
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
        if wire == _BYTES:
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
