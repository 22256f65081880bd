"""Keeps requantization scales below what LiteRT's kernels can hold.

A quantized convolution or dense layer multiplies its integer sums by scale_in * scale_weight / scale_out. XNNPACK
refuses to create one where that reaches 256, and with it LiteRT refuses the whole model ("failed to create XNNPACK
runtime"). A channel that BatchNorm blows up, or an output that hardly varies, is enough. The remedy is a wider output
range, which costs precision where there was next to nothing to be precise about.

Biases are 32-bit integers in steps of scale_in * scale_weight. A channel whose BatchNorm all but switches it off, as
weight decay does and as CBAM's spatial BatchNorm starts, has weights so small that its bias would not fit and be cut.
Here the remedy is a wider weight range.
"""

import math
from typing import Any

import numpy as np
import tf_keras as keras

from edgecbam.errors import EnvironmentFailure
from edgecbam.quantization import range_before, range_of, range_variables, wrapped
from edgecbam.quantizers import LINEAR

MAX_SCALE = 128.0  # half of what XNNPACK accepts: folding in another order must not cross its limit
MARGIN = 1.001  # against rounding in float32
WEIGHT_STEPS = 127.0  # on either side of zero
ACTIVATION_STEPS = 255.0
MAX_BIAS = 2.0**29  # a quarter of what 32 bits hold: the products are added to it
MIN_WEIGHT = 1e-6  # of a weight range and of gamma: a scale of 0 cannot be stored


def scales(model: Any) -> dict[str, float]:
    """The largest requantization scale of every convolution and dense layer, by layer name.

    Args:
        model: calibrated quantization-aware model; a BatchNorm behind a convolution is folded into its weights.
    """
    return {wrapper.layer.name: _scale(wrapper) for wrapper in _linear(model)}


def limit(model: Any) -> dict[str, float]:
    """Widen ranges until biases fit and no requantization scale exceeds MAX_SCALE; the model is changed in place.

    A wider output is a wider input of what comes next, so the layers are gone through in order, again and again until
    nothing is left to widen. Widening keeps the zero point. A gamma of BatchNorm nearer to 0 than MIN_WEIGHT becomes
    MIN_WEIGHT.

    Returns:
        The scales that were too large when they were met, by the name of the convolution or dense layer.

    Raises:
        EnvironmentFailure: a range is empty, infinite or NaN.
    """
    for wrapper in _linear(model):
        _tell_biases_apart(wrapper)
        _make_room_for_biases(wrapper)
    found: dict[str, float] = {}
    changed = True
    while changed:
        changed = False
        for wrapper in _linear(model):
            scale = _scale(wrapper)
            if scale <= MAX_SCALE:
                continue
            changed = True
            found.setdefault(wrapper.layer.name, scale)
            output = _range_after(wrapper)
            for bound in ("min_var", "max_var"):
                output[bound].assign(output[bound] * (scale / MAX_SCALE) * MARGIN)
    return found


def _tell_biases_apart(wrapper: Any) -> None:
    """Change one of several equal biases in its last binary digit.

    TFLite's converter (of TensorFlow 2.21) quantizes a constant that holds one number throughout with the scale of the
    first channel. Gates that start open have such biases until they are trained.
    """
    bias = wrapper.layer.bias
    values = np.zeros(1) if bias is None else bias.numpy().copy()
    if values.size > 1 and values[0] != 0 and np.all(values == values[0]):
        values[0] = np.nextafter(values[0], np.float32(0))
        bias.assign(values)


def _make_room_for_biases(wrapper: Any) -> None:
    """Widen weight ranges until |bias| <= MAX_BIAS * scale_in * scale_weight, channel by channel."""
    norm = _folded_norm(wrapper)
    if norm is not None and norm.gamma is not None:
        gamma = np.asarray(norm.gamma)
        norm.gamma.assign(np.where(np.abs(gamma) < MIN_WEIGHT, np.copysign(MIN_WEIGHT, gamma), gamma))
    factor, bias = _folded(wrapper)
    _, _, variables = wrapper._weight_vars[0]
    step = np.abs(bias) / (MAX_BIAS * min(_input_widths(wrapper)) / ACTIVATION_STEPS)
    needed = np.maximum(MIN_WEIGHT, WEIGHT_STEPS * step / factor)
    largest = variables["max_var"]
    if not largest.shape.rank:  # one range for all channels
        needed = needed.max()
    wider = np.maximum(largest, needed)
    largest.assign(wider)
    variables["min_var"].assign(-wider)


def _folded(wrapper: Any) -> tuple[np.ndarray, np.ndarray]:
    """What BatchNorm multiplies the weights of each output channel by, without sign, and the bias once it is folded."""
    layer, norm = wrapper.layer, _folded_norm(wrapper)
    bias = np.zeros(1) if layer.bias is None else np.asarray(layer.bias)
    if norm is None:
        return np.ones(1), bias
    factor = np.asarray(1.0 if norm.gamma is None else norm.gamma) / np.sqrt(norm.moving_variance + norm.epsilon)
    return np.abs(factor), (bias - norm.moving_mean) * factor + (0.0 if norm.beta is None else norm.beta)


def _folded_norm(wrapper: Any) -> Any | None:
    """The BatchNorm layer that is folded into a convolution or dense layer; None without one."""
    reader = _only_reader(wrapper)
    layer = None if reader is None else reader.layer
    return layer if isinstance(layer, keras.layers.BatchNormalization) else None


def _linear(model: Any) -> list[Any]:
    return [w for w in wrapped(model) if isinstance(w.layer, LINEAR)]


def _scale(wrapper: Any) -> float:
    _, _, variables = wrapper._weight_vars[0]
    factor, _ = _folded(wrapper)
    weight_step = float(np.max(np.asarray(variables["max_var"]) * factor)) / WEIGHT_STEPS
    return max(_input_widths(wrapper)) * weight_step / _width(_range_after(wrapper))


def _only_reader(wrapper: Any) -> Any | None:
    readers = {id(node.layer): node.layer for node in wrapper.outbound_nodes}
    return next(iter(readers.values())) if len(readers) == 1 else None


def _range_after(wrapper: Any) -> Any:
    """The range variables of the layer itself or of the first one behind it that has a range of its own."""
    layer = wrapper
    while (variables := range_variables(layer)) is None:
        layer = layer.outbound_nodes[0].layer
    return variables


def _input_widths(wrapper: Any) -> list[float]:
    """The widths of the ranges of what a layer reads: one for each of its uses."""
    sources = [wrapper.get_input_at(index).node.layer for index in range(len(wrapper.inbound_nodes))]
    return [_width(range_of(source) or range_before(source)) for source in sources]


def _width(variables: Any) -> float:
    width = float(variables["max_var"]) - float(variables["min_var"])
    if not 0 < width < math.inf:  # widening would never end
        raise EnvironmentFailure(
            f"an activation range is {width:g} wide: calibrate it on images that are not all alike"
        )
    return width
