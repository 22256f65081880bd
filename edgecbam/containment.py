"""Commands that open model files do it in a process of their own: a runtime that crashes takes nothing else with it.

The libraries that read .tflite, .onnx and .keras files are native code, and a damaged or hostile file can end the
process that opens it. Where there is no fork (on Windows) commands run as they are.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from edgecbam.errors import EnvironmentFailure

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
PATIENCE_S = 0.5  # until an interrupt that has not reached the child is passed on


def run(work: Callable[[], int], what: str) -> int:
    """Do something in a child process; returns what it returns.

    To be called before threads are started, in the main one. Signals that end the parent end the child: a terminal
    sends Ctrl-C to both, a SIGINT to the parent alone is passed on, and so is SIGTERM; of a parent that is killed the
    child learns by the kernel (on Linux).

    Args:
        work: returns an exit code; it must catch its own errors.
        what: is being done, for the message.

    Raises:
        EnvironmentFailure: a signal ended the child that nobody here sent: a crash.
    """
    if not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    interrupted = mmap.mmap(-1, 1)  # shared: whether SIGINT has reached the child
    child = os.fork()
    if child == 0:
        _die_with(parent)
        _note_interrupts(interrupted)
        code = 3
        try:
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    sent: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        sent.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)

    def look(number: int, frame: FrameType | None) -> None:
        if not interrupted[0]:  # no terminal has sent it: the child would go on
            pass_on(signal.SIGINT, frame)

    handlers = ((signal.SIGINT, ask), (signal.SIGALRM, look), (signal.SIGTERM, pass_on))
    before = {number: signal.signal(number, handler) for number, handler in handlers}
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupted.close()
    if code >= 0:
        return code
    if -code in sent:
        return 130
    raise EnvironmentFailure(
        f"crash: {signal.Signals(-code).name} ended a runtime during {what}: the file is damaged or hostile, memory "
        "ran out, or the runtime has a fault"
    )


def _note_interrupts(interrupted: mmap.mmap) -> None:
    """Note in shared memory that SIGINT came, then do what was to be done with it."""
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        interrupted[0] = 1
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(130)
