"""The exponential moving average of the weights, with the warm-up of ``tf.train.ExponentialMovingAverage``.

shadow = d * shadow + (1 - d) * variable with d = min(decay, (1 + n) / (10 + n)) at update n. BatchNorm's moving mean
and variance are averaged together with the weights, as EfficientNet's training does
(https://arxiv.org/abs/1905.11946 §5).

TensorFlow's own class computes the same (a test compares the two) but not inside a ``tf.distribute`` strategy, so the
line is written out here: every device averages its own copy of the weights, which are equal on all of them.
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
        self.decay = decay
        self.variables = list(model.trainable_variables) + batchnorm_statistics(model)
        self._strategy = model.distribute_strategy
        with self._strategy.scope():
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="ema_updates")
            self.shadows = [
                tf.Variable(tf.identity(variable), trainable=False, name="shadow") for variable in self.variables
            ]

    def update(self) -> None:
        """Average the present weights in; call once after every optimiser step, inside or outside a tf.function."""
        count = tf.cast(self.updates, tf.float32)
        rate = 1.0 - tf.minimum(self.decay, (1.0 + count) / (10.0 + count))
        for shadow, variable in zip(self.shadows, self.variables, strict=True):
            self._strategy.extended.update(shadow, _approach, args=(variable, rate))
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
            variable.assign(tf.identity(shadow))


def _approach(shadow: Any, variable: Any, rate: Any) -> Any:
    return shadow.assign_sub((shadow - variable) * rate)


def batchnorm_statistics(model: Any) -> list[Any]:
    """Moving means and variances of a model, plain or quantization-aware."""
    return [variable for norm in batchnorms(model) for variable in (norm.moving_mean, norm.moving_variance)]


def batchnorms(model: Any) -> list[Any]:
    """The BatchNormalization layers of a model, plain or quantization-aware."""
    layers = (getattr(layer, "layer", layer) for layer in model.layers)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
