"""Gradients of our own in the place of TensorFlow's."""

from tensorflow.python.framework import ops

from . import reduction_gradients, strided_gradient

OURS = {
    "Conv2D": strided_gradient.of_convolution,
    "Max": reduction_gradients.of_maximum,
    "Mean": reduction_gradients.of_mean,
}
_installed: set[str] = set()


def install() -> None:
    """Replace them for the rest of the process; does nothing the second time."""
    registry = ops.gradient_registry._registry  # TensorFlow has no public way to replace a gradient
    for name in OURS.keys() - _installed:
        registry[name]["type"] = OURS[name](registry[name]["type"])
        _installed.add(name)
