"""What a network costs: multiply-accumulates and parameters."""

import math
from dataclasses import dataclass
from typing import Any

import tf_keras as keras


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one inference (convolutions and dense layers) and the number of parameters."""

    macs: int
    parameters: int

    @classmethod
    def of(cls, model: Any) -> "Cost":
        """Count a keras.Model; a layer that is used twice counts twice in macs and once in parameters."""
        macs = 0
        for layer in model.layers:
            for index in range(len(layer.inbound_nodes)):
                macs += _macs(layer, layer.get_output_at(index).shape)
        return cls(macs, int(model.count_params()))


def _macs(layer: Any, output_shape: Any) -> int:
    """A kernel is [kh, kw, in, out], or [in, out]: each output element is a sum over all but the last axis.

    A depthwise kernel is [kh, kw, in, multiplier]: each output element is a sum over the first two axes.
    """
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return int(math.prod(layer.depthwise_kernel.shape[:2]) * math.prod(output_shape[1:]))
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return int(math.prod(layer.kernel.shape[:-1]) * math.prod(output_shape[1:]))
    return 0
