"""The exported int8 ONNX file of the shared small run, and what LiteRT answers for its int8 .tflite twin."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

IMAGES = 40
Check = Callable[..., None]


@dataclass(frozen=True)
class Export:
    """What a consumer is given, and what it has to answer.

    Attributes:
        model: model_int8.onnx; ``image`` float32 -> ``logits`` float32.
        images: float32 [IMAGES, h, w, c].
        expected: LiteRT's integers [IMAGES, classes].
        scale: the quantum of the logits.
        zero_point: the integer that stands for a logit of 0.
    """

    model: Path
    images: np.ndarray
    expected: np.ndarray
    scale: float
    zero_point: int


@pytest.fixture(scope="session")
def exported(trained_run: Path) -> Export:
    from edgecbam import artifacts, preprocessing, runtimes

    folder = trained_run / "export"
    pixels = artifacts.load_samples(folder).images[:IMAGES]
    images = preprocessing.normalize(pixels, artifacts.load_manifest(folder).preprocessing)
    session = runtimes.find("litert").open(folder / "model_int8.tflite", threads=1)
    source, target = session.inputs[0], session.outputs[0]
    expected = np.concatenate([session.run([runtimes.to_input(image[None], source)])[0] for image in images])
    session.close()
    assert target.scale is not None
    assert target.zero_point is not None
    assert len(np.unique(expected, axis=0)) == IMAGES, "or any constant would do for some image"
    assert len(np.unique(expected.argmax(axis=1))) >= 5
    assert np.median(np.diff(np.sort(expected.astype(int), axis=1)[:, -2:])) > 2, "or classes hardly say anything"
    return Export(folder / "model_int8.onnx", images, expected.astype(int), target.scale, target.zero_point)


@pytest.fixture(scope="session")
def check_logits(exported: Export) -> Check:
    """Fails unless float logits [IMAGES, classes] are LiteRT's within ``steps`` integers, with the same classes."""

    def check(logits: np.ndarray, steps: int = 1) -> None:
        integers = logits / exported.scale + exported.zero_point
        assert integers.shape == exported.expected.shape
        np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)  # multiples of the quantum, nothing between
        assert np.abs(np.rint(integers) - exported.expected).max() <= steps
        second, first = np.sort(exported.expected, axis=1)[:, -2:].T
        decided = first - second > 2 * steps  # that many steps each way cannot turn these round
        assert decided.any()
        np.testing.assert_array_equal(integers.argmax(axis=1)[decided], exported.expected.argmax(axis=1)[decided])

    return check
