"""The gates: proof that the exported files compute what was trained, from the export folder alone, without TensorFlow.

Every comparison is on logits of the held-out images in samples.npz. Integers are compared in LSB, the step of the
quantized output. Where a threshold is a share of the images, one image is always allowed, so that a test set of forty
images is not failed by a single tie.
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
    """All gates, and top-1 on the samples by file name."""

    gates: tuple[Gate, ...]
    images: int
    accuracy: dict[str, float]

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
        """The value of verify.json."""
        return {
            "schema_version": 1,
            "passed": self.passed,
            "images": self.images,
            "accuracy": self.accuracy,
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
        self._outputs: dict[str, np.ndarray] = {}
        self.partitions: dict[str, int] = {}
        self.outside: dict[str, list[str]] = {}

    @cached_property
    def inputs(self) -> np.ndarray:
        """Model inputs of the samples, float32 [n, h, w, c]."""
        return normalize(self.samples.images, self.manifest.preprocessing)

    def raw(self, name: str) -> np.ndarray:
        """Outputs of a file as its runtime gives them: [n, classes], integer for integer models."""
        if name not in self._outputs:
            self._outputs[name] = self._run(name)
        return self._outputs[name]

    def logits(self, name: str) -> np.ndarray:
        """Outputs of a file as real numbers: [n, classes] float32."""
        return runtimes.to_real(self.raw(name), self.manifest.files[name].output)

    def lsb(self) -> float:
        """The step of the int8 model's logits."""
        scale = self.manifest.files["model_int8.tflite"].output.scale
        if not scale:
            raise InputError(f"{self.folder}: the manifest gives no scale for model_int8.tflite: export it again")
        return scale

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
    gates = [digests(evidence)]
    for gate in GATES:
        try:
            gates.append(gate(evidence))
        except EdgeCbamError as error:
            if not isinstance(error, runtimes.CannotRun):
                raise
            name = gate.__name__
            gates.append(Gate(name, False, None, None, "the file runs at all", str(error)))
    accuracy = {
        name: metrics.top1(evidence.raw(name), evidence.samples.labels)
        for name in evidence.manifest.files
        if name in evidence._outputs or _runs(evidence, name)
    }
    accuracy["keras_float"] = metrics.top1(evidence.samples.keras_float, evidence.samples.labels)
    accuracy["keras_qat"] = metrics.top1(evidence.samples.keras_qat, evidence.samples.labels)
    return Verification(tuple(gates), len(evidence.samples.images), accuracy)


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


def reference_speaks(evidence: Evidence) -> Gate:
    """The Keras references are finite, differ from image to image and choose more than one class."""
    meaning = "classes that the references choose among; at least 2"
    chosen = []
    for name in ("keras_float", "keras_qat"):
        logits = getattr(evidence.samples, name)
        if not np.isfinite(logits).all():
            return Gate("reference_speaks", False, 0, 2, meaning, f"{name} holds NaN or infinity")
        if float(np.ptp(logits, axis=0).max()) == 0.0:
            return Gate("reference_speaks", False, 1, 2, meaning, f"{name} is the same for every image: train longer")
        chosen.append(len(np.unique(np.argmax(logits, axis=1))))
    detail = "" if min(chosen) >= 2 else "the model chooses one class for every image: train longer"
    return Gate("reference_speaks", min(chosen) >= 2, min(chosen), 2, meaning, detail)


def not_saturated(evidence: Evidence) -> Gate:
    """The int8 logits do not stick at the ends of their range."""
    raw = evidence.raw("model_int8.tflite")
    bounds = np.iinfo(raw.dtype) if raw.dtype.kind in "iu" else None
    value = 1.0 if bounds is None else float(np.mean((raw == bounds.min) | (raw == bounds.max)))
    limit = evidence.config.max_saturated
    return Gate("not_saturated", value <= limit, value, limit, "share of int8 logits at -128 or 127", "")


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
    errors = {
        name: metrics.relative_error(evidence.logits(name), evidence.samples.keras_float)
        for name in ("model_fp32.tflite", "model_fp32.onnx")
    }
    worst = max(errors, key=lambda name: errors[name])
    limit = evidence.config.max_float_error
    meaning = "largest error of a float32 logit relative to the largest reference logit"
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
    meaning = "largest difference of a logit between model_int8.onnx and model_int8.tflite in LSB"
    detail = f"{int(np.sum(errors == 0))} of {errors.size} logits are equal"
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
