"""All processes of a session run on the same CPUs, and sessions take turns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgecbam.benchmarks import pinning
from edgecbam.benchmarks.child import Child


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3, 7}, raising=False)


def speeds(root: Path, khz: dict[int, int]) -> Path:
    for cpu, value in khz.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{value}\n")
    return root


@pytest.mark.usefixtures("four")
def test_sessions_take_the_cpus_in_turn(tmp_path: Path) -> None:
    assert [pinning.choose(turn, 1, tmp_path) for turn in range(5)] == [[2], [3], [5], [7], [2]]
    for turn in range(9):
        chosen = pinning.choose(turn, 2, tmp_path)
        assert chosen is not None
        assert len(chosen) == 2
        assert set(chosen) < {2, 3, 5, 7}
    assert pinning.choose(0, 4, tmp_path) is None, "nothing to choose"
    assert pinning.choose(0, 9, tmp_path) is None


@pytest.mark.usefixtures("four")
def test_slow_cores_take_no_part(tmp_path: Path) -> None:
    root = speeds(tmp_path, {2: 1_800_000, 3: 1_800_000, 5: 2_400_000, 7: 2_400_000})
    assert [pinning.choose(turn, 1, root) for turn in range(3)] == [[5], [7], [5]]
    assert pinning.choose(0, 2, root) == [5, 7]
    assert pinning.choose(0, 3, root) is None, "more threads than fast cores: the system decides"


def test_without_affinity_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert pinning.choose(0, 1) is None


def test_every_thread_is_bound() -> None:
    script = (
        "import os, threading, time\n"
        "from edgecbam.benchmarks import pinning\n"
        "stop = threading.Event()\n"
        "threading.Thread(target=stop.wait).start()\n"
        "cpu = max(os.sched_getaffinity(0))\n"
        "pinning.pin([cpu])\n"
        "print({tuple(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')} == {(cpu,)})\n"
        "stop.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "True"


def test_a_worker_binds_itself_for_the_session_that_it_is_told(fixtures: Path) -> None:
    task = {"model": str(fixtures / "tiny_fp32.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with Child(task) as child:
        child.hear(60)
        child.ask({"command": "open"}, 60)
        told = child.ask({"command": "warm", "runs": 1, "turn": 1}, 60)["cpus"]
        assert told == pinning.choose(1, 1)
        if told is not None:
            assert os.sched_getaffinity(child.pid) == set(told)


def test_processes_inherit_the_cpus_of_the_block_alone() -> None:
    before = os.sched_getaffinity(0)
    script = "import os; print(sorted(os.sched_getaffinity(0)))"
    with pinning.inherited([min(before)]):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"[{min(before)}]"
    assert os.sched_getaffinity(0) == before
    with pinning.inherited(None):
        assert os.sched_getaffinity(0) == before
