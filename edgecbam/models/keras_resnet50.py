"""``resnet50_keras``: ResNet-50 in Keras' layout, so that Keras' ImageNet weights fit.

He et al. 2016, https://arxiv.org/abs/1512.03385, as tf_keras.applications.ResNet50 builds it: unlike the network in
resnet.py, its convolutions have biases, the first 1x1 convolution of a block does the halving, and BatchNorm's epsilon
is 1.001e-5. CBAM stands after the last BatchNorm of a block, before the residual addition. Layers with weights bear
Keras' names.
"""

from typing import Any

import tf_keras as keras

from edgecbam.recipe import ModelConfig

from .parts import Family, attend, batchnorm, conv, scaled

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # (channels, blocks)
EXPANSION = 4
EPSILON = 1.001e-5


def keras_resnet50(inputs: Any, config: ModelConfig) -> Any:
    layers = keras.layers
    x = layers.ZeroPadding2D(3, name="conv1_pad")(inputs)
    x = _conv_bn(x, scaled(64, config.width), 7, 2, "conv1", padding="valid")
    x = layers.ReLU(name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    for stage, (width, blocks) in enumerate(STAGES, start=2):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            name = f"conv{stage}_block{block}"
            x = _bottleneck(x, scaled(width, config.width), stride, config, name, last=block == blocks)
    return x


def _bottleneck(inputs: Any, width: int, stride: int, config: ModelConfig, name: str, *, last: bool) -> Any:
    layers = keras.layers
    shortcut = inputs
    if stride != 1 or inputs.shape[-1] != EXPANSION * width:
        shortcut = _conv_bn(inputs, EXPANSION * width, 1, stride, f"{name}_0")
    x = _conv_bn(inputs, width, 1, stride, f"{name}_1")
    x = layers.ReLU(name=f"{name}_1_relu")(x)
    x = _conv_bn(x, width, 3, 1, f"{name}_2")
    x = layers.ReLU(name=f"{name}_2_relu")(x)
    x = _conv_bn(x, EXPANSION * width, 1, 1, f"{name}_3")
    x = attend(x, config, f"{name}_attention", last=last)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_out")(x)


def _conv_bn(x: Any, width: int, kernel: int, stride: int, name: str, *, padding: str = "same") -> Any:
    x = conv(x, width, kernel, stride, f"{name}_conv", padding=padding, use_bias=True)
    return batchnorm(x, f"{name}_bn", epsilon=EPSILON)


FAMILY = Family(keras_resnet50, smallest=lambda config: 32)
