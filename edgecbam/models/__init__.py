"""The model families, built from a ModelConfig: normalised images [n, h, w, c] -> logits [n, classes]."""

from typing import Any

import tf_keras as keras

from edgecbam.errors import InputError
from edgecbam.recipe import ModelConfig

from .cost import Cost
from .dropout import CountedDropout
from .small_resnet import small_resnet

__all__ = ["FAMILIES", "Cost", "CountedDropout", "build"]

FAMILIES = {"resnet": small_resnet}


def build(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> Any:
    """Build a network, freshly initialised from Keras' global seed.

    Args:
        config: the family and its sizes.
        input_shape: (height, width, channels) of the images.
        classes: number of logits.

    Returns:
        A functional keras.Model from float32 [n, h, w, c] to logits [n, classes].

    Raises:
        InputError: the network cannot be built for such images.
    """
    _check(config, input_shape, classes)
    inputs = keras.Input(input_shape, name="image")
    features = FAMILIES[config.family](inputs, config)
    features = keras.layers.GlobalAveragePooling2D(name="features")(features)
    if config.dropout:
        features = CountedDropout(config.dropout, name="dropout")(features)
    # float32 also under a mixed policy: a softmax of bfloat16 logits would lose the small differences
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(features)
    return keras.Model(inputs, logits, name=config.family)


def _check(config: ModelConfig, input_shape: tuple[int, int, int], classes: int) -> None:
    if classes < 2:
        raise InputError(f"a classifier needs at least two classes, got {classes}")
    stages = len(config.widths) or 3
    smallest = min(input_shape[:2]) // 2 ** (stages - 1)
    if smallest < 1:
        raise InputError(
            f"images of {input_shape[0]}x{input_shape[1]} are too small for {stages} stages: "
            "use fewer model.widths or a larger data.height and data.width"
        )
