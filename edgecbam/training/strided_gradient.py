"""Works round a kernel of TensorFlow's that corrupts memory: the gradient of a strided 1x1 convolution.

TensorFlow 2.21 computes the kernel's gradient with oneDNN. For a 1x1 convolution of stride 2 whose input channels are
no multiple of 16 (4, 6, 8 and 12 were tried) and a batch of an odd number of images it writes beyond its buffer, and
the process dies at once or later. The last batch of an epoch is easily of that kind. The same gradient is that of an
unstrided convolution of every second pixel, which is computed rightly.

``tests/test_strided_gradient.py`` shows both.
"""

from typing import Any

import tensorflow as tf

from .reduction_gradients import Gradient


def of_convolution(usual: Gradient) -> Gradient:
    """For a strided 1x1 convolution; ``usual`` for others."""

    def gradient(op: Any, output_gradient: Any) -> Any:
        kernel, strides = op.inputs[1], op.get_attr("strides")
        if list(kernel.shape[:2]) != [1, 1] or max(strides) == 1 or op.get_attr("data_format") != b"NHWC":
            return usual(op, output_gradient)
        inputs = op.inputs[0]
        # inputs[:, ::s, ::s, :], for which TensorFlow's strided slice takes five times as long on a CPU
        read = inputs
        for axis in (1, 2):
            read = tf.gather(read, tf.range(0, tf.shape(inputs)[axis], strides[axis]), axis=axis)
        unit = [1, 1, 1, 1]
        of_read = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs), filter=kernel, out_backprop=output_gradient, strides=strides, padding="VALID"
        )
        of_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=read, filter_sizes=tf.shape(kernel), out_backprop=output_gradient, strides=unit, padding="VALID"
        )
        return of_read, of_kernel

    return gradient
