"""CBAM, the convolutional block attention module, built from layers that quantization-aware training can see.

Woo, Park, Lee, Kweon: "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521.

    channel gate  Mc(x) = sigmoid(MLP(avgpool(x)) + MLP(maxpool(x)))          [n, 1, 1, c]
    spatial gate  Ms(x) = sigmoid(BN(conv7x7([max over c; mean over c])))     [n, h, w, 1]
    cbam(x)             = x' * Ms(x')   with   x' = x * Mc(x)

The MLP is shared by both pools, has a bias and c -> c/ratio -> c channels with a ReLU between. As in the authors' code
the convolution has no bias and is followed by BatchNorm whose gamma starts at 0, so the spatial gate starts at 1/2
everywhere; the channel order is (max, mean). Departure from the paper: at least one hidden channel, where c < ratio.

The article that this toolkit grew from writes it differently; ``article_attention`` computes both gates from x:

    channel gate  Ac(x) = sigmoid(dense(relu(dense(avgpool(x)))))                       [n, 1, 1, c]
    spatial gate  As(x) = sigmoid(conv1x1([maxpool7x7(x); avgpool7x7(x)]))              [n, h, w, 1]
    article(x)          = x * Ac(x) * As(x)

Its pools are windows of stride 1 over all channels, its spatial gate has a bias and no BatchNorm.

``init`` says where the gates start. ``paper``: as above, with biases of 0. ``open``: close to 1, so that a network with
attention starts nearly as one without. The sum before each sigmoid gets a constant of OPEN_LOGIT = 2, and
sigmoid(2) = 0.88: half of it as the bias of CBAM's output layer, which is added once for each pool; all of it as the
beta of the spatial BatchNorm, whose gamma stays 0, and as the biases of the article's two gates.

These are functions on Keras tensors rather than one composite layer: tensorflow-model-optimization quantizes layer by
layer and rejects a layer class it does not know. The two reductions over channels are layers of our own with their own
QuantizeConfig (see quantization.py).

Example:
    inputs = keras.Input((32, 32, 16))
    outputs = cbam(inputs, ratio=8, kernel=7, name="attention")
"""

from typing import Any, Literal

import tensorflow as tf
import tf_keras as keras

from edgecbam.window_mean import WindowMean

Init = Literal["paper", "open"]
OPEN_LOGIT = 2.0
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


def channel_gate(inputs: Any, *, ratio: int, name: str, init: Init = "paper") -> Any:
    """The channel gate Mc.

    Args:
        inputs: Keras tensor [n, h, w, c].
        ratio: reduction ratio of the MLP; it has max(1, c // ratio) hidden channels.
        name: prefix of the layer names.
        init: where the gate starts.

    Returns:
        Keras tensor [n, 1, 1, c] with values in (0, 1).
    """
    layers = keras.layers
    channels = inputs.shape[-1]
    # The ReLU is inside the convolution: tfmot does not fold behind layers used twice, and a lone int8 RELU is slow.
    hidden = layers.Conv2D(max(1, channels // ratio), 1, activation="relu", name=f"{name}_mlp_hidden")
    bias = _start(init, uses=2)
    output = layers.Conv2D(channels, 1, bias_initializer=bias, name=f"{name}_mlp_output")
    average = output(hidden(layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_avg_pool")(inputs)))
    maximum = output(hidden(layers.GlobalMaxPooling2D(keepdims=True, name=f"{name}_max_pool")(inputs)))
    total = layers.Add(name=f"{name}_sum")([average, maximum])
    return layers.Activation("sigmoid", name=f"{name}_gate")(total)


def _start(init: Init, uses: int = 1) -> Any:
    """The initializer of a bias that is added ``uses`` times before the sigmoid of a gate."""
    return keras.initializers.Constant(OPEN_LOGIT / uses if init == "open" else 0.0)


def spatial_gate(inputs: Any, *, kernel: int, name: str, init: Init = "paper") -> Any:
    """The spatial gate Ms.

    Args:
        inputs: Keras tensor [n, h, w, c].
        kernel: side of the convolution, odd; 7 in the paper.
        name: prefix of the layer names.
        init: where the gate starts.

    Returns:
        Keras tensor [n, h, w, 1] with values in (0, 1).
    """
    layers = keras.layers
    maximum = ChannelMax(name=f"{name}_channel_max")(inputs)
    mean = ChannelMean(name=f"{name}_channel_mean")(inputs)
    pooled = layers.Concatenate(name=f"{name}_pool")([maximum, mean])
    logits = layers.Conv2D(1, kernel, padding="same", use_bias=False, name=f"{name}_conv")(pooled)
    logits = layers.BatchNormalization(
        momentum=BATCHNORM_MOMENTUM,
        epsilon=1e-5,
        gamma_initializer="zeros",
        beta_initializer=_start(init),
        name=f"{name}_bn",
    )(logits)
    return layers.Activation("sigmoid", name=f"{name}_gate")(logits)


def channel_attention(inputs: Any, *, ratio: int, name: str, init: Init = "paper") -> Any:
    """``inputs * Mc(inputs)``: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    gate = channel_gate(inputs, ratio=ratio, name=name, init=init)
    return keras.layers.Multiply(name=f"{name}_scale")([inputs, gate])


def spatial_attention(inputs: Any, *, kernel: int, name: str, init: Init = "paper") -> Any:
    """``inputs * Ms(inputs)``: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    gate = spatial_gate(inputs, kernel=kernel, name=name, init=init)
    return keras.layers.Multiply(name=f"{name}_scale")([inputs, gate])


def cbam(inputs: Any, *, ratio: int, kernel: int, name: str, init: Init = "paper") -> Any:
    """Channel attention, then spatial attention: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    refined = channel_attention(inputs, ratio=ratio, name=f"{name}_channel", init=init)
    return spatial_attention(refined, kernel=kernel, name=f"{name}_spatial", init=init)


def article_channel_gate(inputs: Any, *, ratio: int, name: str, init: Init = "paper") -> Any:
    """The article's channel gate Ac, its dense layers as convolutions of a 1x1 map. Arguments as channel_gate."""
    layers = keras.layers
    channels = inputs.shape[-1]
    x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_avg_pool")(inputs)
    x = layers.Conv2D(max(1, channels // ratio), 1, activation="relu", name=f"{name}_mlp_hidden")(x)
    x = layers.Conv2D(channels, 1, bias_initializer=_start(init), name=f"{name}_mlp_output")(x)
    return layers.Activation("sigmoid", name=f"{name}_gate")(x)


def article_spatial_gate(inputs: Any, *, kernel: int, name: str, init: Init = "paper") -> Any:
    """The article's spatial gate As; ``kernel`` is the side of the pools' windows. Arguments as spatial_gate.

    At the border the average is taken over the pixels of the window that lie inside the map.

    The 1x1 convolution and the average are both linear, so their order does not matter: here the half of the
    convolution that reads the averages comes first and leaves one map to average instead of c. That is the same
    function with the same weights, and in int8 on a CPU many times faster (see docs/lowering.md).
    """
    layers = keras.layers
    channels = inputs.shape[-1]
    maximum = layers.MaxPooling2D(kernel, 1, padding="same", name=f"{name}_max_pool")(inputs)

    def half_convolution(half: str, **options: Any) -> Any:
        # Glorot's uniform distribution for a convolution from all 2c channels, of which each half has c
        glorot = keras.initializers.VarianceScaling((channels + 1) / (2 * channels + 1), "fan_avg", "uniform")
        return layers.Conv2D(1, 1, kernel_initializer=glorot, name=f"{name}_{half}_conv", **options)

    of_maximum = half_convolution("max", bias_initializer=_start(init))
    of_average = half_convolution("avg", use_bias=False)
    average = WindowMean(kernel, axis=2, name=f"{name}_avg_pool_rows")(of_average(inputs))
    average = WindowMean(kernel, axis=1, name=f"{name}_avg_pool")(average)
    logits = layers.Add(name=f"{name}_sum")([of_maximum(maximum), average])
    return layers.Activation("sigmoid", name=f"{name}_gate")(logits)


def article_attention(inputs: Any, *, ratio: int, kernel: int, name: str, init: Init = "paper") -> Any:
    """``inputs * Ac(inputs) * As(inputs)``: Keras tensor [n, h, w, c] -> [n, h, w, c]."""
    channel = article_channel_gate(inputs, ratio=ratio, name=f"{name}_channel", init=init)
    spatial = article_spatial_gate(inputs, kernel=kernel, name=f"{name}_spatial", init=init)
    refined = keras.layers.Multiply(name=f"{name}_channel_scale")([inputs, channel])
    return keras.layers.Multiply(name=f"{name}_spatial_scale")([refined, spatial])
