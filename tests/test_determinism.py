"""The same recipe, seed and machine give the same bytes: in one process, and in another."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("two_exports.py")


def exports(folder: Path, count: int) -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, str(count)], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_repeated_runs_export_the_same_bytes(tmp_path: Path) -> None:
    first, second = exports(tmp_path / "one", 2)
    (third,) = exports(tmp_path / "another", 1)
    models = [name for name in first if name.endswith((".tflite", ".onnx"))]
    assert len(models) >= 12
    for other in (second, third):
        assert {name for name in first if first[name] != other.get(name)} <= {"export/stage.json", "app/stage.json"}
        assert first.keys() == other.keys()
