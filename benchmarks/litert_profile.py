"""Op by op: what LiteRT's own profiler says of one .tflite file.

Neither the Python interface of ai-edge-litert offers it nor does the package bring a benchmark tool, but its library
exports the C interface that has it. That interface promises no fixed layout: the two structs below are those of
version 2.3, and any other version is refused rather than misread.

The profiler counts whole microseconds, rounded down: of an op that takes less, little or nothing is left. It also asks
the clock around every op, so the sum over ops is not the latency that a measurement without it gives.
"""

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np

import edgecbam
from edgecbam import runtimes
from edgecbam.errors import InputError, MissingPackage
from edgecbam.runtimes import CannotRun
from edgecbam.runtimes.session import one_line

from . import parity
from .child import Child, ChildFailed

VERSION = "2.3"
WARM_UP = 10
TIMEOUT_S = 300.0
SEED = 1
CPU = 1  # LiteRtHwAccelerators
WRITE = 1  # LiteRtTensorBufferLockMode
OUTSIDE, IN_DELEGATE = 1 << 1, 1 << 3  # event types: an op of the plain kernels, an op inside XNNPACK
OPTIONS = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = 1\n"}
COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from edgecbam.benchmarks.litert_profile import main; main()",
    str(Path(edgecbam.__file__).resolve().parents[1]),
)


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (
        ("element_type", c_int),
        ("rank", c_uint, 7),
        ("has_strides", c_uint, 1),
        ("dimensions", c_int32 * 8),
        ("strides", c_uint32 * 8),
    )


class _Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = (
        ("tag", c_char_p),
        ("type", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory_before", c_size_t * 3),
        ("memory_after", c_size_t * 3),
        ("metadata", c_uint64 * 2),
        ("source", c_int),
    )


_keep = ctypes.CFUNCTYPE(None, c_void_p)(lambda payload: None)  # how to free what Python owns: not at all


def profile(path: Path, runs: int) -> list[tuple[str, float]]:
    """Run a file on one thread and time its ops.

    Args:
        path: a .tflite file with one input and one output; gets the random input of a benchmark of a bare file.
        runs: inferences to average over, after WARM_UP others.

    Returns:
        (XNNPACK's name of the op, or LiteRT's outside of it; mean microseconds per run), in the order of running.

    Raises:
        MissingPackage: LiteRT is not installed.
        InputError: the file is missing or no sound .tflite file.
        CannotRun: LiteRT cannot run the file, or its version is another than VERSION.
    """
    array = _random_input(path)
    with contextlib.ExitStack() as stack:
        model = _Profiled(path, array, stack)
        for _ in range(WARM_UP):
            model.run()
        records = [model.profiled_run() for _ in range(runs)]
    names = [name for name, _ in records[0]]
    if any([name for name, _ in record] != names for record in records):
        raise CannotRun(f"LiteRT ran other ops of {path.name} from run to run: its profile cannot be averaged")
    times = np.mean([[elapsed for _, elapsed in record] for record in records], axis=0)
    return list(zip(names, times.tolist(), strict=True))


def profile_apart(path: Path, runs: int) -> list[tuple[str, float]]:
    """``profile`` in a process of its own, which may crash without harm; same value and errors."""
    with Child({"model": str(path), "runs": runs}, COMMAND) as child:
        try:
            answer = child.hear(TIMEOUT_S)
        except ChildFailed as failure:
            if failure.status == "input":
                raise InputError(failure.reason) from None
            raise CannotRun(f"no profile of {path.name}: {failure.reason}") from None
    return [(str(name), float(elapsed)) for name, elapsed in answer["ops"]]


class _Profiled:
    """A compiled model with its profiler and buffers; everything is freed when the stack unwinds."""

    def __init__(self, path: Path, array: np.ndarray, stack: contextlib.ExitStack) -> None:
        self._path, self._stack = path, stack
        self._library = _library()
        environment = self._make("LiteRtCreateEnvironment", 0, None)
        model = self._make("LiteRtCreateModelFromFile", environment, os.fsencode(path))
        options = self._make("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        self._payloads = [ctypes.create_string_buffer(text) for text in OPTIONS.values()]
        for name, payload in zip(OPTIONS, self._payloads, strict=True):
            option = self._get("LiteRtCreateOpaqueOptions", name, ctypes.cast(payload, c_void_p), _keep)
            self._call("LiteRtAddOpaqueOptions", options, option)  # which owns it from then on
        self._compiled = self._make("LiteRtCreateCompiledModel", environment, model, options)
        self._profiler = self._get("LiteRtCompiledModelGetProfiler", self._compiled)
        signature = self._get("LiteRtGetModelSignature", model, c_size_t(0))
        self._ends = [(c_void_p * 1)(self._buffer(environment, signature, end)) for end in ("Input", "Output")]
        self._fill(self._ends[0][0], array)

    def run(self) -> None:
        """One inference."""
        one = c_size_t(1)
        self._call("LiteRtRunCompiledModel", self._compiled, c_size_t(0), one, self._ends[0], one, self._ends[1])

    def profiled_run(self) -> list[tuple[str, int]]:
        """One inference: the ops that ran with their microseconds."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        ops = [event for event in events if event.type in (OUTSIDE, IN_DELEGATE)]
        return [((event.tag or b"").decode("utf-8", "replace"), event.elapsed_us) for event in ops]

    def _buffer(self, environment: c_void_p, signature: c_void_p, end: str) -> c_void_p:
        """A buffer for the only tensor at one end, ``Input`` or ``Output``."""
        tensor = self._get(f"LiteRtGetSignature{end}TensorByIndex", signature, c_size_t(0))
        kind = _TensorType()
        self._call("LiteRtGetRankedTensorType", tensor, byref(kind))
        get = f"LiteRtGetCompiledModel{end}BufferRequirements"
        needs = self._get(get, self._compiled, c_size_t(0), c_size_t(0))
        buffer = self._get("LiteRtCreateManagedTensorBufferFromRequirements", environment, byref(kind), needs)
        self._stack.callback(self._library.LiteRtDestroyTensorBuffer, buffer)
        return buffer

    def _fill(self, buffer: int | None, array: np.ndarray) -> None:
        size = c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", c_void_p(buffer), byref(size))
        if size.value != array.nbytes:
            raise CannotRun(f"LiteRT wants {size.value} bytes for the input of {self._path.name}, not {array.nbytes}")
        address = c_void_p()
        self._call("LiteRtLockTensorBuffer", c_void_p(buffer), byref(address), WRITE)
        ctypes.memmove(address, array.tobytes(), array.nbytes)
        self._call("LiteRtUnlockTensorBuffer", c_void_p(buffer))

    def _make(self, function: str, *arguments: object) -> c_void_p:
        """The handle that ``LiteRtCreate…`` gives, to be destroyed at the end."""
        handle = self._get(function, *arguments)
        kind = function.removeprefix("LiteRtCreate").removesuffix("FromFile")
        self._stack.callback(getattr(self._library, f"LiteRtDestroy{kind}"), handle)
        return handle

    def _get(self, function: str, *arguments: object) -> c_void_p:
        """The handle that a function writes to its last argument."""
        handle = c_void_p()
        self._call(function, *arguments, byref(handle))
        return handle

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise CannotRun(f"LiteRT cannot profile {self._path.name}: {function} answers {status}")


def _library() -> ctypes.CDLL:
    litert = runtimes.find("litert")
    version = litert.version() or "of unknown version"
    if not version.startswith(f"{VERSION}."):
        raise CannotRun(f"profiles are read from ai-edge-litert {VERSION}, and {version} is installed")
    folder = Path(str(litert.load().__file__)).parent
    for path in sorted(folder.glob("libLiteRt.*")):  # .so, .dylib or .dll
        return ctypes.CDLL(str(path))
    raise CannotRun(f"ai-edge-litert {version} came without its library libLiteRt: a profile needs it")


def _random_input(path: Path) -> np.ndarray:
    """As the benchmark of a bare file would make it; LiteRT's own buffers begin with whatever lay in memory."""
    session = runtimes.find("litert").open(path, threads=1)
    try:
        if (len(session.inputs), len(session.outputs)) != (1, 1):
            raise CannotRun(f"{path.name} has more than one input or output: no profile of it is possible")
        return parity.random_inputs(session, SEED, 1)[0][0]
    finally:
        session.close()


def main() -> None:
    """Serve profile_apart: one JSON line in, one out."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)  # LiteRT writes to standard output as it pleases
        task = json.loads(sys.stdin.readline())
        replies.write(json.dumps(_answer(Path(task["model"]), task["runs"])) + "\n")


def _answer(path: Path, runs: int) -> dict[str, str | Sequence[tuple[str, float]]]:
    try:
        return {"ops": profile(path, runs)}
    except InputError as error:
        return {"failed": "input", "reason": one_line(error)}
    except (MissingPackage, CannotRun) as error:
        return {"failed": "unsupported", "reason": one_line(error)}
