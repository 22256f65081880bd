"""Metadata inside a .tflite file: what MediaPipe, Android Studio and others read to use a model without extra code.

The FlatBuffer of metadata_schema.py is a buffer of the model, under the name TFLITE_METADATA; the files that it names,
such as labels.txt, are a zip archive behind the model, in the same file
(https://www.tensorflow.org/lite/models/convert/metadata).
"""

import collections
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecbam.errors import InputError

from . import metadata_schema, tflite_file

NAME = "TFLITE_METADATA"
LABELS = "labels.txt"
MIN_PARSER_VERSION = "1.0.0"  # of what is written here: image classifiers are older than every other version
MAX_FILES = 64  # read from the archive
MAX_FILE_BYTES = 4 * 2**20  # of each, decompressed
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of files in the archive: equal content gives equal bytes


@dataclass(frozen=True)
class Metadata:
    """What was found in a file.

    Attributes:
        model: a ModelMetadata as metadata_schema.unpack gives it.
        files: contents of the associated files, by name.
        others: names of the model's other metadata buffers.
    """

    model: dict[str, Any]
    files: dict[str, bytes]
    others: tuple[str, ...]

    def labels(self) -> tuple[str, ...] | None:
        """The lines of the file that labels the first output; None where there is none."""
        for tensor in self._tensors("output_tensor_metadata")[:1]:
            for file in tensor.get("associated_files", ()):
                wanted = metadata_schema.ASSOCIATED_FILE_TYPES.index("TENSOR_AXIS_LABELS")
                if file.get("type", 0) == wanted and file.get("name") in self.files:
                    return tuple(self.files[file["name"]].decode("utf-8", "replace").splitlines())
        return None

    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) of the first input, in the unit of pixels 0…255; None where there is none."""
        for tensor in self._tensors("input_tensor_metadata")[:1]:
            for unit in tensor.get("process_units", ()):
                options = unit.get("options", {}).get("NormalizationOptions")
                if options is not None:
                    return tuple(options.get("mean", ())), tuple(options.get("std", ()))
        return None

    def _tensors(self, kind: str) -> list[dict[str, Any]]:
        graphs = self.model.get("subgraph_metadata", [])
        return list(graphs[0].get(kind, [])) if graphs else []


def check_labels(labels: Sequence[str]) -> None:
    """Refuse names that a file of one name a line cannot hold, or that a reader would mix up.

    Raises:
        InputError: a name is empty, has a line break or blanks around it, or two are equal.
    """
    for label in labels:
        if not label.strip() or label != label.strip() or len(label.splitlines()) != 1:
            raise InputError(
                f"the class name {label!r} cannot be a line of {LABELS}: rename the class, without line breaks and "
                "blanks around it"
            )
    doubled = next((label for label, count in collections.Counter(labels).items() if count > 1), None)
    if doubled is not None:
        raise InputError(f"two classes have the name {doubled!r}: rename one of them")


def image_classifier(
    name: str,
    description: str,
    version: str,
    author: str,
    license_text: str,
    mean: Sequence[float],
    std: Sequence[float],
    low: float,
    high: float,
    labels: Sequence[str],
) -> dict[str, Any]:
    """The metadata of a model that takes an RGB image and gives probabilities of ``labels``, or values.

    Args:
        name: of the model.
        description: in a sentence.
        version: of the model.
        author: who made it.
        license_text: its licence.
        mean: in pixel units, one number or one per channel; a reader feeds a float input (pixel - mean) / std.
        std: see mean.
        low: the smallest input value.
        high: the largest.
        labels: of the output, in order; empty where it has none.
    """
    rgb = metadata_schema.COLOR_SPACES.index("RGB")
    image = {
        "name": "image",
        "description": "RGB image",
        "content": {"content_properties": {"ImageProperties": {"color_space": rgb}}},
        "process_units": [{"options": {"NormalizationOptions": {"mean": list(mean), "std": list(std)}}}],
        "stats": {"min": [low], "max": [high]},
    }
    output: dict[str, Any] = {"name": "value", "content": {"content_properties": {"FeatureProperties": {}}}}
    if labels:
        kind = metadata_schema.ASSOCIATED_FILE_TYPES.index("TENSOR_AXIS_LABELS")
        output |= {
            "name": "probability",
            "description": "probability of each class",
            "stats": {"min": [0.0], "max": [1.0]},
            "associated_files": [{"name": LABELS, "description": "names of the classes, one a line", "type": kind}],
        }
    return {
        "name": name,
        "description": description,
        "version": version,
        "author": author,
        "license": license_text,
        "min_parser_version": MIN_PARSER_VERSION,
        "subgraph_metadata": [{"input_tensor_metadata": [image], "output_tensor_metadata": [output]}],
    }


def embed(content: bytes, model: Mapping[str, Any], files: Mapping[str, bytes], where: str) -> bytes:
    """A .tflite file with metadata and the files that it names.

    Args:
        content: a .tflite file without metadata; its other metadata buffers stay.
        model: a ModelMetadata, see metadata_schema.
        files: contents by name.
        where: what errors call the file.

    Raises:
        InputError: no whole .tflite file, or one that has metadata already, which is not overwritten.
    """
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    parsed = tflite_file.parse(content, where)
    if _buffer(parsed) is not None or zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError(f"{where} has metadata already, which is left as it is: give the file without it")
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata_schema.pack(model), np.uint8)
    parsed.buffers.append(buffer)
    entry.name, entry.buffer = NAME.encode(), len(parsed.buffers) - 1
    parsed.metadata = [*(parsed.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    stream = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(stream, "a") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return stream.getvalue()


def read(content: bytes, where: str) -> Metadata | None:
    """The metadata of a .tflite file, whoever wrote it; None where it has none.

    Raises:
        InputError: no whole .tflite file, or metadata that is damaged.
    """
    parsed = tflite_file.parse(content, where)
    data = _buffer(parsed)
    others = tuple(name for name in map(_name, parsed.metadata or []) if name != NAME)
    if data is None:
        return None
    try:
        return Metadata(metadata_schema.unpack(data), _files(content), others)
    except (ValueError, struct.error, RecursionError) as error:
        raise InputError(f"the metadata of {where} is damaged ({error}): write the file again") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"the files packed behind {where} are damaged ({error}): write the file again") from None


def _name(entry: Any) -> str:
    return (entry.name or b"").decode("utf-8", "replace") if not isinstance(entry.name, str) else entry.name


def _buffer(parsed: Any) -> bytes | None:
    for entry in parsed.metadata or []:
        if _name(entry) == NAME and 0 <= entry.buffer < len(parsed.buffers or []):
            data = parsed.buffers[entry.buffer].data
            return b"" if data is None else bytes(data)
    return None


def _files(content: bytes) -> dict[str, bytes]:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    found = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MAX_FILES:
            raise ValueError(f"{len(members)} files are packed behind it, more than {MAX_FILES}")
        for member in members:
            with archive.open(member) as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ValueError(f"{member.filename} is larger than {MAX_FILE_BYTES >> 20} MiB")
            found[member.filename] = data
    return found
