"""What every runtime adapter gives: an open model behind one small interface, and the errors they share."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage

Shapes = Mapping[str, tuple[int, ...]]  # by input name, for inputs that have free dimensions


class CannotRun(EnvironmentFailure):
    """The file is sound but this runtime, as installed, cannot run it: an operator or a kernel is missing."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an open model.

    ``scale`` and ``zero_point`` are None for float tensors, and for integer tensors of formats that do not say
    (.onnx; the manifest of a run folder does). real value = scale * (integer - zero_point). A dimension of -1 is free.
    ``dtype`` is NumPy's name, such as ``"float32"`` or ``"int8"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Session(Protocol):
    """A model opened by a runtime, ready to run.

    ``run`` is the plain way. To time an inference, call ``prepare`` once and then ``invoke`` as often as wanted: an
    ``invoke`` reads inputs that already lie where the runtime wants them and leaves the outputs inside the runtime,
    so nothing but the inference (and the call from Python) takes part. ``outputs_now`` copies the outputs of the last
    ``invoke``.
    """

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs, in the order in which ``prepare`` and ``run`` take them."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs, in the order in which ``run`` returns them."""

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs; raises InputError for a wrong number, shape or dtype."""

    def invoke(self) -> None:
        """Run one inference, synchronously: it is done when this returns."""

    def outputs_now(self) -> list[np.ndarray]:
        """Copies of the outputs of the last ``invoke``."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """``prepare``, ``invoke``, ``outputs_now``."""

    def placement(self) -> dict[str, Any]:
        """What really ran where, as JSON values: delegates, providers, precision hints, threads."""

    def close(self) -> None:
        """Let go of the model and its memory. The session cannot be used any more."""


class Opener(Protocol):
    """How a runtime opens a file.

    Args:
        model: the file.
        threads: threads of one inference.
        device: ``"cpu"`` or ``"gpu"``; one of the runtime's ``devices``.
        shapes: whole shapes of inputs that have free dimensions; names of other models' inputs are passed over.

    Raises:
        MissingPackage: the runtime is not installed.
        InputError: the file is missing or is no sound model of its format.
        CannotRun: the file is sound but has something that this runtime cannot run, or the device is not there.
    """

    def __call__(self, model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session: ...


class NodeCounter(Protocol):
    """How a runtime that can tell says which nodes of a graph, as it executes it, run on integers and which in float.

    It works in a session of its own, beside one that is open, and only after whatever is timed: it runs one inference.

    Args:
        model: the file.
        threads: threads of one inference, since they may decide what the runtime makes of the graph.
        arrays: inputs of the model.

    Returns:
        JSON values: the numbers of nodes ``total``, ``integer``, ``float`` and ``other`` (shapes and the like), and
        ``in_float``, a list of ``{"op", "count", "reason", "names"}``.

    Raises:
        CannotRun: the runtime did not tell.
    """

    def __call__(self, model: Path, threads: int, arrays: Sequence[np.ndarray]) -> dict[str, Any]: ...


class Profiler(Protocol):
    """How a runtime tells what each op takes, in a session of its own, after everything that is timed.

    Args:
        model: the file.
        threads: threads of one inference.
        device: as for Opener.
        arrays: inputs of the model.
        runs: inferences to average over, after a few untimed ones.

    Returns:
        JSON values: ``runs``, as given; ``ops``, a list in the order of running of ``{"name", "op", "us", "where",
        "nodes"}``: the runtime's or the model's name for this op, its kind, its mean microseconds per inference, where
        it ran (``"xnnpack"``, ``"cpu"``, ``"gpu"`` …) and which of ``graph`` it may compute; ``delegate``, the place
        that the ops are meant to run in, or None where there is no such choice; ``resolution_us``, below which a time
        means nothing; ``graph``, a list of ``{"name", "op", "inputs", "outputs"}`` that leaves constants out, where
        an op's ``name`` holds all names that the file has for it and its tensors, and ``""`` if none; and
        ``graph_reason``, why the ops cannot be told in it, or None.

    Raises:
        CannotRun: the runtime did not tell.
    """

    def __call__(
        self, model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Runtime:
    """An entry of the registry.

    Attributes:
        name: what the user says, such as ``"onnxruntime"``.
        package: distribution name on PyPI.
        module: what is imported.
        extra: the extra of edgecbam that installs the package.
        formats: file name endings it reads, with the dot.
        open: opens a model file; imports the package only then.
        devices: where it can run.
        withheld: modules that must not be importable while the package is imported.
        nodes: counts the nodes on integers and in float; None where the runtime does not tell.
        reference: opens a file in the plainest way there is on the CPU, without delegates and rewritten graphs, to
            say what its outputs should be; None where another runtime of the same format does that.
        profile: times the ops; None where the runtime does not tell.
        functional: why its time is no speed, such as that of an interpreter for another kind of machine; "" else.
    """

    name: str
    package: str
    module: str
    extra: str
    formats: tuple[str, ...]
    open: Opener
    devices: tuple[str, ...] = ("cpu",)
    withheld: tuple[str, ...] = ()
    nodes: NodeCounter | None = None
    reference: Opener | None = None
    profile: Profiler | None = None
    functional: str = ""

    def installed(self) -> bool:
        """Whether the module is there, from whichever distribution. Imports nothing heavy."""
        return importlib.util.find_spec(self.module.split(".")[0]) is not None

    def version(self) -> str | None:
        """Version of the installed package, or None where its distribution is not found. Imports nothing heavy."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def load(self) -> ModuleType:
        """Import the package; raises MissingPackage, or EnvironmentFailure where it is installed but broken."""
        with _withheld(self.withheld):
            return import_runtime(self.module, self.package, self.extra)


def import_runtime(module: str, package: str, extra: str) -> ModuleType:
    """Import a runtime's module; raises MissingPackage, or EnvironmentFailure where it is installed but broken."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.split(".")[0] == error.name.split(".")[0]:
            raise MissingPackage(package, extra, f"running models with {package}") from None
        raise EnvironmentFailure(f"{package} is installed but cannot be imported: {one_line(error)}") from error
    except (ImportError, OSError) as error:
        raise EnvironmentFailure(f"{package} is installed but cannot be imported: {one_line(error)}") from error


@contextlib.contextmanager
def _withheld(modules: Sequence[str]) -> Iterator[None]:
    """Make ``import`` of these modules fail inside the block, as if they were not installed."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    masked: dict[str, Any] = sys.modules  # None in this table is Python's own way to say "not importable"
    masked.update(dict.fromkeys(modules))
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def check_file(model: Path, formats: tuple[str, ...]) -> None:
    """Raise InputError where a model file is missing, empty or of another format."""
    if model.suffix.lower() not in formats:
        raise InputError(f"{model} is of another format: expected {' or '.join(formats)}")
    if not model.is_file():
        raise InputError(f"no model file {model}")
    try:
        str(model).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{str(model)!r}: runtimes take names in UTF-8 alone, rename the file") from None
    try:
        with model.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from None
    if not head:
        raise InputError(f"{model} is empty")
    if model.suffix.lower() == ".tflite" and head[4:8] != b"TFL3":
        raise InputError(f"{model} is no .tflite model: it lacks the identifier TFL3")


def check_threads(threads: int) -> None:
    """Raise InputError unless ``threads`` is at least 1: no runtime is left to choose for itself."""
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")


def check_device(runtime: Runtime, device: str) -> None:
    """Raise CannotRun unless the runtime can run on this kind of device at all."""
    if device not in runtime.devices:
        raise CannotRun(f"{runtime.name} runs on {' and '.join(runtime.devices)}, not on {device}")


def check_shapes(inputs: Sequence[TensorInfo], shapes: Shapes | None) -> dict[str, tuple[int, ...]]:
    """The shapes that belong to these inputs; raises InputError where one does not fit its input."""
    chosen = {}
    for info in inputs:
        shape = (shapes or {}).get(info.name)
        if shape is None:
            continue
        fits = len(shape) == len(info.shape) and all(
            want in (-1, have) for want, have in zip(info.shape, shape, strict=True)
        )
        if not fits:
            raise InputError(f"the shape {list(shape)} does not fit the input {info.name} {list(info.shape)}")
        chosen[info.name] = shape
    return chosen


def check_arrays(inputs: tuple[TensorInfo, ...], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays, contiguous; raises InputError where number, dtype or shape are not what the model takes."""
    if len(arrays) != len(inputs):
        raise InputError(f"the model takes {len(inputs)} inputs, got {len(arrays)}")
    for info, array in zip(inputs, arrays, strict=True):
        fits = len(array.shape) == len(info.shape) and all(
            want in (-1, have) for want, have in zip(info.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(info.dtype):
            raise InputError(
                f"input {info.name} takes {info.dtype} {list(info.shape)}, got {array.dtype} {list(array.shape)}"
            )
    return [np.require(array, requirements="C") for array in arrays]  # ascontiguousarray makes scalars vectors


OUT_OF_MEMORY = "out of memory"
_MEMORY_SIGNS = (
    "bad_alloc",
    "failed to allocate",
    "cannot allocate memory",
    "smaller than requested bytes",
    "oom when",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that there is not enough memory; runtimes say so in words."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if isinstance(seen, MemoryError) or OUT_OF_MEMORY in text or any(sign in text for sign in _MEMORY_SIGNS):
            return True
        seen = seen.__cause__
    return False


def one_line(error: BaseException | str, limit: int = 240) -> str:
    """The text of an error on one line, cut to ``limit`` characters."""
    text = " ".join(str(error).split())
    if not text and isinstance(error, BaseException):
        text = type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
