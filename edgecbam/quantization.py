"""Quantization-aware training for every op of CBAM, with tensorflow-model-optimization (tfmot).

tfmot's fake quantization and its wrapper of a layer are used; what it leaves undone is done here and in quantizers.py:

* The model is rebuilt layer by layer, each wrapped with the QuantizeConfig that config_for gives it. tfmot's own
  transformation of the graph is slow in networks of hundreds of layers and overlooks some layers (see quantizers.py).
* Sigmoid gates have the fixed range [0, 255/256], because LOGISTIC must have scale 1/256 and zero point -128 (LiteRT
  int8 specification); Multiply measures its output; channel mean, channel max and their concatenation share the range
  of the tensor that they reduce, so that no QUANTIZE op is needed.
* The model input has the fixed range of the pixels, exact for the default normalisation.
* Ranges are calibrated on training images before the first step. tfmot starts every range at ±6 with an average of
  0.999 and no debias, which is still visible in the scales after thousands of steps.
* After training, when averaged weights have been swapped in, ranges are recomputed: first the weights', then
  BatchNorm's statistics, then the activations'. They are no trainable variables, so no optimiser averages them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from edgecbam.attention import ChannelMean
from edgecbam.errors import EnvironmentFailure
from edgecbam.quantizers import QuantizedInput, TiedRange, config_for

LOGITS_HEADROOM = 0.05  # at each end: new images go beyond what calibration saw, and clipped logits would tie
# LiteRT refuses a model where scale_in * scale_weight / scale_out of a convolution reaches 256, as behind a dead ReLU.
# With no range narrower than this share of the widest, folded weights of up to 32 stay below.
MIN_RANGE = 1e-3


def make_quantizable(model: Any, input_range: tuple[float, float]) -> Any:
    """Rebuild a float model with fake quantization on everything that int8 inference quantizes.

    Args:
        model: functional keras.Model of edgecbam.models, float32.
        input_range: smallest and largest value of a model input, fixed from then on.

    Returns:
        A keras.Model with the same weights whose activation ranges are not calibrated yet. The layer ``x`` is wrapped
        in a layer ``quant_x``.

    Raises:
        EnvironmentFailure: a layer that quantizers.py does not know.
    """
    calls = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    neighbours = _neighbours(calls)
    image = keras.Input(model.input_shape[1:], name=model.input_names[0])
    tensors = {id(model.input): QuantizedInput(*input_range, name="quantize_layer")(image)}
    wrappers: dict[str, Any] = {}
    for node in calls:
        layer = node.layer
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer.name not in wrappers:  # the MLP of CBAM is called twice
            config = config_for(layer, *neighbours[layer.name])
            clone = type(layer).from_config(layer.get_config())
            wrappers[layer.name] = tfmot.quantization.keras.QuantizeWrapperV2(clone, config, name=f"quant_{layer.name}")
        arguments = tf.nest.map_structure(lambda tensor: tensors[id(tensor)], node.call_args)
        tensors[id(node.outputs)] = wrappers[layer.name](*arguments)
    quantized = keras.Model(image, tensors[id(model.output)], name=model.name)
    for name, wrapper in wrappers.items():
        values = {_suffix(variable): variable for variable in wrapper.weights}
        for variable in model.get_layer(name).weights:
            values[_suffix(variable)].assign(variable)
    _tie_ranges(quantized)
    return quantized


def _neighbours(calls: list[Any]) -> dict[str, tuple[list[Any], list[Any]]]:
    """By layer name: the layers it reads from, and those that read it, once for each call."""
    found: dict[str, tuple[list[Any], list[Any]]] = {node.layer.name: ([], []) for node in calls}
    for node in calls:
        for tensor in node.keras_inputs:
            source = tensor.node.layer
            found[node.layer.name][0].append(source)
            found[source.name][1].append(node.layer)
    return found


def wrapped(model: Any) -> list[Any]:
    """The layers of a quantization-aware model that tfmot has wrapped, in order."""
    return [layer for layer in model.layers if isinstance(layer, tfmot.quantization.keras.QuantizeWrapper)]


def _tie_ranges(model: Any) -> None:
    """Let every TiedRange follow the range of the tensor that was reduced."""
    for wrapper in wrapped(model):
        for quantizer in wrapper._output_quantizers:
            if isinstance(quantizer, TiedRange):
                quantizer.follow(range_before(wrapper))


def range_before(wrapper: Any) -> dict[str, Any]:
    """The range of the nearest layer upstream that has one of its own, along first inputs: ``min_var``, ``max_var``."""
    layer = wrapper
    while True:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        layer = tensors[0].node.layer
        variables = range_of(layer)
        if variables is not None:
            return variables
        if isinstance(layer, keras.layers.InputLayer):
            raise EnvironmentFailure(f"nothing before {wrapper.layer.name} has a range that it could share")


def range_of(layer: Any) -> dict[str, Any] | None:
    """The range of a layer's output: variables, the numbers of the model's input, None where it has none of its own."""
    if isinstance(layer, QuantizedInput):
        return {"min_var": layer.low, "max_var": layer.high}
    return range_variables(layer)


def range_variables(wrapper: Any) -> dict[str, Any] | None:
    """The variables ``min_var`` and ``max_var`` of a layer's measured output range, or None where it has none."""
    if any(_is_measured(quantizer) for quantizer in getattr(wrapper, "_output_quantizers", [])):
        return dict(wrapper._output_quantizer_vars)
    return None


def _is_measured(quantizer: Any) -> bool:
    return isinstance(quantizer, tfmot.quantization.keras.quantizers.MovingAverageQuantizer)


def calibrate(model: Any, float_model: Any, batches: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Set every activation range to the smallest and largest value seen in the float model.

    Args:
        model: quantization-aware model of make_quantizable.
        float_model: the float model that it was made from; its layers' outputs are measured.
        batches: model inputs, each float32 [n, h, w, c].

    Returns:
        (minimum, maximum) by layer name, as assigned: zero is inside, the width is at least MIN_RANGE of the widest,
        that of the logits is larger by LOGITS_HEADROOM at each end, and what ChannelMean reduces has an even zero
        point.
    """
    measured = [wrapper for wrapper in wrapped(model) if range_variables(wrapper) is not None]
    lows, highs = _extremes(float_model, [wrapper.layer.name for wrapper in measured], batches)
    for tensor in float_model.outputs:
        name = tensor.node.layer.name
        headroom = LOGITS_HEADROOM * (highs[name] - lows[name])
        lows[name], highs[name] = lows[name] - headroom, highs[name] + headroom
    floor = MIN_RANGE * max(1.0, *(highs[name] - lows[name] for name in lows))
    ranges = {name: (lows[name], max(highs[name], lows[name] + floor)) for name in lows}
    for name in _averaged_over_channels(model):
        ranges[name] = even_zero_point(*ranges[name])
    for wrapper in measured:
        variables = range_variables(wrapper)
        assert variables is not None
        low, high = ranges[wrapper.layer.name]
        variables["min_var"].assign(low)
        variables["max_var"].assign(high)
    return ranges


def _extremes(model: Any, names: list[str], batches: Iterable[Any]) -> tuple[dict[str, float], dict[str, float]]:
    """(smallest, largest) output by layer name over all batches, at most and at least 0.

    They are reduced inside the graph: the outputs of all layers at once would not fit into memory.
    """
    outputs = keras.Model(model.inputs, {name: _outputs_of(model.get_layer(name)) for name in names})

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape)])  # type: ignore[untyped-decorator]
    def reduced(batch: Any) -> tuple[Any, Any]:
        found = outputs(batch, training=False)
        smallest = [tf.reduce_min([tf.reduce_min(tensor) for tensor in found[name]]) for name in names]
        largest = [tf.reduce_max([tf.reduce_max(tensor) for tensor in found[name]]) for name in names]
        return tf.stack(smallest), tf.stack(largest)

    probe = reduced.get_concrete_function()
    lows, highs = np.zeros(len(names), np.float32), np.zeros(len(names), np.float32)
    for batch in batches:
        low, high = probe(tf.convert_to_tensor(batch))
        lows, highs = np.minimum(lows, low), np.maximum(highs, high)
    return dict(zip(names, lows.tolist(), strict=True)), dict(zip(names, highs.tolist(), strict=True))


def even_zero_point(low: float, high: float) -> tuple[float, float]:
    """The smallest range around [low, high] whose zero point in 0…255 is even; low <= 0 < high.

    LiteRT's MEAN and its convolutions round halves alike where the zero point is even, so that a channel mean may be
    computed by either (see export/lowering/channel_pools.py). The range grows by less than 1 %.
    """
    real = -low / (high - low) * 255.0
    candidates = [2 * int(real // 2), 2 * int(real // 2) + 2]
    scales = {k: max(-low / k if k else math.inf if low else 0.0, high / (255 - k)) for k in candidates if k < 255}
    zero_point = min(scales, key=lambda k: scales[k])
    scale = scales[zero_point]
    return -zero_point * scale, (255 - zero_point) * scale


def _averaged_over_channels(model: Any) -> list[str]:
    """Names of the layers whose range a ChannelMean shares with what it reduces."""
    ranges = [range_before(w) for w in wrapped(model) if isinstance(w.layer, ChannelMean)]
    names = ((w.layer.name, range_variables(w)) for w in wrapped(model))
    shared = {id(variables["min_var"]) for variables in ranges}
    return [name for name, variables in names if variables is not None and id(variables["min_var"]) in shared]


def _outputs_of(layer: Any) -> list[Any]:
    """All outputs of a layer; the shared MLP of CBAM has two."""
    return [layer.get_output_at(index) for index in range(len(layer.inbound_nodes))]


def recompute_ranges(model: Any, float_model: Any, batches: Iterable[Any]) -> None:
    """Bring everything that is not trained up to date with the weights: weight ranges, BatchNorm, activation ranges.

    Args:
        model: quantization-aware model; changed in place.
        float_model: its float twin; overwritten with the fake-quantized weights.
        batches: model inputs, each float32 [n, h, w, c]; gone through twice.
    """
    for wrapper in wrapped(model):
        for weight, quantizer, variables in wrapper._weight_vars:
            quantizer(weight, True, weights=variables)
    _copy_to_float(model, float_model)
    reestimate_batchnorm(float_model, batches)
    for wrapper in wrapped(model):
        if isinstance(wrapper.layer, keras.layers.BatchNormalization):
            twin = float_model.get_layer(wrapper.layer.name)
            wrapper.layer.moving_mean.assign(twin.moving_mean)
            wrapper.layer.moving_variance.assign(twin.moving_variance)
    calibrate(model, float_model, batches)


def _copy_to_float(model: Any, float_model: Any) -> None:
    for wrapper in wrapped(model):
        quantized = {
            _suffix(weight): quantizer(weight, False, weights=variables)
            for weight, quantizer, variables in wrapper._weight_vars
        }
        values = {_suffix(variable): variable for variable in wrapper.weights} | quantized
        for variable in float_model.get_layer(wrapper.layer.name).weights:
            variable.assign(values[_suffix(variable)])


def _suffix(variable: Any) -> str:
    """``kernel`` of ``stem_conv/kernel:0``; Keras makes layer prefixes unique, so only the end can be relied on."""
    return str(variable.name).split("/")[-1].split(":")[0]


def reestimate_batchnorm(model: Any, batches: Iterable[Any]) -> None:
    """Set BatchNorm's moving statistics to their averages over the batches, under the weights as they are.

    Args:
        model: float keras.Model; changed in place.
        batches: model inputs, each float32 [n, h, w, c].
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for index, batch in enumerate(batches):
        for layer in norms:
            layer.momentum = index / (index + 1)  # the moving average becomes the plain average
        model(batch, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def activation_ranges(model: Any) -> dict[str, tuple[float, float]]:
    """(minimum, maximum) of every measured activation range, by layer name."""
    found = ((w.layer.name, range_variables(w)) for w in wrapped(model))
    return {name: (float(v["min_var"]), float(v["max_var"])) for name, v in found if v is not None}


def input_range(preprocessing: Mapping[str, Any]) -> tuple[float, float]:
    """Smallest and largest model input that pixels 0…255 give under ``(pixel - mean) / std``."""
    mean, std = np.asarray(preprocessing["mean"], np.float64), np.asarray(preprocessing["std"], np.float64)
    return float(np.min(-mean / std)), float(np.max((255.0 - mean) / std))
