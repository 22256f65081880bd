"""A wrong output never becomes a fast row, and a reference that proves nothing is refused."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgecbam.benchmarks import parity
from edgecbam.benchmarks.parity import EXPECTATIONS, Expectation
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
    check = parity.check_bare_file(session, seed=1)  # type: ignore[arg-type]
    assert check.passed
    assert check.accuracy is None
    assert not check.parity["checked"]
    first, second = session.seen[:2]
    assert [(a.shape, a.dtype.name) for a in first] == [((1, 4, 4, 3), "int8"), ((1, 5), "int64"), ((2,), "float32")]
    assert first[0].min() < -60
    assert first[0].max() > 60
    assert set(np.unique(first[1])) <= {0, 1}
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize(
    ("function", "reason"),
    [(lambda arrays: np.float32([-128, -128]), "the same for 8"), (lambda arrays: np.float32([np.nan]), "not finite")],
)
def test_constant_and_broken_outputs_of_bare_files_are_wrong(
    function: Callable[[Sequence[np.ndarray]], np.ndarray], reason: str
) -> None:
    check = parity.check_bare_file(FakeSession(INPUTS, function), seed=1)  # type: ignore[arg-type]
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
