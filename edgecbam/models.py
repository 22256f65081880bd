"""The model families, built from a ModelConfig: normalised images [n, h, w, c] -> logits [n, classes].

``resnet`` is the residual network for small images of He et al. 2016, https://arxiv.org/abs/1512.03385 §4.2: a 3x3
stem, then stages of basic blocks of two 3x3 convolutions; each stage after the first halves the map. CBAM stands
after the last BatchNorm of a block, before the residual addition, as in the CBAM paper's figure 3. Departure: a block
that changes the shape has a 1x1 convolution with BatchNorm as its shortcut.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from edgecbam import attention
from edgecbam.attention import BATCHNORM_MOMENTUM
from edgecbam.errors import InputError
from edgecbam.recipe import ModelConfig


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
            name="counter", shape=(), dtype=tf.int64, initializer=start, trainable=False, experimental_autocast=False
        )

    def call(self, inputs: Any, training: Any = None) -> Any:
        if not training:
            return inputs
        count = self.counter.assign_add(1)
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed=tf.stack([count, count]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


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
    smallest = min(input_shape[:2]) // 2 ** (len(config.widths) - 1)
    if smallest < 1:
        raise InputError(
            f"images of {input_shape[0]}x{input_shape[1]} are too small for {len(config.widths)} stages: "
            "use fewer model.widths or a larger data.height and data.width"
        )


def _resnet(inputs: Any, config: ModelConfig) -> Any:
    x = _conv_bn(inputs, config.widths[0], 3, 1, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True), start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, width, stride, config, f"stage{stage}_block{block}")
    return x


def _basic_block(inputs: Any, width: int, stride: int, config: ModelConfig, name: str) -> Any:
    x = _conv_bn(inputs, width, 3, stride, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = _conv_bn(x, width, 3, 1, f"{name}_2")
    x = _attend(x, config, f"{name}_attention")
    shortcut = inputs
    if stride != 1 or inputs.shape[-1] != width:
        shortcut = _conv_bn(inputs, width, 1, stride, f"{name}_shortcut")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _attend(x: Any, config: ModelConfig, name: str) -> Any:
    match config.attention:
        case "none":
            return x
        case "channel":
            return attention.channel_attention(x, ratio=config.reduction_ratio, name=name)
        case "spatial":
            return attention.spatial_attention(x, kernel=config.spatial_kernel, name=name)
        case "cbam":
            return attention.cbam(x, ratio=config.reduction_ratio, kernel=config.spatial_kernel, name=name)


def _conv_bn(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
    x = keras.layers.Conv2D(
        width,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return keras.layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, epsilon=1e-5, name=f"{name}_bn")(x)


FAMILIES = {"resnet": _resnet}


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one inference (convolutions and dense layers) and the number of parameters."""

    macs: int
    parameters: int

    @classmethod
    def of(cls, model: Any) -> "Cost":
        """Count a keras.Model; a layer that is used twice counts twice in macs and once in parameters."""
        macs = 0
        for layer in model.layers:
            for index in range(len(layer.inbound_nodes)):
                macs += _macs(layer, layer.get_output_at(index).shape)
        return cls(macs, int(model.count_params()))


def _macs(layer: Any, output_shape: Any) -> int:
    """A kernel is [kh, kw, in, out] or [in, out]: each output element is a sum over all but the last axis."""
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return 0
    return int(math.prod(layer.kernel.shape[:-1]) * math.prod(output_shape[1:]))
