"""What the families share: a convolution with BatchNorm, and attention by its name in the recipe."""

from typing import Any

import tf_keras as keras

from edgecbam import attention
from edgecbam.attention import BATCHNORM_MOMENTUM
from edgecbam.recipe import ModelConfig


def attend(x: Any, config: ModelConfig, name: str) -> Any:
    match config.attention:
        case "none":
            return x
        case "channel":
            return attention.channel_attention(x, ratio=config.reduction_ratio, name=name)
        case "spatial":
            return attention.spatial_attention(x, kernel=config.spatial_kernel, name=name)
        case "cbam":
            return attention.cbam(x, ratio=config.reduction_ratio, kernel=config.spatial_kernel, name=name)


def conv_bn(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
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
