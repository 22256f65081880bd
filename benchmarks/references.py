"""What the outputs of a bare file should be: its format's own runtime on the CPU, without delegate or rewritten graph.

Made in a process of its own, since a file from a stranger may bring a runtime down, and before anything is timed.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgecbam
from edgecbam import array_file, runtimes
from edgecbam.errors import InputError, MissingPackage
from edgecbam.runtimes import CannotRun, Session, TensorInfo, check_file, onnx_file
from edgecbam.runtimes.session import one_line

from . import parity
from .child import Child, ChildFailed

TIMEOUT_S = 600.0
FORMATS = (".tflite", ".onnx", ".keras")
COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from edgecbam.benchmarks.references import main; main()",
    str(Path(edgecbam.__file__).resolve().parents[1]),
)


@dataclass(frozen=True)
class Made:
    """What became of a reference: its file, or the reason why there is none; of the model its precision and inputs."""

    path: Path | None
    reason: str
    precision: str | None = None
    names: tuple[str, ...] | None = None


def make(
    model: Path, target: Path, seed: int, shapes: Mapping[str, tuple[int, ...]], inputs: Path | None = None
) -> Made:
    """Make the reference of a file.

    Args:
        model: a .tflite or .onnx file.
        target: where to write it (see parity.Reference).
        seed: of random inputs.
        shapes: whole shapes of inputs that have free dimensions.
        inputs: .npz with real inputs: by input name an array whose first axis counts the sets; None: random ones.

    Raises:
        InputError: the file is damaged, ``inputs`` does not fit it, or a free dimension is not given.
    """
    made = _ask(model, target, seed, shapes, inputs)
    if inputs is not None and made.path is None:
        raise InputError(f"--inputs cannot be used with {model}: {made.reason}")
    return made


def _ask(model: Path, target: Path, seed: int, shapes: Mapping[str, tuple[int, ...]], inputs: Path | None) -> Made:
    if not runtimes.find(_maker(model)).installed():
        return Made(None, f"{_maker(model)}, whose outputs would be the reference, is not installed")
    task = {
        "model": str(model),
        "target": str(target),
        "seed": seed,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "inputs": None if inputs is None else str(inputs),
    }
    with Child(task, COMMAND) as child:
        try:
            answer = child.hear(TIMEOUT_S)
        except ChildFailed as failure:
            if failure.status == "input":
                raise InputError(failure.reason) from None
            return Made(None, failure.reason)
    return Made(target, "", answer["precision"], tuple(answer["names"]))


def load_inputs(path: Path, infos: Sequence[TensorInfo]) -> list[list[np.ndarray]]:
    """Sets of real inputs from an .npz file; raises InputError where it does not hold what the model takes."""
    try:
        arrays = array_file.load(path.resolve())  # typed by the user, and may be a link
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the inputs {path}: {one_line(error)}") from None
    missing = [info.name for info in infos if info.name not in arrays]
    if missing:
        raise InputError(f"{path} has no array {missing[0]}: it holds {', '.join(sorted(arrays)) or 'nothing'}")
    counts = {len(arrays[info.name]) if arrays[info.name].ndim else 0 for info in infos}
    if len(counts) != 1 or min(counts) < 2:
        raise InputError(f"{path}: the first axis of every array counts the sets of inputs: the same number, 2 or more")
    return [[arrays[info.name][i] for info in infos] for i in range(counts.pop())]


def _maker(model: Path) -> str:
    """Name of the runtime whose reference a file gets."""
    return next(runtime.name for runtime in runtimes.readers(model.suffix) if runtime.reference is not None)


def _make(task: dict[str, Any]) -> dict[str, Any]:
    model, shapes = Path(task["model"]), {name: tuple(shape) for name, shape in task["shapes"].items()}
    runtime = runtimes.find(_maker(model))
    check_file(model, FORMATS)
    if runtime.reference is None:
        raise CannotRun(f"{runtime.name} makes no references")
    session = runtime.reference(model, 1, "cpu", shapes)
    with contextlib.closing(session):
        try:
            if not session.outputs:
                raise CannotRun("it has no outputs")
            inputs = (
                parity.random_inputs(session, task["seed"], shapes)
                if task["inputs"] is None
                else load_inputs(Path(task["inputs"]), session.inputs)
            )
        except InputError as error:
            raise InputError(f"{model}: {error}") from None
        for info, array in zip(session.inputs, inputs[0], strict=True):
            if shapes.get(info.name, array.shape) != array.shape:
                raise InputError(f"{model}: --shape and --inputs disagree about {info.name}: {list(array.shape)}")
        outputs = [session.run(arrays) for arrays in inputs]
        precision = _precision(model, session)
        scales = tuple(info.scale for info in session.outputs)
        names = [info.name for info in session.inputs]
        maker = f"{runtime.name}, {session.placement().get('kernels', 'graph as it stands')}"
    parity.save_reference(Path(task["target"]), parity.Reference(inputs, outputs, maker, precision, scales))
    return {"precision": precision, "names": names}


def _precision(model: Path, session: Session) -> str:
    if model.suffix.lower() == ".onnx":
        return onnx_file.read(model).precision
    return str(session.placement().get("file_precision", "float32"))  # Keras files of edgecbam and their kind


def main() -> None:
    """Serve ``make``: one JSON line in, one out."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)  # runtimes write to standard output as they please
        task = json.loads(sys.stdin.readline())
        try:
            answer = _make(task)
        except InputError as error:
            answer = {"failed": "input", "reason": one_line(error, 1000)}
        except (MissingPackage, CannotRun) as error:
            answer = {"failed": "unsupported", "reason": one_line(error)}
        replies.write(json.dumps(answer) + "\n")
