"""What a .tflite file holds, read from its FlatBuffer (tensorflow/compiler/mlir/lite/schema) without running it."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgecbam.errors import InputError


@dataclass(frozen=True)
class FileContents:
    """Tensor names by dtype name and ops by name, over all subgraphs."""

    tensors: dict[str, tuple[str, ...]]
    ops: dict[str, int]

    def float_tensors(self) -> tuple[str, ...]:
        """Names of the tensors of any floating-point type."""
        return tuple(name for dtype, names in self.tensors.items() if "FLOAT" in dtype for name in names)


def read(content: bytes, where: str) -> FileContents:
    """Read a model; raises InputError naming ``where`` when it is no whole .tflite file."""
    from ai_edge_litert import schema_py_generated as schema

    model = parse(content, where)
    types, codes = names(schema.TensorType), names(schema.BuiltinOperator)
    tensors: dict[str, list[str]] = {}
    ops: Counter[str] = Counter()
    try:
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                tensors.setdefault(types[tensor.type], []).append(tensor.name.decode("utf-8", "replace"))
            for op in graph.operators:
                code = model.operatorCodes[op.opcodeIndex]
                ops[codes[max(code.builtinCode, code.deprecatedBuiltinCode)]] += 1
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # a part that is missing, or points nowhere
        raise InputError(f"{where} is damaged ({type(error).__name__}: {error}): export it again") from None
    return FileContents({dtype: tuple(found) for dtype, found in sorted(tensors.items())}, dict(sorted(ops.items())))


_A_BYTE = 8  # elements read for each byte of a file, at most; a sound one has at most 1
_counting = threading.Lock()


@contextlib.contextmanager
def _counted(budget: int) -> Iterator[None]:
    """Bound what is read through FlatBuffers by the size of the file.

    Parts of a FlatBuffer are found by offsets, and nothing keeps a thousand of them from leading to the same vector of
    a thousand that lead to another: a file of 12 KB unpacks to 10^6 parts.

    Raises:
        ValueError: in the block, when more elements were read.
    """
    from flatbuffers import table

    length, left = table.Table.VectorLen, budget

    def vector_len(self: Any, offset: int) -> Any:
        nonlocal left
        found = length(self, offset)
        left -= 1 + found
        if left < 0:
            raise ValueError("its parts lead to the same ones over and over")
        return found

    with _counting:
        table.Table.VectorLen = vector_len
        try:
            yield
        finally:
            table.Table.VectorLen = length


def parse(content: bytes, where: str) -> Any:
    """The file as the schema's ModelT; raises InputError naming ``where`` when it is no whole .tflite file."""
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != b"TFL3":
        raise InputError(f"{where} is no .tflite file: it lacks the identifier TFL3")
    try:
        with _counted(_A_BYTE * len(content)):
            return schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # the generated reader fails in many ways on a damaged buffer
        raise InputError(f"{where} is damaged ({error}): export it again") from None


def converter_minimum(content: bytes, where: str) -> str | None:
    """The runtime that the converter wrote into the file: ``TFLite 2.3.0, says its converter``; None for nothing."""
    model = parse(content, where)
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version" and 0 <= entry.buffer < len(model.buffers or []):
            data = model.buffers[entry.buffer].data
            version = b"" if data is None else bytes(data).rstrip(b"\0")
            return f"TFLite {version.decode('ascii', 'replace')}, says its converter" if version else None
    return None


def names(enumeration: type) -> dict[int, str]:
    """Names by value of one of the schema's enumerations."""
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
