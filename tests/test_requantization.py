"""Channels that BatchNorm all but switches off: their biases fit, and the file computes what Keras does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from edgecbam import models, quantization, requantization, runtimes
from edgecbam.errors import InputError
from edgecbam.export import tflite
from edgecbam.export.tflite_graph import TfliteGraph
from edgecbam.recipe import ModelConfig

CONFIG = ModelConfig(family="edge", widths=(8, 8), blocks=(1, 1), reduction_ratio=4, spatial_kernel=3)


def switched_off(gamma: float) -> tuple[keras.Model, keras.Model, np.ndarray]:
    """A quantization-aware network, its float twin and inputs; gates and depthwise channels have nothing but a bias."""
    keras.utils.set_random_seed(1)
    twin = models.build(CONFIG, (16, 16, 3), 3)
    for layer in twin.layers:
        if layer.name.endswith("spatial_bn"):
            layer.gamma.assign([gamma])
            layer.beta.assign([2.0])
        if layer.name == "stage2_block1_2_bn":
            layer.gamma.assign([gamma] * 4 + [1.0] * (layer.gamma.shape[0] - 4))
            layer.beta.assign([0.5] * layer.beta.shape[0])
    x = np.random.default_rng(0).integers(-128, 128, (16, 16, 16, 3)).astype(np.float32) / 128
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.recompute_ranges(model, twin, [x])
    return model, twin, x


@pytest.mark.parametrize("gamma", [0.0, -1e-9, 1e-5])
def test_a_bias_without_weights_is_exported(gamma: float, tmp_path: Path) -> None:
    model, twin, x = switched_off(gamma)
    requantization.limit(model)
    content = tflite.with_io(tflite.quantized(model), "int8")
    tflite.check_requantization(content, "model_int8.tflite")
    (tmp_path / "model.tflite").write_bytes(content)
    session = runtimes.find("litert").open(tmp_path / "model.tflite", threads=1)
    raw = np.concatenate([session.run([runtimes.to_input(image[None], session.inputs[0])])[0] for image in x])
    scale = session.outputs[0].scale
    assert scale is not None
    assert np.abs(runtimes.to_real(raw, session.outputs[0]) - model(x).numpy()).max() <= 2.01 * scale
    assert np.abs(model(x).numpy() - twin(x).numpy()).max() <= 12 * scale


def test_equal_biases_are_quantized_channel_by_channel() -> None:
    """A network as it is built, with gates that start open."""
    keras.utils.set_random_seed(1)
    twin = models.build(dataclasses.replace(CONFIG, attention="article", attention_init="open"), (16, 16, 3), 3)
    x = np.random.default_rng(0).integers(-128, 128, (16, 16, 16, 3)).astype(np.float32) / 128
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.recompute_ranges(model, twin, [x])
    requantization.limit(model)
    graph = TfliteGraph(tflite.quantized(model), "model")
    found = [op for op in graph.graph.operators if "mlp_output" in graph.name(int(op.outputs[0]))]
    assert found
    for op in found:
        scales = graph.quantization(int(op.inputs[2]))
        assert scales is not None
        np.testing.assert_allclose(graph.constant(int(op.inputs[2])) * scales[0], 2.0, rtol=1e-3)


def test_a_bias_that_does_not_fit_is_refused_by_name() -> None:
    model, _, _ = switched_off(1e-6)
    with pytest.raises(
        InputError, match=r"model: the layer edge/quant_stage2_block1.* has a bias too large for its scale"
    ):
        tflite.check_requantization(tflite.quantized(model), "model")
