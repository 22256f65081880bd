"""CBAM, the convolutional block attention module, built from layers that quantization-aware training can see.

Woo, Park, Lee, Kweon: "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521.

    channel gate  Mc(x) = sigmoid(MLP(avgpool(x)) + MLP(maxpool(x)))          [n, 1, 1, c]
    spatial gate  Ms(x) = sigmoid(BN(conv7x7([max over c; mean over c])))     [n, h, w, 1]
    cbam(x)             = x' * Ms(x')   with   x' = x * Mc(x)

The MLP is shared by both pools, has a bias and c -> c/ratio -> c channels with a ReLU between. As in the authors' code
the convolution has no bias and is followed by BatchNorm whose gamma starts at 0, so the spatial gate starts at 1/2
everywhere; the channel order is (max, mean). Departure from the paper: at least one hidden channel, where c < ratio.

These are functions on Keras tensors rather than one composite layer: tensorflow-model-optimization quantizes layer by
layer and rejects a layer class it does not know. The two reductions over channels are layers of our own with their own
QuantizeConfig (see quantization.py).

Example:
    inputs = keras.Input((32, 32, 16))
    outputs = cbam(inputs, ratio=8, kernel=7, name="attention")
"""

from typing import Any

import tensorflow as tf
import tf_keras as keras

BATCHNORM_MOMENTUM = 0.9  # averages over about ten batches: short trainings need their statistics early


@keras.utils.register_keras_serializable("edgecbam")
class ChannelMean(keras.layers.Layer):  # type: ignore[misc]
    """Mean over the channels: [n, h, w, c] -> [n, h, w, 1]."""

    def call(self, inputs: Any) -> Any:
        return tf.reduce_mean(inputs, axis=-1, keepdims=True)


@keras.utils.register_keras_serializable("edgecbam")
class ChannelMax(keras.layers.Layer):  # type: ignore[misc]
    """Maximum over the channels: [n, h, w, c] -> [n, h, w, 1]."""

    def call(self, inputs: Any) -> Any:
        return tf.reduce_max(inputs, axis=-1, keepdims=True)


def channel_gate(inputs: Any, *, ratio: int, name: str) -> Any:
    """The channel gate Mc.

    Args:
        inputs: Keras tensor [n, h, w, c].
        ratio: reduction ratio of the MLP; it has max(1, c // ratio) hidden channels.
        name: prefix of the layer names.

    Returns:
        Keras tensor [n, 1, 1, c] with values in (0, 1).
    """
    layers = keras.layers
    channels = inputs.shape[-1]
    # The ReLU is inside the convolution: tfmot does not fold behind layers used twice, and a lone int8 RELU is slow.
    hidden = layers.Conv2D(max(1, channels // ratio), 1, activation="relu", name=f"{name}_mlp_hidden")
    output = layers.Conv2D(channels, 1, name=f"{name}_mlp_output")
    average = output(hidden(layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_avg_pool")(inputs)))
    maximum = output(hidden(layers.GlobalMaxPooling2D(keepdims=True, name=f"{name}_max_pool")(inputs)))
    total = layers.Add(name=f"{name}_sum")([average, maximum])
    return layers.Activation("sigmoid", name=f"{name}_gate")(total)


def spatial_gate(inputs: Any, *, kernel: int, name: str) -> Any:
    """The spatial gate Ms.

    Args:
        inputs: Keras tensor [n, h, w, c].
        kernel: side of the convolution, odd; 7 in the paper.
        name: prefix of the layer names.

    Returns:
        Keras tensor [n, h, w, 1] with values in (0, 1).
    """
    layers = keras.layers
    maximum = ChannelMax(name=f"{name}_channel_max")(inputs)
    mean = ChannelMean(name=f"{name}_channel_mean")(inputs)
    pooled = layers.Concatenate(name=f"{name}_pool")([maximum, mean])
    logits = layers.Conv2D(1, kernel, padding="same", use_bias=False, name=f"{name}_conv")(pooled)
    logits = layers.BatchNormalization(
        momentum=BATCHNORM_MOMENTUM, epsilon=1e-5, gamma_initializer="zeros", name=f"{name}_bn"
    )(logits)
    return layers.Activation("sigmoid", name=f"{name}_gate")(logits)


def channel_attention(inputs: Any, *, ratio: int, name: str) -> Any:
    """``inputs * Mc(inputs)``: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    gate = channel_gate(inputs, ratio=ratio, name=name)
    return keras.layers.Multiply(name=f"{name}_scale")([inputs, gate])


def spatial_attention(inputs: Any, *, kernel: int, name: str) -> Any:
    """``inputs * Ms(inputs)``: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    gate = spatial_gate(inputs, kernel=kernel, name=name)
    return keras.layers.Multiply(name=f"{name}_scale")([inputs, gate])


def cbam(inputs: Any, *, ratio: int, kernel: int, name: str) -> Any:
    """Channel attention, then spatial attention: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    refined = channel_attention(inputs, ratio=ratio, name=f"{name}_channel")
    return spatial_attention(refined, kernel=kernel, name=f"{name}_spatial")
