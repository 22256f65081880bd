"""What a model file says of itself, and where its ops run on this machine: ``edgecbam inspect``."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.errors import InputError, MissingPackage
from edgecbam.runtimes import onnx_file

from . import metadata, tflite_file

LITERT, ONNXRUNTIME = "litert", "onnxruntime"


def inspect(path: Path) -> dict[str, Any]:
    """Describe a .tflite or .onnx file; no TensorFlow takes part.

    Returns:
        JSON values: ``file``, ``format``, ``bytes``, ``sha256``, ``ops`` (number by kind), ``float_tensors`` (number;
        of .tflite), ``inputs`` and ``outputs`` (name, shape, dtype, scale, zero_point), ``placement`` (what the runtime
        of the format says) or ``unopened`` (why it does not open the file), ``minimum_runtime`` with its source,
        ``metadata`` (see metadata.Metadata; of .onnx its properties) or None.

    Raises:
        InputError: no file, of no known format, or damaged.
    """
    runtimes.check_file(path, (".tflite", ".onnx"))
    found = _tflite(path) if path.suffix.lower() == ".tflite" else _onnx(path)
    about = {
        "file": str(path),
        "format": path.suffix.lower().removeprefix("."),
        "bytes": path.stat().st_size,
        "sha256": artifacts.sha256_file(path),
    }
    return about | found | _opened(path, LITERT if about["format"] == "tflite" else ONNXRUNTIME)


def _tflite(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        held = tflite_file.read(content, str(path))
    except ModuleNotFoundError:
        raise MissingPackage("ai-edge-litert", "litert", f"reading {path.name}") from None
    found = metadata.read(content, str(path))
    return {
        "ops": held.ops,
        "float_tensors": len(held.float_tensors()),
        "minimum_runtime": _minimum_runtime(path) or tflite_file.converter_minimum(content, str(path)),
        "metadata": None if found is None else _told(found),
    }


def _told(found: metadata.Metadata) -> dict[str, Any]:
    normalization = found.normalization()
    return {
        **{key: found.model.get(key, "") for key in ("name", "description", "version", "author", "license")},
        "labels": None if found.labels() is None else list(found.labels() or ()),
        "normalization": None if normalization is None else {"mean": normalization[0], "std": normalization[1]},
        "files": {name: len(data) for name, data in found.files.items()},
        "others": list(found.others),
        "model": found.model,
    }


def _onnx(path: Path) -> dict[str, Any]:
    opset, properties = onnx_file.read_metadata(path)
    return {
        "ops": dict(sorted(Counter(node.op for node in onnx_file.read_nodes(path)).items())),
        "minimum_runtime": None if opset is None else f"ONNX opset {opset}",
        "metadata": properties or None,
    }


def _minimum_runtime(path: Path) -> str | None:
    """What the manifest beside the file says, if it means this very file."""
    manifest = path.parent / artifacts.MANIFEST_FILE
    if not manifest.is_file():
        return None
    try:
        entry = artifacts.read_json(manifest)["files"][path.name]
        known = entry["sha256"] == artifacts.sha256_file(path)
        return str(entry["minimum_runtime"]) if known else None
    except (InputError, KeyError, TypeError):  # a manifest of something else
        return None


def _opened(path: Path, name: str) -> dict[str, Any]:
    runtime = runtimes.find(name)
    if not runtime.installed():
        return {"inputs": None, "outputs": None, "placement": None, "unopened": f"{name} is not installed"}
    try:
        session = runtime.open(path, threads=1)
    except runtimes.CannotRun as error:
        return {"inputs": None, "outputs": None, "placement": None, "unopened": str(error)}
    try:
        ends = {
            "inputs": [dataclasses.asdict(tensor) for tensor in session.inputs],
            "outputs": [dataclasses.asdict(tensor) for tensor in session.outputs],
        }
        return {**ends, "placement": session.placement(), "unopened": None}
    except runtimes.CannotRun as error:
        return {**ends, "placement": None, "unopened": str(error)}
    finally:
        session.close()
