"""The mean over a window that slides along one axis of a map, as a product with a constant matrix.

    output[y, x] = mean of input[y, x'] over the x' of the map with |x' - x| <= radius

Along both axes in turn this is average pooling of stride 1 and "same" padding whose windows count only the pixels
inside the map, which is what AveragePooling2D computes. It is written as a 1x1 convolution whose channels are the
pixels of a row, because an int8 runtime has that and not the pooling: XNNPACK does not take AVERAGE_POOL_2D in int8.
Each column of the matrix holds one number and zeros, so that a symmetric int8 range stores it exactly.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("edgecbam")
class WindowMean(keras.layers.Layer):  # type: ignore[misc]
    """Sliding mean of a map of one channel: [n, h, w, 1] -> [n, h, w, 1].

    Args:
        size: pixels of the window, odd.
        axis: 1 along the height, 2 along the width.
    """

    def __init__(self, size: int, axis: int, **options: Any) -> None:
        super().__init__(**options)
        self.size, self.axis = size, axis

    def build(self, input_shape: Any) -> None:
        self.matrix = window_matrix(input_shape[self.axis], self.size)

    def call(self, inputs: Any) -> Any:
        _, height, width, _ = inputs.shape
        rows = tf.reshape(inputs, (-1, 1, height, width))
        if self.axis == 1:
            rows = tf.transpose(rows, (0, 1, 3, 2))
        means = tf.nn.conv2d(rows, tf.constant(self.matrix[None, None], rows.dtype), 1, "VALID")
        if self.axis == 1:
            means = tf.transpose(means, (0, 1, 3, 2))
        return tf.reshape(means, (-1, height, width, 1))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "axis": self.axis}


def window_matrix(length: int, size: int) -> np.ndarray:
    """[length, length] float32: column x is 1 / count at the ``count`` pixels within size // 2 of x, else 0."""
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    inside = distance <= size // 2
    return np.asarray(inside / inside.sum(axis=0), np.float32)
