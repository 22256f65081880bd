"""The exported int8 ONNX file in ONNX Runtime's WebAssembly backend, under Node: what a browser would answer.

`make test` puts the package into build/web; without that, or without node, these tests fail and say so.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WEB = Path(__file__).with_name("web")
PACKAGES = Path(__file__).parents[2] / "build" / "web"


def wanted_version() -> str:
    return str(json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"])


def run_web(model: Path, images: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The float32 outputs, flat, and what run.mjs says of itself."""
    node = shutil.which("node")
    assert node, "the package nodejs is missing: sudo apt-get install nodejs npm, then make test"
    assert (PACKAGES / "node_modules" / "onnxruntime-web").is_dir(), "onnxruntime-web is missing: make test-web"
    (folder / "inputs").write_bytes(images.astype("<f4").tobytes())
    command = [node, WEB / "run.mjs", PACKAGES, model, folder / "inputs", folder / "outputs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "outputs", "<f4"), json.loads(done.stdout.splitlines()[-1])


def test_the_wasm_backend_answers_as_lite_rt(
    exported, check_logits: Callable[[np.ndarray], None], tmp_path: Path
) -> None:
    outputs, said = run_web(exported.model, exported.images, tmp_path)
    assert (said["ort"], said["input"], said["output"]) == (wanted_version(), "image", "logits")
    check_logits(outputs.reshape(len(exported.images), -1))


def test_a_model_that_wasm_cannot_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(AssertionError, match=r"(?i)protobuf|model"):
        run_web(tmp_path / "damaged.onnx", np.zeros(4, np.float32), tmp_path)


def test_the_pins_are_exact_and_name_no_registry() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", wanted_version())
    text = (WEB / "package-lock.json").read_text()
    lock = json.loads(text)["packages"]
    assert lock["node_modules/onnxruntime-web"]["version"] == wanted_version()
    assert all(entry["integrity"].startswith("sha512-") for name, entry in lock.items() if name)
    assert "resolved" not in text
    assert "://" not in text
