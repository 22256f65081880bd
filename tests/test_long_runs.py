"""What goes on for long does not grow, and what is interrupted leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
EPOCHS = 50
GROWTH = 0.05


def test_memory_of_a_long_training_does_not_grow_after_the_second_epoch() -> None:
    done = subprocess.run(
        [sys.executable, HERE / "training_memory.py", str(EPOCHS)], capture_output=True, text=True, check=True
    )
    memory = json.loads(done.stdout.splitlines()[-1])
    assert len(memory) == EPOCHS
    assert max(memory[2:]) <= memory[1] * (1 + GROWTH), memory


def test_sessions_of_a_benchmark_leave_no_process_no_file_and_no_memory(tmp_path: Path) -> None:
    """For a minute; `make soak` does it for half an hour."""
    done = subprocess.run(
        [sys.executable, HERE / "chaos" / "soak.py", tmp_path / "soak.json", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    told = json.loads((tmp_path / "soak.json").read_text())
    assert told["last"]["children"] == 0
    assert told["sessions"] >= 3


@pytest.mark.parametrize("seconds", [1.0, 3.0, 6.0, 10.0])
def test_ctrl_c_leaves_no_child_behind(tmp_path: Path, seconds: float) -> None:
    """In a benchmark, which starts processes one after the other."""
    models = [HERE / "fixtures" / name for name in ("tiny_int8.tflite", "tiny_int8.onnx")]
    command = [sys.executable, "-m", "edgecbam", "benchmark", *map(str, models), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    # Python ends itself by SIGINT where that hit code run by a C extension on import: 130 too, to a shell
    assert process.returncode in (130, -signal.SIGINT), told
    assert told.splitlines()[-1].startswith("edgecbam: error: interrupted")
    time.sleep(0.2)
    left = [one for one in psutil.process_iter() if _session(one.pid) == process.pid]
    assert left == []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
