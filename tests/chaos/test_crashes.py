"""The short form of `make chaos`: some of the crashes and faults of every stage, and a few kills of whole runs."""

import json
import subprocess
import sys
from pathlib import Path

CRASHES = Path(__file__).with_name("crashes.py")


def test_nothing_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, CRASHES, tmp_path / "chaos.json", "--every", "97", "--kills", "2", "--longest", "12"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    told = json.loads((tmp_path / "chaos.json").read_text())
    assert told["identical_files"] > 20
    assert told["kills"]["sigkill"] == 2
    for stage in ("train", "quantize", "export"):
        assert told["changes"][stage] > 97
        assert told["crashes"][stage]["moments"] >= 1
        assert told["faults"][stage]["injected"] >= 1
