"""Folders that may not be written and files that may not be read: one line, exit code 3, all as it was."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# root may write everywhere, so it has to be run without that right
WITHOUT_RIGHTS = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    if os.geteuid() == 0
    else ()
)
FIXTURE = Path(__file__).parent / "fixtures" / "tiny_fp32.tflite"


def edgecbam(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*WITHOUT_RIGHTS, sys.executable, "-m", "edgecbam", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command was refused with."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgecbam: error: ")]
    assert done.returncode == 3, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[0].endswith(": give yourself the right to it, or another folder")
    return lines[0]


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture
def locked_run(small_run: Path) -> Iterator[Path]:
    """A finished run in which nothing may be written."""
    folders = [small_run, *(path for path in small_run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield small_run
    for folder in folders:
        folder.chmod(0o755)


def test_no_stage_begins_in_a_read_only_run_folder(locked_run: Path) -> None:
    before = state(locked_run)
    for words in (["quantize"], ["export"], ["verify"], ["benchmark", "--quick"], ["train", "--resume", "--out"]):
        line = refusal(edgecbam(*words, locked_run))
        assert f"permission denied: {locked_run}:" in line, words
    assert state(locked_run) == before


def test_what_only_reads_works_in_a_read_only_run_folder(locked_run: Path) -> None:
    assert edgecbam("inspect", locked_run / "export" / "model_int8.tflite").returncode == 0


def test_layers_are_not_measured_for_nothing(locked_run: Path) -> None:
    done = edgecbam("explain", locked_run, "--layers")
    assert f"permission denied: {locked_run / 'explain'}:" in refusal(done)
    assert "layers: " not in done.stderr, "it was told before the work"


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def test_no_folder_is_begun_in_a_read_only_one(locked_folder: Path) -> None:
    for words in (["train", "--out"], ["run", "--out"], ["benchmark", FIXTURE, "--quick", "--out"]):
        line = refusal(edgecbam(*words, locked_folder / "new"))
        assert f"{locked_folder}/.new.partial" in line
    assert list(locked_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "name"),
    [("quantize", "train/model.keras"), ("export", "quantize/metrics.json"), ("verify", "export/samples.npz")],
)
def test_a_file_of_an_earlier_stage_that_may_not_be_read(small_run: Path, command: str, name: str) -> None:
    before = state(small_run)
    (small_run / name).chmod(0o000)
    assert f"permission denied: {small_run / name}:" in refusal(edgecbam(command, small_run))
    (small_run / name).chmod(0o644)
    assert state(small_run) == before
