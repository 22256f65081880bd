"""Between real numbers and what a quantized tensor holds: real = scale * (integer - zero_point)."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecbam.errors import InputError
from edgecbam.runtimes.session import TensorInfo


class Quantized(Protocol):
    """What these functions need of a tensor: TensorInfo and edgecbam.artifacts.Tensor both have it."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def scale(self) -> float | None: ...
    @property
    def zero_point(self) -> int | None: ...


def to_input(real: ArrayLike, tensor: Quantized) -> np.ndarray:
    """Real values as the array that an input takes.

    Integers are rounded half to even and clipped to the range of the dtype; float inputs are cast.

    Args:
        real: any shape, float.
        tensor: dtype, scale and zero point of the input.

    Returns:
        Same shape, dtype ``tensor.dtype``.

    Raises:
        InputError: an integer tensor without a scale.

    Example:
        with scale 1/128 and zero point 0, int8: 0.5 -> 64, 1.0 -> 127 (clipped).
    """
    dtype = np.dtype(tensor.dtype)
    values: np.ndarray = np.asarray(real)
    if dtype.kind in "iu":
        scale, zero_point = _parameters(tensor)
        bounds = np.iinfo(dtype)
        values = np.clip(np.rint(values.astype(np.float64) / scale) + zero_point, bounds.min, bounds.max)
    return values.astype(dtype)


def to_real(array: ArrayLike, tensor: Quantized) -> NDArray[np.float32]:
    """What an output array means: float32 of the same shape; raises InputError for integers without a scale."""
    values = np.asarray(array)
    if values.dtype.kind not in "iu":
        return values.astype(np.float32)
    scale, zero_point = _parameters(tensor)
    return (scale * (values.astype(np.float64) - zero_point)).astype(np.float32)


def described(info: TensorInfo, tensor: Quantized) -> TensorInfo:
    """A tensor of an open model, with scale and zero point of ``tensor`` where it holds integers and says neither."""
    if info.scale is not None or np.dtype(info.dtype).kind not in "iu":
        return info
    return TensorInfo(info.name, info.shape, info.dtype, tensor.scale, tensor.zero_point)


def _parameters(tensor: Quantized) -> tuple[float, int]:
    if tensor.scale is None or tensor.zero_point is None:
        raise InputError(
            f"tensor {tensor.name} holds {tensor.dtype} but its file does not say which real values they mean: "
            "take scale and zero point from the manifest of the run folder"
        )
    return tensor.scale, tensor.zero_point
