"""The run folder: stages that appear whole, know their files by sha256 and know which parent they were made from.

A stage works in ``RUN/.STAGE.partial`` and is moved into place at the end. ``RUN/STAGE/stage.json`` lists the sha256
of each of its files and of the ``stage.json`` of each parent; a stage whose parent has changed is stale.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgecbam import __version__, array_file, json_data, recipe, run_lock
from edgecbam.errors import InputError
from edgecbam.recipe import Recipe, Task

PARENTS: dict[str, tuple[str, ...]] = {
    "train": (),
    "quantize": ("train",),
    "export": ("quantize",),
    "verify": ("export",),
    "benchmark": ("export",),
    "report": ("verify", "benchmark"),
    "app": ("export",),
}
SECTIONS: dict[str, tuple[str, ...]] = {  # the parts of the recipe that decide a stage, its parents' parts aside
    "train": ("data", "model", "train"),
    "quantize": ("quantize",),
    "export": ("export",),
    "verify": ("verify",),
    "benchmark": ("benchmark",),
    "report": (),
    "app": (),
}
STAGES = tuple(PARENTS)
STAGE_FILE = "stage.json"
ORIGIN_FILE = "origin.json"  # in a partial folder: what the unfinished work was begun from
RECIPE_FILE = "recipe.toml"
OUTPUTS_FILE, INT8_OUTPUTS = "outputs.npz", "model_int8"


@dataclass(frozen=True)
class StageRecord:
    """What ``stage.json`` holds: sha256 (hex) by relative file name, and of the parents' ``stage.json``."""

    stage: str
    files: dict[str, str]
    parents: dict[str, str]
    recipe_digest: str
    edgecbam_version: str


def sha256_file(path: Path) -> str:
    """sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    data = content.encode() if isinstance(content, str) else content
    with _new_file(partial) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_folder(path.parent)


def _new_file(path: Path) -> IO[bytes]:
    """Open a file that was not there; what was goes, since a link of that name could be any file of the user's."""
    try:
        return path.open("xb")
    except FileExistsError:
        path.unlink()
        return path.open("xb")


def require_writable(folder: Path) -> None:
    """Raise PermissionError where a folder, or the one that it is to be made in, cannot be written."""
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole, with sorted keys, so that equal values give equal bytes."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises InputError naming the file where it is missing, broken, no file of its own or too large.

    Numbers that float64 or 64 bits cannot hold, NaN, and text that is no Unicode are broken too.
    """
    array_file.require_own(path)
    try:
        text = path.read_text("utf-8")
        value = json.loads(text, parse_constant=_refuse_number, parse_int=_whole, parse_float=_number)
        if _SURROGATE.search(text):  # half of one is no text, though JSON can say it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the stage that writes it again") from None
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): run the stage that wrote it again") from None


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text[:40]} is no number")


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        _refuse_number(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse_number(text)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """As read_json, of a file that holds an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object: run the stage that wrote it again")
    return found


def create_run(run: Path, settings: Recipe, replace: bool = False) -> None:
    """Make a run folder with its complete recipe, whole or not at all.

    Args:
        run: the folder.
        settings: the recipe.
        replace: whether what is in the folder may go.

    Raises:
        InputError: the folder is neither new nor empty, and not to be replaced.
    """
    if not is_vacant(run) and not replace:
        raise InputError(f"{run} is not empty: give another --out")
    text = recipe.to_toml(settings)
    if run.exists() and not replace:
        write_whole(run / RECIPE_FILE, text)
        return
    with whole_folder(run.resolve()) as folder:
        write_whole(folder / RECIPE_FILE, text)


def is_vacant(run: Path) -> bool:
    """Whether a run folder can be made there: nothing is in it, but perhaps what a killed process left."""
    left = {f".{RECIPE_FILE}.partial", run_lock.LOCK_FILE}
    return not run.exists() or (run.is_dir() and {path.name for path in run.iterdir()} <= left)


def load_recipe(run: Path) -> Recipe:
    """The recipe of a run folder; raises InputError where the folder is no run or the recipe is bad."""
    path = run / RECIPE_FILE
    if not run.is_dir():
        raise InputError(f"no run folder {run}: give the folder that `edgecbam run` or `edgecbam train` made")
    if not path.is_file():
        raise InputError(f"{run} is no run folder: it has no {RECIPE_FILE}")
    _refuse_links(run, deep=False)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    settings = recipe.from_toml(text, str(path))
    if tomllib.loads(text) != tomllib.loads(recipe.to_toml(settings)):
        raise InputError(f"{path} is not complete: put back the file that the run was begun with, or start a new run")
    return settings


def partial_folder(run: Path, stage: str) -> Path:
    """Where a stage works before it is whole."""
    return run / f".{stage}.partial"


@contextlib.contextmanager
def stage_folder(run: Path, stage: str, keep: bool = False) -> Iterator[Path]:
    """Give a folder to work in; on success it becomes ``RUN/STAGE`` with its ``stage.json``, on failure it is removed.

    Args:
        run: the run folder.
        stage: one of STAGES; its parents must be whole and fresh.
        keep: leave unfinished work in place on failure, and go on in it if it was begun from the same parents and
            recipe.

    Raises:
        InputError: a parent is missing, stale or altered.
    """
    with run_lock.hold(run):
        yield from _locked_stage_folder(run, stage, keep)


def _locked_stage_folder(run: Path, stage: str, keep: bool) -> Iterator[Path]:
    parents = {parent: check_stage(run, parent) for parent in PARENTS[stage]}
    partial = partial_folder(run, stage)
    recipe_digest = _recipe_digest(run, stage)  # of the recipe it is made from, whatever is edited meanwhile
    origin = {"parents": parents, "recipe_digest": recipe_digest}
    if partial.exists() and not (keep and _read_origin(partial) == origin):
        shutil.rmtree(partial)  # begun from another parent or recipe, or not to be gone on in
    _refuse_links(partial)
    partial.mkdir(exist_ok=True)
    for left in partial.rglob(".*.partial"):  # of a file that was just being written when the process was killed
        left.unlink()
    write_json(partial / ORIGIN_FILE, origin)
    try:
        yield partial
        _finish(partial, run / stage, stage, origin)
    except BaseException:
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Give a folder to work in that belongs to no run; on success it becomes ``final``, replacing what is there."""
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _move_into_place(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _finish(partial: Path, final: Path, stage: str, origin: dict[str, Any]) -> None:
    """Write the record of a stage and move it into place; whatever fails leaves unfinished work that can be resumed."""
    own = (STAGE_FILE, ORIGIN_FILE)
    files = {name: sha256_file(partial / name) for name in _files(partial) if name not in own}
    record = {
        "schema_version": 1,
        "stage": stage,
        "edgecbam_version": __version__,
        "files": files,
        **origin,
    }
    write_json(partial / STAGE_FILE, record)
    (partial / ORIGIN_FILE).unlink()  # from now on the record says it
    _move_into_place(partial, final)


def check_stage(run: Path, stage: str) -> str:
    """Check that a stage is whole, unaltered and not stale; returns the sha256 of its ``stage.json``.

    Raises:
        InputError: naming the stage or file and the command that mends it.
    """
    record = load_stage(run, stage)
    folder = run / stage
    for name, digest in record.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: run `{_command(run, stage)}` again")
        if path.resolve() != folder.resolve() / name:
            raise InputError(f"{path} is or lies behind a link, and could be anywhere: put what it leads to there")
        if sha256_file(path) != digest:
            raise InputError(f"{path} was altered after it was made: run `{_command(run, stage)}` again")
    if record.recipe_digest != _recipe_digest(run, stage):
        raise InputError(
            f"{run / RECIPE_FILE} was changed after {folder} was made: "
            f"run `{_command(run, stage)}` again, or undo the change"
        )
    for parent in PARENTS[stage]:
        if record.parents.get(parent) != check_stage(run, parent):
            raise InputError(f"{folder} is stale, {parent} was made again since: run `{_command(run, stage)}` again")
    return sha256_file(folder / STAGE_FILE)


MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.npz"
DTYPES = ("float32", "int8", "uint8")  # of inputs and outputs of what edgecbam exports


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model file. ``scale`` and ``zero_point`` are None for a float tensor.

    real value = scale * (integer - zero_point).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class ModelFile:
    """What the manifest says of one model file. ``macs`` are multiply-accumulates of one inference at batch 1.

    Attributes:
        rewrites: how often each step of the lowering found something to do; empty where it did nothing.
        minimum_runtime: the oldest runtime that runs the file as a whole, such as ``ai-edge-litert 1.3``.
    """

    sha256: str
    bytes: int
    format: str
    precision: str
    input: Tensor
    output: Tensor
    macs: int
    parameters: int
    partitions: int | None
    rewrites: dict[str, int]
    minimum_runtime: str


@dataclass(frozen=True)
class Manifest:
    """``RUN/export/manifest.json``: the files, the classes, and how an image becomes an input.

    Attributes:
        profile: the recipe's export.profile.
        classes: class names in label order; in regression the names of the targets.
        preprocessing: the keys height, width, channels, resize, mean, std (see edgecbam.preprocessing).
        files: by name.
        recipe_digest: sha256 (hex) of the recipe.
        versions: of the tools.
        task: ``classification`` or ``regression``.
        target_mean: regression: of each target; a file's output times target_std plus target_mean is the real value.
        target_std: see target_mean. Both are empty in classification.
    """

    profile: str
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    files: dict[str, ModelFile]
    recipe_digest: str
    versions: dict[str, str]
    task: Task = "classification"
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def check_outputs(self, outputs: np.ndarray, path: Path) -> None:
        """Raise InputError where what a file answered, [..., k] float, are no numbers or not one for each class."""
        if outputs.shape[-1:] != (len(self.classes),):
            found = f"{list(outputs.shape)} outputs for {len(self.classes)} classes"
            raise InputError(f"{path} gives {found}: run `edgecbam export` again")
        if not np.isfinite(outputs).all():
            raise InputError(f"{path} gives outputs that are no numbers: it is damaged, or was trained to be so")

    def real(self, outputs: np.ndarray) -> np.ndarray:
        """Regression: outputs [n, k] of a file, already dequantized, as float64 values in the targets' own units."""
        std, mean = (np.asarray(values, np.float64) for values in (self.target_std, self.target_mean))
        return np.asarray(np.asarray(outputs, np.float64) * std + mean)


@dataclass(frozen=True)
class Samples:
    """Held-out images that travel with the models, and what Keras says of them.

    Attributes:
        images: [n, height, width, channels] uint8 pixels, already resized.
        labels: [n] int64 class indices; in regression [n, k] float32 targets as the network learnt them, which is
            (value - target_mean) / target_std of the manifest.
        keras_float: [n, classes] float32 logits of the float EMA model; in regression its [n, k] outputs.
        keras_qat: as keras_float, of the quantization-aware model.
    """

    images: np.ndarray
    labels: np.ndarray
    keras_float: np.ndarray
    keras_qat: np.ndarray


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the export folder."""
    write_json(folder / MANIFEST_FILE, {"schema_version": 1, **dataclasses.asdict(manifest)})


def load_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` of an export folder; raises InputError naming what is wrong with it."""
    path = folder / MANIFEST_FILE
    raw = read_json(path)
    if isinstance(raw, dict):
        raw.pop("schema_version", None)
    try:
        manifest = json_data.build(Manifest, raw)
        _refuse_paths(path, manifest.files)
        _check_manifest(manifest)
    except ValueError as error:
        raise InputError(f"{path} is no manifest of edgecbam ({error}): run `edgecbam export` again") from None
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Raise ValueError where parts of a manifest do not fit each other."""
    if not manifest.classes or not manifest.files:
        raise ValueError("no classes or no files")
    count = len(manifest.classes) if manifest.task == "regression" else 0
    if not len(manifest.target_mean) == len(manifest.target_std) == count:
        found = f"{len(manifest.target_mean)} target_mean and {len(manifest.target_std)} target_std"
        raise ValueError(f"{found} where {count} belong")
    for name, file in manifest.files.items():
        if file.output.shape[-1:] != (len(manifest.classes),):
            raise ValueError(f"{name} has outputs {list(file.output.shape)} for {len(manifest.classes)} classes")
        for tensor in (file.input, file.output):
            if tensor.dtype not in DTYPES:
                raise ValueError(f"{name} has the dtype {tensor.dtype!r:.40}")
            if tensor.scale is not None and not (tensor.scale > 0 and abs(tensor.zero_point or 0) < 2**31):
                raise ValueError(f"{name} has the scale {tensor.scale:g} and the zero point {tensor.zero_point}")
            if (tensor.scale is None) is not (tensor.zero_point is None):
                raise ValueError(f"{name} has a scale or a zero point alone")


def write_samples(folder: Path, samples: Samples) -> None:
    """Write ``samples.npz`` into the export folder; equal samples give equal bytes."""
    _write_arrays(folder / SAMPLES_FILE, {f.name: getattr(samples, f.name) for f in dataclasses.fields(Samples)})


def write_int8_outputs(folder: Path, outputs: np.ndarray) -> None:
    """Write ``outputs.npz`` into the verify folder: what model_int8.tflite answers to the samples, [n, k] int8."""
    _write_arrays(folder / OUTPUTS_FILE, {INT8_OUTPUTS: outputs})


def load_int8_outputs(folder: Path) -> np.ndarray | None:
    """Read it without unpickling; None where the folder has none, InputError where it is broken."""
    path = folder / OUTPUTS_FILE
    if not path.is_file():
        return None
    try:
        outputs = array_file.load(path)[INT8_OUTPUTS]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not readable ({error}): run `edgecbam verify` again") from None
    if outputs.ndim != 2 or outputs.dtype != np.int8:
        raise InputError(f"{path}: outputs must be [n, k] int8: run `edgecbam verify` again")
    return outputs


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def load_samples(folder: Path) -> Samples:
    """Read ``samples.npz`` without unpickling; raises InputError where it is missing or broken."""
    path = folder / SAMPLES_FILE
    try:
        arrays = array_file.load(path)
        samples = Samples(**{f.name: arrays[f.name] for f in dataclasses.fields(Samples)})
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `edgecbam export` again") from None
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not readable ({error}): run `edgecbam export` again") from None
    if samples.images.ndim != 4 or samples.images.dtype != np.uint8:
        raise InputError(f"{path}: images must be [n, height, width, channels] uint8: run `edgecbam export` again")
    others = (samples.labels, samples.keras_float, samples.keras_qat)
    if samples.labels.dtype.kind not in "iuf" or any(array.dtype.kind != "f" for array in others[1:]):
        raise InputError(f"{path}: its labels or outputs are no numbers: run `edgecbam export` again")
    dimensions = [2 if samples.labels.dtype.kind == "f" else 1, 2, 2]  # float labels are the targets of a regression
    lengths = {a.shape[0] if a.ndim else 0 for a in others}
    if [a.ndim for a in others] != dimensions or lengths != {len(samples.images)} or lengths == {0}:
        raise InputError(f"{path}: its arrays have different lengths or are empty: run `edgecbam export` again")
    if samples.labels.ndim == 2 and samples.labels.shape != samples.keras_float.shape:
        raise InputError(f"{path}: there is not one output for each target: run `edgecbam export` again")
    if not np.isfinite(samples.labels).all():
        raise InputError(f"{path}: a target is no finite number: run `edgecbam export` again")
    return samples


def check_task(folder: Path, manifest: Manifest, samples: Samples) -> None:
    """Raise InputError where the samples of an export folder are of another task than its manifest says."""
    regression = manifest.task == "regression"
    targets = samples.labels.shape[1] if samples.labels.ndim == 2 else 0
    if targets != (len(manifest.classes) if regression else 0):
        raise InputError(
            f"{folder / SAMPLES_FILE} holds {targets or 'no'} targets, {MANIFEST_FILE} tells of "
            f"{len(manifest.classes) if regression else 'none'}: run `edgecbam export` again"
        )
    count = len(manifest.classes)
    if {samples.keras_float.shape[1], samples.keras_qat.shape[1]} != {count}:
        raise InputError(f"{folder / SAMPLES_FILE} has not {count} outputs for each image: run `edgecbam export` again")
    if not regression and not ((samples.labels >= 0) & (samples.labels < count)).all():
        raise InputError(
            f"{folder / SAMPLES_FILE} has labels of none of the {count} classes: run `edgecbam export` again"
        )


def is_fresh(run: Path, stage: str) -> bool:
    """Whether a stage is whole, unaltered and not stale."""
    try:
        check_stage(run, stage)
    except InputError:
        return False
    return True


def load_stage(run: Path, stage: str) -> StageRecord:
    """Read ``stage.json`` without checking digests; raises InputError where the stage was not made or is unreadable."""
    old = _old_folder(run / stage)
    if old.exists() and not (run / stage).exists():
        with run_lock.hold(run):
            if old.exists() and not (run / stage).exists():  # still, now that nobody else works here
                os.rename(old, run / stage)  # the power went between the two renames of _move_into_place
    path = run / stage / STAGE_FILE
    if not path.is_file():
        load_recipe(run)  # says so where this is no run folder at all
        raise InputError(f"{run} has no finished stage {stage}: run `{_command(run, stage)}` first")
    raw = read_json(path)
    if isinstance(raw, dict):
        raw.pop("schema_version", None)
    try:
        record = json_data.build(StageRecord, raw)
    except ValueError as error:
        raise InputError(f"{path} is no record of a stage ({error}): run `{_command(run, stage)}` again") from None
    _refuse_paths(path, record.files)
    return record


def _refuse_links(folder: Path, deep: bool = True) -> None:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(place, name)):
                raise InputError(
                    f"{Path(place, name)} is a link, and could lead anywhere: put what it leads to in its place"
                )
        if not deep:
            return


def _refuse_paths(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{path} names the file {name!r} outside its folder: the run folder is not to be trusted")


def _recipe_digest(run: Path, stage: str) -> str:
    return load_recipe(run).digest(*SECTIONS[stage]) if SECTIONS[stage] else ""


def _command(run: Path, stage: str) -> str:
    """What makes a stage."""
    command = "export" if stage == "app" else stage
    return f"edgecbam {command} {f'--resume --out {run}' if stage == 'train' else run}"


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _read_origin(partial: Path) -> Any:
    """What unfinished work was begun from; of finished work that was not moved any more, its record says it."""
    for name in (ORIGIN_FILE, STAGE_FILE):
        with contextlib.suppress(InputError, KeyError, TypeError):
            found = read_json(partial / name)
            return {key: found[key] for key in ("parents", "recipe_digest")}
    return None


def _old_folder(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _move_into_place(partial: Path, final: Path) -> None:
    old = _old_folder(final)
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        os.rename(final, old)
    os.rename(partial, final)
    _sync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
