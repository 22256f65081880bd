"""The child process that measures one cell: it reads commands and writes answers, one JSON value a line.

    {"command": "open"}                 -> load, allocate, first inference: init_ms, first_ms, memory, placement, and
                                           functional: why its time is no speed, or ""
    {"command": "check", "images": n}   -> parity, accuracy, agreement
    {"command": "warm", "runs": n, "seconds": s, "turn": t}   -> {"warm": true, "runs": done, "cpus": …}, once both are
                                           reached, on the CPUs of session t (see pinning.py); no turn, no pinning
    {"command": "block", "lead_in": n, "runs": n}   -> {"ns": […]}
    {"command": "nodes"}                -> {"nodes": …}, for runtimes that tell; a second session, so after all blocks
    {"command": "profile", "runs": n}   -> {"profile": …}, likewise
    {"command": "close"}

The first line it reads is the Task, the first it writes says that the runtime is imported. Runtimes write to standard
output as they please, so the real one is moved aside before anything is imported. When the parent goes away, the
standard input ends and the process ends with it, whatever it is doing.
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgecbam import runtimes
from edgecbam.errors import InputError, MissingPackage
from edgecbam.runtimes import CannotRun, Session
from edgecbam.runtimes.session import OUT_OF_MEMORY, is_out_of_memory, one_line

from . import parity, pinning


@dataclass(frozen=True)
class Task:
    """What one process measures.

    Attributes:
        model: path of the file.
        runtime: name of the runtime.
        device: ``"cpu"`` or ``"gpu"``.
        threads: threads of one inference.
        seed: of random inputs.
        shapes: whole shapes of inputs that have free dimensions.
        export: the export folder that the file belongs to, with its samples; None for a bare file.
        reference: of a bare file: inputs and what its outputs should be, as references.py writes them; None where
            nothing here can say.
    """

    model: str
    runtime: str
    threads: int
    seed: int
    export: str | None
    device: str = "cpu"
    shapes: dict[str, list[int]] = field(default_factory=dict)
    reference: str | None = None


def main() -> None:
    """Serve one parent until it says close or goes away."""
    replies = _take_standard_output()
    commands = _follow_parent(sys.stdin)
    try:
        _serve(Task(**commands.get()), commands, replies)
    except Exception as error:
        _reply(replies, _failure(error))
    os._exit(0)  # the thread that follows the parent sits in a read, which an orderly shutdown would wait for


def _failure(error: Exception) -> dict[str, str]:
    if is_out_of_memory(error):
        return {"failed": "crash", "reason": one_line(f"{OUT_OF_MEMORY}: {one_line(error)}")}
    if isinstance(error, InputError):
        return {"failed": "input", "reason": one_line(error, 1000)}
    if isinstance(error, MissingPackage | CannotRun):
        return {"failed": "unsupported", "reason": one_line(error)}
    return {"failed": "crash", "reason": one_line(f"{type(error).__name__}: {error}")}


def _serve(task: Task, commands: "queue.Queue[dict[str, Any]]", replies: TextIO) -> None:
    runtime = runtimes.find(task.runtime)
    runtime.load()
    memory = {"imported_bytes": resident_bytes()}
    _reply(replies, {"imported": True})
    session: Session | None = None
    timing_inputs: list[np.ndarray] = []
    while (command := commands.get())["command"] != "close":
        name = command["command"]
        if session is None:
            if name != "open":
                raise ValueError(f"{name} before open")
            started = time.perf_counter_ns()
            session = runtime.open(Path(task.model), task.threads, task.device, _shapes(task))
            opened = time.perf_counter_ns()
            if not session.outputs:
                raise CannotRun(f"{Path(task.model).name} has no outputs: nothing of it can be checked")
            timing_inputs = _timing_inputs(task, session)
            session.prepare(timing_inputs)
            first = _block(session, 1)[0]
            memory["peak_bytes"] = peak_bytes()
            placement = session.placement()
            _reply(
                replies,
                {
                    "init_ms": (opened - started) / 1e6,
                    "first_ms": first / 1e6,
                    "memory": memory,
                    "placement": placement,
                    "functional": runtime.functional or _emulation(placement),
                },
            )
        elif name == "check":
            _reply(replies, vars(_check(task, session, command["images"])))
        elif name == "warm":
            session.prepare(timing_inputs)  # the check left others
            cpus = _pin(task, command.get("turn"))
            done = _warm_up(session, command["runs"], command.get("seconds", 0.0))
            gc.collect()
            gc.disable()
            _reply(replies, {"warm": True, "runs": done, "cpus": cpus})
        elif name == "block":
            _block(session, command["lead_in"])
            _reply(replies, {"ns": _block(session, command["runs"])})
        elif name == "nodes" and runtime.nodes is not None:
            _reply(replies, {"nodes": runtime.nodes(Path(task.model), task.threads, timing_inputs)})
        elif name == "profile":
            if runtime.profile is None:
                raise CannotRun(f"{runtime.name} does not tell what its ops take")
            profile = runtime.profile(Path(task.model), task.threads, task.device, timing_inputs, command["runs"])
            _reply(replies, {"profile": profile})
        else:
            raise ValueError(f"no command {name}")
    if session is not None:
        session.close()


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in task.shapes.items()}


def _timing_inputs(task: Task, session: Session) -> list[np.ndarray]:
    if task.export is not None:
        return parity.run_inputs(Path(task.export), Path(task.model).name, session, 1)[0]
    if task.reference is not None:
        return parity.load_reference(Path(task.reference)).inputs[0]
    return parity.random_inputs(session, task.seed, _shapes(task), 1)[0]


def _check(task: Task, session: Session, images: int) -> parity.Check:
    if task.export is not None:
        return parity.check_run_file(Path(task.export), Path(task.model).name, session, images)
    if task.reference is not None:
        return parity.check_against(session, parity.load_reference(Path(task.reference)))
    return parity.check_bare_file(session, task.seed, _shapes(task))


def _emulation(placement: dict[str, Any]) -> str:
    """Why a GPU's time is no speed, or ""."""
    if placement.get("software"):
        return f"{placement.get('adapter') or 'the graphics adapter'} is an emulation on the CPU: its time is no GPU's"
    return ""


def _pin(task: Task, turn: int | None) -> list[int] | None:
    """Bind this process to the CPUs of a session, and tell them; None where it is not bound."""
    cpus = None if turn is None or task.device != "cpu" else pinning.choose(turn, task.threads)
    if cpus is not None:
        pinning.pin(cpus)
    return cpus


def _warm_up(session: Session, runs: int, seconds: float) -> int:
    """Run until both a number of inferences and a time are reached; returns the number."""
    done, end = 0, time.perf_counter() + seconds
    while done < runs or time.perf_counter() < end:
        session.invoke()
        done += 1
    return done


def _block(session: Session, runs: int) -> list[int]:
    """Nanoseconds of each of ``runs`` inferences."""
    invoke, clock = session.invoke, time.perf_counter_ns
    times = []
    for _ in range(runs):
        started = clock()
        invoke()
        times.append(clock() - started)
    return times


def peak_bytes() -> int | None:
    """The most memory that this process ever held. On Linux from VmHWM: ru_maxrss starts at the parent's peak there."""
    if sys.platform == "linux":
        return _status_bytes("VmHWM")
    try:
        import resource
    except ImportError:
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def resident_bytes() -> int | None:
    """The memory that this process holds now."""
    if sys.platform == "linux":
        return _status_bytes("VmRSS")
    import psutil

    return int(psutil.Process().memory_info().rss)


def _status_bytes(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text("ascii", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _take_standard_output() -> TextIO:
    """The real standard output for answers alone; whatever else writes to it from now on goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _follow_parent(source: TextIO) -> "queue.Queue[dict[str, Any]]":
    """Commands as they come; the process ends when they end, even while an inference hangs."""
    commands: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in source:
            commands.put(json.loads(line))
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # and whatever the runtime has started
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return commands


def _reply(replies: TextIO, value: dict[str, Any]) -> None:
    replies.write(json.dumps(value, allow_nan=False) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
