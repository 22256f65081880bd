"""What each layer costs in int8: the quantization-aware network with that layer alone kept float.

A layer is what becomes one op of the .tflite file: a convolution with the BatchNorm and ReLU that are folded into it, a
gate, a product, a sum. Kept float, neither its weights nor its output are rounded; its weights stay those that training
with quantization has found. The network is simulated in Keras, as ``RUN/export`` and ``verify`` take it for reference.

``closer`` is the more telling figure. Accuracy moves by a few images at most when one layer changes, and its interval
mostly holds 0; how far the logits are from those of the network with everything kept float is known far better.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edgecbam import metrics, training
from edgecbam.events import Event, OnEvent
from edgecbam.quantization import wrapped

Z95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Layer:
    """A layer that is quantized as a whole. ``name``: that of its first Keras layer; ``kinds``: all, in order."""

    name: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What keeping layers float changes, on the same images.

    Attributes:
        score: accuracy 0…1; in regression the root of the mean squared error of the standardised values.
        change: score less that of the int8 network.
        low: end of the 95 % interval of change, from the differences image by image; NaN in regression.
        high: see low.
        closer: by which share the distance of the logits from the float network's shrinks: 1 all of it, below 0 it
            grows; root mean square over all logits.
    """

    score: float
    change: float
    low: float
    high: float
    closer: float


class _Switched:
    """A quantizer that can be left out."""

    def __init__(self, quantizer: Any, kept_float: Any) -> None:
        self.quantizer, self.kept_float = quantizer, kept_float

    def __call__(self, inputs: Any, training: Any, weights: Any, **options: Any) -> Any:
        return tf.where(self.kept_float, inputs, self.quantizer(inputs, training, weights=weights, **options))


def measure(
    model: Any, images: np.ndarray, labels: np.ndarray, described: Mapping[str, Any], on_event: OnEvent
) -> dict[str, Any]:
    """Keep each layer float in turn.

    Args:
        model: quantization-aware model with its final ranges; its quantizers are wrapped, it is not to be used again.
        images: [n, h, w, c] uint8.
        labels: [n] class indices, or [n, k] float32 standardised targets.
        described: the preprocessing.
        on_event: listener.

    Returns:
        ``images``, ``int8_score``, ``float_score``, ``distance`` (root mean square of the logits' difference between
        the two), and ``layers``: name, kinds and the fields of Cost of each, the largest ``closer`` first.
    """
    layers = _switches(model)

    def logits(*kept: Any) -> np.ndarray:
        for switch in layers.values():
            switch.assign(any(switch is one for one in kept))
        return training.predict(model, images, dict(described))

    score = _regression if labels.ndim == 2 else _classification
    reference, everything = logits(*layers.values()), logits()
    costs = {}
    for done, (layer, switch) in enumerate(layers.items(), start=1):
        costs[layer] = _cost(logits(switch), everything, reference, labels, score)
        figures = {"change": costs[layer].change, "closer": costs[layer].closer}
        on_event(Event("layers", step=done, total=len(layers), unit="layer", figures=figures, message=layer.name))
    rows = sorted(costs.items(), key=lambda one: -one[1].closer)
    return {
        "images": len(images),
        "int8_score": float(np.mean(score(everything, labels))) if labels.ndim == 1 else _rmse(everything, labels),
        "float_score": float(np.mean(score(reference, labels))) if labels.ndim == 1 else _rmse(reference, labels),
        "distance": _distance(everything, reference),
        "layers": [{**asdict(layer), "kinds": list(layer.kinds), **_finite(cost)} for layer, cost in rows],
    }


def _switches(model: Any) -> dict[Layer, Any]:
    """Put a switch to every quantizer; one for each layer, off."""
    wrappers = {wrapper.name: wrapper for wrapper in wrapped(model)}
    groups: dict[str, list[Any]] = {}
    for wrapper in wrappers.values():
        groups.setdefault(_end(wrapper, wrappers).name, []).append(wrapper)
    switches = {}
    for members in groups.values():
        quantized = [one for one in members if one._weight_vars or one._output_quantizers]
        if not quantized:
            continue
        switch = tf.Variable(False, trainable=False)
        for one in quantized:
            one._weight_vars = [(w, _Switched(quantizer, switch), v) for w, quantizer, v in one._weight_vars]
            one._output_quantizers = [_Switched(quantizer, switch) for quantizer in one._output_quantizers]
        kinds = tuple(type(one.layer).__name__ for one in members)
        switches[Layer(members[0].layer.name, kinds)] = switch
    return switches


def _end(wrapper: Any, wrappers: Mapping[str, Any]) -> Any:
    """The wrapper at whose output a layer is rounded: itself, or what it is folded into."""
    while not wrapper._output_quantizers:
        readers = {node.outbound_layer.name for node in wrapper.outbound_nodes} & set(wrappers)
        if len(readers) != 1 or not isinstance(wrapper.layer, _FOLDED):
            return wrapper
        wrapper = wrappers[readers.pop()]
    return wrapper


_FOLDED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
    keras.layers.BatchNormalization,
    keras.layers.Add,
)
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _classification(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(logits.argmax(axis=1) == labels, np.float64)


def _regression(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean((values - targets) ** 2, axis=1), np.float64)


def _rmse(values: np.ndarray, targets: np.ndarray) -> float:
    return math.sqrt(float(np.mean(metrics.rmse(values, targets) ** 2)))


def _distance(logits: np.ndarray, reference: np.ndarray) -> float:
    return math.sqrt(float(np.mean((logits.astype(np.float64) - reference) ** 2)))


def _cost(logits: np.ndarray, everything: np.ndarray, reference: np.ndarray, labels: np.ndarray, score: Score) -> Cost:
    whole = _distance(everything, reference)
    closer = 1 - _distance(logits, reference) / whole if whole else 0.0
    if labels.ndim == 2:
        value = _rmse(logits, labels)
        return Cost(value, value - _rmse(everything, labels), math.nan, math.nan, closer)
    differences = score(logits, labels) - score(everything, labels)
    change = float(differences.mean())
    half = Z95 * float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return Cost(float(np.mean(score(logits, labels))), change, change - half, change + half, closer)


def _finite(cost: Cost) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(cost).items()}
