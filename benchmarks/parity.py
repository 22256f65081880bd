"""Is the output right? Asked in every process before its times count, because a wrong answer can be very fast.

Files of a run folder are checked against what Keras said of the held-out samples. A bare model file comes without
references: it is run once in the plainest way there is on the CPU (references.py), and every cell is checked against
that. Where that way is closed too, only that its outputs are finite and depend on the input can be checked, and the
report says so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
MIN_EQUAL = 0.9  # of the elements of outputs that are no quantities, such as indices


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
    "model.keras": Expectation("keras_float", max_relative_error=1e-3),
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
    """Run ``count`` samples and compare with Keras; accuracy and agreement are of those samples."""
    inputs, samples = run_inputs(folder, file, session, count)
    entry = artifacts.load_manifest(folder).files.get(file)
    tensor = session.outputs[0] if entry is None else described(session.outputs[0], entry.output)
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


def random_inputs(
    session: Session, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None, count: int = RANDOM_INPUTS
) -> list[list[np.ndarray]]:
    """``count`` sets of inputs: floats uniform in [-1, 1], quantized integers over their range, others 0 or 1.

    Wide integers without a scale may be indices, where anything above 1 may be out of range.

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
    free = [info for info, shape in zip(inputs, whole, strict=True) if any(size < 1 for size in shape)]
    if free:
        told = ", ".join(f"{info.name} {list(info.shape)}".replace("-1", "?") for info in free)
        wanted = " ".join(
            f"--shape {info.name}={','.join('N' if size < 1 else str(size) for size in info.shape)}" for info in free
        )
        raise InputError(f"free dimensions in {told}: say what to measure with {wanted}")
    return whole


def _random_array(rng: np.random.Generator, info: TensorInfo, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)


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
    about = {"maker": reference.maker, "precision": reference.precision, "scales": reference.scales}
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for kind, sets in (("input", reference.inputs), ("output", reference.outputs)):
        arrays |= {f"{kind}_{i}_{k}": array for i, one in enumerate(sets) for k, array in enumerate(one)}
    np.savez(path, allow_pickle=False, **arrays)


def load_reference(path: Path) -> Reference:
    """Read what ``save_reference`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        sets: dict[str, list[list[np.ndarray]]] = {"input": [], "output": []}
        for kind, found in sets.items():
            while f"{kind}_{len(found)}_0" in file:
                found.append([])
                while (key := f"{kind}_{len(found) - 1}_{len(found[-1])}") in file:
                    found[-1].append(file[key])
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
        return Check(False, f"the reference proves nothing: {problem}; give real inputs with --inputs", parity)
    worst, reasons = 0.0, []
    for k, scale in enumerate(reference.scales):
        want = [one[k] for one in reference.outputs]
        have = [one[k] if k < len(one) else np.empty(0) for one in outputs]
        if [array.shape for array in have] != [array.shape for array in want]:
            reasons.append(f"output {k} has shape {list(have[0].shape)}, the reference {list(want[0].shape)}")
            continue
        error, reason = _difference(np.stack(have), np.stack(want), scale, tolerance)
        worst = max(worst, error)
        reasons += [f"output {k} {reason}"] if reason else []
    reason = f"{reasons[0]} ({reference.maker})" if reasons else ""
    return Check(not reasons, reason, parity | {"relative_error": worst})


def _useless(outputs: Sequence[Sequence[np.ndarray]]) -> str:
    """Why reference outputs prove nothing, or ""."""
    if not all(np.all(np.isfinite(array)) for one in outputs for array in one):
        return "its outputs are not finite"
    if len(outputs) > 1 and all(
        np.array_equal(array, first) for one in outputs[1:] for array, first in zip(one, outputs[0], strict=True)
    ):
        return f"its outputs are the same for {len(outputs)} different inputs"
    return ""


def _difference(have: np.ndarray, want: np.ndarray, scale: float | None, tolerance: float) -> tuple[float, str]:
    """The relative error of one output over all sets, and what is wrong, or ""."""
    if not np.all(np.isfinite(have)):
        return 0.0, "is not finite"
    if (want.dtype.kind in "iub" and want.dtype.itemsize != 1 and scale is None) or want.dtype.kind == "b":
        equal = float(np.mean(have == want))
        return 1 - equal, "" if equal >= MIN_EQUAL else f"is the reference's on {equal:.0%} of its elements alone"
    is_integer = want.dtype.kind in "iu"
    a, b = have.astype(np.float64), want.astype(np.float64)
    if is_integer:  # a zero point moves all values alike
        low = float(np.min(b))
        a, b = a - low, b - low
    largest = max(float(np.max(np.abs(b))), 1e-12)
    error = float(np.max(np.abs(a - b)))
    lsb = 1.0 if is_integer else scale or 0.0
    if error <= max(tolerance * largest, TOLERATED_LSB * lsb):
        return error / largest, ""
    return error / largest, f"differs from the reference by {error / largest:.2g} of its largest, allowed {tolerance:g}"


def check_bare_file(session: Session, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Check:
    """Whether outputs are finite and differ between random inputs: all that can be said without a reference."""
    outputs: list[Sequence[np.ndarray]] = [session.run(arrays) for arrays in random_inputs(session, seed, shapes)]
    parity = {"checked": False, "inputs": len(outputs), "reason": "no CPU reference could be made"}
    problem = _useless(outputs)
    return Check(not problem, problem, parity)
