"""The exported int8 ONNX file in the runtimes that read it, held against LiteRT's answers for the int8 .tflite."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import saturation

from edgecbam import runtimes

Check = Callable[..., None]
LEVELS = sorted(onnxruntime.GraphOptimizationLevel.__members__)
# What is asked where nothing makes a runtime sum exactly: without VNNI its answers are a little off (saturation.py).
STEPS = 1 if saturation.sums_exactly() else 8


def run_onnxruntime(
    path: Path, images: np.ndarray, options: onnxruntime.SessionOptions, careful: bool | None = None
) -> np.ndarray:
    """The logits; ``careful`` asks for exact sums, by default where this processor would cut them."""
    if careful if careful is not None else not saturation.sums_exactly():
        options.add_session_config_entry(saturation.PRECISION, "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in images])


def test_the_levels_are_known() -> None:
    wanted = {"ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"}
    assert wanted <= set(LEVELS)


@pytest.mark.parametrize("level", LEVELS)
def test_onnxruntime_at_every_optimization_level(exported, check_logits: Check, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.__members__[level]
    check_logits(run_onnxruntime(exported.model, exported.images, options))


@pytest.mark.parametrize("level", LEVELS)
def test_onnxruntime_asked_for_exact_sums(exported, check_logits: Check, level: str) -> None:
    """The option that processors without VNNI need works on the file, on every processor.

    ONNX Runtime rewrites the int8 constants then, and refuses a file in which two layers share one.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.__members__[level]
    check_logits(run_onnxruntime(exported.model, exported.images, options, careful=True))


@pytest.mark.parametrize("hints", [{}, {"INFERENCE_PRECISION_HINT": "f32"}], ids=["no hint", "float32"])
def test_openvino(exported, check_logits: Check, hints: dict[str, str]) -> None:
    """OpenVINO keeps some layers in float between; without a hint in bfloat16 where the CPU has it (docs/onnx.md)."""
    compiled = runtimes.RUNTIMES["openvino"].load().Core().compile_model(str(exported.model), "CPU", hints)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert precision == "f32" or not hints
    logits = np.concatenate([compiled({"image": image[None]})["logits"] for image in exported.images])
    check_logits(logits, max(STEPS, {"f32": 2, "bf16": 16}[precision]))


@pytest.fixture(scope="module")
def ort_files(exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file as ONNX Runtime's own converter writes it, by optimization style."""
    folder = tmp_path_factory.mktemp("ort")
    (folder / "model.onnx").write_bytes(exported.model.read_bytes())
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(folder)]
    command += ["--optimization_style", "Fixed", "Runtime"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return {"Fixed": folder / "model.ort", "Runtime": folder / "model.with_runtime_opt.ort"}


@pytest.mark.parametrize("replay", ["0", "1"])
@pytest.mark.parametrize("style", ["Fixed", "Runtime"])
def test_onnxruntime_from_its_own_format(
    exported, ort_files: dict[str, Path], check_logits: Check, style: str, replay: str
) -> None:
    path = ort_files[style]
    assert path.read_bytes()[4:8] == b"ORTM"
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.enable_saved_runtime_optimizations", replay)
    check_logits(run_onnxruntime(path, exported.images, options, careful=False), STEPS)  # kernels are chosen already


def test_a_wrong_answer_is_noticed(exported, check_logits: Check) -> None:
    """Two steps on one logit of one image, or half a step."""
    right = (exported.expected - exported.zero_point) * exported.scale
    check_logits(right)
    for steps in (2, 0.5):
        wrong = right.copy()
        wrong[7, 3] += steps * exported.scale
        with pytest.raises(AssertionError):
            check_logits(wrong)
