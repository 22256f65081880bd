"""``resnet20`` and ``resnet32``: the residual networks for CIFAR.

He et al. 2016, https://arxiv.org/abs/1512.03385 §4.2: a 3x3 stem of 16 channels, three stages of n basic blocks with
16, 32 and 64 channels, global average, one dense layer: 6n + 2 layers, n = 3 and 5. CBAM as in small_resnet.py.
Departure: where a block changes the shape, the shortcut is a 1x1 convolution with BatchNorm (option B of the paper)
instead of the parameter-free option A, whose padding with channels of zeros int8 runtimes do in extra ops.
"""

from functools import partial
from typing import Any

from edgecbam.recipe import ModelConfig

from .parts import Family, scaled
from .small_resnet import residual_stages

WIDTHS = (16, 32, 64)


def cifar_resnet(inputs: Any, config: ModelConfig, *, blocks: int) -> Any:
    return residual_stages(inputs, [(scaled(width, config.width), blocks) for width in WIDTHS], config)


FAMILIES = {
    "resnet20": Family(partial(cifar_resnet, blocks=3), smallest=lambda config: 4),
    "resnet32": Family(partial(cifar_resnet, blocks=5), smallest=lambda config: 4),
}
