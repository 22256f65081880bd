"""What is to be measured: one cell for each model file, runtime, device and number of threads."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.runtimes import onnx_file

from .devices import Device

SUFFIXES = (".tflite", ".onnx", ".keras")
DEFAULT_RUNTIMES = ("litert", "onnxruntime")  # on a CPU, where none is asked for
# Which files of a run are measured, by format, the float32 baseline first.
RUN_FILES: dict[str, tuple[str, ...]] = {
    ".onnx": ("model_fp32.onnx", "model_int8.onnx"),
    ".tflite": (
        "model_fp32.tflite",
        "model_fp16.tflite",
        "model_dynamic.tflite",
        "model_ptq_int8.tflite",
        "model_int8.tflite",
    ),
    ".keras": ("model.keras",),
}
KERAS_FILE = "model.keras"


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
        device: name of the device, as the user said it.
        shapes: whole shapes of inputs that have free dimensions.
        reference: what the outputs of a bare file must be (see references.py); None where nothing here can say.
        unchecked: why nothing can, or "".
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
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    reference: Path | None = None
    unchecked: str = ""

    @property
    def key(self) -> str:
        """Unique name, such as ``"model_int8.tflite|litert|cpu|1"``."""
        return "|".join((self.model, *map(str, self.place))) + ("|control" if self.control else "")

    @property
    def place(self) -> tuple[str, str, int]:
        """Runtime, device and threads: only cells that share them are compared."""
        return self.runtime, self.device, self.threads


@dataclass(frozen=True)
class Spot:
    """A runtime on a device with a number of threads; ``status`` and ``reason`` as in Cell."""

    runtime: str
    device: str
    threads: int
    formats: tuple[str, ...]
    status: str = ""
    reason: str = ""


def spots(
    names: Sequence[str] | None,
    devices: Sequence[Device],
    threads: Sequence[int],
    suffixes: Set[str] = frozenset(),
) -> list[Spot]:
    """Where the models are to be measured.

    Args:
        names: runtimes; None: on a CPU the default ones, on a GPU all that can run there.
        devices: where.
        threads: numbers of threads.
        suffixes: of the files; where none are asked for, formats that no default runtime reads bring in one that does.

    A runtime is left out on a device where it cannot run as long as another one of the names can; otherwise the device
    gets rows that say so.

    Raises:
        InputError: an unknown runtime, none, or the same twice.
    """
    check_names(names, devices)
    check_threads(threads)
    found = []
    for device in devices:
        known = names if names is not None else _default_runtimes(device, suffixes)
        able = [name for name in known if _runs_on(name, device)]
        for count in threads:
            found += [_spot(name, device, count) for name in able]
            if not able:
                found += [_impossible(name, device, count) for name in known]
    return found


def _default_runtimes(device: Device, suffixes: Set[str]) -> tuple[str, ...]:
    if device.runtimes is not None:
        return device.runtimes
    if device.name != "gpu":
        return DEFAULT_RUNTIMES + (("keras",) if ".keras" in suffixes else ())
    return tuple(name for name, runtime in runtimes.RUNTIMES.items() if "gpu" in runtime.devices)


def _runs_on(name: str, device: Device) -> bool:
    if device.runtimes is not None:
        return name in device.runtimes
    kind = "gpu" if device.name == "gpu" else "cpu"
    return name in runtimes.RUNTIMES and kind in runtimes.find(name).devices


def _spot(name: str, device: Device, threads: int) -> Spot:
    if name not in runtimes.RUNTIMES:
        return Spot(name, device.name, threads, (".tflite",))
    runtime = runtimes.find(name)
    reason = ""
    if device.name in ("cpu", "gpu") and not runtime.installed():
        try:
            runtime.load()  # imports nothing where there is nothing, and knows which command helps
        except EnvironmentFailure as error:
            reason = str(error)
    return Spot(name, device.name, threads, runtime.formats, "unsupported" if reason else "", reason)


def _impossible(name: str, device: Device, threads: int) -> Spot:
    if device.runtimes is not None or name not in runtimes.RUNTIMES:
        has = ", ".join(device.runtimes or runtimes.RUNTIMES)
        return Spot(name, device.name, threads, SUFFIXES, "unsupported", f"{device.name} has the runtimes {has}")
    runtime = runtimes.find(name)
    where = " and ".join(runtime.devices)
    reason = f"{name} runs on {where}, not on {device.name}"
    return Spot(name, device.name, threads, runtime.formats, "unsupported", reason)


def run_cells(run: Path, where: Sequence[Spot]) -> tuple[list[Cell], list[dict[str, Any]]]:
    """The cells of a run folder and the entries of ``models``.

    Raises:
        InputError: the export folder is unreadable or a file is not the one that the manifest describes.
    """
    folder = run / "export"
    manifest = artifacts.load_manifest(folder)
    cells: list[Cell] = []
    models: dict[str, dict[str, Any]] = {}
    for spot in where:
        names = next(RUN_FILES[suffix] for suffix in RUN_FILES if suffix in spot.formats)
        for file in names:
            path = run / "train" / file if file == KERAS_FILE else folder / file
            status, reason = spot.status, spot.reason
            if file != KERAS_FILE and file not in manifest.files:
                status, reason = "skipped", f"the run has no {file}"
            elif file not in models:
                models[file] = _run_model(file, path, manifest)
            cell = Cell(file, path, spot.runtime, spot.threads, folder, names[0], False, status, reason, spot.device)
            cells.append(cell)
    if not models:
        raise InputError(
            f"{folder / artifacts.MANIFEST_FILE} lists none of the files to measure: run `edgecbam export`"
        )
    return with_controls(cells), list(models.values())


def bare_cells(
    paths: Sequence[Path],
    where: Sequence[Spot],
    baseline: Path | None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """The cells of model files that belong to no run, and the entries of ``models``.

    Without a baseline nothing is compared but the first model of each runtime with itself.

    Raises:
        InputError: no model, a file that is missing or of an unknown format.
    """
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
    given = tuple(sorted((shapes or {}).items()))
    cells = []
    for path in unique:
        reading = [spot for spot in where if path.suffix.lower() in spot.formats]
        for spot in reading or where:
            status, reason = spot.status, spot.reason
            if not reading:
                kind = "gpu" if spot.device == "gpu" else "cpu"
                able = [runtime.name for runtime in runtimes.readers(path.suffix) if kind in runtime.devices]
                status = "unsupported"
                reason = f"{spot.runtime} cannot read {path.suffix} files; {', '.join(able)} can"
            cells.append(
                Cell(
                    labels[path],
                    path,
                    spot.runtime,
                    spot.threads,
                    None,
                    baseline_name,
                    status=status,
                    reason=reason,
                    device=spot.device,
                    shapes=given,
                )
            )
    return with_controls(cells), [_model_entry(labels[path], path) for path in unique]


def with_controls(cells: Sequence[Cell]) -> list[Cell]:
    """The cells and, for each place, a control: a second process of its baseline, or of its first cell."""
    controls = []
    for place in dict.fromkeys(cell.place for cell in cells):
        able = [cell for cell in cells if cell.place == place and not cell.status]
        chosen = next((cell for cell in able if cell.model == cell.baseline), able[0] if able else None)
        if chosen is not None:
            controls.append(control_of(chosen))
    return [*cells, *controls]


def control_of(cell: Cell) -> Cell:
    """A second process of the same cell."""
    return Cell(
        cell.model,
        cell.path,
        cell.runtime,
        cell.threads,
        cell.export,
        cell.model,
        control=True,
        device=cell.device,
        shapes=cell.shapes,
        reference=cell.reference,
    )


def check_names(names: Sequence[str] | None, devices: Sequence[Device] = ()) -> None:
    """Raise InputError for an unknown runtime, or none, or the same twice."""
    if names is None:
        return
    if not names:
        raise InputError(f"no runtime to measure on: known are {', '.join(runtimes.RUNTIMES)}")
    of_devices = {name for device in devices for name in device.runtimes or ()}
    for name in names:
        if name not in of_devices:
            runtimes.find(name)
    if len(set(names)) < len(names):
        raise InputError(f"a runtime is named twice: {', '.join(names)}")


def check_threads(threads: Sequence[int]) -> None:
    """Raise InputError unless there are numbers of threads, each once and at least 1."""
    if not threads or min(threads) < 1:
        raise InputError(f"threads must be at least 1, got {', '.join(map(str, threads)) or 'none'}")
    if len(set(threads)) < len(threads):
        raise InputError(f"a number of threads is named twice: {', '.join(map(str, threads))}")


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart: a report holds no machine's folders beyond need."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [path.name for path in paths]


def _run_model(file: str, path: Path, manifest: artifacts.Manifest) -> dict[str, Any]:
    entry = _model_entry(file, path)
    described = manifest.files.get(file)
    if described is None:  # the Keras model, of which the exported files are made
        twin = next(iter(manifest.files.values()))
        return {**entry, "precision": "float32", "macs": twin.macs, "parameters": twin.parameters}
    if entry["sha256"] != described.sha256:
        raise InputError(f"{path} is not the file that the manifest describes: run `edgecbam export` again")
    return {**entry, "precision": described.precision, "macs": described.macs, "parameters": described.parameters}


def _model_entry(name: str, path: Path) -> dict[str, Any]:
    runtimes.check_file(path, SUFFIXES)
    files = model_files(path)
    return {
        "name": name,
        "format": path.suffix.lstrip(".").lower(),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": digest(files),
        "precision": None,
        "macs": None,
        "parameters": None,
    }


def model_files(path: Path) -> list[Path]:
    """A model file and, of an .onnx file, those beside it that hold its weights.

    Raises:
        InputError: one is missing, or outside of the model's folder: what is listed is read, and sent to devices.
    """
    if path.suffix.lower() != ".onnx":
        return [path]
    files = [path, *(path.parent / name for name in onnx_file.read(path).external)]
    for file in files:
        if not file.resolve().is_relative_to(path.resolve().parent):
            raise InputError(f"{path} keeps weights in {file}, outside of its folder, where nothing is read")
        if not file.is_file():
            raise InputError(f"{path} keeps weights in {file.name}, which is not beside it")
    return files


def digest(files: Sequence[Path]) -> str:
    """sha256 of a file; of several, that of their digests one after another, in hexadecimal."""
    digests = [artifacts.sha256_file(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
