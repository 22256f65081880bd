"""Is the output right? Asked in every process before its times count, because a wrong answer can be very fast.

Files of a run folder are checked against what Keras said of the held-out samples. A bare model file comes without
references: only that its outputs are finite and depend on the input can be checked, and the report says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgecbam import artifacts, metrics
from edgecbam.artifacts import Samples
from edgecbam.errors import InputError
from edgecbam.runtimes import Session, TensorInfo, described, to_input, to_real

RANDOM_INPUTS = 8


@dataclass(frozen=True)
class Expectation:
    """What the outputs of a file must match.

    Attributes:
        reference: which array of the samples.
        max_relative_error: of the logits, relative to the largest reference logit; None: not a criterion.
        min_agreement: fraction of images with the same class; None: not a criterion.
    """

    reference: Literal["keras_float", "keras_qat"]
    max_relative_error: float | None = None
    min_agreement: float | None = None


EXPECTATIONS: dict[str, Expectation] = {
    "model_fp32.tflite": Expectation("keras_float", max_relative_error=1e-3),
    "model_fp16.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_dynamic.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_ptq_int8.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_int8.tflite": Expectation("keras_qat", min_agreement=0.95),
    "model_fp32.onnx": Expectation("keras_float", max_relative_error=1e-3),
    "model_int8.onnx": Expectation("keras_qat", min_agreement=0.95),
}


@dataclass(frozen=True)
class Check:
    """The outcome for one process. ``parity`` holds JSON values; ``reason`` is empty where ``passed``."""

    passed: bool
    reason: str
    parity: dict[str, Any]
    accuracy: float | None = None
    agreement: float | None = None


def run_inputs(folder: Path, file: str, session: Session, count: int) -> tuple[list[np.ndarray], Samples]:
    """The first ``count`` samples of an export folder as inputs of one of its files, batch 1 each, and the samples.

    Where the runtime does not know the scale of an integer input, the manifest does.
    """
    from edgecbam import preprocessing  # needs Pillow, which a bare file does not

    manifest, samples = artifacts.load_manifest(folder), artifacts.load_samples(folder)
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise InputError(
            f"{file} has {len(session.inputs)} inputs and {len(session.outputs)} outputs, expected one each"
        )
    info = described(session.inputs[0], manifest.files[file].input)
    real = preprocessing.normalize(samples.images[:count], manifest.preprocessing)
    return [to_input(to_layout(image[None], info.shape), info) for image in real], samples


def to_layout(batch: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[n, height, width, channels] as the model wants it: as it is, or [n, channels, height, width]."""

    def fits(candidate: np.ndarray) -> bool:
        return len(shape) == 4 and all(
            want in (-1, have) for want, have in zip(shape[1:], candidate.shape[1:], strict=True)
        )

    transposed = np.transpose(batch, (0, 3, 1, 2))
    if fits(batch) or not fits(transposed):
        return batch  # if neither fits, the session says what it takes
    return transposed


def check_run_file(folder: Path, file: str, session: Session, count: int) -> Check:
    """Run ``count`` samples and compare with Keras; accuracy and agreement are of those samples."""
    inputs, samples = run_inputs(folder, file, session, count)
    tensor = described(session.outputs[0], artifacts.load_manifest(folder).files[file].output)
    logits = np.concatenate([to_real(session.run([array])[0], tensor).reshape(1, -1) for array in inputs])
    expectation = EXPECTATIONS[file]
    reference = getattr(samples, expectation.reference)[: len(inputs)]
    return compare(logits, reference, samples.labels[: len(inputs)], expectation, tie=tensor.scale or 0.0)


def compare(
    logits: np.ndarray, reference: np.ndarray, labels: np.ndarray, expectation: Expectation, tie: float
) -> Check:
    """Compare logits with reference logits, both [images, classes].

    Args:
        labels: [images] class indices.
        tie: one LSB of quantized logits: classes that close count as equal.
    """
    parity: dict[str, Any] = {
        "checked": True,
        "images": len(logits),
        "reference": expectation.reference,
        "max_relative_error": expectation.max_relative_error,
        "min_agreement": expectation.min_agreement,
    }
    problem = _useless_reference(reference, expectation)
    if not problem and logits.shape != reference.shape:
        problem = f"outputs have shape {list(logits.shape[1:])}, the reference {list(reference.shape[1:])}"
    if not problem and not np.all(np.isfinite(logits)):
        problem = "outputs are not finite"
    if problem:
        return Check(False, problem, parity)
    error = metrics.relative_error(logits, reference)
    agreement = metrics.agreement(logits, reference, tie)
    accuracy = metrics.top1(logits, labels)
    parity |= {"relative_error": error, "agreement": agreement}
    if expectation.max_relative_error is not None and not error <= expectation.max_relative_error:
        problem = (
            f"logits differ from {expectation.reference} by {error:.2g} of the largest logit, "
            f"allowed {expectation.max_relative_error:g}"
        )
    elif expectation.min_agreement is not None and not agreement >= expectation.min_agreement:
        problem = (
            f"same class as {expectation.reference} on {agreement:.2%} of {len(logits)} images, "
            f"needed {expectation.min_agreement:.0%}"
        )
    return Check(not problem, problem, parity, accuracy, agreement)


def _useless_reference(reference: np.ndarray, expectation: Expectation) -> str:
    """Why a reference proves nothing, or "". Anything agrees with a model that always says the same."""
    name = expectation.reference
    if not np.all(np.isfinite(reference)):
        return f"the reference {name} is not finite"
    if len(reference) > 1 and np.all(np.ptp(reference, axis=0) == 0):
        return f"the reference {name} is constant: it says the same of every image and proves nothing"
    if expectation.min_agreement is not None and len(np.unique(np.argmax(reference, axis=1))) < 2:
        return f"the reference {name} gives every image the same class: agreement with it proves nothing"
    return ""


def random_inputs(session: Session, seed: int, count: int = RANDOM_INPUTS) -> list[list[np.ndarray]]:
    """``count`` sets of inputs: floats uniform in [-1, 1], quantized integers over their range, others 0 or 1.

    Free dimensions are taken as 1. Wide integers without a scale may be indices, where anything above 1 may be out
    of range.
    """
    rng = np.random.default_rng(seed)
    return [[_random_array(rng, info) for info in session.inputs] for _ in range(count)]


def _random_array(rng: np.random.Generator, info: TensorInfo) -> np.ndarray:
    shape = tuple(max(size, 1) for size in info.shape)
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)


def check_bare_file(session: Session, seed: int) -> Check:
    """Whether outputs are finite and differ between random inputs."""
    outputs: list[Sequence[np.ndarray]] = [session.run(arrays) for arrays in random_inputs(session, seed)]
    parity = {"checked": False, "inputs": len(outputs), "reason": "a bare model file has no reference outputs"}
    if not all(np.all(np.isfinite(array)) for arrays in outputs for array in arrays):
        return Check(False, "outputs are not finite", parity)
    if all(np.array_equal(a, b) for arrays in outputs[1:] for a, b in zip(arrays, outputs[0], strict=True)):
        return Check(False, f"outputs are the same for {len(outputs)} different random inputs", parity)
    return Check(True, "", parity)
