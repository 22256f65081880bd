"""Which CPUs a worker runs on while it is timed.

Two CPUs of one machine are not equally fast: another guest of the host, an interrupt or a warmer core may hold one of
them back for as long as a process lives. Processes on different CPUs would then differ by that, however finely their
blocks are interleaved. So all processes of a session share the same CPUs, and each session takes the next ones.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def choose(turn: int, threads: int, root: Path = Path("/")) -> list[int] | None:
    """The CPUs of a session; the same in every process of a machine. None where there is nothing to choose.

    Args:
        turn: number of the session.
        threads: threads of one inference, and so CPUs.
        root: where /sys lies, for tests.

    Only the fastest CPUs take part, by their highest frequency, where the machine tells it: a board may have slow ones.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return None
    speeds = {cpu: _highest_khz(cpu, root) for cpu in allowed}
    known = [speed for speed in speeds.values() if speed is not None]
    fastest = [cpu for cpu in allowed if not known or speeds[cpu] == max(known)]
    if threads >= len(fastest):
        return fastest if len(fastest) < len(allowed) and threads == len(fastest) else None
    start = turn * threads % (len(fastest) - threads + 1)
    return fastest[start : start + threads]


def pin(cpus: list[int]) -> None:
    """Bind all threads of this process to these CPUs."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cpus)


@contextlib.contextmanager
def inherited(cpus: list[int] | None) -> Iterator[None]:
    """Bind this thread inside the block, and so the processes that it starts there; None binds nothing."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _highest_khz(cpu: int, root: Path) -> int | None:
    try:
        return int((root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text("ascii"))
    except (OSError, ValueError):
        return None
