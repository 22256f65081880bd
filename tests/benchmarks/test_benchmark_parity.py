"""A wrong output never becomes a fast row, and a reference that proves nothing is refused."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam.benchmarks import parity
from edgecbam.benchmarks.parity import EXPECTATIONS, Expectation
from edgecbam.errors import InputError
from edgecbam.runtimes import TensorInfo

FLOAT = EXPECTATIONS["model_fp32.tflite"]
INT8 = EXPECTATIONS["model_int8.tflite"]


@pytest.fixture
def logits() -> np.ndarray:
    """[200, 4] with every class winning somewhere."""
    return np.random.default_rng(1).normal(0, 3, (200, 4)).astype(np.float32)


@pytest.mark.parametrize("expectation", [FLOAT, INT8], ids=["float", "int8"])
def test_equal_outputs_pass_and_have_figures(logits: np.ndarray, expectation: Expectation) -> None:
    labels = np.argmax(logits, axis=1)
    labels[:20] = (labels[:20] + 1) % 4
    check = parity.compare(logits, logits, labels, expectation, tie=0)
    assert (check.passed, check.reason, check.accuracy, check.agreement) == (True, "", 0.9, 1.0)
    assert check.parity["checked"]
    assert check.parity["images"] == 200


@pytest.mark.parametrize(
    ("spoil", "expectation", "reason"),
    [
        (lambda x: x + 0.02 * np.abs(x).max(), FLOAT, "differ from keras_float by 0.02"),
        (lambda x: x[:, ::-1], INT8, "needed 95%"),
        (lambda x: np.where(np.arange(200)[:, None] < 20, -x, x), INT8, "same class as keras_qat"),
        (lambda x: np.zeros_like(x), FLOAT, "differ from keras_float by 1"),
        (lambda x: np.where(np.arange(200)[:, None] == 7, np.nan, x), FLOAT, "not finite"),
        (lambda x: np.where(np.arange(200)[:, None] == 7, np.inf, x), INT8, "not finite"),
        (lambda x: x[:, :3], INT8, "shape"),
    ],
)
def test_wrong_outputs_fail_with_a_reason(
    logits: np.ndarray, spoil: Callable[[np.ndarray], np.ndarray], expectation: Expectation, reason: str
) -> None:
    check = parity.compare(spoil(logits), logits, np.zeros(200, int), expectation, tie=0)
    assert not check.passed
    assert reason in check.reason


@pytest.mark.parametrize(
    ("reference", "expectation", "reason"),
    [
        (np.ones((200, 4), np.float32), FLOAT, "constant"),
        (np.tile(np.float32([1, 2, 3, 4]), (200, 1)), INT8, "constant"),
        (np.float32([9, 0, 0, 0]) + np.random.default_rng(1).random((200, 4)), INT8, "same class"),
        (np.full((200, 4), np.nan, np.float32), FLOAT, "not finite"),
    ],
)
def test_references_that_prove_nothing_are_refused(
    reference: np.ndarray, expectation: Expectation, reason: str
) -> None:
    check = parity.compare(reference, reference, np.zeros(200, int), expectation, tie=0)
    assert not check.passed
    assert reason in check.reason
    assert "reference" in check.reason


def test_classes_within_one_lsb_count_as_equal() -> None:
    reference = np.float32([[1.0, 0.9], [0.0, 1.0]] * 50)
    candidate = np.float32([[0.9, 1.0], [0.0, 1.0]] * 50)
    assert not parity.compare(candidate, reference, np.zeros(100, int), INT8, tie=0.05).passed
    assert parity.compare(candidate, reference, np.zeros(100, int), INT8, tie=0.1).passed


class FakeSession:
    """y = f(inputs), whatever the inputs are."""

    def __init__(self, inputs: Sequence[TensorInfo], function: Callable[[Sequence[np.ndarray]], np.ndarray]) -> None:
        self.inputs = tuple(inputs)
        self.function = function
        self.seen: list[list[np.ndarray]] = []

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.seen.append(list(arrays))
        return [np.asarray(self.function(arrays))]


INPUTS = [
    TensorInfo("image", (-1, 4, 4, 3), "int8"),
    TensorInfo("ids", (1, 5), "int64"),
    TensorInfo("x", (2,), "float32"),
]


def test_bare_files_get_inputs_of_every_kind() -> None:
    session = FakeSession(INPUTS, lambda arrays: arrays[0].astype(np.float32).sum())
    check = parity.check_bare_file(session, 1, {"image": (1, 4, 4, 3)})  # type: ignore[arg-type]
    assert check.passed
    assert check.accuracy is None
    assert not check.parity["checked"]
    first, second = session.seen[:2]
    assert [(a.shape, a.dtype.name) for a in first] == [((1, 4, 4, 3), "int8"), ((1, 5), "int64"), ((2,), "float32")]
    assert min(one[0].min() for one in session.seen) < -60
    assert max(one[0].max() for one in session.seen) > 60
    brightness = np.array([one[0].astype(float).mean(axis=(0, 1, 2)) for one in session.seen])
    assert np.ptp(brightness, axis=0).min() > 60, "sets differ in every channel, not by their noise alone"
    assert set(np.unique(first[1])) <= {0, 1}
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize(
    ("function", "reason"),
    [(lambda arrays: np.float32([-128, -128]), "the same for 8"), (lambda arrays: np.float32([np.nan]), "no numbers")],
)
def test_constant_and_broken_outputs_of_bare_files_are_wrong(
    function: Callable[[Sequence[np.ndarray]], np.ndarray], reason: str
) -> None:
    session = FakeSession(INPUTS, function)
    check = parity.check_bare_file(session, 1, {"image": (1, 4, 4, 3)})  # type: ignore[arg-type]
    assert not check.passed
    assert reason in check.reason


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 5, 6, 3), (1, 5, 6, 3)), ((1, 3, 5, 6), (1, 3, 5, 6)), ((-1, 9, 9, 3), (1, 5, 6, 3))]
)
def test_images_are_turned_only_where_that_fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    batch = np.arange(90).reshape(1, 5, 6, 3)
    turned = parity.to_layout(batch, shape)
    assert turned.shape == expected
    if expected[1] == 3:
        assert turned[0, 2, 4, 1] == batch[0, 4, 1, 2]


def test_free_dimensions_are_asked_for_and_never_guessed() -> None:
    with pytest.raises(InputError, match=r"free dimensions in image \[\?, 4, 4, 3\].*--shape image=N,4,4,3"):
        parity.whole_shapes(INPUTS, {"x": (2,)})
    assert parity.whole_shapes(INPUTS, {"image": (7, 4, 4, 3)}) == [(7, 4, 4, 3), (1, 5), (2,)]


def reference(
    *outputs: list[Any], precision: str = "float32", scale: float | None = None, dtype: str = "float32"
) -> parity.Reference:
    """A reference with one output; each of ``outputs`` is its value for one set of inputs."""
    sets = [[np.asarray(values, dtype)] for values in outputs]
    return parity.Reference([[np.zeros(1, "float32")]] * len(sets), sets, "a test", precision, (scale,))


LOGITS = ([1.0, -4.0, 2.0], [3.0, 0.5, -10.0])  # the largest is 10, inputs make a difference of 12


@pytest.mark.parametrize(
    ("precision", "arithmetic", "allowed"),
    [
        ("float32", "", 1e-2),
        ("float32", "f32", 1e-2),
        ("float32", "f16", 0.3),
        ("float16", "", 0.3),
        ("int8", "f16", 1.0),
    ],
)
def test_the_tolerance_is_that_of_the_precision(precision: str, arithmetic: str, allowed: float) -> None:
    """The largest reference value is 10: 1e-3, 3e-2 and 1e-1 of it."""
    wanted = reference(*LOGITS, precision=precision)
    for error, passes in ((0.9 * allowed, True), (1.1 * allowed, False), (-1.1 * allowed, False)):
        outputs = [[np.float32(values) + np.float32([0, error, 0])] for values in LOGITS]
        check = parity.compare_outputs(outputs, wanted, arithmetic)
        assert check.passed is passes, error
        assert check.parity["relative_error"] == pytest.approx(abs(error) / 10, rel=1e-3)
        assert check.parity["checked"]
        assert bool(check.reason) is not passes


def test_two_lsb_of_small_quantized_outputs_are_allowed_and_three_are_not() -> None:
    wanted = reference([0.0, 4 / 256], [8 / 256, 0.0], precision="int8", scale=1 / 256)  # 8 LSB between inputs
    for lsb, passes in ((2, True), (3, False)):
        outputs = [[array + np.float32(lsb / 256)] for (array,) in wanted.outputs]
        assert parity.compare_outputs(outputs, wanted).passed is passes
    wanted = reference([-128, -120], [-124, -119], precision="int8", scale=0.1, dtype="int8")
    for lsb, passes in ((2, True), (3, False)):
        outputs = [[(array.astype(int) + lsb).astype("int8")] for (array,) in wanted.outputs]
        assert parity.compare_outputs(outputs, wanted).passed is passes


def test_indices_are_compared_by_how_many_are_equal() -> None:
    wanted = reference([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], dtype="int64")
    nine, eight = ([[array.copy()] for (array,) in wanted.outputs] for _ in range(2))
    nine[0][0][0] = 99
    eight[0][0][:2] = 99
    assert parity.compare_outputs(nine, wanted).passed
    assert "on 80% of its elements" in parity.compare_outputs(eight, wanted).reason


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (([1.0, 2.0], [1.0, 2.0]), "proves nothing: its outputs are the same for 2 different inputs.*--inputs"),
        (([1.0, np.nan], [1.0, 2.0]), "proves nothing: its outputs are no numbers"),
        (([np.inf, np.inf], [-np.inf, np.inf]), "proves nothing: its outputs are not finite"),
    ],
)
def test_a_reference_that_proves_nothing_is_refused(outputs: tuple[list[float], ...], match: str) -> None:
    wanted = reference(*outputs)
    check = parity.compare_outputs(wanted.outputs, wanted)
    assert not check.passed
    assert check.parity["proves_nothing"]
    assert re.search(match, check.reason)


def test_the_answer_to_another_input_does_not_pass() -> None:
    """Where inputs change little, what is tolerated must be less than that."""
    wanted = reference([100.0, 50.0], [102.0, 50.0], precision="int8")
    assert not parity.compare_outputs(wanted.outputs[::-1], wanted).passed
    assert not parity.compare_outputs([wanted.outputs[0]] * 2, wanted).passed
    assert parity.compare_outputs([[a + np.float32(0.9)] for (a,) in wanted.outputs], wanted).passed
    alike = reference([100.0, 50.0], [102.0, 50.0], precision="int8", scale=1.0)
    check = parity.compare_outputs(alike.outputs, alike)
    assert not check.passed
    assert "output 0 changes by 2 LSB between inputs" in check.reason


def test_masks_are_infinite_in_the_same_places() -> None:
    wanted = reference([-np.inf, 1.0, 2.0], [-np.inf, 3.0, -2.0])
    assert parity.compare_outputs(wanted.outputs, wanted).passed
    for value in (np.inf, 0.0):
        outputs = [[np.float32([value, *array[1:]])] for (array,) in wanted.outputs]
        assert "is not finite where the reference is" in parity.compare_outputs(outputs, wanted).reason


def test_outputs_may_have_another_shape_for_each_input_or_be_empty() -> None:
    wanted = reference([1.0], [2.0, 3.0])
    assert parity.compare_outputs(wanted.outputs, wanted).passed
    assert not parity.compare_outputs(wanted.outputs[::-1], wanted).passed
    empty = parity.Reference(
        [[]] * 2, [[np.float32([i]), np.empty((0, 4), "float32")] for i in (1, 5)], "x", "int8", (None,) * 2
    )
    assert parity.compare_outputs(empty.outputs, empty).passed


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ([[np.float32([1, 2])]] * 2, r"output 0 has shape \[2\], the reference \[3\]"),
        ([[], []], r"output 0 has shape \[0\], the reference \[3\]"),
        ([[np.float32([1, np.inf, 2])]] * 2, "output 0 is not finite where"),
        ([[np.float32([-128] * 3)]] * 2, r"output 0 differs from the reference by 13.*allowed 0.001 \(a test\)"),
    ],
)
def test_wrong_outputs_are_told(outputs: list[list[np.ndarray]], match: str) -> None:
    check = parity.compare_outputs(outputs, reference(*LOGITS))
    assert not check.passed
    assert re.search(match, check.reason)


def test_a_reference_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    inputs = [[np.int64([[i]]), np.float16([i, 2])] for i in range(11)]
    outputs = [[np.uint8([i]), np.float32([[i]])] for i in range(11)]
    parity.save_reference(tmp_path / "r.npz", parity.Reference(inputs, outputs, "maker", "int8", (0.5, None)))
    back = parity.load_reference(tmp_path / "r.npz")
    assert (back.maker, back.precision, back.scales) == ("maker", "int8", (0.5, None))
    for before, after in ((inputs, back.inputs), (outputs, back.outputs)):
        assert len(before) == len(after)
        for a, b in zip(itertools.chain(*before), itertools.chain(*after), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
