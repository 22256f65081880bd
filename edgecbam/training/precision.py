"""In which arithmetic a training computes, and that it does so the same way each time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from edgecbam.recipe import Precision


def resolve_precision(choice: Precision) -> Precision:
    """``auto`` is mixed_bfloat16 on a CPU with AMX-BF16, where it was measured to pay, and float32 elsewhere."""
    if choice != "auto":
        return choice
    return "mixed_bfloat16" if "amx_bf16" in _cpu_flags() else "float32"


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())


@contextlib.contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Build models under a Keras precision policy; float32 is restored afterwards."""
    keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def begin(seed: int) -> None:
    """Begin a stage: same seed, same machine, same result, whatever ran before in this process.

    Seeds Python, NumPy and TensorFlow, refuses nondeterministic kernels, and lets Keras count layer names anew.
    """
    tf.config.experimental.enable_op_determinism()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
