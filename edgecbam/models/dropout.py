"""Dropout that a resumed training repeats."""

import random
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("edgecbam")
class CountedDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose masks depend on a counter alone, which is saved with the weights.

    Keras' own draws from a state that no checkpoint holds, so that a resumed training would see other masks. The
    counter begins at a number drawn from the global seed and goes on by one in every training step.
    """

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate

    def build(self, input_shape: Any) -> None:
        start = keras.initializers.Constant(random.getrandbits(31))
        self.counter = self.add_weight(
            name="counter",
            shape=(),
            dtype=tf.int64,
            initializer=start,
            trainable=False,
            experimental_autocast=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,  # all devices count alike
        )

    def call(self, inputs: Any, training: Any = None) -> Any:
        if not training:
            return inputs
        count = self.counter.assign_add(1)
        context = tf.distribute.get_replica_context()
        device = tf.cast(0 if context is None else context.replica_id_in_sync_group, tf.int64)  # each has its own mask
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed=tf.stack([count, count + device]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
