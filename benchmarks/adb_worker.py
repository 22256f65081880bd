"""Measures one cell on an Android phone: what worker.py does in a process, done by invocations of benchmark_model.

    open   -> one invocation that watches its memory: init_ms, first_ms, memory, placement
    check  -> an invocation for each set of inputs that writes the outputs, which are compared here
    warm   -> noted: every later invocation warms up that long, for each is a fresh process
    block  -> one invocation; its median (or mean, where the program prints no median) is the block's one figure

Everything happens in ``hear``: a phone does one thing at a time, whatever several workers were told.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgecbam import artifacts
from edgecbam.errors import InputError
from edgecbam.runtimes import Session, TensorInfo, to_real
from edgecbam.runtimes.session import one_line

from . import adb_result, parity
from .adb import TooSlow
from .adb_bench import RUNTIME, Bench, Options
from .adb_result import Result
from .child import ChildFailed
from .devices import Unreachable

FORMAT = ".tflite"
MOST_IMAGES = 64  # of a run's samples: each costs an invocation
DELEGATES = {"TfLiteXNNPackDelegate": "xnnpack", "TfLiteGpuDelegateV2": "gpu"}
GPU_ARITHMETIC = "f16"  # benchmark_model lets the GPU delegate compute in 16 bits unless told otherwise


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a file that nothing here has open, for parity.run_inputs."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class AdbWorker:
    """See child.Worker.

    Args:
        bench: prepared.
        task: see worker.Task.
        label: names this worker in the bench's folder.
    """

    def __init__(self, bench: Bench, task: dict[str, Any], label: str) -> None:
        self._bench, self._task, self._label = bench, task, label
        self._path = Path(task["model"])
        self._gpu = task["device"] == "gpu"
        self._asked: list[dict[str, Any]] = [{"command": "start"}]
        self._deadline = 0.0
        self._running = False
        self._warm_up: dict[str, Any] = {"runs": 1, "seconds": 0.0}
        self._model = ""
        self._cores: str | None = None
        self._sets: list[list[np.ndarray]] = []  # inputs from files: none where the program makes them up
        self._median = True

    def tell(self, message: dict[str, Any]) -> None:
        """Note one command for ``hear``."""
        self._asked.append(message)

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Do the next thing that was asked and answer; raises ChildFailed."""
        message = self._asked.pop(0)
        name = message["command"]
        steps = {
            "start": self._start,
            "open": self._open,
            "check": self._check,
            "warm": self._warm,
            "block": self._block,
        }
        if name not in steps:
            raise ChildFailed("unsupported", f"{RUNTIME} over adb gives no {name}")
        self._deadline = time.monotonic() + timeout_s
        try:
            return steps[name](message)
        except TooSlow:
            self._end_run()
            if self._bench.phone.state() != "device":
                raise ChildFailed("skipped", self._bench.phone.lost()) from None
            raise ChildFailed("timeout", f"no answer within {timeout_s:g} s in {name}") from None
        except Unreachable as error:
            raise ChildFailed("skipped", str(error)) from None
        except InputError as error:
            raise ChildFailed("input", str(error)) from None

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """``tell`` and ``hear``."""
        self.tell(message)
        return self.hear(timeout_s)

    def kill(self) -> None:
        """End the invocation that may still run on the phone. May be called again."""
        if self._running:
            self._end_run()

    def __enter__(self) -> "AdbWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(self, _: dict[str, Any]) -> dict[str, Any]:
        if self._task["runtime"] != RUNTIME:
            raise ChildFailed("unsupported", f"{self._bench.phone.name} has {RUNTIME} and no {self._task['runtime']}")
        if self._path.suffix.lower() != FORMAT:
            raise ChildFailed("unsupported", f"{RUNTIME} reads {FORMAT} files, not {self._path.suffix}")
        self._model = self._bench.model(self._path)
        return {"imported": True}

    def _open(self, _: dict[str, Any]) -> dict[str, Any]:
        self._sets = self._input_sets()
        self._cores = self._pin()
        log, result = self._invoke(1, 0.0, 1, memory=True)
        if self._gpu and not result.gpu:
            told = next((line for line in log.splitlines() if "GPU" in line and "Use gpu" not in line), "")
            raise ChildFailed("unsupported", f"the GPU delegate took none of the model's ops: {one_line(told)}")
        self._median = result.timed.median_us is not None
        return {
            "init_ms": result.init_us / 1e3,
            "first_ms": result.first_us / 1e3,
            "memory": {"imported_bytes": None, "peak_bytes": result.peak_bytes},
            "placement": self._placement(result),
            "functional": self._no_speed(),
        }

    def _check(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._task["export"] is not None:
            return vars(self._check_run_file(message["images"]))
        if self._task["reference"] is None:
            return vars(_unchecked("no CPU reference could be made"))
        reference = parity.load_reference(Path(self._task["reference"]))
        outputs, reason = self._outputs(reference.inputs, reference.outputs)
        if reason:
            return vars(_unchecked(reason))
        return vars(parity.compare_outputs(outputs, reference, GPU_ARITHMETIC if self._gpu else ""))

    def _warm(self, message: dict[str, Any]) -> dict[str, Any]:
        self._warm_up = message
        return {"warm": True, "runs": 0}

    def _block(self, message: dict[str, Any]) -> dict[str, Any]:
        warm_up = max(self._warm_up["runs"], message["lead_in"])
        _, result = self._invoke(warm_up, self._warm_up["seconds"], message["runs"])
        if result.timed.count < message["runs"]:
            short = f"{RUNTIME} stopped after {result.timed.count} of {message['runs']} runs, its own limit of time"
            raise ChildFailed("timeout", short)
        figure = result.timed.median_us if self._median else result.timed.mean_us
        if figure is None:
            raise ChildFailed("crash", f"{RUNTIME} printed no median this time")
        return {"ns": [round(figure * 1e3)]}

    def _input_sets(self) -> list[list[np.ndarray]]:
        if self._task["export"] is not None:
            folder, file = Path(self._task["export"]), self._path.name
            arrays, _ = parity.run_inputs(folder, file, cast(Session, self._tensors()), MOST_IMAGES)
            return [[array] for array in arrays]
        if self._task["reference"] is not None:
            return parity.load_reference(Path(self._task["reference"])).inputs
        if self._task["shapes"]:
            raise ChildFailed("unsupported", f"{RUNTIME} needs a CPU reference to know which input a shape is for")
        return []

    def _tensors(self) -> _Tensors:
        entry = artifacts.load_manifest(Path(self._task["export"])).files[self._path.name]
        ends = [
            TensorInfo(tensor.name, tuple(tensor.shape), tensor.dtype, tensor.scale, tensor.zero_point)
            for tensor in (entry.input, entry.output)
        ]
        return _Tensors((ends[0],), (ends[1],))

    def _pin(self) -> str | None:
        mask = self._bench.cores(self._task["threads"])
        if mask is None:
            return None
        allowed = self._bench.allowed_cores(mask)
        if allowed.code != 0:
            raise ChildFailed("unsupported", f"cannot run on the cores {mask}: {one_line(allowed.text)}")
        return allowed.text

    def _placement(self, result: Result) -> dict[str, Any]:
        took = [
            {
                "delegate": DELEGATES.get(one.delegate, one.delegate),
                "nodes": one.nodes,
                "of_nodes": one.of_nodes,
                "partitions": one.partitions,
            }
            for one in result.replaced
        ]
        facts = self._bench.facts()
        gpu = {"adapter": facts.graphics, "software": facts.software_graphics, "precision": GPU_ARITHMETIC}
        return {
            "device": "gpu" if self._gpu else "cpu",
            "threads": self._task["threads"],
            "cores": self._cores,
            "delegate": ", ".join(dict.fromkeys(str(one["delegate"]) for one in took)) or None,
            "delegated": took,
            **(gpu if self._gpu else {}),
            "statistic": f"{'median' if self._median else 'mean'} of the timed runs of one invocation",
            "resolution_us": 1,
            "benchmark_model_sha256": self._bench.digest,
        }

    def _no_speed(self) -> str:
        facts = self._bench.facts()
        if facts.emulator:
            return "an Android emulator runs on a computer: its time is no phone's"
        if self._gpu and facts.software_graphics:
            return f"{facts.graphics} is an emulation on the CPU: its time is no GPU's"
        return ""

    def _check_run_file(self, images: int) -> parity.Check:
        """As parity.check_run_file, of MOST_IMAGES at most; how right it is only where that is all of them."""
        folder, file = Path(self._task["export"]), self._path.name
        tensors = self._tensors()
        arrays, samples = parity.run_inputs(folder, file, cast(Session, tensors), min(images, MOST_IMAGES))
        tensor = tensors.outputs[0]
        like = np.empty([max(size, 1) for size in tensor.shape], tensor.dtype)
        outputs, reason = self._outputs([[array] for array in arrays], [[like]] * len(arrays))
        if reason:
            return _unchecked(reason)
        real = np.concatenate([to_real(one[0], tensor).reshape(1, -1) for one in outputs])
        check = parity.compare_run_file(folder, file, samples, real, tensor)
        if len(arrays) == min(images, len(samples.images)):
            return check
        return parity.Check(check.passed, check.reason, check.parity)

    def _outputs(
        self, sets: Sequence[Sequence[np.ndarray]], like: Sequence[Sequence[np.ndarray]]
    ) -> tuple[list[list[np.ndarray]], str]:
        """The outputs for each set of inputs, and why there are none, or "". ``like`` gives their dtypes and shapes."""
        if not _can_be_files(sets):
            return [], f"{RUNTIME} takes no input without dimensions from a file"
        folder, name = f"{self._bench.work}/{self._label}-outputs", f"{self._label}-outputs"
        options = self._options(0, 0.0, 1, output=f"{folder}/$1")
        numbers = " ".join(str(i) for i in range(len(sets)))
        invocation = self._bench.invocation(options, self._cores, self._label, '"$i"')
        log = f"{self._bench.work}/{self._label}.log"
        script = (
            f"rm -rf {folder}; mkdir {folder}; for i in {numbers}; do {invocation} > {log} 2>&1; c=$?\n"
            f"if [ $c != 0 ]; then cat {log}; exit $c; fi; done; cat {log}"
        )
        _, result = self._run(script)
        for option in ("input_layer_value_files", "output_filepath"):
            if option in result.unknown_options:
                return [], f"this {RUNTIME} cannot write outputs: it does not know --{option}"
        with tempfile.TemporaryDirectory() as scratch:
            self._bench.phone.pull(folder, Path(scratch))
            files = [Path(scratch) / name / str(i) for i in range(len(sets))]
            if not all(file.is_file() for file in files):
                return [], f"this {RUNTIME} cannot write outputs"
            return [_split(file.read_bytes(), arrays) for file, arrays in zip(files, like, strict=True)], ""

    def _invoke(self, warm_up: int, seconds: float, runs: int, memory: bool = False) -> tuple[str, Result]:
        options = self._options(warm_up, seconds, runs, memory)
        return self._run(self._bench.invocation(options, self._cores, self._label))

    def _options(self, warm_up: int, seconds: float, runs: int, memory: bool = False, output: str = "") -> Options:
        sets = self._sets if _can_be_files(self._sets) else []
        key = f"{self._task['export']} {self._task['reference']} {self._path.name if self._task['export'] else ''}"
        return Options(
            self._model,
            self._task["threads"],
            self._gpu,
            warm_up,
            seconds,
            runs,
            memory,
            tuple(array.shape for array in sets[0]) if sets else (),
            self._bench.inputs(key, sets) if sets else "",
            output,
        )

    def _run(self, script: str) -> tuple[str, Result]:
        self._running = True
        answer = self._bench.phone.shell(script, self._deadline - time.monotonic())
        self._running = False
        if answer.code != 0:
            status, reason = adb_result.failure(answer.text, answer.code)
            raise ChildFailed(status, f"{self._path.name}: {reason}" if status == "input" else reason)
        try:
            return answer.text, adb_result.decode(answer.text)
        except ValueError as error:
            raise ChildFailed("crash", f"{RUNTIME} is not understood: {error}") from None

    def _end_run(self) -> None:
        self._running = False
        self._bench.end(self._label)


def _unchecked(reason: str) -> parity.Check:
    return parity.Check(True, "", {"checked": False, "reason": reason})


def _can_be_files(sets: Sequence[Sequence[np.ndarray]]) -> bool:
    return bool(sets) and all(array.ndim > 0 for array in sets[0])


def _split(content: bytes, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs that lie one after another in a file; short or empty where the file ends too early."""
    arrays, start = [], 0
    for array in like:
        piece = content[start : start + array.nbytes]
        start += array.nbytes
        whole = len(piece) == array.nbytes
        arrays.append(np.frombuffer(piece, array.dtype).reshape(array.shape) if whole else np.empty(0, array.dtype))
    if start != len(content):  # more, or less, than the reference has: no output is what it seems
        return [np.empty(0, array.dtype) for array in like]
    return arrays
