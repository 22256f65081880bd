"""What the families share: convolutions with BatchNorm, the sizes of stages, attention as the recipe asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tf_keras as keras

from edgecbam import attention
from edgecbam.attention import BATCHNORM_MOMENTUM
from edgecbam.errors import InputError
from edgecbam.recipe import ModelConfig


@dataclass(frozen=True)
class Family:
    """How a family is built.

    Attributes:
        features: (image tensor [n, h, w, c], config) -> feature map [n, h', w', c'].
        smallest: config -> the smallest side of an image that still has one pixel in the last map with attention.
        sizes: which keys of the recipe set its channels: ``widths`` and ``blocks``, or the factor ``width``.
        head: what stands between the averaged features [n, c'] and the logits; None for nothing.
    """

    features: Callable[[Any, ModelConfig], Any]
    smallest: Callable[[ModelConfig], int]
    sizes: Literal["widths", "width"] = "width"
    head: Callable[[Any, ModelConfig], Any] | None = None


def attend(x: Any, config: ModelConfig, name: str, *, last: bool = True) -> Any:
    """Put the recipe's attention behind a block.

    Args:
        x: Keras tensor [n, h, w, c].
        config: which attention, of what size, and where.
        name: prefix of the layer names; it holds the word ``attention`` (see backbone_layers).
        last: whether the block is the last of its stage.

    Returns:
        Keras tensor of the same shape; ``x`` itself where no attention stands.

    Raises:
        InputError: more reduction than channels, or a kernel most of which lies outside the map.
    """
    if config.attention == "none" or (config.attention_placement == "stage" and not last):
        return x
    _check_attention(x.shape, config, name)
    ratio, kernel, init = config.reduction_ratio, config.spatial_kernel, config.attention_init
    match config.attention:
        case "channel":
            return attention.channel_attention(x, ratio=ratio, name=name, init=init)
        case "spatial":
            return attention.spatial_attention(x, kernel=kernel, name=name, init=init)
        case "cbam":
            return attention.cbam(x, ratio=ratio, kernel=kernel, name=name, init=init)
        case "article":
            return attention.article_attention(x, ratio=ratio, kernel=kernel, name=name, init=init)


def _check_attention(shape: Any, config: ModelConfig, name: str) -> None:
    height, width, channels = shape[1:]
    if config.attention != "spatial" and config.reduction_ratio > channels:
        raise InputError(
            f"model.reduction_ratio {config.reduction_ratio} is larger than the {channels} channels of {name}: "
            f"give at most {channels}"
        )
    # A weight d pixels off the centre of the kernel meets a pixel only on a map with more than d pixels a side.
    largest = 2 * min(height, width) - 1
    if config.attention != "channel" and config.spatial_kernel > largest:
        raise InputError(
            f"model.spatial_kernel {config.spatial_kernel} is too large for the {height}x{width} map of {name}: its "
            f"outer weights would never meet a pixel; give at most {largest}, or larger data.height and data.width"
        )


def add_residual(inputs: Any, x: Any, stride: int, config: ModelConfig, name: str, *, last: bool) -> Any:
    """The end of a residual block: attention, the input added, ReLU.

    Args:
        inputs: Keras tensor [n, h, w, c], what the block began with.
        x: Keras tensor [n, h / stride, w / stride, c'], behind the block's last BatchNorm. Where the shapes differ, the
            input goes through a 1x1 convolution with BatchNorm.
        stride: of the block.
        config: which attention.
        name: prefix of the layer names.
        last: whether the block is the last of its stage.
    """
    channels = x.shape[-1]
    x = attend(x, config, f"{name}_attention", last=last)
    shortcut = inputs
    if stride != 1 or inputs.shape[-1] != channels:
        shortcut = conv_bn(inputs, channels, 1, stride, f"{name}_shortcut")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def conv(
    x: Any, width: int, kernel: int, stride: int, name: str, *, padding: str = "same", use_bias: bool = False
) -> Any:
    """A convolution without activation: [n, h, w, c] -> [n, h / stride, w / stride, width]."""
    return keras.layers.Conv2D(
        width, kernel, stride, padding=padding, use_bias=use_bias, kernel_initializer="he_normal", name=name
    )(x)


def batchnorm(x: Any, name: str, *, epsilon: float = 1e-5) -> Any:
    return keras.layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, epsilon=epsilon, name=name)(x)


def conv_bn(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
    return batchnorm(conv(x, width, kernel, stride, f"{name}_conv"), f"{name}_bn")


def centred_conv_bn(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
    """conv_bn with the same padding on every side, as in the official code.

    TensorFlow's "same" pads one pixel less above and to the left where an even map is halved.
    """
    if stride == 1:
        return conv_bn(x, width, kernel, stride, name)
    x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return batchnorm(conv(x, width, kernel, stride, f"{name}_conv", padding="valid"), f"{name}_bn")


def scaled(channels: int, factor: float) -> int:
    """``channels * factor``, rounded to a multiple of 8 and at least 8; unchanged where the factor is 1."""
    return channels if factor == 1.0 else max(8, 8 * int(channels * factor / 8 + 0.5))


def stages(config: ModelConfig, widths: tuple[int, ...], blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """(channels, blocks) of every stage: the recipe's, or the family's ``widths`` and ``blocks`` where it has none.

    Raises:
        InputError: the recipe gives blocks alone, and not one number for each of the family's stages.
    """
    if config.widths:
        return list(zip(config.widths, config.blocks or (1,) * len(config.widths), strict=True))
    if config.blocks and len(config.blocks) != len(widths):
        raise InputError(
            f"model.blocks has {len(config.blocks)} stages but family {config.family} has {len(widths)}: "
            "give one number for each, or model.widths as well"
        )
    return list(zip(widths, config.blocks or blocks, strict=True))
