"""A small run folder made from tests/fixtures, and a worker that misbehaves on demand."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecbam import artifacts
from edgecbam.artifacts import Manifest, ModelFile, Samples, Tensor
from edgecbam.benchmarks.cells import Cell
from edgecbam.benchmarks.child import Child
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.runtimes import find, to_input, to_real

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLANTED_WORKER = Path(__file__).with_name("planted_worker.py")
FILES = {
    "model_fp32.tflite": "tiny_fp32.tflite",
    "model_fp16.tflite": "tiny_fp32.tflite",
    "model_ptq_int8.tflite": "tiny_int8.tflite",
    "model_int8.tflite": "tiny_int8.tflite",
    "model_fp32.onnx": "tiny_fp32.onnx",
    "model_int8.onnx": "tiny_int8_io.onnx",
}


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return FIXTURES


@pytest.fixture
def tiny_protocol() -> Protocol:
    """Two processes, two rounds: enough to go through every step."""
    return Protocol("tiny", 2, 2, 3, 1, 2, "a test", timeout_s=60)


@pytest.fixture
def planted() -> Callable[[Cell | None, dict[str, Any]], Child]:
    """Starts planted_worker.py, which does what the name of the model file says."""
    return lambda cell, task: Child(task, (sys.executable, "-I", str(PLANTED_WORKER)))


@pytest.fixture
def left_behind() -> Callable[[], list[int]]:
    """Tells the process ids of children that were not there when the test began."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child.pid for child in psutil.Process().children() if child.pid not in before]


@pytest.fixture(scope="session")
def samples() -> Samples:
    """120 images with the outputs of the float and the int8 fixture as references."""
    spec = importlib.util.spec_from_file_location("make_models", FIXTURES / "make_models.py")
    assert spec
    assert spec.loader
    network = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(network)
    pixels = np.clip(np.rint(network.images(120) * 128 + 128), 0, 255).astype(np.uint8)
    real = (pixels.astype(np.float32) - 128) / 128
    floats = find("litert").open(FIXTURES / "tiny_fp32.tflite", threads=1)
    integers = find("litert").open(FIXTURES / "tiny_int8.tflite", threads=1)
    keras_float = np.concatenate([floats.run([image[None]])[0] for image in real])
    keras_qat = np.concatenate(
        [to_real(integers.run([to_input(image[None], integers.inputs[0])])[0], integers.outputs[0]) for image in real]
    )
    labels = np.argmax(keras_float, axis=1).astype(np.int64)
    labels[::4] = 1  # class 1 never wins: a quarter is wrong
    return Samples(pixels, labels, keras_float, keras_qat)


@pytest.fixture
def run_folder(tmp_path: Path, samples: Samples) -> Path:
    """RUN/export as the stage export leaves it, without model_dynamic.tflite."""
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    entries = {}
    for name, fixture in FILES.items():
        shutil.copy(FIXTURES / fixture, folder / name)
        entries[name] = _entry(folder / name)
    preprocessing = {"height": 8, "width": 8, "channels": 1, "resize": "crop", "mean": [128.0], "std": [128.0]}
    artifacts.write_manifest(folder, Manifest("reference", ("a", "b", "c"), preprocessing, entries, "0" * 64, {}))
    artifacts.write_samples(folder, samples)
    return folder.parent


def _entry(path: Path) -> ModelFile:
    # the scales of tiny_int8_io.onnx are those of tiny_int8.tflite; an .onnx file does not say
    twin = path.with_name("model_int8.tflite") if path.name == "model_int8.onnx" else path
    session = find("litert" if twin.suffix == ".tflite" else "onnxruntime").open(twin, threads=1)
    ends = [Tensor(t.name, t.shape, t.dtype, t.scale, t.zero_point) for t in (session.inputs[0], session.outputs[0])]
    precision = "int8" if "int8" in path.name else "float32"
    return ModelFile(
        artifacts.sha256_file(path),
        path.stat().st_size,
        path.suffix[1:],
        precision,
        ends[0],
        ends[1],
        2352,
        51,
        None,
        {},
        "",
    )
