"""A runtime that crashes ends in one line and exit code 3; Ctrl-C, SIGTERM and SIGKILL leave no child behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgecbam import cli, containment

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "fixtures" / "tiny_int8.tflite"

# `edgecbam inspect MODEL`, with a runtime that does something else.
PROGRAM = """
import ctypes, os, sys, time
from edgecbam import cli
from edgecbam.export import inspection
def inspect(path):
    print("inside", os.getpid(), flush=True)
    {work}
inspection.inspect = inspect
sys.argv = ["edgecbam", "inspect", {model!r}]
sys.exit(cli.main())
"""


@pytest.fixture
def start() -> Callable[[str], subprocess.Popen[str]]:
    def begin(work: str) -> subprocess.Popen[str]:
        program = PROGRAM.format(work=work, model=str(MODEL))
        return subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.mark.parametrize(
    ("work", "name"),
    [("ctypes.string_at(0)", "SIGSEGV"), ("os.abort()", "SIGABRT"), ("os.kill(os.getpid(), 9)", "SIGKILL")],
)
def test_a_crash_is_one_line_and_exit_code_3(
    start: Callable[[str], subprocess.Popen[str]], work: str, name: str
) -> None:
    process = start(work)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 3
    lines = [line for line in told.splitlines() if not line.startswith("Fatal Python error")]
    assert lines[-1].startswith(f"edgecbam: error: crash: {name} ended a runtime during inspect: the file is damaged")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_signal_leaves_no_child(
    start: Callable[[str], subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    process = start("time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    assert child != process.pid, "it works in a process of its own"
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child lives on")
    process.communicate()


def test_ctrl_c_ends_both_as_a_terminal_sends_it(start: Callable[[str], subprocess.Popen[str]]) -> None:
    program = PROGRAM.format(work="time.sleep(60)", model=str(MODEL))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told.count("edgecbam: error: interrupted") == 1
    assert not psutil.pid_exists(child)


def test_codes_and_output_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    for code in (0, 1, 2, 3, 130):
        assert containment.run(lambda code=code: code, "nothing") == code  # type: ignore[misc]

    def write() -> int:
        sys.stdout.write("out\n")
        sys.stderr.write("err\n")
        return 0

    assert containment.run(write, "nothing") == 0
    assert capfd.readouterr() == ("out\n", "err\n")


def test_commands_that_open_model_files_are_contained() -> None:
    assert set(cli.CONTAINED) == {"quantize", "export", "verify", "predict", "inspect", "explain"}
    done = subprocess.run(
        [sys.executable, "-m", "edgecbam", "inspect", str(MODEL)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "tiny_int8.tflite" in done.stdout
