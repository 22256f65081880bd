"""``edge``: a network of our own for int8 on the CPU of a phone or a small board.

    3x3 stem -> stages of fused blocks -> stages of separable blocks with attention -> 1x1 convolution -> global average

    fused block      3x3 convolution to 2c -> ReLU -> 1x1 convolution to c -> + input
    separable block  1x1 convolution to 4c -> ReLU -> 3x3 depthwise -> ReLU -> 1x1 convolution to c -> attention
                     -> + input

Each stage begins with a block that changes the channels and, in all stages but the first, halves the map; nothing is
added there. The stem halves images of 64 pixels and more, the first stage those of 128 and more, so that the last map
of four stages has 4 to 8 pixels a side at any size from 28 to 256. ``model.widths`` and ``model.blocks`` set the
stages; the first half of them, rounded down, is fused.

Why it is built so (how the pieces behave in int8 on a CPU):

* Full 3x3 convolutions on the large early maps. There the time goes to memory, and int8 dot-product instructions make a
  full convolution of few channels nearly free, while a depthwise one reads and writes as much and uses none of them.
  EfficientNetV2 (https://arxiv.org/abs/2104.00298) and MobileNetV4 (https://arxiv.org/abs/2404.10518) found the same.
* Depthwise convolutions on the small late maps, where most of the parameters are. 3x3 only: a 7x7 one takes several
  times as long in XNNPACK's int8 as in its float32.
* ReLU only: it fuses into the convolution before it. HARD_SWISH and a lone int8 RELU are not delegated to XNNPACK, and
  SiLU is a LOGISTIC and a MUL over the whole map.
* No activation on what is added: the addition then stays the only op at the end of a block.
* Attention in the separable stages only. What it costs is memory traffic, which grows with the map (docs/lowering.md
  has figures), and late maps hold a fraction of the pixels.
* A last 1x1 convolution to four times the channels, on the smallest map: features for the classifier at little cost.
"""

from typing import Any

import tf_keras as keras

from edgecbam.recipe import ModelConfig

from .parts import Family, attend, batchnorm, conv_bn, stages

WIDTHS, BLOCKS = (32, 64, 96, 160), (1, 2, 4, 3)
FUSED_EXPANSION, EXPANSION = 2, 4
STEM_HALVES, STAGE_HALVES = 64, 128  # from this smaller side of the image on


def edge(inputs: Any, config: ModelConfig) -> Any:
    sizes = stages(config, WIDTHS, BLOCKS)
    side = min(inputs.shape[1:3])
    x = _conv_relu(inputs, sizes[0][0], 3, 2 if side >= STEM_HALVES else 1, "stem")
    for stage, (width, blocks) in enumerate(sizes, start=1):
        for block in range(1, blocks + 1):
            halves = block == 1 and (stage > 1 or side >= STAGE_HALVES)
            stride, name, last = 2 if halves else 1, f"stage{stage}_block{block}", block == blocks
            if stage <= len(sizes) // 2:
                x = _fused(x, width, stride, name)
            else:
                x = _separable(x, width, stride, config, name, last=last)
    return _conv_relu(x, EXPANSION * sizes[-1][0], 1, 1, "last")


def _fused(inputs: Any, width: int, stride: int, name: str) -> Any:
    x = _conv_relu(inputs, FUSED_EXPANSION * width, 3, stride, f"{name}_1")
    x = conv_bn(x, width, 1, 1, f"{name}_2")
    return _add(inputs, x, name)


def _separable(inputs: Any, width: int, stride: int, config: ModelConfig, name: str, *, last: bool) -> Any:
    x = _conv_relu(inputs, EXPANSION * inputs.shape[-1], 1, 1, f"{name}_1")
    x = keras.layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, depthwise_initializer="he_normal", name=f"{name}_2_depthwise"
    )(x)
    x = batchnorm(x, f"{name}_2_bn")
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    x = conv_bn(x, width, 1, 1, f"{name}_3")
    x = attend(x, config, f"{name}_attention", last=last)
    return _add(inputs, x, name)


def _conv_relu(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
    return keras.layers.ReLU(name=f"{name}_relu")(conv_bn(x, width, kernel, stride, name))


def _add(inputs: Any, x: Any, name: str) -> Any:
    """The residual addition, where the block keeps the shape."""
    return keras.layers.Add(name=f"{name}_add")([inputs, x]) if inputs.shape == x.shape else x


FAMILY = Family(edge, smallest=lambda config: 2 ** (len(config.widths or WIDTHS) - 1), sizes="widths")
