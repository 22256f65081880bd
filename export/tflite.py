"""Keras -> .tflite: float32, float16 weights, dynamic range, and int8 or uint8 from fake quantization.

All files take one image (a dynamic batch leaves shape arithmetic in the graph and splits it into partitions), are fed
through the input ``image`` and answer with ``logits``.
"""

from typing import Any

import tensorflow as tf

from edgecbam.errors import InputError

from .tflite_graph import TfliteGraph


def float32(model: Any) -> bytes:
    """float32 weights and arithmetic."""
    return _bytes(_converter(model))


def float16(model: Any) -> bytes:
    """float16 weights, float32 input and output; the arithmetic is the delegate's choice."""
    converter = _converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return _bytes(converter)


def dynamic_range(model: Any) -> bytes:
    """int8 weights, float32 activations quantized on the fly."""
    converter = _converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return _bytes(converter)


def quantized(model: Any) -> bytes:
    """Full int8 with the scales of a model of quantization.py; float32 input and output (QUANTIZE, DEQUANTIZE).

    Args:
        model: quantization-aware keras.Model, trained or only calibrated.
    """
    converter = _converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return _bytes(converter)


def with_io(content: bytes, dtype: str) -> bytes:
    """The same file with input and output of ``int8`` or ``uint8``: the QUANTIZE and DEQUANTIZE at its ends go.

    This is the step that the converter runs last for ``inference_input_type``; taken alone it spares a conversion.

    Args:
        content: a file made by ``quantized``.
        dtype: ``int8`` or ``uint8``.
    """
    from tensorflow.lite.python.util import modify_model_io_type

    io_type = tf.dtypes.as_dtype(dtype)
    return bytes(modify_model_io_type(content, io_type, io_type))


MAX_REQUANTIZATION = 256.0  # of XNNPACK's int8 convolutions and dense layers, exclusive


def check_requantization(content: bytes, where: str) -> None:
    """Refuse a file that LiteRT would refuse as a whole, naming the layer.

    Raises:
        InputError: a convolution or dense layer has scale_in * scale_weight / scale_out of 256 or more, or a bias that
            its 32 bits cannot hold.
    """
    graph = TfliteGraph(content, where)
    for name in graph.cut_biases():
        raise InputError(
            f"{where}: the layer {name.split(';')[0]} has a bias too large for its scale, because BatchNorm all but "
            "switches its weights off: run `edgecbam quantize` again, which widens their range"
        )
    for name, scale in graph.requantization_scales().items():
        if scale >= MAX_REQUANTIZATION:
            raise InputError(
                f"{where}: LiteRT cannot run the layer {name.split(';')[0]}, whose requantization scale is "
                f"{scale:.0f} (less than 256 is possible): run `edgecbam quantize` again, which widens its output range"
            )


def _converter(model: Any) -> Any:
    shape = (1, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])  # type: ignore[untyped-decorator]
    def serve(image: Any) -> dict[str, Any]:
        return {"logits": model(image, training=False)}

    # The converter saves what it is given; saving variables alone takes a tenth of the time of saving a Keras model.
    holder = tf.Module()
    holder.weights = model.weights
    return tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder)


def _bytes(converter: Any) -> bytes:
    return bytes(converter.convert())
