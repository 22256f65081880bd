"""How each kind of layer is quantized in training: tfmot quantizers, and one QuantizeConfig for every layer.

``config_for`` is the table of docs/quantization.md. tfmot's own table is not used: it quantizes a depthwise kernel with
one range for all channels, where LiteRT has one for each once BatchNorm is folded in, and it leaves the weights of a
convolution without BatchNorm alone where a ReLU layer follows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from edgecbam.attention import ChannelMax, ChannelMean
from edgecbam.errors import EnvironmentFailure
from edgecbam.models import CountedDropout
from edgecbam.window_mean import WindowMean

_quantizers: Any = tfmot.quantization.keras.quantizers
GATE_RANGE = (0.0, 255.0 / 256.0)
LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
KEEPS_SCALE = (
    keras.layers.MaxPooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Reshape,
    keras.layers.Flatten,
    ChannelMax,
    ChannelMean,
    CountedDropout,
)
MEASURED = (
    keras.layers.Add,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.BatchNormalization,
    keras.layers.GlobalAveragePooling2D,
    WindowMean,
)


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


class WeightRange(_quantizers.LastValueQuantizer):  # type: ignore[misc]
    """Symmetric weights with one range for each output channel, or one for all; as LiteRT stores them.

    A depthwise kernel [h, w, c, 1] has its channels on the last axis but one, where fake quantization does not look for
    them: it is turned around for the purpose.
    """

    def __init__(self, per_axis: bool, depthwise: bool = False) -> None:
        super().__init__(num_bits=8, per_axis=per_axis, symmetric=True, narrow_range=True)
        self.depthwise = depthwise

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        channels = tensor_shape[-2] if self.depthwise else tensor_shape[-1]
        shape = (channels,) if self.per_axis else ()
        ends = {"min": -6.0, "max": 6.0}
        made = {
            f"{end}_var": layer.add_weight(
                f"{name}_{end}", shape=shape, initializer=keras.initializers.Constant(value), trainable=False
            )
            for end, value in ends.items()
        }
        return made

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if not self.depthwise:
            return super().__call__(inputs, training, weights, **kwargs)
        turned = super().__call__(tf.transpose(inputs, (0, 1, 3, 2)), training, weights, **kwargs)
        return tf.transpose(turned, (0, 1, 3, 2))

    def get_config(self) -> dict[str, Any]:
        return {"per_axis": self.per_axis, "depthwise": self.depthwise}


def measured_range() -> Any:
    """A moving average of smallest and largest value, as for tfmot's own layers."""
    return _quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)


class PlainOutput(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
    """Nothing is quantized: a maximum keeps its input's scale, what is folded has no scale, dropout is gone."""

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


class MeasuredOutput(PlainOutput):
    """The output's range is a moving average."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [measured_range()]


class GateOutput(PlainOutput):
    """The output is a sigmoid's."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [FixedGate()]


class TiedOutput(PlainOutput):
    """The output has the range of the tensor that the layer's inputs were reduced from."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [TiedRange()]


class Weights(PlainOutput):
    """Weights are quantized, and the output where nothing is folded into the layer.

    Convolutions have one range for each output channel, dense layers one for all.
    """

    def __init__(self, folded: bool) -> None:
        self.folded = folded

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self.folded else [measured_range()]

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            return [(layer.depthwise_kernel, WeightRange(per_axis=True, depthwise=True))]
        return [(layer.kernel, WeightRange(per_axis=isinstance(layer, keras.layers.Conv2D)))]

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        name = "depthwise_kernel" if isinstance(layer, keras.layers.DepthwiseConv2D) else "kernel"
        setattr(layer, name, quantize_weights[0])

    def get_config(self) -> dict[str, Any]:
        return {"folded": self.folded}


@keras.utils.register_keras_serializable("edgecbam")
class QuantizedInput(keras.layers.Layer):  # type: ignore[misc]
    """Quantizes the model's input with a fixed range."""

    def __init__(self, low: float, high: float, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def call(self, inputs: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}


def config_for(layer: Any, sources: Sequence[Any], readers: Sequence[Any]) -> Any:
    """How a layer of a float model is quantized.

    Args:
        layer: of a functional keras.Model.
        sources: the layers whose outputs it reads.
        readers: the layers that read its output.

    Raises:
        EnvironmentFailure: nothing is known about such a layer.
    """
    layers = keras.layers
    reader = readers[0] if len(readers) == 1 else None
    before_relu = isinstance(reader, layers.ReLU)
    reductions = all(isinstance(source, ChannelMax | ChannelMean) for source in sources)
    joins_reductions = reductions and isinstance(layer, layers.Concatenate)
    folded_into = before_relu and isinstance(layer, layers.Add | layers.BatchNormalization)
    if isinstance(layer, LINEAR):
        linear = layer.activation is keras.activations.linear
        if linear or layer.activation is keras.activations.relu:
            return Weights(folded=linear and (before_relu or isinstance(reader, layers.BatchNormalization)))
    elif folded_into or isinstance(layer, KEEPS_SCALE):
        return PlainOutput()
    elif isinstance(layer, MEASURED):
        return MeasuredOutput()
    elif joins_reductions or isinstance(layer, layers.AveragePooling2D):
        return TiedOutput()
    elif isinstance(layer, layers.Activation) and layer.activation is keras.activations.sigmoid:
        return GateOutput()
    raise EnvironmentFailure(
        f"quantization-aware training does not know what becomes of the layer {layer.name} ({type(layer).__name__}) in "
        "int8: add it to config_for in edgecbam/quantizers.py"
    )
