"""Is the output right? Asked in every process before its times count, because a wrong answer can be very fast.

Files of a run folder are checked against what Keras said of the held-out samples. A bare model file comes without
references: it is run once in the plainest way there is on the CPU (references.py), and every cell is checked against
that. Where that way is closed too, only that its outputs are finite and depend on the input can be checked, and the
report says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgecbam import artifacts, metrics
from edgecbam.artifacts import Samples
from edgecbam.errors import InputError
from edgecbam.runtimes import Session, TensorInfo, described, to_input, to_real

RANDOM_INPUTS = 8
# How far outputs may be from the reference, relative to the largest reference value, by precision of file and
# arithmetic. Kernels of 8 bits round at every layer, each in its own way: whole LSBs, which weigh more the smaller the
# outputs are, so TOLERATED_LSB of the output are allowed in any case.
TOLERANCES = {"float32": 1e-3, "float16": 3e-2, "int8": 1e-1}
TOLERATED_LSB = 2
# In any case an error is to be smaller than what inputs make of the outputs, or the answer to another input would do.
OF_SPREAD = 0.5
# In regression, how far values may lie from the reference as a share of what different images make of it (see
# metrics.distance): where a file of a classifier must choose the same class on most images.
MAX_DISTANCE = {"float16": 0.05, "int8": 0.25}
MIN_EQUAL = 0.9  # of the elements of outputs that are no quantities, such as indices


@dataclass(frozen=True)
class Expectation:
    """What the outputs of a file must match.

    Attributes:
        reference: which array of the samples.
        max_relative_error: of the outputs, relative to the largest reference output; None: not a criterion.
        min_agreement: classification: fraction of images with the same class; None: not a criterion.
        max_distance: regression: see metrics.distance; None: not a criterion.
    """

    reference: Literal["keras_float", "keras_qat"]
    max_relative_error: float | None = None
    min_agreement: float | None = None
    max_distance: float | None = None


EXPECTATIONS: dict[str, Expectation] = {
    "model_fp32.tflite": Expectation("keras_float", max_relative_error=1e-3),
    "model_fp16.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_dynamic.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_ptq_int8.tflite": Expectation("keras_float", min_agreement=0.95),
    "model_int8.tflite": Expectation("keras_qat", min_agreement=0.95),
    "model_fp32.onnx": Expectation("keras_float", max_relative_error=1e-3),
    "model_int8.onnx": Expectation("keras_qat", min_agreement=0.95),
    "model.keras": Expectation("keras_float", max_relative_error=1e-3),
}
REGRESSION_EXPECTATIONS: dict[str, Expectation] = {
    "model_fp32.tflite": Expectation("keras_float", max_relative_error=1e-3),
    "model_fp16.tflite": Expectation("keras_float", max_distance=MAX_DISTANCE["float16"]),
    "model_dynamic.tflite": Expectation("keras_float", max_distance=MAX_DISTANCE["int8"]),
    "model_ptq_int8.tflite": Expectation("keras_float", max_distance=MAX_DISTANCE["int8"]),
    "model_int8.tflite": Expectation("keras_qat", max_distance=MAX_DISTANCE["int8"]),
    "model_fp32.onnx": Expectation("keras_float", max_relative_error=1e-3),
    "model_int8.onnx": Expectation("keras_qat", max_distance=MAX_DISTANCE["int8"]),
    "model.keras": Expectation("keras_float", max_relative_error=1e-3),
}


@dataclass(frozen=True)
class Check:
    """The outcome for one process.

    Attributes:
        passed: whether the outputs are right.
        reason: why not; empty where they are.
        parity: JSON values: what was compared and how near it came.
        accuracy: classification: top-1 on the samples.
        agreement: classification: share of the samples with the reference's class.
        rmse: regression: on the samples, by target and in its own unit.
    """

    passed: bool
    reason: str
    parity: dict[str, Any]
    accuracy: float | None = None
    agreement: float | None = None
    rmse: dict[str, float] | None = None


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
    entry = manifest.files.get(file)  # the Keras model is none of the exported files
    info = session.inputs[0] if entry is None else described(session.inputs[0], entry.input)
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
    """Run ``count`` samples and compare with Keras; accuracy, agreement and RMSE are of those samples."""
    inputs, samples = run_inputs(folder, file, session, count)
    entry = artifacts.load_manifest(folder).files.get(file)
    tensor = session.outputs[0] if entry is None else described(session.outputs[0], entry.output)
    outputs = np.concatenate([to_real(session.run([array])[0], tensor).reshape(1, -1) for array in inputs])
    return compare_run_file(folder, file, samples, outputs, tensor)


def compare_run_file(folder: Path, file: str, samples: Samples, outputs: np.ndarray, tensor: TensorInfo) -> Check:
    """Compare what one of the files of an export folder made of the first samples with what Keras did.

    Args:
        folder: the export folder.
        file: name of the file.
        samples: of the folder.
        outputs: [images, classes or targets] real numbers, of the first samples.
        tensor: the output that they are of.
    """
    manifest = artifacts.load_manifest(folder)
    artifacts.check_task(folder, manifest, samples)
    count, lsb = len(outputs), tensor.scale or 0.0
    if manifest.task == "regression":
        expected = REGRESSION_EXPECTATIONS[file]
        reference = getattr(samples, expected.reference)[:count]
        check = compare_values(outputs, reference, expected, lsb)
        if check.parity.get("distance") is None:  # too far from being values to have an error
            return check
        errors = metrics.rmse(outputs, samples.labels[:count])
        return replace(check, rmse=metrics.by_target(errors, manifest.classes, manifest.target_std))
    expected = EXPECTATIONS[file]
    reference = getattr(samples, expected.reference)[:count]
    return compare(outputs, reference, samples.labels[:count], expected, tie=lsb)


def compare(
    logits: np.ndarray, reference: np.ndarray, labels: np.ndarray, expectation: Expectation, tie: float
) -> Check:
    """Compare logits with reference logits, both [images, classes].

    Args:
        logits: of the file.
        reference: of Keras.
        labels: [images] class indices.
        expectation: what they must match.
        tie: one LSB of quantized logits: classes that close count as equal.
    """
    parity = _asked(expectation, len(logits)) | {"min_agreement": expectation.min_agreement}
    problem = _useless_reference(reference, expectation) or _no_outputs(logits, reference)
    if problem:
        return Check(False, problem, parity)
    error = metrics.relative_error(logits, reference)
    agreement = metrics.agreement(logits, reference, tie)
    accuracy = metrics.top1(logits, labels)
    parity |= {"relative_error": error, "agreement": agreement}
    problem = _too_far(error, expectation, "logits", "logit")
    if not problem and expectation.min_agreement is not None and not agreement >= expectation.min_agreement:
        problem = (
            f"same class as {expectation.reference} on {agreement:.2%} of {len(logits)} images, "
            f"needed {expectation.min_agreement:.0%}"
        )
    return Check(not problem, problem, parity, accuracy, agreement)


def compare_values(outputs: np.ndarray, reference: np.ndarray, expectation: Expectation, lsb: float) -> Check:
    """Compare the values of a regression with reference values, both [images, targets].

    Args:
        outputs: of the file.
        reference: of Keras.
        expectation: what they must match.
        lsb: the step of quantized outputs, or 0.
    """
    parity = _asked(expectation, len(outputs)) | {"max_distance": expectation.max_distance}
    problem = _useless_values(reference, expectation, lsb) or _no_outputs(outputs, reference)
    if problem:
        return Check(False, problem, parity)
    error, distance = metrics.relative_error(outputs, reference), metrics.distance(outputs, reference)
    parity |= {"relative_error": error, "distance": distance}
    problem = _too_far(error, expectation, "values", "value")
    if not problem and expectation.max_distance is not None and not distance <= expectation.max_distance:
        problem = (
            f"values are {distance:.2g} of the spread of {expectation.reference} away from it, "
            f"allowed {expectation.max_distance:g}"
        )
    return Check(not problem, problem, parity)


def _asked(expectation: Expectation, images: int) -> dict[str, Any]:
    return {
        "checked": True,
        "images": images,
        "reference": expectation.reference,
        "max_relative_error": expectation.max_relative_error,
    }


def _no_outputs(outputs: np.ndarray, reference: np.ndarray) -> str:
    """Why outputs cannot even be compared with the reference, or ""."""
    if outputs.shape != reference.shape:
        return f"outputs have shape {list(outputs.shape[1:])}, the reference {list(reference.shape[1:])}"
    return "" if np.all(np.isfinite(outputs)) else "outputs are not finite"


def _too_far(error: float, expectation: Expectation, several: str, one: str) -> str:
    if expectation.max_relative_error is None or error <= expectation.max_relative_error:
        return ""
    return (
        f"{several} differ from {expectation.reference} by {error:.2g} of the largest {one}, "
        f"allowed {expectation.max_relative_error:g}"
    )


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


def _useless_values(reference: np.ndarray, expectation: Expectation, lsb: float) -> str:
    """Why reference values prove nothing, or "": each of them has to move by more than what rounding may hide."""
    name = expectation.reference
    if not np.all(np.isfinite(reference)):
        return f"the reference {name} is not finite"
    least = float(np.min(np.std(reference, axis=0)))
    if least == 0:
        return f"an output of the reference {name} is constant: it says the same of every image and proves nothing"
    if lsb > OF_SPREAD * least:
        return f"an output of the reference {name} spreads over {least / lsb:.2g} LSB: agreement with it proves nothing"
    return ""


def random_inputs(
    session: Session, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None, count: int = RANDOM_INPUTS
) -> list[list[np.ndarray]]:
    """``count`` sets of inputs: floats within [-1, 1], integers of 8 bits over their range, others 0 or 1.

    Plain noise is the same picture again and again to a network: each set has a brightness and contrast of its own in
    each channel (index of the smallest axis behind the first). Wide integers without a scale may be indices, where
    anything above 1 may be out of range.

    Raises:
        InputError: a dimension is free and ``shapes`` does not give it.
    """
    rng = np.random.default_rng(seed)
    whole = whole_shapes(session.inputs, shapes or {})
    return [
        [_random_array(rng, info, shape) for info, shape in zip(session.inputs, whole, strict=True)]
        for _ in range(count)
    ]


def whole_shapes(inputs: Sequence[TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shape of every input, free dimensions filled in; raises InputError that asks for what is missing."""
    whole = [shapes.get(info.name, info.shape) for info in inputs]
    free = [info for info, shape in zip(inputs, whole, strict=True) if any(size < 0 for size in shape)]
    if free:
        told = ", ".join(f"{info.name} {list(info.shape)}".replace("-1", "?") for info in free)
        wanted = " ".join(
            f"--shape {info.name}={','.join('N' if size < 0 else str(size) for size in info.shape)}" for info in free
        )
        raise InputError(f"free dimensions in {told}: say what to measure with {wanted}")
    return whole


def _random_array(rng: np.random.Generator, info: TensorInfo, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return _picture(rng, shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return np.rint(bounds.min + (_picture(rng, shape) + 1) / 2 * (bounds.max - bounds.min)).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _picture(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise within [-1, 1] between bounds of its own for each channel."""
    sizes = [1] * len(shape)
    if len(shape) > 2:
        channels = 1 + int(np.argmin(shape[1:]))
        sizes[channels] = shape[channels]
    bounds = np.sort(rng.uniform(-1, 1, (2, *sizes)), axis=0)
    return np.asarray(bounds[0] + (bounds[1] - bounds[0]) * rng.random(shape))


@dataclass(frozen=True)
class Reference:
    """Sets of inputs of a bare file with what its outputs should be.

    Attributes:
        inputs: [sets][inputs] arrays.
        outputs: [sets][outputs] arrays.
        maker: what computed the outputs.
        precision: of the file: a key of TOLERANCES.
        scales: of each output; None where it is not quantized, or the format does not say.
    """

    inputs: list[list[np.ndarray]]
    outputs: list[list[np.ndarray]]
    maker: str
    precision: str
    scales: tuple[float | None, ...]


def save_reference(path: Path, reference: Reference) -> None:
    """Write a reference as .npz: arrays ``input_{set}_{k}`` and ``output_{set}_{k}``, and ``about``, JSON as bytes."""
    about = {
        "maker": reference.maker,
        "precision": reference.precision,
        "scales": reference.scales,
        "sets": len(reference.outputs),
    }
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for kind, sets in (("input", reference.inputs), ("output", reference.outputs)):
        arrays |= {f"{kind}_{i}_{k}": array for i, one in enumerate(sets) for k, array in enumerate(one)}
    np.savez(path, allow_pickle=False, **arrays)


def load_reference(path: Path) -> Reference:
    """Read what ``save_reference`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        sets: dict[str, list[list[np.ndarray]]] = {}
        for kind in ("input", "output"):
            sets[kind] = [[] for _ in range(about["sets"])]
            for i, found in enumerate(sets[kind]):
                while (key := f"{kind}_{i}_{len(found)}") in file:
                    found.append(file[key])
    return Reference(sets["input"], sets["output"], about["maker"], about["precision"], tuple(about["scales"]))


def check_against(session: Session, reference: Reference) -> Check:
    """Run every set of a reference and compare."""
    outputs = [session.run(arrays) for arrays in reference.inputs]
    return compare_outputs(outputs, reference, str(session.placement().get("precision", "")))


def compare_outputs(outputs: Sequence[Sequence[np.ndarray]], reference: Reference, arithmetic: str = "") -> Check:
    """Compare outputs with those of a reference.

    Args:
        outputs: [sets][outputs] arrays, in the order of the reference's.
        reference: what they should be.
        arithmetic: precision that the runtime computes in, where that is less than the file's: ``"f16"``, ``"bf16"``.
    """
    half = reference.precision == "float32" and arithmetic in ("f16", "bf16")
    tolerance = TOLERANCES["float16" if half else reference.precision]
    parity: dict[str, Any] = {
        "checked": True,
        "inputs": len(outputs),
        "reference": reference.maker,
        "precision": "float16" if half else reference.precision,
        "tolerance": tolerance,
    }
    problem = _useless(reference.outputs)
    if problem:
        return _proves_nothing(problem, parity)
    worst, reasons = 0.0, []
    for k, scale in enumerate(reference.scales):
        want = [one[k] for one in reference.outputs]
        have = [one[k] if k < len(one) else np.empty(0) for one in outputs]
        wrong = next(((a, b) for a, b in zip(have, want, strict=True) if a.shape != b.shape), None)
        if wrong is not None:
            reasons.append(f"output {k} has shape {list(wrong[0].shape)}, the reference {list(wrong[1].shape)}")
            continue
        try:
            error, reason = _difference(have, want, scale, tolerance)
        except _TooAlike as alike:
            return _proves_nothing(f"output {k} {alike}", parity)
        worst = max(worst, error)
        reasons += [f"output {k} {reason}"] if reason else []
    reason = f"{reasons[0]} ({reference.maker})" if reasons else ""
    return Check(not reasons, reason, parity | {"relative_error": worst})


def _proves_nothing(problem: str, parity: dict[str, Any]) -> Check:
    reason = f"the reference proves nothing: {problem}; give real inputs with --inputs"
    return Check(False, reason, parity | {"proves_nothing": True})


class _TooAlike(Exception):
    """What is tolerated is as large as all that different inputs change."""


def _useless(outputs: Sequence[Sequence[np.ndarray]]) -> str:
    """Why reference outputs prove nothing, or ""."""
    if any(np.any(np.isnan(array)) for one in outputs for array in one):
        return "its outputs are no numbers (NaN)"
    if not any(np.any(np.isfinite(array)) for one in outputs for array in one):
        return "its outputs are not finite"
    if all(np.array_equal(array, first) for one in outputs[1:] for array, first in zip(one, outputs[0], strict=True)):
        return f"its outputs are the same for {len(outputs)} different inputs"
    return ""


def _difference(
    have: Sequence[np.ndarray], want: Sequence[np.ndarray], scale: float | None, tolerance: float
) -> tuple[float, str]:
    """The relative error of one output over all sets, and what is wrong, or ""; raises _TooAlike."""
    a, b = (np.concatenate([array.ravel() for array in one]) for one in (have, want))
    if not b.size:
        return 0.0, ""
    if (b.dtype.kind in "iu" and b.dtype.itemsize != 1 and scale is None) or b.dtype.kind == "b":
        equal = float(np.mean(a == b))
        return 1 - equal, "" if equal >= MIN_EQUAL else f"is the reference's on {equal:.0%} of its elements alone"
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite]) or not np.all(np.isfinite(a[finite])):
        return 0.0, "is not finite where the reference is, or the other way round"
    is_integer = b.dtype.kind in "iu"
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    if is_integer:  # a zero point moves all values alike
        x, y = x - np.min(y), y - np.min(y)
    largest = max(float(np.max(np.abs(y))), 1e-12)
    error = float(np.max(np.abs(x - y)))
    floor = TOLERATED_LSB * (1.0 if is_integer else scale or 0.0)
    spread = _spread(want)
    allowed = max(min(tolerance * largest, OF_SPREAD * spread), floor)
    if floor > OF_SPREAD * spread > 0:
        raise _TooAlike(f"changes by {spread / floor * TOLERATED_LSB:.2g} LSB between inputs")
    if error <= allowed:
        return error / largest, ""
    return (
        error / largest,
        f"differs from the reference by {error / largest:.2g} of its largest, allowed {allowed / largest:.2g}",
    )


def _spread(arrays: Sequence[np.ndarray]) -> float:
    """By how much any element differs between sets at most; without end where sets have different shapes."""
    if len({array.shape for array in arrays}) > 1:
        return math.inf
    stacked = np.stack(arrays).astype(np.float64)
    with np.errstate(invalid="ignore"):
        ranges = np.max(stacked, axis=0) - np.min(stacked, axis=0)
    known = ranges[np.isfinite(ranges)]
    return float(np.max(known)) if known.size else math.inf


def check_bare_file(session: Session, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Check:
    """Whether outputs are finite and differ between random inputs: all that can be said without a reference."""
    outputs: list[Sequence[np.ndarray]] = [session.run(arrays) for arrays in random_inputs(session, seed, shapes)]
    parity = {"checked": False, "inputs": len(outputs), "reason": "no CPU reference could be made"}
    problem = _useless(outputs)
    return Check(not problem, problem, parity)
