"""The gradient of a strided 1x1 convolution: the same numbers, and no corrupted memory."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from edgecbam.training import gradients

# 8 channels and 13 images: with TensorFlow's own gradient this process ends with SIGSEGV or SIGABRT.
CRASHES = """
import sys
import numpy as np, tensorflow as tf
if sys.argv[1] == "ours":
    from edgecbam.training import gradients
    gradients.install()
images = tf.constant(np.random.default_rng(0).normal(size=(13, 28, 28, 8)).astype("f"))
kernel = tf.Variable(np.ones((1, 1, 8, 16), "f"))
for _ in range(40):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.conv2d(images, kernel, 2, "SAME") ** 2)
    tape.gradient(loss, kernel).numpy()
print("survived")
"""


@pytest.mark.parametrize(("padding", "stride", "side"), [("SAME", 2, 9), ("VALID", 2, 8), ("SAME", 3, 10)])
def test_the_gradients_are_those_of_the_convolution(padding: str, stride: int, side: int) -> None:
    gradients.install()
    rng = np.random.default_rng(1)
    images, kernel = rng.normal(size=(4, side, side, 16)), rng.normal(size=(1, 1, 16, 32))
    x, w = tf.constant(images, tf.float32), tf.constant(kernel, tf.float32)

    @tf.function
    def of_both() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            loss = tf.reduce_sum(tf.nn.conv2d(x, w, stride, padding) ** 2)
        return list(tape.gradient(loss, [x, w]))

    of_images, of_kernel = of_both()
    read = images[:, ::stride, ::stride]
    outputs = 2 * read @ kernel[0, 0]
    expected = np.zeros_like(images)
    expected[:, ::stride, ::stride] = outputs @ kernel[0, 0].T
    np.testing.assert_allclose(of_images, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(of_kernel[0, 0], np.einsum("nhwi,nhwo->io", read, outputs), rtol=1e-4, atol=1e-2)


def test_other_convolutions_keep_tensorflows_gradient() -> None:
    gradients.install()
    x, w = tf.random.normal((2, 6, 6, 3)), tf.random.normal((3, 3, 3, 4))
    with tf.GradientTape() as tape:
        tape.watch(w)
        loss = tf.reduce_sum(tf.nn.conv2d(x, w, 2, "SAME"))
    expected = tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=w.shape, out_backprop=tf.ones((2, 3, 3, 4)), strides=[1, 2, 2, 1], padding="SAME"
    )
    np.testing.assert_allclose(tape.gradient(loss, w), expected, rtol=1e-5)


def test_a_process_survives() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHES, "ours"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.endswith("survived\n")
