"""Every family with attention goes through quantization and export: one partition, Keras' answers, ONNX alike."""

from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from edgecbam import metrics, models, runtimes
from edgecbam.export import onnx_model, tflite, tflite_file
from edgecbam.recipe import ExportConfig
from tests.export.families import CASES, SAME_PIECES, exported, images

TEST_IMAGES = 64
# LiteRT adds two maps in fixed point and ONNX Runtime in float: in depth the two may part by more than one LSB.
DEEP = ("mobilenetv2",)
ONNX = ("article, the article's", "mobilenetv2", "resnet18")


def test_every_family_is_among_the_cases() -> None:
    assert {one.config.family for one in CASES.values()} | SAME_PIECES == set(models.FAMILIES)


def run(content: bytes, path: Path, x: np.ndarray) -> tuple[np.ndarray, runtimes.Session]:
    """Outputs of a file for each image, as its runtime gives them."""
    path.write_bytes(content)
    session = runtimes.find("litert" if path.suffix == ".tflite" else "onnxruntime").open(path, threads=1)
    return np.concatenate([session.run([runtimes.to_input(image[None], session.inputs[0])])[0] for image in x]), session


@pytest.mark.parametrize("name", CASES)
def test_int8_runs_in_one_partition_and_answers_as_keras(name: str, tmp_path: Path) -> None:
    made = exported(name)
    x, _ = images(TEST_IMAGES, CASES[name].side, seed=2)
    raw, session = run(made.int8, tmp_path / "model_int8.tflite", x)
    assert (session.placement()["xnnpack_partitions"], session.placement()["ops_outside"]) == (1, [])
    assert not tflite_file.read(made.int8, name).float_tensors()
    expected, scale = made.qat_model(x).numpy(), session.outputs[0].scale
    assert scale is not None
    assert np.ptp(expected, axis=0).max() > 20 * scale  # the images are told apart
    real = runtimes.to_real(raw, session.outputs[0])
    assert metrics.agreement(real, expected, scale) >= 0.98
    # Roundings that differ spread from layer to layer, but no farther than quantization itself is from float: how far
    # in LSB depends on the weights, and they on the processor that trained them.
    errors, from_float = np.abs(real - expected) / scale, np.abs(expected - made.float_model(x).numpy()) / scale
    assert rms(errors) <= max(1.0, 1.2 * rms(from_float))
    assert errors.max() <= max(4.0, 2.0 * from_float.max()) + 0.01


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_attention_is_found_and_lowered_in_every_family() -> None:
    for name, one in CASES.items():
        rewrites = exported(name).rewrites
        sigmoids = [w.name for w in exported(name).float_model.layers if isinstance(w, keras.layers.Activation)]
        gates = sum(gate.endswith(("spatial_gate", "attention_gate")) for gate in sigmoids)
        if one.config.attention in ("cbam", "spatial"):
            assert rewrites["convolve_blocks"] == gates > 0, name
        if one.config.attention == "article" and one.config.spatial_kernel > 3:
            assert rewrites["slide_by_axis"] == gates > 0, name


def test_onnx_files_give_the_same_integers_and_float_the_same_numbers(tmp_path: Path) -> None:
    settings = ExportConfig()
    made = [exported(name) for name in ONNX]
    contents = [content for one in made for content in (tflite.float32(one.float_model), one.plain)]
    raw = onnx_model.run_tf2onnx(contents, settings.onnx_opset)
    for name, one, raw_float, raw_int8 in zip(ONNX, made, raw[::2], raw[1::2], strict=True):
        x, _ = images(TEST_IMAGES, CASES[name].side, seed=2)
        float_onnx, int8_onnx = onnx_model.rewritten(raw_float, raw_int8, settings)
        integers, session = run(one.int8, tmp_path / "model_int8.tflite", x)
        output = session.outputs[0]
        assert output.scale is not None
        answers, _ = run(int8_onnx.model.SerializeToString(), tmp_path / "model_int8.onnx", x)
        real = runtimes.to_real(integers, output)
        if name in DEEP:
            away_from_float = rms((one.qat_model(x).numpy() - one.float_model(x).numpy()) / output.scale)
            assert rms((answers - real) / output.scale) <= away_from_float, name
            assert metrics.agreement(answers, real, output.scale) >= 0.98, name
        else:
            assert np.abs(answers - real).max() <= 1.01 * output.scale, name
        numbers, _ = run(float_onnx.model.SerializeToString(), tmp_path / "model_fp32.onnx", x)
        assert metrics.relative_error(numbers, one.float_model(x).numpy()) <= 1e-4, name
