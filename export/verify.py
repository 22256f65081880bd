"""The gates: proof that the exported files compute what was trained, from the export folder alone, without TensorFlow.

Every comparison is on logits of the held-out images in samples.npz. Integers are compared in LSB, the step of the
quantized output. Where a threshold is a share of the images, one image is always allowed, so that a test set of forty
images is not failed by a single tie.

In regression there is no class to agree on: the values themselves are compared, in LSB of model_int8.tflite for want of
a unit that fits all targets, and what int8 costs is the RMSE that it adds.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgecbam import artifacts, metrics, runtimes
from edgecbam.artifacts import Manifest, Samples
from edgecbam.errors import EdgeCbamError, GateFailed, InputError
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.preprocessing import normalize
from edgecbam.recipe import VerifyConfig

from . import tflite_file

# Regression: LSB of model_int8.tflite within which two values count as equal. Keras computes in float what LiteRT
# rounds to integers layer by layer; two steps are less than one percent of the range of an output.
CLOSE_LSB = 2
# An output that moves by less from image to image could be anything within the LSB that are let pass.
MIN_RANGE_LSB = 8


@dataclass(frozen=True)
class Gate:
    """One proof: what was asked, what was found. ``value`` and ``threshold`` have the unit that ``meaning`` names."""

    name: str
    passed: bool
    value: float | int | str | None
    threshold: float | int | str | None
    meaning: str
    detail: str


@dataclass(frozen=True)
class Verification:
    """All gates, and how right each file is on the samples.

    Attributes:
        gates: in the order in which they were tried.
        images: number of samples.
        accuracy: top-1 by file name; empty in regression.
        rmse: regression: by file name and target, in the target's own unit; else empty.
        mae: as rmse, the mean absolute error.
        int8_outputs: [n, classes or targets] int8 of model_int8.tflite; None where it does not run.
    """

    gates: tuple[Gate, ...]
    images: int
    accuracy: dict[str, float]
    rmse: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    mae: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    int8_outputs: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def passed(self) -> bool:
        """Whether there are gates and every one holds."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    def failed(self) -> tuple[str, ...]:
        """Names of the gates that do not hold."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    def failure(self) -> str:
        """The failed gates with their figures, on one line."""
        found = [
            f"{g.name} ({g.meaning}: {g.value}, threshold {g.threshold}{'; ' if g.detail else ''}{g.detail})"
            for g in self.gates
            if not g.passed
        ]
        return f"verification failed at {'; '.join(found)}"

    def to_json(self) -> dict[str, object]:
        """The value of verify.json; ``accuracy`` or ``rmse`` and ``mae``, as the task is."""
        errors = {"rmse": self.rmse, "mae": self.mae} if self.rmse else {"accuracy": self.accuracy}
        return {
            "schema_version": 1,
            "passed": self.passed,
            "images": self.images,
            **errors,
            "gates": [dataclasses.asdict(gate) for gate in self.gates],
        }


class Evidence:
    """An export folder with the outputs of its files on the samples, each computed once and when needed."""

    def __init__(self, folder: Path, config: VerifyConfig, on_event: OnEvent = ignore) -> None:
        self.folder = folder
        self.config = config
        self.on_event = on_event
        self.manifest: Manifest = artifacts.load_manifest(folder)
        self.samples: Samples = artifacts.load_samples(folder)
        artifacts.check_task(folder, self.manifest, self.samples)
        self._outputs: dict[str, np.ndarray] = {}
        self.partitions: dict[str, int] = {}
        self.outside: dict[str, list[str]] = {}

    @cached_property
    def inputs(self) -> np.ndarray:
        """Model inputs of the samples, float32 [n, h, w, c]."""
        return normalize(self.samples.images, self.manifest.preprocessing)

    def raw(self, name: str) -> np.ndarray:
        """Outputs of a file as its runtime gives them: [n, classes or targets], integer for integer models."""
        if name not in self._outputs:
            self._outputs[name] = self._run(name)
        return self._outputs[name]

    def logits(self, name: str) -> np.ndarray:
        """Outputs of a file as real numbers: [n, classes or targets] float32."""
        return runtimes.to_real(self.raw(name), self.manifest.files[name].output)

    def lsb(self) -> float:
        """The step of the int8 model's outputs."""
        scale = self.manifest.files["model_int8.tflite"].output.scale
        if not scale:
            raise InputError(f"{self.folder}: the manifest gives no scale for model_int8.tflite: export it again")
        return scale

    def by_target(self, errors: np.ndarray) -> dict[str, float]:
        """Regression: errors [k] of outputs by target, in the targets' own units."""
        return metrics.by_target(errors, self.manifest.classes, self.manifest.target_std)

    def _run(self, name: str) -> np.ndarray:
        if name not in self.manifest.files:
            raise InputError(f"{self.folder / artifacts.MANIFEST_FILE} does not list {name}: export it again")
        runtime = "litert" if name.endswith(".tflite") else "onnxruntime"
        session = runtimes.find(runtime).open(self.folder / name, threads=1)
        try:
            outputs = []
            source = runtimes.described(session.inputs[0], self.manifest.files[name].input)
            for index in range(len(self.inputs)):
                tensor = runtimes.to_input(self.inputs[index : index + 1], source)
                outputs.append(session.run([tensor])[0])
                if index % 200 == 199 or index + 1 == len(self.inputs):
                    done = Event("verify", step=index + 1, total=len(self.inputs), unit="image", message="")
                    self.on_event(done)
            if runtime == "litert":
                placement = session.placement()
                self.partitions[name] = placement["xnnpack_partitions"]
                self.outside[name] = placement["ops_outside"]
        finally:
            session.close()
        self.on_event(Event("verify", message=f"{name}: {len(outputs)} images through {runtime}"))
        return np.concatenate(outputs)


def check(folder: Path, config: VerifyConfig, on_event: OnEvent = ignore) -> Verification:
    """Run every gate on an export folder.

    Args:
        folder: ``RUN/export``; its files must be those that the manifest names.
        config: thresholds.
        on_event: listener.

    Returns:
        The gates, passed or not.

    Raises:
        GateFailed: a file is missing or was altered; altered files are not run.
        InputError: manifest or samples cannot be read.
        MissingPackage: ai-edge-litert or onnxruntime is not installed.
    """
    evidence = Evidence(folder, config, on_event)
    regression = evidence.manifest.task == "regression"
    gates = [digests(evidence)]
    for gate in REGRESSION_GATES if regression else GATES:
        try:
            gates.append(gate(evidence))
        except EdgeCbamError as error:
            if not isinstance(error, runtimes.CannotRun):
                raise
            name = gate.__name__
            gates.append(Gate(name, False, None, None, "the file runs at all", str(error)))
    outputs = {
        name: evidence.logits(name) if regression else evidence.raw(name)
        for name in evidence.manifest.files
        if name in evidence._outputs or _runs(evidence, name)
    }
    outputs |= {name: getattr(evidence.samples, name) for name in REFERENCES}
    labels, count = evidence.samples.labels, len(evidence.samples.images)
    int8 = evidence._outputs.get("model_int8.tflite")
    if not regression:
        accuracy = {name: metrics.top1(one, labels) for name, one in outputs.items()}
        return Verification(tuple(gates), count, accuracy, int8_outputs=int8)
    finite = {name: one for name, one in outputs.items() if np.isfinite(one).all()}
    return Verification(
        tuple(gates),
        count,
        {},
        {name: evidence.by_target(metrics.rmse(one, labels)) for name, one in finite.items()},
        {name: evidence.by_target(metrics.mae(one, labels)) for name, one in finite.items()},
        int8,
    )


def _runs(evidence: Evidence, name: str) -> bool:
    """Whether a file that no gate has needed runs here; one that does not has no accuracy."""
    try:
        evidence.raw(name)
    except runtimes.CannotRun:
        return False
    return True


def digests(evidence: Evidence) -> Gate:
    """Every model file is the one that the manifest describes; raises GateFailed naming the first that is not."""
    for name, entry in evidence.manifest.files.items():
        path = evidence.folder / name
        if not path.is_file():
            raise GateFailed(f"{path} is missing: run `edgecbam export` again")
        if artifacts.sha256_file(path) != entry.sha256:
            raise GateFailed(f"{path} was altered after it was exported: run `edgecbam export` again")
    count = len(evidence.manifest.files)
    return Gate("digests", True, count, count, "files whose sha256 is the manifest's", "")


REFERENCES = ("keras_float", "keras_qat")


def reference_speaks(evidence: Evidence) -> Gate:
    """The Keras references are finite, differ from image to image and choose more than one class."""
    meaning = "classes that the references choose among; at least 2"
    chosen = []
    for name in REFERENCES:
        logits = getattr(evidence.samples, name)
        if not np.isfinite(logits).all():
            return Gate("reference_speaks", False, 0, 2, meaning, f"{name} holds NaN or infinity")
        if float(np.ptp(logits, axis=0).max()) == 0.0:
            return Gate("reference_speaks", False, 1, 2, meaning, f"{name} is the same for every image: train longer")
        chosen.append(len(np.unique(np.argmax(logits, axis=1))))
    detail = "" if min(chosen) >= 2 else "the model chooses one class for every image: train longer"
    return Gate("reference_speaks", min(chosen) >= 2, min(chosen), 2, meaning, detail)


def reference_varies(evidence: Evidence) -> Gate:
    """Regression: every output of the Keras references is finite and moves from image to image."""
    meaning = "LSB by which an output of the references moves over all images, at least"
    worst, detail = math.inf, ""
    for name in REFERENCES:
        values = getattr(evidence.samples, name)
        if not np.isfinite(values).all():
            return Gate("reference_varies", False, 0.0, MIN_RANGE_LSB, meaning, f"{name} holds NaN or infinity")
        moves = np.ptp(values, axis=0) / evidence.lsb()
        if moves.min() < worst:
            worst, detail = float(moves.min()), f"{evidence.manifest.classes[int(moves.argmin())]} of {name}"
    passed = worst >= MIN_RANGE_LSB
    hint = "" if passed else ", which hardly depends on the image: train longer, or leave this target out"
    return Gate("reference_varies", passed, worst, MIN_RANGE_LSB, meaning, detail + hint)


def not_saturated(evidence: Evidence) -> Gate:
    """The int8 outputs do not stick at the ends of their range."""
    raw = evidence.raw("model_int8.tflite")
    bounds = np.iinfo(raw.dtype) if raw.dtype.kind in "iu" else None
    value = 1.0 if bounds is None else float(np.mean((raw == bounds.min) | (raw == bounds.max)))
    limit = evidence.config.max_saturated
    return Gate("not_saturated", value <= limit, value, limit, "share of int8 outputs at -128 or 127", "")


def int8_only(evidence: Evidence) -> Gate:
    """model_int8.tflite and model_uint8.tflite hold no float tensor."""
    found = []
    for name in ("model_int8.tflite", "model_uint8.tflite"):
        contents = tflite_file.read((evidence.folder / name).read_bytes(), name)
        found += [f"{name}: {tensor}" for tensor in contents.float_tensors()]
    return Gate("int8_only", not found, len(found), 0, "float tensors in the integer files", "; ".join(found[:3]))


def partitions(evidence: Evidence) -> Gate:
    """LiteRT runs model_int8.tflite in the expected number of XNNPACK partitions, with no op left outside."""
    evidence.raw("model_int8.tflite")
    value, outside = evidence.partitions["model_int8.tflite"], evidence.outside["model_int8.tflite"]
    expected = evidence.config.partitions
    passed = expected == 0 or (value == expected and not outside)
    meaning = "XNNPACK partitions of model_int8.tflite" + (" (0: any number)" if expected == 0 else "")
    return Gate("partitions", passed, value, expected, meaning, f"outside: {', '.join(outside)}" if outside else "")


def float_parity(evidence: Evidence) -> Gate:
    """The float32 files agree with Keras."""
    errors, limit = {}, evidence.config.max_float_error
    meaning = "largest error of a float32 output relative to the largest reference output"
    for name in ("model_fp32.tflite", "model_fp32.onnx"):
        errors[name] = metrics.relative_error(evidence.logits(name), evidence.samples.keras_float)
        if not math.isfinite(errors[name]):
            return Gate("float_parity", False, None, limit, meaning, f"{name} gives NaN or infinity")
    worst = max(errors, key=lambda name: errors[name])
    return Gate("float_parity", errors[worst] <= limit, errors[worst], limit, meaning, worst)


def fp16_agreement(evidence: Evidence) -> Gate:
    """model_fp16.tflite chooses the classes that float Keras chooses."""
    return _agreement(
        "fp16_agreement",
        evidence.logits("model_fp16.tflite"),
        evidence.samples.keras_float,
        0.0,
        evidence.config.min_fp16_agreement,
        "images on which model_fp16.tflite and float Keras choose the same class",
    )


def qat_agreement(evidence: Evidence) -> Gate:
    """model_int8.tflite chooses the classes that the quantization-aware Keras model chooses."""
    return _agreement(
        "qat_agreement",
        evidence.logits("model_int8.tflite"),
        evidence.samples.keras_qat,
        evidence.lsb(),
        evidence.config.min_qat_agreement,
        "images on which model_int8.tflite and Keras QAT choose the same class (within 1 LSB counts as equal)",
    )


def fp16_closeness(evidence: Evidence) -> Gate:
    """Regression: model_fp16.tflite gives the values that float Keras gives."""
    return _closeness(
        evidence,
        "fp16_closeness",
        evidence.logits("model_fp16.tflite"),
        evidence.samples.keras_float,
        evidence.config.min_fp16_agreement,
        f"images on which model_fp16.tflite is within {CLOSE_LSB} LSB of model_int8.tflite from float Keras",
    )


def qat_closeness(evidence: Evidence) -> Gate:
    """Regression: model_int8.tflite gives the values that the quantization-aware Keras model gives."""
    return _closeness(
        evidence,
        "qat_closeness",
        evidence.logits("model_int8.tflite"),
        evidence.samples.keras_qat,
        evidence.config.min_qat_agreement,
        f"images on which model_int8.tflite is within {CLOSE_LSB} LSB of Keras QAT",
    )


def _closeness(
    evidence: Evidence,
    name: str,
    candidate: np.ndarray,
    reference: np.ndarray,
    threshold: float,
    meaning: str,
) -> Gate:
    """On how many images all values are within CLOSE_LSB of the reference."""
    count, step = len(reference), evidence.lsb()
    for whose, values in (("the file", candidate), ("Keras", reference)):
        if not np.isfinite(values).all():
            return Gate(name, False, None, threshold, meaning, f"{whose} gives NaN or infinity")
    errors = np.abs(candidate.astype(np.float64) - reference.astype(np.float64)).max(axis=1) / step
    differing = int(np.sum(errors > CLOSE_LSB * (1 + 1e-6)))
    allowed = _allowed(1 - threshold, count)
    largest = float(errors.max())
    detail = (
        f"{differing} of {count} differ by more, {allowed} allowed; at most {largest:.2g} LSB, "
        f"{largest / 255:.2%} of the range of an int8 output"
    )
    return Gate(name, differing <= allowed, 1 - differing / count, threshold, meaning, detail)


def _agreement(
    name: str, candidate: np.ndarray, reference: np.ndarray, tie: float, threshold: float, meaning: str
) -> Gate:
    count = len(reference)
    value = metrics.agreement(candidate, reference, tie)
    strict = metrics.agreement(candidate, reference)
    differing, allowed = round((1 - value) * count), _allowed(1 - threshold, count)
    detail = f"{differing} of {count} differ, {allowed} allowed; {strict:.2%} without the tie rule"
    return Gate(name, differing <= allowed, value, threshold, meaning, detail)


def _allowed(share: float, count: int) -> int:
    """How many images a share is, at least one."""
    return max(1, math.floor(share * count + 1e-9))


def uint8_equals_int8(evidence: Evidence) -> Gate:
    """model_uint8.tflite gives the integers of model_int8.tflite, moved by 128."""
    signed = evidence.raw("model_int8.tflite").astype(np.int16)
    unsigned = evidence.raw("model_uint8.tflite").astype(np.int16)
    value = int(np.abs(unsigned - 128 - signed).max())
    return Gate("uint8_equals_int8", value == 0, value, 0, "largest difference in LSB after moving by 128", "")


def onnx_parity(evidence: Evidence) -> Gate:
    """model_int8.onnx gives the integers of model_int8.tflite."""
    scale = evidence.lsb()
    zero_point = evidence.manifest.files["model_int8.tflite"].output.zero_point or 0
    real = evidence.logits("model_int8.onnx").astype(np.float64)
    finite = np.nan_to_num(real / scale, nan=1e6, posinf=1e6, neginf=-1e6)
    errors = metrics.lsb_error(
        np.rint(finite).astype(np.int64) + zero_point, evidence.raw("model_int8.tflite").astype(np.int64)
    )
    value, limit = int(errors.max()), evidence.config.max_onnx_lsb
    meaning = "largest difference of an output between model_int8.onnx and model_int8.tflite in LSB"
    detail = f"{int(np.sum(errors == 0))} of {errors.size} outputs are equal"
    return Gate("onnx_parity", value <= limit, value, limit, meaning, detail)


def onnx_agreement(evidence: Evidence) -> Gate:
    """model_int8.onnx chooses the classes that model_int8.tflite chooses."""
    return _agreement(
        "onnx_agreement",
        evidence.logits("model_int8.onnx"),
        evidence.logits("model_int8.tflite"),
        evidence.lsb(),
        evidence.config.min_onnx_agreement,
        "images on which model_int8.onnx and model_int8.tflite choose the same class (within 1 LSB counts as equal)",
    )


def accuracy_drop(evidence: Evidence) -> Gate:
    """int8 keeps the accuracy of the float model."""
    labels = evidence.samples.labels
    float_correct = int(np.sum(np.argmax(evidence.samples.keras_float, axis=1) == labels))
    int8_correct = int(np.sum(np.argmax(evidence.raw("model_int8.tflite"), axis=1) == labels))
    lost, allowed = float_correct - int8_correct, _allowed(evidence.config.max_accuracy_drop, len(labels))
    detail = f"top-1 {float_correct / len(labels):.2%} float, {int8_correct / len(labels):.2%} int8, n {len(labels)}"
    value, limit = lost / len(labels), evidence.config.max_accuracy_drop
    return Gate("accuracy_drop", lost <= allowed, value, limit, "float top-1 minus int8 top-1", detail)


def rmse_increase(evidence: Evidence) -> Gate:
    """Regression: int8 keeps the RMSE of the float model, target by target.

    What rounding the output to one of 256 steps adds by itself, LSB / sqrt(12), no file with an 8-bit output can avoid;
    it is counted as the float model's, so that a network whose errors are smaller than a step can pass.
    """
    labels = evidence.samples.labels
    floats = metrics.rmse(evidence.samples.keras_float, labels)
    integers = metrics.rmse(evidence.logits("model_int8.tflite"), labels)
    rounding = evidence.lsb() / math.sqrt(12)
    increases = integers / np.sqrt(floats**2 + rounding**2) - 1
    worst, limit = int(np.argmax(increases)), evidence.config.max_rmse_increase
    name = evidence.manifest.classes[worst]
    before, after = evidence.by_target(floats)[name], evidence.by_target(integers)[name]
    step = evidence.by_target(np.full_like(floats, rounding))[name]
    detail = f"{name}: RMSE {before:.4g} float, {after:.4g} int8, rounding alone {step:.2g}; n {len(labels)}"
    meaning = "largest relative increase of a target's RMSE from float to int8"
    value = float(increases[worst])
    return Gate("rmse_increase", value <= limit, value if math.isfinite(value) else None, limit, meaning, detail)


GATES: tuple[Callable[[Evidence], Gate], ...] = (
    reference_speaks,
    not_saturated,
    int8_only,
    partitions,
    float_parity,
    fp16_agreement,
    qat_agreement,
    uint8_equals_int8,
    onnx_parity,
    onnx_agreement,
    accuracy_drop,
)
REGRESSION_GATES: tuple[Callable[[Evidence], Gate], ...] = (
    reference_varies,
    not_saturated,
    int8_only,
    partitions,
    float_parity,
    fp16_closeness,
    qat_closeness,
    uint8_equals_int8,
    onnx_parity,
    rmse_increase,
)
