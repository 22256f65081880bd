"""The exponential moving average of the weights.

It is TensorFlow's ``tf.train.ExponentialMovingAverage`` with its warm-up: shadow = d * shadow + (1 - d) * variable with
d = min(decay, (1 + n) / (10 + n)) at update n. BatchNorm's moving mean and variance are averaged together with the
weights, as EfficientNet's training does (https://arxiv.org/abs/1905.11946 §5).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras


class WeightAverage:
    """The exponential moving average of a model's trainable weights and BatchNorm statistics."""

    def __init__(self, model: Any, decay: float) -> None:
        self.model = model
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="ema_updates")
        self.variables = list(model.trainable_variables) + batchnorm_statistics(model)
        self._average = tf.train.ExponentialMovingAverage(decay, num_updates=self.updates)
        self._average.apply(self.variables)  # creates the shadows, equal to the variables
        self.shadows = [self._average.average(variable) for variable in self.variables]

    def update(self) -> None:
        """Average the present weights in; call once after every optimiser step, inside or outside a tf.function."""
        self._average.apply(self.variables)
        self.updates.assign_add(1)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averaged weights inside the block and all that it had before afterwards."""
        before = [tf.identity(weight) for weight in self.model.weights]
        self.assign()
        try:
            yield
        finally:
            for weight, value in zip(self.model.weights, before, strict=True):
                weight.assign(value)

    def assign(self) -> None:
        """Give the model the averaged weights for good."""
        for variable, shadow in zip(self.variables, self.shadows, strict=True):
            variable.assign(shadow)


def batchnorm_statistics(model: Any) -> list[Any]:
    """Moving means and variances of a model, plain or quantization-aware."""
    layers = (getattr(layer, "layer", layer) for layer in model.layers)
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]
