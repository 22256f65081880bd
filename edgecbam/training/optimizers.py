"""The optimisers by the names that recipes use."""

from typing import Any

import tf_keras as keras

from edgecbam.recipe import TrainConfig


def make_optimizer(config: TrainConfig, learning_rate: Any) -> Any:
    """The optimiser by its name in the recipe; AdamW decays kernels only, not biases or BatchNorm."""
    optimizers = keras.optimizers
    match config.optimizer:
        case "sgd":
            return optimizers.SGD(learning_rate)
        case "momentum":
            return optimizers.SGD(learning_rate, momentum=config.momentum, nesterov=True)
        case "adam":
            return optimizers.Adam(learning_rate)
        case "rmsprop":
            return optimizers.RMSprop(learning_rate, rho=0.9, momentum=config.momentum, epsilon=1e-3)
        case "adamw":
            optimizer = optimizers.AdamW(learning_rate, weight_decay=config.weight_decay)
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            return optimizer
