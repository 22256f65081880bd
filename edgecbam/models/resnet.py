"""``resnet18``, ``resnet34`` and ``resnet50``: the ImageNet networks of the CBAM paper's authors.

He et al. 2016, https://arxiv.org/abs/1512.03385, in the layout of https://github.com/Jongchan/attention-module: a 7x7
convolution of 64 channels that halves the map, a 3x3 max pool that halves it again, four stages of 64, 128, 256 and 512
channels of which all but the first halve the map, global average, one dense layer. Basic blocks are two 3x3
convolutions; bottlenecks a 1x1, a 3x3 that does the halving, and a 1x1 to four times the channels. CBAM stands after a
block's last BatchNorm, before the residual addition. Halving convolutions pad all sides alike, as PyTorch does.

resnet50 with CBAM of ratio 16 and 1000 classes has 28,089,624 trainable parameters, 2,532,592 of them CBAM's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import tf_keras as keras

from edgecbam.recipe import ModelConfig

from .parts import Family, add_residual, centred_conv_bn, conv_bn, scaled

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
Block = Callable[[Any, int, int, str], Any]


def resnet(inputs: Any, config: ModelConfig, *, block: Block, blocks: tuple[int, ...]) -> Any:
    x = centred_conv_bn(inputs, scaled(64, config.width), 7, 2, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)  # zeros never win: behind a ReLU nothing is smaller
    x = keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), start=1):
        for index in range(1, count + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            name = f"stage{stage}_block{index}"
            y = block(x, scaled(width, config.width), stride, name)
            x = add_residual(x, y, stride, config, name, last=index == count)
    return x


def _basic(x: Any, width: int, stride: int, name: str) -> Any:
    x = centred_conv_bn(x, width, 3, stride, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    return conv_bn(x, width, 3, 1, f"{name}_2")


def _bottleneck(x: Any, width: int, stride: int, name: str) -> Any:
    x = conv_bn(x, width, 1, 1, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = centred_conv_bn(x, width, 3, stride, f"{name}_2")
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    return conv_bn(x, EXPANSION * width, 1, 1, f"{name}_3")


FAMILIES = {
    name: Family(partial(resnet, block=block, blocks=blocks), smallest=lambda config: 32)
    for name, block, blocks in (
        ("resnet18", _basic, (2, 2, 2, 2)),
        ("resnet34", _basic, (3, 4, 6, 3)),
        ("resnet50", _bottleneck, (3, 4, 6, 3)),
    )
}
