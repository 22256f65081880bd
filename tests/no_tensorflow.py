"""Runs code in a process that finds no TensorFlow, no Keras and no exporter, as on an edge device."""

import os
import subprocess
import sys

BLOCK = """
import sys
from pathlib import Path

ABSENT = {"tensorflow", "tf_keras", "keras", "tensorflow_model_optimization", "tf2onnx", "onnx"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without_tensorflow(code: str, *arguments: str) -> None:
    """Run ``code``, which has sys and Path; asserts that it came to its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{BLOCK}{code}\nprint('came to its end')", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    assert "came to its end" in done.stdout
