"""Losses by their names in a recipe, each ``loss(targets, outputs) -> [n]``: one float32 value for each image.

    cross_entropy       -sum over classes of targets * log_softmax(outputs)
    mean_squared_error  mean over the k targets of (outputs - targets) ** 2
    module:function     a function of your own, looked for in the current folder first

``targets`` are float32 [n, classes] (one-hot, smoothed or mixed) or [n, k] values as the network is to give them;
``outputs`` float32 [n, classes] logits or [n, k] values. The loss of a batch is sum(weights * losses) / sum(weights).
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgecbam.errors import InputError
from edgecbam.recipe import Task

Loss = Callable[[Any, Any], Any]


def cross_entropy(targets: Any, outputs: Any) -> Any:
    """Softmax cross-entropy: float32 [n, classes] probabilities and logits -> [n]."""
    return tf.nn.softmax_cross_entropy_with_logits(targets, outputs)


def mean_squared_error(targets: Any, outputs: Any) -> Any:
    """Squared error, averaged over the targets of an image: float32 [n, k] twice -> [n]."""
    return tf.reduce_mean(tf.math.squared_difference(outputs, targets), axis=-1)


BUILT_IN: dict[str, Loss] = {"cross_entropy": cross_entropy, "mean_squared_error": mean_squared_error}
AUTO: dict[Task, Loss] = {"classification": cross_entropy, "regression": mean_squared_error}


def resolve(name: str, task: Task, outputs: int) -> Loss:
    """The loss that ``train.loss`` names, tried out on four made-up images.

    Args:
        name: ``auto``, a built-in name, or ``module:function``.
        task: what ``auto`` goes by; cross_entropy is refused for a regression.
        outputs: number of logits or values.

    Raises:
        InputError: nobody knows the name, the module cannot be imported, or the function is none, fails, gives
            anything but one finite value for each image, or has no gradient.
    """
    if name == "auto":
        return AUTO[task]
    if name in BUILT_IN:
        if name == "cross_entropy" and task == "regression":
            raise InputError("train.loss = 'cross_entropy' is for classes, but data.targets asks for a regression")
        return BUILT_IN[name]
    loss = _imported(name)
    _try_out(loss, name, task, outputs)
    return loss


def _imported(name: str) -> Loss:
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise InputError(
            f"train.loss = {name!r} is not known: use auto, {', '.join(BUILT_IN)}, or module:function of your own"
        )
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` has it; the script `edgecbam` does not
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does at import
        raise InputError(
            f"train.loss = {name!r}: the module {module_name} cannot be imported from {here} or the installed "
            f"packages ({_one_line(error)})"
        ) from error
    finally:
        sys.path.remove(here)
    loss = getattr(module, attribute, None)
    if not callable(loss):
        what = "is no function" if hasattr(module, attribute) else "does not exist"
        raise InputError(f"train.loss = {name!r}: {attribute} {what} in {getattr(module, '__file__', module_name)}")
    return loss  # type: ignore[no-any-return]


def _try_out(loss: Loss, name: str, task: Task, outputs: int) -> None:
    random = np.random.default_rng(0)
    if task == "classification":
        targets = np.eye(outputs, dtype=np.float32)[np.arange(4) % outputs]
    else:
        targets = random.normal(size=(4, outputs)).astype(np.float32)
    guesses = random.normal(size=(4, outputs)).astype(np.float32)
    spec = tf.TensorSpec([None, outputs], tf.float32)

    @tf.function(input_signature=[spec, spec])  # type: ignore[untyped-decorator]
    def probe(targets: Any, guesses: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(guesses)
            losses = tf.convert_to_tensor(loss(targets, guesses))
        return losses, tape.gradient(losses, guesses) if losses.dtype.is_floating else None

    try:
        losses, gradient = probe(tf.constant(targets), tf.constant(guesses))
    except Exception as error:  # whatever a user's function does
        raise InputError(f"train.loss = {name!r} fails on four images: {_one_line(error)}") from error
    if losses.shape.as_list() != [4]:
        raise InputError(
            f"train.loss = {name!r} gives the shape {tuple(losses.shape)} for 4 images: "
            "return one loss for each image, [n], averaged over nothing else"
        )
    if losses.dtype != tf.float32:
        raise InputError(f"train.loss = {name!r} gives {losses.dtype.name}: return float32")
    if gradient is None:
        raise InputError(f"train.loss = {name!r} has no gradient: compute it with TensorFlow, from its second argument")
    if not (np.isfinite(losses.numpy()).all() and np.isfinite(gradient.numpy()).all()):
        raise InputError(f"train.loss = {name!r} is not finite, or its gradient is not, on four ordinary images")


def _one_line(error: Exception) -> str:
    """The type and the last line of a message: TensorFlow puts the whole traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
