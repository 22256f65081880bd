"""One step of training: loss, gradients, optimiser, moving average; on one device or on many."""

from typing import Any

import tensorflow as tf

from edgecbam.recipe import TrainConfig

from . import distribution, gradients
from .average import WeightAverage
from .losses import Loss


def make_step(model: Any, optimizer: Any, average: WeightAverage, config: TrainConfig, loss: Loss) -> Any:
    """A compiled training step for the layers that are trainable now.

    The loss of a step is sum(weights * losses) / sum(weights), both sums over the images of all devices, plus
    ``l2`` * sum(kernel ** 2) / 2, counted once.

    Returns:
        step(parts, due) -> float32 [2]: the loss, and the sum of all workers' ``due``. ``parts`` has for each device
        of this process a tuple (images [b, h, w, c], targets [b, outputs], weights [b]), all float32; ``due`` is a
        float32 scalar by which workers agree on something, such as that it is time for a checkpoint.
    """
    gradients.install()
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    variables = model.trainable_variables
    kernels = [variable for variable in variables if "kernel" in variable.name]
    local = distribution.local_devices(strategy)
    part = (
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None, model.output_shape[-1]], tf.float32),
        tf.TensorSpec([None], tf.float32),
    )

    def on_one_device(parts: Any, due: Any) -> Any:
        context = tf.distribute.get_replica_context()
        images, targets, weights = parts[_position(context, local)]
        total = tf.reduce_sum(weights)
        if replicas > 1:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
        with tf.GradientTape() as tape:
            outputs = tf.cast(model(images, training=True), tf.float32)
            value = tf.math.divide_no_nan(tf.reduce_sum(weights * loss(targets, outputs)), total)
            if config.l2:
                value += config.l2 / replicas * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        found = tape.gradient(value, variables)
        optimizer.apply_gradients(zip(found, variables, strict=True))  # which sums them over the devices
        return tf.stack([value, due / local])

    @tf.function(input_signature=[(part,) * local, tf.TensorSpec([], tf.float32)])  # type: ignore[untyped-decorator]
    def step(parts: Any, due: Any) -> Any:
        sums = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_one_device, (parts, due)), axis=None)
        average.update()
        return sums

    return step


def _position(context: Any, local: int) -> int:
    """Which of this process' devices a replica is; each is traced by itself, so that the number is known."""
    return int(tf.get_static_value(context.replica_id_in_sync_group)) % local
