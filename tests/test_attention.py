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


def article_model(height: int, width: int, channels: int, kernel: int, init: attention.Init) -> keras.Model:
    inputs = keras.Input((height, width, channels))
    outputs = attention.article_attention(inputs, ratio=2, kernel=kernel, name="a", init=init)
    return keras.Model(inputs, outputs)


def reference_article(x: np.ndarray, model: keras.Model, kernel: int) -> np.ndarray:
    def weights(layer: str) -> tuple[np.ndarray, np.ndarray]:
        matrix, bias = model.get_layer(layer).get_weights()
        return matrix[0, 0], bias

    (hidden, hidden_bias), (output, output_bias) = weights("a_channel_mlp_hidden"), weights("a_channel_mlp_output")
    (of_maximum, joint_bias), of_average = weights("a_spatial_max_conv"), model.get_layer("a_spatial_avg_conv").kernel
    joint = np.concatenate([of_maximum, of_average[0, 0]])  # the article's 1x1 convolution reads both pools together
    channel = sigmoid(np.maximum(x.mean((1, 2)) @ hidden + hidden_bias, 0) @ output + output_bias)
    _, height, width, _ = x.shape
    reach, spatial = kernel // 2, np.zeros((*x.shape[:3], 1))
    for row in range(height):
        for column in range(width):
            rows, columns = (
                slice(max(0, row - reach), row + reach + 1),
                slice(max(0, column - reach), column + reach + 1),
            )
            window = x[:, rows, columns]
            pooled = np.concatenate([window.max((1, 2)), window.mean((1, 2))], -1)
            spatial[:, row, column] = sigmoid(pooled @ joint + joint_bias)
    return np.asarray(x * channel[:, None, None, :] * spatial)


@settings(max_examples=6, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(2, 6),
    kernel=st.sampled_from([1, 3, 7]),
)
def test_the_articles_attention_is_its_formula(height: int, width: int, channels: int, kernel: int) -> None:
    model = article_model(height, width, channels, kernel, "paper")
    rng = np.random.default_rng(height * 10 + width)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    x = rng.normal(size=(2, height, width, channels)).astype(np.float32)
    np.testing.assert_allclose(model(x).numpy(), reference_article(x, model, kernel), rtol=2e-4, atol=2e-5)


def gate_values(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    gates = {layer.name: layer.output for layer in model.layers if layer.name.endswith("gate")}
    return {name: np.asarray(value) for name, value in keras.Model(model.input, gates)(x).items()}


@pytest.mark.parametrize(("init", "start"), [("paper", 0.5), ("open", 1 / (1 + np.exp(-2.0)))])
def test_all_gates_start_where_init_says(init: attention.Init, start: float) -> None:
    """Exactly so where the block's output is 0, whatever the kernels; CBAM's spatial gate for any output."""
    inputs = keras.Input((5, 6, 8))
    cbam = keras.Model(inputs, attention.cbam(inputs, ratio=2, kernel=7, name="a", init=init))
    for model in (cbam, article_model(5, 6, 8, 7, init)):
        for values in gate_values(model, np.zeros((1, 5, 6, 8), np.float32)).values():
            np.testing.assert_allclose(values, start, rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 8)).astype(np.float32)
    np.testing.assert_allclose(gate_values(cbam, x)["a_spatial_gate"], start, rtol=1e-6)


def test_both_gates_of_the_article_see_the_blocks_input() -> None:
    model = article_model(4, 4, 4, 3, "paper")
    for name in ("a_channel_avg_pool", "a_spatial_max_pool", "a_spatial_avg_conv"):
        assert isinstance(model.get_layer(name).input.node.layer, keras.layers.InputLayer)
