"""A GPU for tests: SwiftShader, which Debian's Chromium brings, through Vulkan's loader; always in a child process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SWIFTSHADER = Path("/usr/lib/chromium/libvk_swiftshader.so")
WEBGPU_PYTHON = ROOT / "build" / "webgpu-env" / "bin" / "python"
NAME = "SwiftShader Device (Subzero)"
TIMEOUT_S = 240


def environment(folder: Path) -> dict[str, str]:
    """Environment variables with which Vulkan lists SwiftShader and nothing else; ``folder`` gets its manifest."""
    if not SWIFTSHADER.exists():
        pytest.fail(f"{SWIFTSHADER} is missing: run `make test-gpu`, or install chromium-common")
    if not list(Path("/usr/lib").glob("*/libvulkan.so.1")):
        pytest.fail("Vulkan's loader is missing: run `make test-gpu`, or install libvulkan1")
    manifest = folder / "swiftshader.json"
    manifest.write_text(
        json.dumps({"file_format_version": "1.0.0", "ICD": {"library_path": str(SWIFTSHADER), "api_version": "1.1.0"}})
    )
    return without_gpu() | {"VK_ICD_FILENAMES": str(manifest), "VK_DRIVER_FILES": str(manifest)}


def without_gpu() -> dict[str, str]:
    """Environment variables with which Vulkan lists nothing."""
    nothing = str(Path(__file__).with_name("no_such_manifest.json"))
    others = {name: value for name, value in os.environ.items() if not name.startswith("VK_LOADER_")}
    return {**others, "VK_ICD_FILENAMES": nothing, "VK_DRIVER_FILES": nothing}


def webgpu_python() -> str:
    """The Python of the environment that holds ONNX Runtime's WebGPU build."""
    if not WEBGPU_PYTHON.exists():
        pytest.fail(f"{WEBGPU_PYTHON} is missing: run `make test-gpu`, which installs onnxruntime-webgpu there")
    return str(WEBGPU_PYTHON)


def ask(task: dict[str, Any], env: dict[str, str], python: str = sys.executable) -> dict[str, Any]:
    """What gpu_session.py answers to a task; fails where it dies."""
    script = Path(__file__).with_name("gpu_session.py")
    done = _run([python, "-P", str(script), json.dumps(task)], env | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def benchmark(
    models: Sequence[Path], runtime: str, out: Path, env: dict[str, str], python: str = sys.executable
) -> dict[str, Any]:
    """report.json of ``edgecbam benchmark --device gpu --quick`` against the first of the models."""
    files = [str(model) for model in models]
    where = ["--device", "gpu", "--runtime", runtime, "--baseline", files[0]]
    arguments = ["benchmark", *files, *where, "--quick", "--out", str(out)]
    done = _run([python, "-m", "edgecbam", *arguments], env | {"PYTHONPATH": str(ROOT)})
    assert (out / "report.json").exists(), done.stdout + done.stderr
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


def _run(command: Sequence[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(command), env=env, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
    )
