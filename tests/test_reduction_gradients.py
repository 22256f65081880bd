"""The gradients of attention's maxima and means are TensorFlow's, in fewer passes."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import math_grad

from edgecbam.training import gradients, reduction_gradients

SHAPE = (3, 5, 4, 6)


@pytest.fixture(autouse=True)
def ours() -> None:
    gradients.install()


def both(reduce: str, axes: object, keep: bool, dtype: tf.DType) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Our gradient of a reduction and TensorFlow's, with the types of op in ours."""
    rng = np.random.default_rng(3)
    x = tf.constant(rng.integers(0, 4, SHAPE), dtype)  # small integers: several are the largest

    @tf.function
    def run() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = getattr(tf, reduce)(x, axes, keepdims=keep)
        weights = tf.constant(np.random.default_rng(4).normal(size=y.shape), dtype)
        found = tape.gradient(y, x, output_gradients=weights)
        usual = {"reduce_max": math_grad._MinOrMaxGrad, "reduce_mean": math_grad._MeanGrad}[reduce]
        operation = y.op if y.op.type in ("Max", "Mean") else y.op.inputs[0].op
        return found, usual(operation, weights)[0]

    graph = run.get_concrete_function().graph
    found, expected = run()
    return np.asarray(found, np.float32), np.asarray(expected, np.float32), {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [-1, (1, 2), [1, 2], (0, 1, 2, 3)])
@pytest.mark.parametrize("reduce", ["reduce_max", "reduce_mean"])
def test_the_gradients_are_tensorflows(reduce: str, axes: object, keep: bool, dtype: tf.DType) -> None:
    found, expected, ops = both(reduce, axes, keep, dtype)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == tf.float32 else 2**-7)
    assert ("SelectV2" in ops) == (reduce == "reduce_max" and keep)


def test_it_is_our_gradient_that_training_takes() -> None:
    assert gradients.OURS["Max"] is reduction_gradients.of_maximum
    x = tf.constant([[1.0, 3.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_max(x, -1, keepdims=True)
    np.testing.assert_array_equal(tape.gradient(y, x), [[0.0, 0.5, 0.5]])


def test_images_of_unknown_number() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 2])])
    def run(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.reduce_mean(x, (1, 2), keepdims=True) * [1.0, 2.0])
        return tape.gradient(y, x)

    for images in (1, 5, 0):
        expected = np.broadcast_to(np.float32([1, 2]) / 16, (images, 4, 4, 2))
        np.testing.assert_array_equal(run(tf.zeros((images, 4, 4, 2))), expected)
