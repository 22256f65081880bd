"""What lies in RUN/export after a real small training: reopened in other readers than the one that wrote it."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecbam import api, artifacts, models, quantization, runtimes
from edgecbam.benchmarks import parity
from edgecbam.errors import InputError
from edgecbam.export import tflite, tflite_file
from edgecbam.recipe import ModelConfig

NAMES = {
    "model_fp32.tflite",
    "model_fp16.tflite",
    "model_dynamic.tflite",
    "model_ptq_int8.tflite",
    "model_int8.tflite",
    "model_uint8.tflite",
    "model_fp32.onnx",
    "model_int8.onnx",
}


def test_the_folder_holds_the_whole_set(trained_run: Path) -> None:
    files = {path.name for path in (trained_run / "export").iterdir()}
    assert files == NAMES | {"labels.txt", "samples.npz", "manifest.json", "stage.json"}


def test_the_manifest_describes_the_files_as_they_are(trained_run: Path) -> None:
    folder = trained_run / "export"
    raw = json.loads((folder / "manifest.json").read_text())
    assert set(raw["files"]) == NAMES
    for name, entry in raw["files"].items():
        content = (folder / name).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["macs"] > 0
        assert entry["parameters"] > 0
    assert raw["preprocessing"]["mean"] == [128.0]
    assert set(raw["versions"]) >= {"tensorflow", "tf2onnx", "onnxruntime"}


@pytest.mark.parametrize(("name", "dtype", "zero_point"), [("model_int8", "int8", 0), ("model_uint8", "uint8", 128)])
def test_integer_files_take_pixels_without_loss(trained_run: Path, name: str, dtype: str, zero_point: int) -> None:
    entry = artifacts.load_manifest(trained_run / "export").files[f"{name}.tflite"]
    assert (entry.input.dtype, entry.input.scale, entry.input.zero_point) == (dtype, 1 / 128, zero_point)
    assert entry.input.shape == (1, 28, 28, 1)
    assert entry.output.dtype == dtype
    assert entry.partitions == 1


def test_int8_holds_integers_alone_and_float_does_not(trained_run: Path) -> None:
    folder = trained_run / "export"
    for name in NAMES:
        if name.endswith(".tflite"):
            contents = tflite_file.read((folder / name).read_bytes(), name)
            assert bool(contents.float_tensors()) == ("int8" not in name)


def test_attention_needs_no_requantization(trained_run: Path) -> None:
    """Shared scales leave no QUANTIZE op between the ops of CBAM."""
    contents = tflite_file.read((trained_run / "export" / "model_int8.tflite").read_bytes(), "model")
    assert "QUANTIZE" not in contents.ops
    assert contents.ops["LOGISTIC"] == 4
    assert contents.ops["REDUCE_MAX"] == 4


def test_gate_scales_are_what_lite_rt_asks_for(trained_run: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(trained_run / "export" / "model_int8.tflite"))
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    outputs = [op["outputs"][0] for op in interpreter._get_ops_details() if op["op_name"] == "LOGISTIC"]
    assert {details[index]["quantization"] for index in outputs} == {(1 / 256, -128)}


def test_onnx_files_have_named_ends_and_pass_strict_inference(trained_run: Path) -> None:
    for name in ("model_fp32.onnx", "model_int8.onnx"):
        model = onnx.load(trained_run / "export" / name)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == ["image"]
        assert [value.name for value in model.graph.output] == ["logits"]
        assert model.opset_import[0].version == 17
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_onnx_files_say_what_goes_in_and_comes_out(trained_run: Path) -> None:
    manifest = artifacts.load_manifest(trained_run / "export")
    for name in ("model_fp32.onnx", "model_int8.onnx"):
        model = onnx.load(trained_run / "export" / name)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert tuple(json.loads(said["labels"])) == manifest.classes
        assert json.loads(said["preprocessing"]) == manifest.preprocessing
        assert said["recipe_digest"] == manifest.recipe_digest
        assert said["input_layout"] == "NHWC"
        assert manifest.files[name].input.shape == (1, 28, 28, 1)
        assert manifest.files[name].rewrites


def test_onnx_int8_has_the_scales_of_tflite_int8(trained_run: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(trained_run / "export" / "model_int8.tflite"))
    expected = {
        float(np.float32(scale))
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8 and len(scales := detail["quantization_parameters"]["scales"])
        for scale in scales
    }
    model = onnx.load(trained_run / "export" / "model_int8.onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {node.input[0] for node in model.graph.node if node.input and node.input[0] in values}
    found = {
        float(scale)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and values[node.input[1]].tolist() != 1.0  # averages integers
        if node.input[0] not in weights or values[node.input[0]].dtype == np.int8
        for scale in np.atleast_1d(values[node.input[1]])
    }
    assert found <= expected
    assert len(found) > 20


def test_samples_hold_the_references(trained_run: Path) -> None:
    samples = artifacts.load_samples(trained_run / "export")
    assert samples.images.shape == (300, 28, 28, 1)
    assert samples.keras_float.shape == samples.keras_qat.shape == (300, 10)
    assert not np.array_equal(samples.keras_float, samples.keras_qat)


def test_labels_are_the_classes_in_order(trained_run: Path) -> None:
    lines = (trained_run / "export" / "labels.txt").read_text().splitlines()
    assert tuple(lines) == artifacts.load_manifest(trained_run / "export").classes
    assert len(lines) == 10


def test_conversion_is_deterministic() -> None:
    model = models.build(ModelConfig(widths=(4,), blocks=(1,), reduction_ratio=2), (8, 8, 1), 2)
    assert tflite.float32(model) == tflite.float32(model)


def test_every_attention_converts_to_one_integer_partition(tmp_path: Path) -> None:
    for attention in ("none", "channel", "spatial"):
        config = ModelConfig(widths=(4,), blocks=(1,), reduction_ratio=2, attention=attention)
        twin = models.build(config, (9, 7, 3), 3)
        for layer in twin.layers:
            if layer.name.endswith("attention_bn"):
                layer.gamma.assign([0.8])  # as trained; at its start of 0 the convolution has no weights to quantize
        model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
        images = np.random.default_rng(0).uniform(-1, 1, (8, 9, 7, 3)).astype(np.float32)
        quantization.calibrate(model, twin, [images])
        path = tmp_path / f"{attention}.tflite"
        path.write_bytes(tflite.with_io(tflite.quantized(model), "int8"))
        assert not tflite_file.read(path.read_bytes(), path.name).float_tensors()
        session = runtimes.find("litert").open(path, threads=1)
        assert session.placement()["xnnpack_partitions"] == 1
        expected = model(images).numpy()
        scale = session.outputs[0].scale
        assert scale is not None
        for image, reference in zip(images, expected, strict=True):
            raw = session.run([runtimes.to_input(image[None], session.inputs[0])])[0]
            assert np.abs(runtimes.to_real(raw, session.outputs[0])[0] - reference).max() <= 2.01 * scale


def test_a_damaged_file_is_named() -> None:
    with pytest.raises(InputError, match=r"broken\.tflite is damaged"):
        tflite_file.read(b"\x20\x00\x00\x00TFL3" + bytes(range(200)), "broken.tflite")
    with pytest.raises(InputError, match=r"broken\.tflite is no \.tflite file"):
        tflite_file.read(b"hello world", "broken.tflite")


def test_export_again_gives_the_same_model_bytes(small_run: Path) -> None:
    before = {name: (small_run / "export" / name).read_bytes() for name in NAMES}
    api.export(small_run)
    changed = [name for name, content in before.items() if (small_run / "export" / name).read_bytes() != content]
    assert changed == []
    assert io.BytesIO(before["model_int8.onnx"]).getbuffer().nbytes > 10_000


def test_onnx_files_of_integer_images_and_a_free_batch_on_request(small_run: Path) -> None:
    api.export(small_run, settings=("export.onnx_input=uint8", "export.onnx_batch=0"))
    manifest = artifacts.load_manifest(small_run / "export")
    for name in ("model_fp32.onnx", "model_int8.onnx"):
        assert manifest.files[name].input == artifacts.Tensor("image", (-1, 28, 28, 1), "uint8", 1 / 128, 128)
    assert manifest.files["model_int8.tflite"].input.dtype == "int8"
    verification = api.verify(small_run)
    assert verification.passed, verification.failure()
    inputs, samples = parity.run_inputs(
        small_run / "export",
        "model_int8.onnx",
        runtimes.find("onnxruntime").open(small_run / "export" / "model_int8.onnx"),
        3,
    )
    np.testing.assert_array_equal(np.concatenate(inputs), samples.images[:3])  # raw pixels, where that is the scale
