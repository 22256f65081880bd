"""``mobilenetv2``: inverted residuals, in Keras' layout, so that Keras' ImageNet weights fit.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381: a 3x3 convolution that halves the map, seventeen blocks (1x1
convolution to six times the channels, 3x3 depthwise convolution, 1x1 projection without activation, addition where the
shape stays), a 1x1 convolution to 1280 channels, global average, one dense layer. ReLU6 throughout. ``model.width`` is
the paper's multiplier α. CBAM stands after the BatchNorm of the projection, before the addition.

Layers with weights bear the names that tf_keras.applications.MobileNetV2 gives them. Departure: "same" padding in the
halving depthwise convolutions, where Keras has a layer of explicit zeros; it pads the same pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tf_keras as keras

from edgecbam.attention import BATCHNORM_MOMENTUM
from edgecbam.recipe import ModelConfig

from .parts import Family, attend, conv

EPSILON = 1e-3
EXPANSION = 6


@dataclass(frozen=True)
class _Stage:
    width: int
    blocks: int
    stride: int


STAGES = (
    _Stage(16, 1, 1),
    _Stage(24, 2, 2),
    _Stage(32, 3, 2),
    _Stage(64, 4, 2),
    _Stage(96, 3, 1),
    _Stage(160, 3, 2),
    _Stage(320, 1, 1),
)


def mobilenetv2(inputs: Any, config: ModelConfig) -> Any:
    x = conv(inputs, divisible(32 * config.width), 3, 2, "Conv1")
    x = _batchnorm(x, "bn_Conv1")
    x = keras.layers.ReLU(6.0, name="Conv1_relu")(x)
    blocks = [(stage, index) for stage in STAGES for index in range(stage.blocks)]
    ends = {number for number, (one, two) in enumerate(pairwise(blocks)) if one[0] is not two[0]} | {len(blocks) - 1}
    for number, (stage, index) in enumerate(blocks):
        stride = stage.stride if index == 0 else 1
        x = _inverted_residual(x, divisible(stage.width * config.width), stride, number, config, last=number in ends)
    x = conv(x, divisible(1280 * max(1.0, config.width)), 1, 1, "Conv_1")
    x = _batchnorm(x, "Conv_1_bn")
    return keras.layers.ReLU(6.0, name="out_relu")(x)


def _inverted_residual(inputs: Any, width: int, stride: int, number: int, config: ModelConfig, *, last: bool) -> Any:
    layers = keras.layers
    prefix = f"block_{number}" if number else "expanded_conv"
    x = inputs
    if number:  # the first block does not expand
        x = conv(x, EXPANSION * inputs.shape[-1], 1, 1, f"{prefix}_expand")
        x = _batchnorm(x, f"{prefix}_expand_BN")
        x = layers.ReLU(6.0, name=f"{prefix}_expand_relu")(x)
    x = layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, depthwise_initializer="he_normal", name=f"{prefix}_depthwise"
    )(x)
    x = _batchnorm(x, f"{prefix}_depthwise_BN")
    x = layers.ReLU(6.0, name=f"{prefix}_depthwise_relu")(x)
    x = conv(x, width, 1, 1, f"{prefix}_project")
    x = _batchnorm(x, f"{prefix}_project_BN")
    x = attend(x, config, f"{prefix}_attention", last=last)
    if stride != 1 or inputs.shape[-1] != width:
        return x
    return layers.Add(name=f"{prefix}_add")([inputs, x])


def _batchnorm(x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, epsilon=EPSILON, name=name)(x)


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never less than nine tenths of ``channels``, as in Keras."""
    rounded = max(8, 8 * int(channels / 8 + 0.5))
    return rounded if rounded >= 0.9 * channels else rounded + 8


FAMILY = Family(mobilenetv2, smallest=lambda config: 32)
