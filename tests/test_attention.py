"""CBAM against the formulas of the paper, written down a second time in NumPy."""

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecbam import attention


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def reference_channel_gate(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    def mlp(pooled: np.ndarray) -> np.ndarray:
        return np.maximum(pooled @ w["hidden"] + w["hidden_bias"], 0) @ w["output"] + w["output_bias"]

    return sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None, :]


def reference_spatial_gate(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    n, h, width, _ = x.shape
    k = w["kernel"].shape[0]
    pooled = np.stack([x.max(-1), x.mean(-1)], -1)
    padded = np.pad(pooled, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    out = np.zeros((n, h, width, 1))
    for dy in range(k):
        for dx in range(k):
            out += padded[:, dy : dy + h, dx : dx + width] @ w["kernel"][dy, dx]
    normal = (out - w["mean"]) / np.sqrt(w["variance"] + 1e-5) * w["gamma"] + w["beta"]
    return sigmoid(normal)


def randomise(model: keras.Model, seed: int) -> dict[str, np.ndarray]:
    """Give every weight of CBAM a random value; returns them under the names of the reference."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    hidden, output = model.get_layer("a_channel_mlp_hidden"), model.get_layer("a_channel_mlp_output")
    norm = model.get_layer("a_spatial_bn")
    norm.moving_variance.assign(rng.uniform(0.2, 2.0, norm.moving_variance.shape))
    return {
        "hidden": hidden.kernel.numpy()[0, 0],
        "hidden_bias": hidden.bias.numpy(),
        "output": output.kernel.numpy()[0, 0],
        "output_bias": output.bias.numpy(),
        "kernel": model.get_layer("a_spatial_conv").kernel.numpy(),
        "gamma": norm.gamma.numpy(),
        "beta": norm.beta.numpy(),
        "mean": norm.moving_mean.numpy(),
        "variance": norm.moving_variance.numpy(),
    }


def build(height: int, width: int, channels: int, ratio: int, kernel: int) -> keras.Model:
    inputs = keras.Input((height, width, channels))
    return keras.Model(inputs, attention.cbam(inputs, ratio=ratio, kernel=kernel, name="a"))


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    channels=st.integers(1, 9),
    ratio=st.sampled_from([1, 2, 4, 16]),
    kernel=st.sampled_from([3, 7]),
    batch=st.integers(1, 3),
)
def test_cbam_is_the_papers_formula(
    height: int, width: int, channels: int, ratio: int, kernel: int, batch: int
) -> None:
    model = build(height, width, channels, ratio, kernel)
    weights = randomise(model, seed=height * 100 + width)
    x = np.random.default_rng(7).normal(size=(batch, height, width, channels)).astype(np.float32)
    refined = x * reference_channel_gate(x, weights)
    expected = refined * reference_spatial_gate(refined, weights)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("channels", "ratio", "hidden"), [(64, 16, 4), (8, 16, 1), (1, 8, 1), (17, 4, 4)])
def test_the_mlp_has_a_ratio_th_of_the_channels_and_at_least_one(channels: int, ratio: int, hidden: int) -> None:
    model = build(4, 4, channels, ratio, 7)
    assert model.get_layer("a_channel_mlp_hidden").filters == hidden


def test_the_mlp_is_shared_by_both_pools() -> None:
    hidden = build(4, 4, 8, 4, 7).get_layer("a_channel_mlp_hidden")
    sources = {node.layer.name for node in (hidden.get_input_at(i).node for i in range(2))}
    assert sources == {"a_channel_avg_pool", "a_channel_max_pool"}


def test_the_spatial_gate_starts_at_one_half_everywhere() -> None:
    inputs = keras.Input((5, 6, 3))
    gate = keras.Model(inputs, attention.spatial_gate(inputs, kernel=7, name="g"))
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(gate(x).numpy(), np.full((2, 5, 6, 1), 0.5, np.float32))
