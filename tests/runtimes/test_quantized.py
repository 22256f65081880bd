"""Quantizing is rounding half to even and clipping; what comes back is at most half a step away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecbam.artifacts import Tensor
from edgecbam.errors import InputError
from edgecbam.runtimes import TensorInfo, described, to_input, to_real


@given(
    dtype=st.sampled_from(["int8", "uint8", "int16"]),
    scale=st.floats(1e-4, 10),
    data=st.data(),
)
def test_round_trip_is_within_half_a_step_inside_the_range(dtype: str, scale: float, data: st.DataObject) -> None:
    bounds = np.iinfo(dtype)
    zero_point = data.draw(st.integers(bounds.min, bounds.max))
    info = TensorInfo("x", (1,), dtype, scale, zero_point)
    low, high = scale * (bounds.min - zero_point), scale * (bounds.max - zero_point)
    real = np.asarray(data.draw(st.lists(st.floats(low, high), min_size=1, max_size=8)))
    back = to_real(to_input(real, info), info)
    assert np.abs(back - real).max() <= scale * (0.5 + 1e-3)
    outside = to_input([low - 5 * scale, high + 5 * scale], info)
    assert outside.tolist() == [bounds.min, bounds.max]


def test_halves_go_to_the_even_neighbour() -> None:
    info = TensorInfo("x", (4,), "int8", 1.0, 0)
    assert to_input([0.5, 1.5, 2.5, -0.5, -1.5], info).tolist() == [0, 2, 2, 0, -2]
    assert to_input([0.5], info).dtype == np.int8


def test_float_tensors_are_cast_and_nothing_else() -> None:
    info = TensorInfo("x", (2,), "float32")
    assert to_input(np.asarray([0.1, 300.0]), info).dtype == np.float32
    assert to_real(np.asarray([0.5], np.float16), info).dtype == np.float32


def test_integers_without_a_scale_are_refused_and_a_manifest_tensor_helps() -> None:
    with pytest.raises(InputError, match="manifest"):
        to_real(np.asarray([3], np.int8), TensorInfo("logits", (1,), "int8"))
    with pytest.raises(InputError, match="logits"):
        to_input([0.1], TensorInfo("logits", (1,), "int8"))
    assert to_real(np.asarray([3], np.int8), Tensor("logits", (1,), "int8", 0.5, 1)).tolist() == [1.0]


def test_the_manifest_supplies_scales_that_the_file_does_not_say() -> None:
    tensor = Tensor("x", (1,), "int8", 0.25, 3)
    assert described(TensorInfo("x", (1,), "int8"), tensor).scale == 0.25
    assert described(TensorInfo("x", (1,), "int8", 0.5, 1), tensor).scale == 0.5
    assert described(TensorInfo("x", (1,), "float32"), tensor).scale is None
