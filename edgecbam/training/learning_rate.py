"""The learning rate over the steps of a training: warm-up, then exponential decay or half a cosine."""

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from edgecbam.recipe import TrainConfig


@keras.utils.register_keras_serializable("edgecbam")
class WarmUpDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then ``ExponentialDecay``: lr * rate ** (step / decay_steps), in whole powers if staircase.

    During the first ``warmup_steps`` the decayed rate is multiplied by (step + 1) / warmup_steps.
    """

    def __init__(
        self, learning_rate: float, decay_rate: float, decay_steps: float, staircase: bool, warmup_steps: float
    ) -> None:
        self.decay = keras.optimizers.schedules.ExponentialDecay(learning_rate, decay_steps, decay_rate, staircase)
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        progress = (tf.cast(step, tf.float32) + 1.0) / max(self.warmup_steps, 1e-6)
        return self.decay(step) * tf.minimum(progress, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.decay.initial_learning_rate,
            "decay_rate": self.decay.decay_rate,
            "decay_steps": self.decay.decay_steps,
            "staircase": self.decay.staircase,
            "warmup_steps": self.warmup_steps,
        }


@keras.utils.register_keras_serializable("edgecbam")
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then half a cosine down to 0: lr * (1 + cos(pi * (step - w) / (total - w))) / 2.

    w is ``warmup_steps``, before which the rate is lr * (step + 1) / w; after ``total_steps`` it stays 0.
    Loshchilov and Hutter, https://arxiv.org/abs/1608.03983 §3, without restarts.
    """

    def __init__(self, learning_rate: float, total_steps: float, warmup_steps: float) -> None:
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        done = tf.cast(step, tf.float32)
        share = (done - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1e-6)
        rate = self.learning_rate * 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0)))
        return rate * tf.minimum((done + 1.0) / max(self.warmup_steps, 1e-6), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


@keras.utils.register_keras_serializable("edgecbam")
class Later(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Another schedule, begun at a later step: for an optimiser that takes over in the midst of a training."""

    def __init__(self, schedule: Any, steps: int) -> None:
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        return self.schedule(step + self.steps)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "steps": self.steps}


def schedule(config: TrainConfig, steps_per_epoch: int) -> Any:
    """The learning rate over steps, from settings that count epochs: WarmUpDecay or WarmUpCosine."""
    if config.schedule == "cosine":
        return WarmUpCosine(
            config.learning_rate, config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
        )
    return WarmUpDecay(
        config.learning_rate,
        config.decay_rate,
        config.decay_epochs * steps_per_epoch,
        config.staircase,
        config.warmup_epochs * steps_per_epoch,
    )
