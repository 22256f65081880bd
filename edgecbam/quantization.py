"""Quantization-aware training for every op of CBAM, with tensorflow-model-optimization (tfmot).

tfmot inserts fake quantization; four things it leaves undone are done here:

* QuantizeConfigs for the ops it does not know: sigmoid gates have the fixed range [0, 255/256], because LOGISTIC must
  have scale 1/256 and zero point -128 (LiteRT int8 specification); Multiply measures its output; channel mean, channel
  max and their concatenation share the range of the tensor that they reduce, so that no QUANTIZE op is needed.
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

from edgecbam.attention import ChannelMax, ChannelMean
from edgecbam.errors import EnvironmentFailure
from edgecbam.models import CountedDropout

_quantizers: Any = tfmot.quantization.keras.quantizers
GATE_RANGE = (0.0, 255.0 / 256.0)
LOGITS_HEADROOM = 0.05  # at each end: new images go beyond what calibration saw, and clipped logits would tie
# LiteRT refuses a model where scale_in * scale_weight / scale_out of a convolution reaches 256, as behind a dead ReLU.
# With no range narrower than this share of the widest, folded weights of up to 32 stay below.
MIN_RANGE = 1e-3


class FixedGate(_quantizers.FixedQuantizer):  # type: ignore[misc]
    """The range of a sigmoid in int8: scale 1/256, zero point -128."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, init_min=GATE_RANGE[0], init_max=GATE_RANGE[1], narrow_range=False)

    def get_config(self) -> dict[str, Any]:
        return {}


class TiedRange(_quantizers.Quantizer):  # type: ignore[misc]
    """Quantizes with the range of another layer's output, once ``follow`` has named it; until then does nothing."""

    def __init__(self) -> None:
        self.min_var: Any = None
        self.max_var: Any = None

    def follow(self, variables: Mapping[str, Any]) -> None:
        """Share the range variables ``min_var`` and ``max_var`` of another quantizer."""
        self.min_var, self.max_var = variables["min_var"], variables["max_var"]

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if self.min_var is None:
            return inputs
        return tf.quantization.fake_quant_with_min_max_vars(inputs, self.min_var, self.max_var)

    def get_config(self) -> dict[str, Any]:
        return {}


class _OutputConfig(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
    """Quantizes no weights and no activations; what becomes of the output is the subclass' choice."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        return None

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {}


class MeasuredOutput(_OutputConfig):
    """The output's range is a moving average, as for tfmot's own layers."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [_quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)]


class GateOutput(_OutputConfig):
    """The output is a sigmoid's."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [FixedGate()]


class TiedOutput(_OutputConfig):
    """The output has the range of the tensor that the layer's inputs were reduced from."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [TiedRange()]


class PlainOutput(_OutputConfig):
    """Not quantized here: a maximum keeps its input's scale, tfmot quantizes what is concatenated, dropout is gone."""


SCOPE = {
    cls.__name__: cls
    for cls in (
        FixedGate,
        TiedRange,
        MeasuredOutput,
        GateOutput,
        TiedOutput,
        PlainOutput,
        ChannelMean,
        ChannelMax,
        CountedDropout,
    )
}


def make_quantizable(model: Any, input_range: tuple[float, float]) -> Any:
    """Clone a float model with fake quantization on everything that int8 inference quantizes.

    Args:
        model: functional keras.Model of edgecbam.models, float32.
        input_range: smallest and largest value of a model input, fixed from then on.

    Returns:
        A keras.Model with the same weights whose activation ranges are not calibrated yet.
    """
    annotated = keras.models.clone_model(model, clone_function=_annotate)
    annotated.set_weights(model.get_weights())
    with tfmot.quantization.keras.quantize_scope(SCOPE):
        quantized = tfmot.quantization.keras.quantize_apply(tfmot.quantization.keras.quantize_annotate_model(annotated))
    _fix_input(quantized, input_range)
    _tie_ranges(quantized)
    return quantized


def _annotate(layer: Any) -> Any:
    config = _config_for(layer)
    clone = layer.__class__.from_config(layer.get_config())
    return clone if config is None else tfmot.quantization.keras.quantize_annotate_layer(clone, config)


def _config_for(layer: Any) -> Any:
    if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.sigmoid:
        return GateOutput()
    if isinstance(layer, keras.layers.Multiply):
        return MeasuredOutput()
    if isinstance(layer, ChannelMean | ChannelMax | CountedDropout):
        return PlainOutput()
    if isinstance(layer, keras.layers.Concatenate) and _joins_reductions(layer):
        return TiedOutput()
    return None


def _joins_reductions(layer: Any) -> bool:
    sources = [tensor.node.layer for tensor in layer.input]
    return all(isinstance(source, ChannelMax | ChannelMean) for source in sources)


def wrapped(model: Any) -> list[Any]:
    """The layers of a quantization-aware model that tfmot has wrapped, in order."""
    return [layer for layer in model.layers if isinstance(layer, tfmot.quantization.keras.QuantizeWrapper)]


def input_quantizer(model: Any) -> Any:
    """The layer that quantizes the model's input."""
    for layer in model.layers:
        if type(layer).__name__ == "QuantizeLayer":
            return layer
    raise EnvironmentFailure("tensorflow-model-optimization added no quantization of the input: use a tested version")


def _fix_input(model: Any, input_range: tuple[float, float]) -> None:
    layer = input_quantizer(model)
    layer.quantizer = _quantizers.FixedQuantizer(
        num_bits=8, init_min=input_range[0], init_max=input_range[1], narrow_range=False
    )


def _tie_ranges(model: Any) -> None:
    """Let every TiedRange follow the range of the tensor that was reduced."""
    for wrapper in wrapped(model):
        for quantizer in wrapper._output_quantizers:
            if isinstance(quantizer, TiedRange):
                quantizer.follow(range_before(wrapper))


def range_before(wrapper: Any) -> dict[str, Any]:
    """The range variables of the nearest layer upstream that has a range of its own, along first inputs."""
    layer = wrapper
    while True:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        layer = tensors[0].node.layer
        variables = range_variables(layer)
        if variables is not None:
            return variables
        if isinstance(layer, keras.layers.InputLayer):
            raise EnvironmentFailure(f"nothing before {wrapper.layer.name} has a range that it could share")


def range_variables(wrapper: Any) -> dict[str, Any] | None:
    """The variables ``min_var`` and ``max_var`` of a layer's measured output range, or None where it has none."""
    activations = [a for a in getattr(wrapper, "_quantize_activations", []) if a._should_post_quantize()]
    if activations:
        return dict(activations[0]._post_activation_vars)
    if any(_is_measured(quantizer) for quantizer in getattr(wrapper, "_output_quantizers", [])):
        return dict(wrapper._output_quantizer_vars)
    return None


def _is_measured(quantizer: Any) -> bool:
    return isinstance(quantizer, _quantizers.MovingAverageQuantizer)


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
    outputs = {w.layer.name: _outputs_of(float_model.get_layer(w.layer.name)) for w in measured}
    probe = tf.function(keras.Model(float_model.inputs, outputs), reduce_retracing=True)
    lows: dict[str, float] = dict.fromkeys(outputs, 0.0)
    highs: dict[str, float] = dict.fromkeys(outputs, 0.0)
    for batch in batches:
        for name, tensors in probe(tf.convert_to_tensor(batch), training=False).items():
            lows[name] = min(lows[name], *(float(tf.reduce_min(tensor)) for tensor in tensors))
            highs[name] = max(highs[name], *(float(tf.reduce_max(tensor)) for tensor in tensors))
    for tensor in float_model.outputs:
        name = tensor.node.layer.name
        headroom = LOGITS_HEADROOM * (highs[name] - lows[name])
        lows[name], highs[name] = lows[name] - headroom, highs[name] + headroom
    floor = MIN_RANGE * max(1.0, *(highs[name] - lows[name] for name in outputs))
    ranges = {name: (lows[name], max(highs[name], lows[name] + floor)) for name in outputs}
    for name in _averaged_over_channels(model):
        ranges[name] = even_zero_point(*ranges[name])
    for wrapper in measured:
        variables = range_variables(wrapper)
        assert variables is not None
        low, high = ranges[wrapper.layer.name]
        variables["min_var"].assign(low)
        variables["max_var"].assign(high)
    return ranges


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


def recompute_ranges(model: Any, float_model: Any, batches: list[Any]) -> None:
    """Bring everything that is not trained up to date with the weights: weight ranges, BatchNorm, activation ranges.

    Args:
        model: quantization-aware model; changed in place.
        float_model: its float twin; overwritten with the fake-quantized weights.
        batches: model inputs, each float32 [n, h, w, c].
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
