"""What is to be measured: one cell for each model file, runtime and number of threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.errors import InputError, MissingPackage

SUFFIXES = (".tflite", ".onnx")
# Which files of a run are measured on which runtime, the float32 baseline first.
RUN_FILES: dict[str, tuple[str, ...]] = {
    "litert": (
        "model_fp32.tflite",
        "model_fp16.tflite",
        "model_dynamic.tflite",
        "model_ptq_int8.tflite",
        "model_int8.tflite",
    ),
    "onnxruntime": ("model_fp32.onnx", "model_int8.onnx"),
    "openvino": ("model_fp32.onnx", "model_int8.onnx"),
    "openvino_bf16": ("model_fp32.onnx", "model_int8.onnx"),
}


@dataclass(frozen=True)
class Cell:
    """One line of the report, or the control that stands beside a baseline.

    Attributes:
        model: name in the report.
        path: the file.
        export: the export folder that knows what the outputs must be; None for a bare file.
        baseline: name of the model that this one is compared with on the same runtime; None: with nothing.
        control: a second process of the same cell, to see what difference two equal things show.
        status: "" for a cell to be measured, otherwise why it cannot be: "unsupported" or "skipped".
    """

    model: str
    path: Path
    runtime: str
    threads: int
    export: Path | None
    baseline: str | None
    control: bool = False
    status: str = ""
    reason: str = ""
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Unique name, such as ``"model_int8.tflite|litert|cpu|1"``."""
        return f"{self.model}|{self.runtime}|{self.device}|{self.threads}" + ("|control" if self.control else "")


def run_cells(run: Path, names: Sequence[str], threads: int) -> tuple[list[Cell], list[dict[str, Any]]]:
    """The cells of a run folder and the entries of ``models``.

    Raises:
        InputError: the export folder is unreadable or a file is not the one that the manifest describes.
    """
    check_names(names)
    folder = run / "export"
    manifest = artifacts.load_manifest(folder)
    cells: list[Cell] = []
    models: dict[str, dict[str, Any]] = {}
    for runtime in names:
        baseline = RUN_FILES[runtime][0]
        for file in RUN_FILES[runtime]:
            path = folder / file
            status, reason = _status(runtime)
            if file not in manifest.files:
                status, reason = "skipped", f"the run has no {file}"
            elif file not in models:
                models[file] = _model_entry(file, path, manifest.files[file])
            cells.append(Cell(file, path, runtime, threads, folder, baseline, status=status, reason=reason))
    if not models:
        raise InputError(
            f"{folder / artifacts.MANIFEST_FILE} lists none of the files to measure: run `edgecbam export`"
        )
    return with_controls(cells), list(models.values())


def bare_cells(
    paths: Sequence[Path], names: Sequence[str], threads: int, baseline: Path | None
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """The cells of model files that belong to no run, and the entries of ``models``.

    Without a baseline nothing is compared but the first model of each runtime with itself.

    Raises:
        InputError: no model, a file that is missing or of an unknown format.
    """
    check_names(names)
    wanted = [baseline, *paths] if baseline is not None else list(paths)
    unique = list({path.resolve(): path for path in wanted}.values())
    if not paths:
        raise InputError("no model file to measure: give at least one .tflite or .onnx file")
    for path in unique:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path} is no model file that edgecbam can measure: give {' or '.join(SUFFIXES)}")
        runtimes.check_file(path, SUFFIXES)
    labels = dict(zip(unique, short_names(unique), strict=True))
    baseline_name = None if baseline is None else labels[unique[0]]
    cells = []
    for path in unique:
        reading = [name for name in names if path.suffix.lower() in runtimes.find(name).formats]
        for name in reading:
            status, reason = _status(name)
            cells.append(Cell(labels[path], path, name, threads, None, baseline_name, status=status, reason=reason))
        if not reading:
            able = [runtime.name for runtime in runtimes.readers(path.suffix)]
            reason = f"{', '.join(names)} cannot read {path.suffix} files; {', '.join(able)} can"
            cells += [
                Cell(labels[path], path, name, threads, None, baseline_name, status="unsupported", reason=reason)
                for name in names
            ]
    return with_controls(cells), [_model_entry(labels[path], path, None) for path in unique]


def with_controls(cells: Sequence[Cell]) -> list[Cell]:
    """The cells and, for each runtime, a control: a second process of its baseline, or of its first cell."""
    controls = []
    for runtime in dict.fromkeys(cell.runtime for cell in cells):
        able = [cell for cell in cells if cell.runtime == runtime and not cell.status]
        chosen = next((cell for cell in able if cell.model == cell.baseline), able[0] if able else None)
        if chosen is not None:
            controls.append(
                Cell(chosen.model, chosen.path, runtime, chosen.threads, chosen.export, chosen.model, control=True)
            )
    return [*cells, *controls]


def check_names(names: Sequence[str]) -> None:
    """Raise InputError for an unknown runtime, or none, or the same twice."""
    if not names:
        raise InputError(f"no runtime to measure on: known are {', '.join(runtimes.RUNTIMES)}")
    for name in names:
        runtimes.find(name)
    if len(set(names)) < len(names):
        raise InputError(f"a runtime is named twice: {', '.join(names)}")


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart: a report holds no machine's folders beyond need."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [path.name for path in paths]


def _status(name: str) -> tuple[str, str]:
    runtime = runtimes.find(name)
    if runtime.installed():
        return "", ""
    return "unsupported", str(MissingPackage(runtime.package, runtime.extra, f"the runtime {name}"))


def _model_entry(name: str, path: Path, described: artifacts.ModelFile | None) -> dict[str, Any]:
    runtimes.check_file(path, SUFFIXES)
    digest = artifacts.sha256_file(path)
    if described is not None and digest != described.sha256:
        raise InputError(f"{path} is not the file that the manifest describes: run `edgecbam export` again")
    return {
        "name": name,
        "format": path.suffix.lstrip(".").lower(),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "precision": described.precision if described else None,
        "macs": described.macs if described else None,
        "parameters": described.parameters if described else None,
    }
