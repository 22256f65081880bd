"""Quantization-aware training: ranges that are calibrated, fixed or shared as int8 inference needs them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from hypothesis import assume, given
from hypothesis import strategies as st

from edgecbam import models, quantization, runtimes
from edgecbam.export import tflite
from edgecbam.recipe import ModelConfig

PIXELS = (-1.0, 127.0 / 128.0)
CONFIG = ModelConfig(widths=(4, 8), blocks=(1, 1), reduction_ratio=2)


def float_model(seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = models.build(CONFIG, (8, 8, 1), 3)
    for layer in model.layers:  # gates that do something
        if layer.name.endswith("spatial_bn"):
            layer.gamma.assign([-0.7])
    return model


def batches() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (16, 8, 8, 1)).astype(np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def pair() -> tuple[keras.Model, keras.Model]:
    """A calibrated quantization-aware model and its float twin. Not changed by the tests that share it."""
    twin = float_model()
    model = quantization.make_quantizable(twin, PIXELS)
    quantization.calibrate(model, twin, batches())
    return model, twin


def fake_quant(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high).numpy()


def output_of(model: keras.Model, name: str, x: np.ndarray) -> np.ndarray:
    return keras.Model(model.inputs, model.get_layer(name).get_output_at(0))(x, training=False).numpy()


def test_every_range_covers_exactly_what_calibration_saw(pair: tuple[keras.Model, keras.Model]) -> None:
    model, twin = pair
    ranges = quantization.activation_ranges(model)
    assert "stem_relu" in ranges
    for name, (low, high) in ranges.items():
        layer = twin.get_layer(name)
        seen = [
            keras.Model(twin.inputs, layer.get_output_at(i))(batch).numpy()
            for batch in batches()
            for i in range(len(layer.inbound_nodes))
        ]
        smallest = min(0.0, min(s.min() for s in seen))
        largest = max(0.0, max(s.max() for s in seen))
        headroom = 0.05 * (largest - smallest) if name == "logits" else 0.0
        if name.endswith("channel_scale"):
            smallest, largest = quantization.even_zero_point(smallest, largest)
        assert low == pytest.approx(smallest - headroom, abs=1e-5)
        assert high == pytest.approx(largest + headroom, abs=1e-5)


def test_what_a_channel_mean_reduces_has_an_even_zero_point(pair: tuple[keras.Model, keras.Model]) -> None:
    ranges = quantization.activation_ranges(pair[0])
    pooled = {name: bounds for name, bounds in ranges.items() if name.endswith("channel_scale")}
    assert len(pooled) == 2
    for low, high in pooled.values():
        zero_point = -low / (high - low) * 255
        assert zero_point == pytest.approx(round(zero_point), abs=1e-3)
        assert round(zero_point) % 2 == 0


@given(low=st.floats(-50, 0), high=st.floats(0, 50))
def test_an_even_zero_point_costs_less_than_a_hundredth_of_the_range(low: float, high: float) -> None:
    assume(high - low > 1e-3)
    wide_low, wide_high = quantization.even_zero_point(low, high)
    rounding = 1e-9 * (high - low)
    assert wide_low <= low + rounding
    assert wide_high >= high - rounding
    assert wide_high - wide_low < 1.01 * (high - low)
    zero_point = -wide_low / (wide_high - wide_low) * 255
    assert abs(zero_point - 2 * round(zero_point / 2)) < 1e-6


def test_relus_begin_at_zero(pair: tuple[keras.Model, keras.Model]) -> None:
    ranges = quantization.activation_ranges(pair[0])
    relus = [bounds for name, bounds in ranges.items() if "relu" in name or "hidden" in name]
    assert len(relus) == 7
    assert all(low == 0.0 for low, _ in relus)


def test_no_range_is_tfmots_starting_value(pair: tuple[keras.Model, keras.Model]) -> None:
    assert all((low, high) != (-6.0, 6.0) for low, high in quantization.activation_ranges(pair[0]).values())


def test_gates_step_by_one_256th(pair: tuple[keras.Model, keras.Model]) -> None:
    x = batches()[0]
    for name in ("stage1_block1_attention_channel_gate", "stage2_block1_attention_spatial_gate"):
        steps = output_of(pair[0], f"quant_{name}", x) * 256
        np.testing.assert_array_equal(steps, np.round(steps))


def test_reductions_over_channels_share_the_scale_of_what_they_reduce(pair: tuple[keras.Model, keras.Model]) -> None:
    model, _ = pair
    x = batches()[0]
    low, high = quantization.activation_ranges(model)["stage1_block1_attention_channel_scale"]
    prefix = "quant_stage1_block1_attention_spatial"
    values = output_of(model, f"{prefix}_pool", x)
    np.testing.assert_array_equal(values, fake_quant(values, low, high))
    # the maximum comes through untouched, the mean is rounded to the same steps
    np.testing.assert_array_equal(values[..., :1], output_of(model, f"{prefix}_channel_max", x))
    mean = output_of(model, f"{prefix}_channel_mean", x)
    np.testing.assert_array_equal(values[..., 1:], fake_quant(mean, low, high))
    assert (values[..., 1:] != mean).any()


def test_the_input_is_exactly_the_pixels(pair: tuple[keras.Model, keras.Model]) -> None:
    model, _ = pair
    pixels = (np.arange(256, dtype=np.float32) - 128) / 128
    x = np.resize(pixels, (4, 8, 8, 1))
    quantized = keras.Model(model.inputs, model.layers[1].output)(x, training=True).numpy()
    np.testing.assert_array_equal(quantized, x)


def test_training_does_not_move_the_input_range(pair: tuple[keras.Model, keras.Model]) -> None:
    model = quantization.make_quantizable(float_model(), PIXELS)
    model(np.full((2, 8, 8, 1), 50.0, np.float32), training=True)
    x = np.full((1, 8, 8, 1), 0.5, np.float32)
    np.testing.assert_array_equal(keras.Model(model.inputs, model.layers[1].output)(x).numpy(), x)


def test_weights_reload_into_a_rebuilt_model(pair: tuple[keras.Model, keras.Model], tmp_path: Path) -> None:
    model, _ = pair
    model.save_weights(tmp_path / "qat.weights.h5")
    again = quantization.make_quantizable(float_model(seed=2), PIXELS)
    x = batches()[1]
    assert not np.allclose(again(x), model(x))
    again.load_weights(tmp_path / "qat.weights.h5")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())


def test_recomputing_brings_ranges_up_to_new_weights() -> None:
    twin = float_model()
    model = quantization.make_quantizable(twin, PIXELS)
    quantization.calibrate(model, twin, batches())
    stem = model.get_layer("quant_stem_conv")
    kernel, _, variables = stem._weight_vars[0]
    kernel.assign(kernel * 3.0)
    before = quantization.activation_ranges(model)
    quantization.recompute_ranges(model, twin, batches())
    largest = np.abs(kernel.numpy()).max(axis=(0, 1, 2))
    np.testing.assert_allclose(variables["max_var"].numpy(), largest, rtol=1e-5)
    np.testing.assert_allclose(variables["min_var"].numpy(), -largest, rtol=1e-5)
    # BatchNorm behind the stem now divides by the larger deviation, so the ReLU's range is finite and new
    norm = model.get_layer("quant_stem_bn").layer
    np.testing.assert_array_equal(norm.moving_variance.numpy(), twin.get_layer("stem_bn").moving_variance.numpy())
    assert quantization.activation_ranges(model)["stem_relu"] != before["stem_relu"]


def test_batchnorm_is_reestimated_as_the_average_over_batches() -> None:
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn", fused=False)(inputs))
    data = [np.random.default_rng(i).normal(i, 1 + i, (8, 4, 4, 2)).astype(np.float32) for i in range(3)]
    quantization.reestimate_batchnorm(model, data)
    norm = model.get_layer("bn")
    np.testing.assert_allclose(norm.moving_mean, np.mean([b.mean((0, 1, 2)) for b in data], 0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([b.var((0, 1, 2)) for b in data], 0), rtol=1e-5)
    assert norm.momentum == pytest.approx(0.99)


def test_a_dead_activation_gets_a_range_that_lite_rt_accepts(tmp_path: Path) -> None:
    twin = float_model()
    twin.get_layer("stem_conv").kernel.assign(twin.get_layer("stem_conv").kernel * 50)
    twin.get_layer("stem_bn").gamma.assign(np.zeros(4))
    twin.get_layer("stem_bn").beta.assign(np.full(4, -1.0))  # ReLU gives zero everywhere
    model = quantization.make_quantizable(twin, PIXELS)
    ranges = quantization.calibrate(model, twin, batches())
    widest = max(high - low for low, high in ranges.values())
    assert ranges["stem_relu"] == (0.0, pytest.approx(1e-3 * max(1.0, widest)))
    path = tmp_path / "dead.tflite"
    path.write_bytes(tflite.with_io(tflite.quantized(model), "int8"))
    session = runtimes.find("litert").open(path, threads=1)  # LiteRT creates the model at all
    assert session.placement()["xnnpack_partitions"] == 1


def test_fake_quantization_everywhere_but_on_what_keeps_scales(pair: tuple[keras.Model, keras.Model]) -> None:
    """Every layer is wrapped, and every tensor that int8 stores on a scale of its own has a range."""
    model, _ = pair
    wrapped = {
        layer.layer.name for layer in model.layers if isinstance(layer, tfmot.quantization.keras.QuantizeWrapper)
    }
    plain = {layer.name for layer in model.layers} - {f"quant_{name}" for name in wrapped}
    assert len(plain) == 2
    assert all(name.startswith(("image", "quantize_layer")) for name in plain)
    ranges = quantization.activation_ranges(model)
    assert {"logits", "features", "stage1_block1_attention_channel_sum", "stage1_block1_relu"} <= set(ranges)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [([128.0], [128.0], (-1.0, 127 / 128)), ([0.0, 10.0, 20.0], [1.0, 1.0, 2.0], (-10.0, 255.0))],
)
def test_the_input_range_is_that_of_the_pixels(
    mean: list[float], std: list[float], expected: tuple[float, float]
) -> None:
    assert quantization.input_range({"mean": mean, "std": std}) == pytest.approx(expected)
