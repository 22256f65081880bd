"""What a .keras file consists of, read from its zip and JSON without Keras: whether it is whole, and what it needs.

Keras, when it loads a file, imports whatever modules the file names for classes that it does not know. That is nothing
to allow to a file from a stranger, so the classes are looked at first.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam.errors import InputError
from edgecbam.runtimes import keras_classes

_OURS = "edgecbam"
MAX_CONFIG, MAX_TOTAL = 64 * 2**20, 4 * 2**30  # bytes, unpacked; ResNet-152's configuration has 0.2 MiB
MAX_PARTS = 1000
_CODE = ("Lambda", "__lambda__")  # class names of Python functions that are kept as byte code


@dataclass(frozen=True)
class KerasContent:
    """Parts of a .keras file.

    Attributes:
        keras_version: of the Keras that wrote it, such as ``"2.21.0"``.
        foreign: what is not on the list of keras_classes.py, such as ``"mypackage.layers.Swish"``, sorted.
        ours: whether it has classes of edgecbam.
        code: whether it holds Python byte code (Lambda layers).
    """

    keras_version: str
    foreign: tuple[str, ...]
    ours: bool
    code: bool


def read(path: Path) -> KerasContent:
    """Read a file; raises InputError where it is damaged, unpacks to too much or is no .keras file."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()  # a name may be there twice, and each is unpacked
            total, config_size = (
                sum(part.file_size for part in parts if part.filename.endswith(end)) for end in ("", ".json")
            )
            if len(parts) > MAX_PARTS or config_size > MAX_CONFIG or total > MAX_TOTAL:
                raise InputError(f"{path} unpacks to {total:,} bytes in {len(parts):,} parts, more than edgecbam reads")
            damaged = file.testzip()
            if damaged is not None:
                raise InputError(f"{path} is damaged: the checksum of {damaged} is wrong")
            version = str(json.loads(file.read("metadata.json"))["keras_version"])
            config = json.loads(file.read("config.json"))
            file.getinfo("model.weights.h5")
        if isinstance(config, dict):
            config.pop("compile_config", None)  # is not looked at: models are opened without
        named = list(_classes(config))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, RuntimeError, EOFError, OSError):
        # RuntimeError: encrypted, deeply nested, or compressed in an unknown way
        raise InputError(f"{path} is damaged or no .keras model") from None
    foreign = {
        _shown(module, name, entry)
        for module, name, entry in named
        if name not in _CODE and not keras_classes.is_allowed(_package(module), name, entry)
    }
    return KerasContent(
        version,
        tuple(sorted(foreign)),
        any(_package(module) == _OURS for module, _, _ in named),
        any(name in _CODE for _, name, _ in named),
    )


def _shown(module: str, name: str, entry: dict[str, Any]) -> str:
    config = entry.get("config")
    function = config.get("function") if isinstance(config, dict) else None
    return f"{module}.{name}" + (f" of {function}" if isinstance(function, str) else "")


def _classes(value: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Module and name of every class that a configuration names, and where; Keras' own where it names no module."""
    if isinstance(value, dict):
        name, module = value.get("class_name"), value.get("module")
        if name is not None:
            yield (module if isinstance(module, str) else "keras"), str(name), value
        children = list(value.values())
    else:
        children = value if isinstance(value, list) else []
    for child in children:
        yield from _classes(child)


def _package(module: str) -> str:
    first = module.split(".")[0]
    return "keras" if first == "tf_keras" else first
