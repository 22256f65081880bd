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

from edgecbam.errors import EnvironmentFailure
from edgecbam.quantization import input_quantizer, range_before, range_variables, wrapped

MAX_SCALE = 128.0  # half of what XNNPACK accepts: folding in another order must not cross its limit
MARGIN = 1.001  # against rounding in float32
WEIGHT_STEPS = 127.0  # on either side of zero


def scales(model: Any) -> dict[str, float]:
    """The largest requantization scale of every convolution and dense layer, by layer name.

    Args:
        model: calibrated quantization-aware model; a BatchNorm behind a convolution is folded into its weights.
    """
    return {wrapper.layer.name: _scale(model, wrapper) for wrapper in _linear(model)}


def limit(model: Any) -> dict[str, float]:
    """Widen output ranges until no requantization scale exceeds MAX_SCALE; the model is changed in place.

    A wider output is a wider input of what comes next, so the layers are gone through in order, again and again until
    nothing is left to widen. Widening keeps the zero point.

    Returns:
        The scales that were too large when they were met, by the name of the convolution or dense layer.

    Raises:
        EnvironmentFailure: a range is empty, infinite or NaN.
    """
    found: dict[str, float] = {}
    changed = True
    while changed:
        changed = False
        for wrapper in _linear(model):
            scale = _scale(model, wrapper)
            if scale <= MAX_SCALE:
                continue
            changed = True
            found.setdefault(wrapper.layer.name, scale)
            output = _range_after(wrapper)
            for bound in ("min_var", "max_var"):
                output[bound].assign(output[bound] * (scale / MAX_SCALE) * MARGIN)
    return found


def _linear(model: Any) -> list[Any]:
    return [w for w in wrapped(model) if isinstance(w.layer, keras.layers.Conv2D | keras.layers.Dense)]


def _scale(model: Any, wrapper: Any) -> float:
    weight_step = float(np.max(_weight_ranges(wrapper))) / WEIGHT_STEPS
    return _input_width(model, wrapper) * weight_step / _width(_range_after(wrapper))


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
    if not 0 < width < math.inf:  # widening would never end
        raise EnvironmentFailure(
            f"an activation range is {width:g} wide: calibrate it on images that are not all alike"
        )
    return width
