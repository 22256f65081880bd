"""``article``: the network of the article this toolkit grew from.

    7x7/2 convolution 64 -> 3x3/2 max pool -> CBAM -> 3x3 convolution 64 -> CBAM -> pool
    -> [convolution 128, CBAM] x2 -> pool -> [convolution 256, CBAM] x2 -> pool -> [convolution 512, CBAM] x2 -> pool
    -> global average -> dense 2048 -> dense 2048 -> logits

All convolutions and both dense layers have biases and ReLU, none has BatchNorm; padding is "same"; every pool is a 3x3
maximum that halves the map. Eight blocks of CBAM, ratio 16 and kernel 7 in the recipe. ``model.attention`` chooses the
CBAM paper's attention or, as ``article``, the article's own. ``model.width`` scales the dense layers too.

No BatchNorm follows that would undo a scale: eight gates that each start by scaling to a quarter leave a signal of
1/65,000, so the recipe lets them start open (``model.attention_init``).
"""

from typing import Any

import tf_keras as keras

from edgecbam.recipe import ModelConfig

from .parts import Family, attend, scaled

STAGES = ((128, 2), (256, 2), (512, 2))  # behind the first, which has 64 channels and one convolution
DENSE = 2048


def article(inputs: Any, config: ModelConfig) -> Any:
    x = _convolution(inputs, 64, 7, 2, config, "stem_conv")
    x = _pool(x, "stem_pool")
    x = attend(x, config, "stem_attention", last=False)
    x = _convolution(x, 64, 3, 1, config, "stage1_conv1")
    x = attend(x, config, "stage1_attention1")
    x = _pool(x, "stage1_pool")
    for stage, (width, count) in enumerate(STAGES, start=2):
        for index in range(1, count + 1):
            x = _convolution(x, width, 3, 1, config, f"stage{stage}_conv{index}")
            x = attend(x, config, f"stage{stage}_attention{index}", last=index == count)
        x = _pool(x, f"stage{stage}_pool")
    return x


def _convolution(x: Any, width: int, kernel: int, stride: int, config: ModelConfig, name: str) -> Any:
    width = scaled(width, config.width)
    return keras.layers.Conv2D(
        width, kernel, stride, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def _pool(x: Any, name: str) -> Any:
    return keras.layers.MaxPooling2D(3, 2, padding="same", name=name)(x)


def dense_layers(features: Any, config: ModelConfig) -> Any:
    """The two dense layers with ReLU before the logits: [n, c] -> [n, 2048]."""
    for index in (1, 2):
        features = keras.layers.Dense(
            scaled(DENSE, config.width), activation="relu", kernel_initializer="he_normal", name=f"dense{index}"
        )(features)
    return features


FAMILY = Family(article, smallest=lambda config: 32, head=dense_layers)
