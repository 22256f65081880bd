"""Keeps requantization scales below what LiteRT's kernels can hold.

A quantized convolution or dense layer multiplies its integer sums by scale_in * scale_weight / scale_out. XNNPACK
refuses to create one where that reaches 256, and with it LiteRT refuses the whole model ("failed to create XNNPACK
runtime"). A channel that BatchNorm blows up, or an output that hardly varies, is enough. The remedy is a wider output
range, which costs precision where there was next to nothing to be precise about.
"""

import math
from typing import Any

import numpy as np
import tf_keras as keras

from edgecbam.quantization import input_quantizer, range_before, range_variables, wrapped

MAX_SCALE = 128.0  # half of what XNNPACK accepts: folding in another order must not cross its limit
STEPS = 255.0  # of an int8 activation
WEIGHT_STEPS = 127.0  # on either side of zero


def scales(model: Any) -> dict[str, float]:
    """The largest requantization scale of every convolution and dense layer, by layer name.

    Args:
        model: calibrated quantization-aware model; a BatchNorm behind a convolution is folded into its weights.
    """
    return {name: scale for name, scale, _ in _scales(model)}


def limit(model: Any) -> dict[str, float]:
    """Widen output ranges until no requantization scale exceeds MAX_SCALE; the model is changed in place.

    Returns:
        The scales that were too large, by the name of the convolution or dense layer.
    """
    found: dict[str, float] = {}
    for name, scale, output in _scales(model):
        if scale <= MAX_SCALE:
            continue
        found[name] = scale
        for bound in ("min_var", "max_var"):
            output[bound].assign(output[bound] * (scale / MAX_SCALE) * 1.001)
    return found


def _scales(model: Any) -> list[tuple[str, float, Any]]:
    found = []
    for wrapper in wrapped(model):
        if not isinstance(wrapper.layer, keras.layers.Conv2D | keras.layers.Dense):
            continue
        output = _range_after(wrapper)
        weight_step = float(np.max(_weight_ranges(wrapper))) / WEIGHT_STEPS
        scale = _input_width(model, wrapper) / STEPS * weight_step / (_width(output) / STEPS)
        found.append((wrapper.layer.name, scale, output))
    return found


def _weight_ranges(wrapper: Any) -> np.ndarray:
    """The largest weight that each output channel can hold, BatchNorm folded in."""
    _, _, variables = wrapper._weight_vars[0]
    ranges = np.maximum(np.abs(variables["min_var"]), np.abs(variables["max_var"]))
    norm = _only_reader(wrapper)
    if norm is not None and isinstance(norm.layer, keras.layers.BatchNormalization):
        gamma, _, _, variance = (np.asarray(value) for value in norm.layer.get_weights())
        ranges = ranges * np.abs(gamma) / np.sqrt(variance + norm.layer.epsilon)
    return np.asarray(ranges)


def _only_reader(wrapper: Any) -> Any | None:
    readers = {id(node.layer): node.layer for node in wrapper.outbound_nodes}
    return next(iter(readers.values())) if len(readers) == 1 else None


def _range_after(wrapper: Any) -> Any:
    """The range variables of the layer itself or of the first one behind it that has a range of its own."""
    layer = wrapper
    while (variables := range_variables(layer)) is None:
        layer = layer.outbound_nodes[0].layer
    return variables


def _input_width(model: Any, wrapper: Any) -> float:
    """The width of the range of what a layer reads, of the widest where it reads several."""
    sources = [wrapper.get_input_at(index) for index in range(len(wrapper.inbound_nodes))]
    quantizer = input_quantizer(model)
    widths = []
    for source in sources:
        layer = source.node.layer
        if layer is quantizer:
            widths.append(float(quantizer.quantizer.init_max) - float(quantizer.quantizer.init_min))
        else:
            widths.append(_width(range_variables(layer) or range_before(layer)))
    return max(widths)


def _width(variables: Any) -> float:
    width = float(variables["max_var"]) - float(variables["min_var"])
    return width if width > 0 else math.ulp(1.0)
