"""The whole way from .tflite to ONNX: parity with LiteRT, the ends of the files, what ONNX Runtime makes of them."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter
from qdq_graph import operators, run

from edgecbam import metrics, models, quantization
from edgecbam.export import onnx_model, tflite
from edgecbam.recipe import ExportConfig, ModelConfig

CONFIG = ModelConfig(widths=(8, 16), blocks=(1, 1), reduction_ratio=4)
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_LAYOUT", "ORT_ENABLE_ALL")


@dataclasses.dataclass(frozen=True)
class Network:
    """Images, float32 [n, h, w, c], what Keras says of them in float32, and the files of the network."""

    keras_logits: np.ndarray
    floats: bytes
    int8: bytes
    images: np.ndarray

    def converted(self, **settings: Any) -> tuple[onnx_model.Converted, onnx_model.Converted]:
        return convert(self.floats, self.int8, ExportConfig(**settings))

    def lite_rt(self) -> tuple[np.ndarray, float]:
        """What LiteRT answers, as real numbers, and the step of its output."""
        interpreter = Interpreter(model_content=tflite.with_io(self.int8, "int8"), num_threads=1)
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        (scale, zero_point), outputs = target["quantization"], []
        for image in self.images:
            interpreter.set_tensor(source["index"], integers(image)[None])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target["index"])[0].astype(np.float64))
        return (np.array(outputs) - zero_point) * scale, scale


@functools.cache  # each conversion starts a process that imports TensorFlow
def convert(floats: bytes, int8: bytes, config: ExportConfig) -> tuple[onnx_model.Converted, onnx_model.Converted]:
    return onnx_model.convert(floats, int8, config, {"labels": '["a"]'})


def integers(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 128).astype(np.int8)


def make(config: ModelConfig, shape: tuple[int, int, int], images: int) -> Network:
    keras.utils.set_random_seed(1)
    twin = models.build(config, shape, 5)
    for layer in twin.layers:
        if layer.name.endswith(("spatial_bn", "attention_bn")):  # at its start of 0 nothing would be quantized
            layer.gamma.assign([0.8])
    pixels = np.random.default_rng(3).integers(0, 256, (images, *shape))
    inputs = ((pixels - 128) / 128).astype(np.float32)
    floats, logits = tflite.float32(twin), twin.predict(inputs, verbose=0)  # before quantization rounds its weights
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.recompute_ranges(model, twin, [inputs[:32]])
    return Network(logits, floats, tflite.quantized(model), inputs)


@pytest.fixture(scope="module")
def network() -> Network:
    return make(CONFIG, (24, 20, 3), 1000)


def outputs(model: onnx.ModelProto, images: np.ndarray, level: str = "ORT_ENABLE_ALL") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def test_int8_is_within_one_step_of_lite_rt_on_a_thousand_images(network: Network) -> None:
    expected, step = network.lite_rt()
    assert np.ptp(expected, axis=0).min() > 20 * step  # images differ, so that agreement says something
    found = outputs(network.converted()[1].model, network.images)
    assert np.abs(found - expected).max() <= 1.01 * step
    usual = expected.mean(axis=0)  # an untrained network would choose the same class of every image
    assert len(np.unique(np.argmax(expected - usual, axis=1))) == 5
    assert metrics.agreement(found - usual, expected - usual, step) >= 0.999


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_optimisation_gives_the_same(network: Network, level: str) -> None:
    expected, step = network.lite_rt()
    found = outputs(network.converted()[1].model, network.images[:50], level)
    assert np.abs(found - expected[:50]).max() <= 1.01 * step


def test_the_lowering_changes_no_integer(network: Network) -> None:
    lowered, written = network.converted()[1], network.converted(profile="reference")[1]
    assert lowered.rewrites.keys() == {"gate_planes", "pool_planes", "reduce_planes", "group_pixels"}
    assert not written.rewrites
    np.testing.assert_array_equal(
        outputs(lowered.model, network.images[:50]), outputs(written.model, network.images[:50])
    )


def test_every_op_between_the_ends_is_an_integer_kernel(network: Network) -> None:
    found = operators(network.converted()[1].model)
    assert found.count("QuantizeLinear") == found.count("DequantizeLinear") == 1
    assert set(found) <= {
        "Concat",
        "DequantizeLinear",
        "NhwcMaxPool",
        "QLinearAdd",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearSigmoid",
        "QuantizeLinear",
        "ReduceMax",
        "Reshape",
        "Squeeze",
        "Transpose",
    }
    assert found.count("QLinearMul") == found.count("QLinearSigmoid") == 4


def test_maps_are_turned_around_once_before_attention_and_once_after(network: Network, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "trace")
    session = onnxruntime.InferenceSession(network.converted()[1].model.SerializeToString(), options)
    session.run(None, {"image": network.images[:1]})
    events = json.loads(Path(session.end_profiling()).read_text())
    moved = []
    for event in events:
        if event.get("args", {}).get("op_name") == "Transpose":
            ends = [event["args"][key][0] for key in ("input_type_shape", "output_type_shape")]
            before, after = ([size for size in next(iter(end.values())) if size > 1] for end in ends)
            moved.append(before != after)  # otherwise it is only a shape
    assert any(moved)
    assert sum(moved) <= 2 * 2 + 1  # and the shortcut that the first attention is added to


def test_float32_agrees_with_keras_and_turns_no_map_around(network: Network) -> None:
    made = network.converted()[0].model
    assert metrics.relative_error(outputs(made, network.images[:50]), network.keras_logits[:50]) <= 1e-4
    kinds = [node.op_type for node in made.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Transpose") == 1  # the image itself
    assert "ReduceMean" not in kinds


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_the_opsets_give_the_same(network: Network, opset: int) -> None:
    floats, int8 = network.converted(onnx_opset=opset)
    assert operators(int8.model).count("QLinearGlobalAveragePool") == 5  # two attentions of two means, and the head
    assert "ReduceMean" not in operators(int8.model)
    for made, reference in zip((floats, int8), network.converted(), strict=True):
        assert [entry.version for entry in made.model.opset_import] == [opset]
        images = network.images[:20]
        if made is int8:
            np.testing.assert_array_equal(outputs(made.model, images), outputs(reference.model, images))
        else:
            np.testing.assert_allclose(outputs(made.model, images), outputs(reference.model, images), atol=1e-5)


def test_a_free_batch_gives_what_one_image_after_another_gives(network: Network) -> None:
    images = network.images[:7]
    for made, single in zip(network.converted(onnx_batch=0), network.converted(), strict=True):
        for ends in (made.model.graph.input, made.model.graph.output):
            assert ends[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
            np.testing.assert_allclose(run(made.model, images, level), outputs(single.model, images, level), atol=1e-5)
        assert single.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_images_as_integers(network: Network) -> None:
    pixels = (integers(network.images[:20]).astype(np.int16) + 128).astype(np.uint8)
    for made, reference in zip(network.converted(onnx_input="uint8"), network.converted(), strict=True):
        assert made.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        np.testing.assert_array_equal(outputs(made.model, pixels), outputs(reference.model, network.images[:20]))
    kinds = [node.op_type for node in network.converted(onnx_input="uint8")[1].model.graph.node]
    assert kinds.index("Transpose") < kinds.index("DequantizeLinear")  # nothing is quantized at the front


def test_the_files_are_what_the_checker_and_readers_expect(network: Network) -> None:
    for made in network.converted():
        onnx.checker.check_model(made.model, full_check=True)
        onnx.shape_inference.infer_shapes(made.model, check_type=True, strict_mode=True, data_prop=True)
        assert made.model.ir_version == onnx_model.IR_VERSION
        assert {entry.key: entry.value for entry in made.model.metadata_props} == {"labels": '["a"]'}
        assert {entry.domain for entry in made.model.opset_import} == {""}
        first = made.model.graph.input[0]
        assert (first.name, [d.dim_value for d in first.type.tensor_type.shape.dim]) == ("image", [1, 24, 20, 3])
        assert first.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_equal_files_become_equal_bytes(network: Network) -> None:
    first = network.converted()
    convert.cache_clear()
    second = network.converted()
    assert [made.model.SerializeToString() for made in first] == [made.model.SerializeToString() for made in second]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_session_that_asks_for_exact_sums_reads_the_file(network: Network, dtype: str) -> None:
    """ONNX Runtime then rewrites int8 weights one by one, also on CPUs that need it not."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    model = network.converted(onnx_input=dtype)[1].model
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    images = network.images[:20]
    if dtype == "uint8":
        images = (integers(images).astype(np.int16) + 128).astype(np.uint8)
    found = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    np.testing.assert_array_equal(found, outputs(model, images))


def test_weights_stay_per_channel_and_biases_int32(network: Network) -> None:
    model = network.converted()[1].model
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            weights, bias = (producers[name].input for name in node.input[1:])
            assert values[weights[0]].dtype == np.int8
            assert values[weights[1]].size == len(values[weights[0]])
            assert values[bias[0]].dtype == np.int32


@pytest.mark.parametrize("size", [(7, 7, 3), (13, 9, 1), (1, 1, 3), (2, 30, 3)])
def test_odd_and_tiny_maps(size: tuple[int, int, int]) -> None:
    kernel = min(7, 2 * min(size[:2]) - 1)  # the largest that a map takes
    config = dataclasses.replace(CONFIG, widths=(8,), blocks=(1,), spatial_kernel=kernel)
    network = make(config, size, 40)
    expected, step = network.lite_rt()
    floats, int8 = network.converted()
    assert np.abs(outputs(int8.model, network.images) - expected).max() <= 1.01 * step
    assert metrics.relative_error(outputs(floats.model, network.images), network.keras_logits) <= 1e-4


def test_an_mlp_with_one_hidden_channel() -> None:
    """tf2onnx turns weights that two convolutions share around twice, which [c, 1, 1, 1] does not show."""
    network = make(dataclasses.replace(CONFIG, widths=(8,), blocks=(1,), reduction_ratio=8), (16, 16, 3), 40)
    expected, step = network.lite_rt()
    floats, int8 = network.converted()
    assert np.abs(outputs(int8.model, network.images) - expected).max() <= 1.01 * step
    assert metrics.relative_error(outputs(floats.model, network.images), network.keras_logits) <= 1e-4


@pytest.mark.parametrize("attention", ["none", "channel", "spatial"])
def test_other_attention(attention: str) -> None:
    network = make(dataclasses.replace(CONFIG, attention=attention), (16, 12, 3), 40)
    expected, step = network.lite_rt()
    assert np.abs(outputs(network.converted()[1].model, network.images) - expected).max() <= 1.01 * step
