"""The families by their names in the recipe, and how a network is put together from one."""

from typing import Any

import tf_keras as keras

from edgecbam.errors import InputError
from edgecbam.recipe import ModelConfig, Task

from . import article, cifar_resnet, edge, keras_resnet50, mobilenetv2, resnet, small_resnet
from .dropout import CountedDropout
from .parts import Family

FAMILIES: dict[str, Family] = {
    "resnet": small_resnet.FAMILY,
    "article": article.FAMILY,
    **resnet.FAMILIES,
    **cifar_resnet.FAMILIES,
    "resnet50_keras": keras_resnet50.FAMILY,
    "mobilenetv2": mobilenetv2.FAMILY,
    "edge": edge.FAMILY,
}


def build(config: ModelConfig, input_shape: tuple[int, int, int], outputs: int, task: Task = "classification") -> Any:
    """Build a network, freshly initialised from Keras' global seed; ``config.weights`` are not loaded.

    Args:
        config: the family and its sizes.
        input_shape: (height, width, channels) of the images.
        outputs: number of classes, or of targets in regression.
        task: what the outputs are: logits of classes, or values without an activation.

    Returns:
        A functional keras.Model from float32 [n, h, w, c] to float32 [n, outputs]; its last layer is named ``logits``.

    Raises:
        InputError: the network cannot be built for such images, or the recipe's sizes do not fit the family.
    """
    family = FAMILIES[config.family]
    _check(config, family, input_shape, outputs, task)
    inputs = keras.Input(input_shape, name="image")
    features = family.features(inputs, config)
    features = keras.layers.GlobalAveragePooling2D(name="features")(features)
    if family.head is not None:
        features = family.head(features, config)
    if config.dropout:
        features = CountedDropout(config.dropout, name="dropout")(features)
    # float32 also under a mixed policy: a softmax of bfloat16 logits would lose the small differences
    logits = keras.layers.Dense(outputs, dtype="float32", name="logits")(features)
    return keras.Model(inputs, logits, name=config.family)


def _check(config: ModelConfig, family: Family, input_shape: tuple[int, int, int], outputs: int, task: Task) -> None:
    if task == "classification" and outputs < 2:
        raise InputError(f"a classifier needs at least two classes, got {outputs}")
    if task == "regression" and outputs < 1:
        raise InputError("a regression needs at least one target, got none")
    if family.sizes == "width" and (config.widths or config.blocks):
        key = "widths" if config.widths else "blocks"
        raise InputError(
            f"model.{key} has no place in family {config.family}, whose stages are fixed: "
            "leave it empty and scale the channels with model.width"
        )
    if family.sizes == "widths" and config.width != 1.0:
        raise InputError(f"model.width has no effect on family {config.family}: give model.widths instead")
    _check_size(config, family, input_shape)


def _check_size(config: ModelConfig, family: Family, input_shape: tuple[int, int, int]) -> None:
    height, width, _ = input_shape
    smallest = family.smallest(config)
    if min(height, width) >= smallest:
        return
    if family.sizes == "widths":
        stages = smallest.bit_length()  # each but the first halves the map
        raise InputError(
            f"images of {height}x{width} are too small for {stages} stages: "
            "use fewer model.widths or a larger data.height and data.width"
        )
    raise InputError(
        f"images of {height}x{width} are too small for family {config.family}, which needs {smallest}x{smallest} at "
        "least: set data.height and data.width, or take family resnet, which suits small images"
    )
