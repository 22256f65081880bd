"""One step of training: loss, gradients, optimiser, moving average."""

from typing import Any

import tensorflow as tf

from edgecbam.recipe import TrainConfig

from .average import WeightAverage


def make_step(model: Any, optimizer: Any, average: WeightAverage, config: TrainConfig) -> Any:
    classes = model.output_shape[-1]
    kernels = [v for v in model.trainable_variables if "kernel" in v.name]
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None], tf.int64),
    ]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = tf.cast(model(images, training=True), tf.float32)
            if config.label_smoothing:
                targets = tf.one_hot(labels, classes)
                targets = targets * (1.0 - config.label_smoothing) + config.label_smoothing / classes
                losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
            if config.l2:
                loss += config.l2 * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        average.update()
        return loss

    return step
