"""The parent's side of a worker: start it, ask it, and be sure that it is gone afterwards."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import edgecbam
from edgecbam.runtimes.session import OUT_OF_MEMORY

# The package's parent goes last on the child's path: in a plain checkout nothing else would find edgecbam.
# -P keeps the current folder off it, where a file named numpy.py may lie.
WORKER_COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from edgecbam.benchmarks.worker import main; main()",
    str(Path(edgecbam.__file__).resolve().parents[1]),
)


class ChildFailed(Exception):
    """A worker gave up, died or kept silent. ``status`` is that of its row, or "input" where the file is at fault."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Worker(Protocol):
    """What measures one cell, wherever it runs."""

    def tell(self, message: dict[str, Any]) -> None:
        """Send one command."""

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; raises ChildFailed."""

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """``tell`` and ``hear``."""

    def kill(self) -> None:
        """End it, whatever it is doing. May be called again."""

    def __enter__(self) -> "Worker": ...

    def __exit__(self, *_: object) -> None: ...


class Child:
    """One worker process. Use it in a ``with`` statement, or ``kill`` it."""

    def __init__(self, task: dict[str, Any], command: Sequence[str] = WORKER_COMMAND) -> None:
        self._killed_before = _killed_for_memory()
        self._noise: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  a pipe that nobody reads would block the child
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                start_new_session=True,  # Ctrl-C is the parent's to handle; and kill() can reach its descendants
            )
        except BaseException:
            self._noise.close()
            raise
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._killed = False
        self._doing = "starting"
        self.tell(task)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def exit_code(self, timeout_s: float = 5.0) -> int | None:
        """What it ended with, negative for a signal; None where it still runs after ``timeout_s``."""
        try:
            return self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last line of its standard error, or ""."""
        self._noise.seek(0, 2)
        self._noise.seek(max(self._noise.tell() - 2000, 0))
        lines = self._noise.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""

    def tell(self, message: dict[str, Any]) -> None:
        """Send one line. A child that is already gone is noticed by ``hear``."""
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("the worker was started without a standard input")
        self._doing = f"in {message['command']}" if "command" in message else "starting"
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """The next answer.

        Raises:
            ChildFailed: the child reported a failure, died, or said nothing for ``timeout_s``.
        """
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise ChildFailed("timeout", f"no answer within {timeout_s:g} s {self._doing}") from None
        if line is None:
            raise ChildFailed("crash", self._epitaph())
        try:
            answer = json.loads(line)
            if not isinstance(answer, dict):
                raise ValueError
        except ValueError:
            raise ChildFailed("crash", f"unintelligible answer {self._doing}: {line[:80]!r}") from None
        if "failed" in answer:
            raise ChildFailed(str(answer["failed"]), str(answer.get("reason", "")))
        return answer

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """``tell`` and ``hear``."""
        self.tell(message)
        return self.hear(timeout_s)

    def kill(self) -> None:
        """End the process and its descendants, wait until it is gone and close every pipe. May be called again."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)  # a grandchild may hold the pipe open
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not (stream is self._process.stdout and self._reader.is_alive()):
                with contextlib.suppress(BrokenPipeError):  # what was not yet flushed
                    stream.close()
        self._noise.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(None)

    def _epitaph(self) -> str:
        code = self.exit_code()  # its output has ended, so it is about to
        if code is None:
            return f"closed its output {self._doing}"
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        words = self.last_words()
        ended = code == -signal.SIGKILL and _killed_for_memory() > self._killed_before
        if ended or "bad_alloc" in words:
            return f"{OUT_OF_MEMORY}: died {self._doing} ({how})"
        return f"died {self._doing} ({how})" + (f": {words}" if words else "")


def _killed_for_memory() -> int:
    """How many processes the kernel has ended for want of memory since it was started; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
