"""Gradients of the maxima and means that attention takes, without passes over a map that they do not need.

TensorFlow spreads the gradient over the map and divides then: a division for each pixel and channel, where one for
each maximum or mean is enough. Such passes over maps are a good part of a training step whose convolutions are computed
in bfloat16 (docs/training.md).
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Gradient = Callable[[Any, Any], Any]


def of_maximum(usual: Gradient) -> Gradient:
    """For tf.reduce_max with keepdims=True; ``usual`` for others. Equal maxima share the gradient, as in TensorFlow."""

    def gradient(op: Any, output_gradient: Any) -> Any:
        if not op.get_attr("keep_dims"):
            return usual(op, output_gradient)
        inputs, axes = op.inputs
        largest = tf.equal(inputs, op.outputs[0])
        count = tf.reduce_sum(tf.cast(largest, output_gradient.dtype), axes, keepdims=True)
        return tf.where(largest, output_gradient / count, tf.zeros([], output_gradient.dtype)), None

    return gradient


def of_mean(usual: Gradient) -> Gradient:
    """For tf.reduce_mean with keepdims=True; ``usual`` for others."""

    def gradient(op: Any, output_gradient: Any) -> Any:
        if not op.get_attr("keep_dims"):
            return usual(op, output_gradient)
        inputs = op.inputs[0]
        count = tf.size(inputs, tf.int64) // tf.maximum(tf.size(output_gradient, tf.int64), 1)
        return tf.broadcast_to(output_gradient / tf.cast(count, output_gradient.dtype), tf.shape(inputs)), None

    return gradient
