"""``resnet``: a residual network for small images, of any number of stages.

He et al. 2016, https://arxiv.org/abs/1512.03385 §4.2: a 3x3 stem, then stages of basic blocks of two 3x3 convolutions;
each stage after the first halves the map. CBAM stands after the last BatchNorm of a block, before the residual
addition, as in the CBAM paper's figure 3. Departure: a block that changes the shape has a 1x1 convolution with
BatchNorm as its shortcut.
"""

from typing import Any

import tf_keras as keras

from edgecbam.recipe import ModelConfig

from .parts import Family, add_residual, conv_bn, stages

WIDTHS, BLOCKS = (16, 32, 64), (1, 1, 1)


def small_resnet(inputs: Any, config: ModelConfig) -> Any:
    return residual_stages(inputs, stages(config, WIDTHS, BLOCKS), config)


def residual_stages(inputs: Any, sizes: list[tuple[int, int]], config: ModelConfig) -> Any:
    """The stem and the stages, each given as (channels, blocks)."""
    x = conv_bn(inputs, sizes[0][0], 3, 1, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, (width, blocks) in enumerate(sizes, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, width, stride, config, f"stage{stage}_block{block}", last=block == blocks)
    return x


def _basic_block(inputs: Any, width: int, stride: int, config: ModelConfig, name: str, *, last: bool) -> Any:
    x = conv_bn(inputs, width, 3, stride, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = conv_bn(x, width, 3, 1, f"{name}_2")
    return add_residual(inputs, x, stride, config, name, last=last)


FAMILY = Family(small_resnet, smallest=lambda config: 2 ** (len(config.widths or WIDTHS) - 1), sizes="widths")
