"""The tables of TFLite metadata, and FlatBuffers of such tables to and from plain dictionaries.

A table is described by its fields in the order of their numbers, which is what a FlatBuffer stores. The tables and
numbers are those of metadata_schema.fbs, version 1.5.0, of TensorFlow Lite Support
(https://www.tensorflow.org/lite/models/convert/metadata). A dictionary has the fields that are set:

    {"name": "resnet", "subgraph_metadata": [{"input_tensor_metadata": [{"name": "image", "content": {
        "content_properties": {"ImageProperties": {"color_space": 1}}}}]}]}

A union is a dictionary of one entry, the name of its table. Fields and tables that are not described here are not read.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flatbuffers

IDENTIFIER = b"M001"


@dataclass(frozen=True)
class Table:
    """Name of a table, and its fields by name."""

    name: str
    fields: "Mapping[str, Field]"


@dataclass(frozen=True)
class Scalar:
    """A number in the notation of the struct module: ``b`` int8, ``i`` int32, ``I`` uint32, ``f`` float32."""

    code: str
    WRITERS: ClassVar[dict[str, str]] = {"b": "Int8", "B": "Uint8", "i": "Int32", "I": "Uint32", "f": "Float32"}


@dataclass(frozen=True)
class Text:
    """A string in UTF-8."""


@dataclass(frozen=True)
class Vector:
    """Several values of a kind."""

    of: "Scalar | Text | Table"


@dataclass(frozen=True)
class Union:
    """One of these tables, numbered from 1. It takes two numbers of its table: which, and the value."""

    of: tuple[Table, ...]


Field = Scalar | Text | Vector | Union | Table

_BYTE, _INT, _UINT, _FLOAT, _TEXT = Scalar("b"), Scalar("i"), Scalar("I"), Scalar("f"), Text()
ASSOCIATED_FILE_TYPES = (
    "UNKNOWN",
    "DESCRIPTIONS",
    "TENSOR_AXIS_LABELS",
    "TENSOR_VALUE_LABELS",
    "TENSOR_AXIS_SCORE_CALIBRATION",
    "VOCABULARY",
    "SCANN_INDEX_FILE",
)
COLOR_SPACES = ("UNKNOWN", "RGB", "GRAYSCALE")

ASSOCIATED_FILE = Table(
    "AssociatedFile", {"name": _TEXT, "description": _TEXT, "type": _BYTE, "locale": _TEXT, "version": _TEXT}
)
CONTENT = Table(
    "Content",
    {
        "content_properties": Union(
            (
                Table("FeatureProperties", {}),
                Table(
                    "ImageProperties",
                    {
                        "color_space": _BYTE,
                        "default_size": Table("ImageSize", {"width": _UINT, "height": _UINT}),
                    },
                ),
                Table("BoundingBoxProperties", {"index": Vector(_UINT), "type": _BYTE, "coordinate_type": _BYTE}),
                Table("AudioProperties", {"sample_rate": _UINT, "channels": _UINT}),
            )
        ),
        "range": Table("ValueRange", {"min": _INT, "max": _INT}),
    },
)
PROCESS_UNIT = Table(
    "ProcessUnit",
    {
        "options": Union(
            (
                Table("NormalizationOptions", {"mean": Vector(_FLOAT), "std": Vector(_FLOAT)}),
                Table("ScoreCalibrationOptions", {"score_transformation": _BYTE, "default_score": _FLOAT}),
                Table("ScoreThresholdingOptions", {"global_score_threshold": _FLOAT}),
                Table("BertTokenizerOptions", {"vocab_file": Vector(ASSOCIATED_FILE)}),
                Table("SentencePieceTokenizerOptions", {"sentence_piece_model": Vector(ASSOCIATED_FILE)}),
                Table("RegexTokenizerOptions", {"delim_regex_pattern": _TEXT, "vocab_file": Vector(ASSOCIATED_FILE)}),
            )
        )
    },
)
TENSOR = Table(
    "TensorMetadata",
    {
        "name": _TEXT,
        "description": _TEXT,
        "dimension_names": Vector(_TEXT),
        "content": CONTENT,
        "process_units": Vector(PROCESS_UNIT),
        "stats": Table("Stats", {"max": Vector(_FLOAT), "min": Vector(_FLOAT)}),
        "associated_files": Vector(ASSOCIATED_FILE),
    },
)
SUBGRAPH = Table(
    "SubGraphMetadata",
    {
        "name": _TEXT,
        "description": _TEXT,
        "input_tensor_metadata": Vector(TENSOR),
        "output_tensor_metadata": Vector(TENSOR),
        "associated_files": Vector(ASSOCIATED_FILE),
        "input_process_units": Vector(PROCESS_UNIT),
        "output_process_units": Vector(PROCESS_UNIT),
    },
)
MODEL = Table(
    "ModelMetadata",
    {
        "name": _TEXT,
        "description": _TEXT,
        "version": _TEXT,
        "subgraph_metadata": Vector(SUBGRAPH),
        "author": _TEXT,
        "license": _TEXT,
        "associated_files": Vector(ASSOCIATED_FILE),
        "min_parser_version": _TEXT,
    },
)


def pack(value: Mapping[str, Any]) -> bytes:
    """A ModelMetadata as a FlatBuffer; raises KeyError for a field that no table has."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, MODEL, value), IDENTIFIER)
    return bytes(builder.Output())


def unpack(data: bytes) -> dict[str, Any]:
    """A ModelMetadata from a FlatBuffer.

    Nothing outside the buffer is read, and no more than it can hold; empty fields are left out.

    Raises:
        ValueError: no such FlatBuffer, or one that is damaged.
    """
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"it lacks the identifier {IDENTIFIER.decode()}")
    return _Reader(data).table(0, MODEL)


def _write_table(builder: Any, table: Table, value: Mapping[str, Any]) -> int:
    unknown = value.keys() - table.fields.keys()
    if unknown:
        raise KeyError(f"{table.name} has no field {', '.join(sorted(unknown))}")
    made: list[tuple[int, str, Any]] = []  # what the table will hold: slot, how it is written, value
    slot = 0
    for name, field in table.fields.items():
        if name in value:
            if isinstance(field, Union):
                ((chosen, inner),) = value[name].items()
                number = [one.name for one in field.of].index(chosen)
                made.append((slot, "Uint8", number + 1))
                made.append((slot + 1, "UOffsetTRelative", _write_table(builder, field.of[number], inner)))
            elif isinstance(field, Scalar):
                made.append((slot, Scalar.WRITERS[field.code], value[name]))
            else:
                made.append((slot, "UOffsetTRelative", _write(builder, field, value[name])))
        slot += 2 if isinstance(field, Union) else 1
    builder.StartObject(slot)
    for number, kind, content in made:
        getattr(builder, f"Prepend{kind}Slot")(number, content, 0)
    return int(builder.EndObject())


def _write(builder: Any, field: "Text | Vector | Table", value: Any) -> int:
    if isinstance(field, Text):
        return int(builder.CreateString(value))
    if isinstance(field, Table):
        return _write_table(builder, field, value)
    kind = field.of
    if isinstance(kind, Scalar):
        builder.StartVector(struct.calcsize(kind.code), len(value), struct.calcsize(kind.code))
        for one in reversed(value):
            getattr(builder, f"Prepend{Scalar.WRITERS[kind.code]}")(one)
    else:
        offsets = [_write(builder, kind, one) for one in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


class _Reader:
    """Reads tables; ``left`` is how many numbers it may still read, more than a sound buffer makes it read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, 8 * len(data)

    def number(self, code: str, at: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it holds less than it seems to")
        if at < 0 or at + struct.calcsize(code) > len(self.data):
            raise ValueError("an offset points out of it")
        return struct.unpack_from(f"<{code}", self.data, at)[0]

    def follow(self, at: int) -> int:
        return at + int(self.number("I", at))

    def table(self, at: int, kind: Table) -> dict[str, Any]:
        """The table that the offset at ``at`` points to."""
        start = self.follow(at)
        slots = start - int(self.number("i", start))
        size = int(self.number("H", slots))

        def place(slot: int) -> int | None:
            offset = int(self.number("H", slots + 4 + 2 * slot)) if 6 + 2 * slot <= size else 0
            return start + offset if offset else None

        found: dict[str, Any] = {}
        slot = 0
        for name, field in kind.fields.items():
            if isinstance(field, Union):
                which, where = place(slot), place(slot + 1)
                number = 0 if which is None else int(self.number("B", which))
                if where is not None and 1 <= number <= len(field.of):
                    chosen = field.of[number - 1]
                    found[name] = {chosen.name: self.table(where, chosen)}
                slot += 2
                continue
            where = place(slot)
            if where is not None:
                found[name] = self.value(where, field)
            slot += 1
        return found

    def value(self, at: int, field: "Scalar | Text | Vector | Table") -> Any:
        if isinstance(field, Scalar):
            return self.number(field.code, at)
        if isinstance(field, Table):
            return self.table(at, field)
        start = self.follow(at)
        length = int(self.number("I", start))
        if isinstance(field, Text):
            if start + 4 + length > len(self.data):
                raise ValueError("a string is longer than it")
            self.left -= length
            return self.data[start + 4 : start + 4 + length].decode("utf-8", "replace")
        kind = field.of
        step = struct.calcsize(kind.code) if isinstance(kind, Scalar) else 4
        if start + 4 + length * step > len(self.data):
            raise ValueError("a list is longer than it")
        return [self.value(start + 4 + i * step, kind) for i in range(length)]
