"""What attention does to an image, in float and in int8: ``edgecbam explain``.

Both files of RUN/export run with their gates as outputs, in LiteRT, with the kernels that an app would have. A gate of
int8 has steps of 1/256; how far quantization moved a gate is told in these, and as the cosine between the two.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import artifacts, metrics, preprocessing, runtimes
from edgecbam.artifacts import Manifest
from edgecbam.errors import InputError

from . import gates
from .gates import Gate

FILES = {"float": "model_fp32.tflite", "int8": "model_int8.tflite"}
STEP = 1 / 256


@dataclass(frozen=True)
class Seen:
    """A gate on one image: [h, w] of a spatial gate, [c] of a channel gate, float32 in 0…1."""

    gate: Gate
    float_values: np.ndarray
    int8_values: np.ndarray

    @property
    def cosine(self) -> float:
        """Of the angle between the two; 1 where they are the same up to a factor."""
        a, b = self.float_values.ravel().astype(np.float64), self.int8_values.ravel().astype(np.float64)
        length = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b / length) if length else float(not (a.any() or b.any()))

    @property
    def worst_steps(self) -> float:
        """The largest difference in steps of the int8 gate."""
        return float(np.abs(self.float_values.astype(np.float64) - self.int8_values).max() / STEP)


@dataclass(frozen=True)
class Explanation:
    """One image: its pixels [h, w, channels] as the network saw them, outputs [k] of both files, and their gates."""

    image: Path
    pixels: np.ndarray
    outputs: dict[str, np.ndarray]
    seen: tuple[Seen, ...]


def explain(export: Path, images: Sequence[Path]) -> list[Explanation]:
    """Run images through both files.

    Args:
        export: RUN/export.
        images: image files.

    Raises:
        InputError: an image cannot be read, or the network has no attention.
    """
    manifest = artifacts.load_manifest(export)
    pixels = [preprocessing.load_image(image, manifest.preprocessing) for image in images]
    inputs = preprocessing.normalize(np.stack(pixels), manifest.preprocessing)
    answers, found = {}, {}
    for kind, name in FILES.items():
        if name not in manifest.files:
            raise InputError(f"{export / artifacts.MANIFEST_FILE} does not list {name}: run `edgecbam export` again")
        answers[kind], found[kind] = _run(export / name, manifest, inputs)
    if not found["float"]:
        raise InputError(f"{export.parent} has a network without attention: there are no gates to explain")
    if found["float"] != found["int8"]:
        raise InputError(f"{export}: {' and '.join(FILES.values())} have different gates: export the run again")
    return [
        Explanation(
            image,
            pixels[index],
            {kind: answers[kind][0][index] for kind in FILES},
            tuple(
                Seen(gate, *(np.squeeze(answers[kind][1 + place][index]) for kind in FILES))
                for place, gate in enumerate(found["float"])
            ),
        )
        for index, image in enumerate(images)
    ]


def _run(path: Path, manifest: Manifest, inputs: np.ndarray) -> tuple[list[np.ndarray], tuple[Gate, ...]]:
    """Real outputs of a file, gates included, stacked over the inputs."""
    content, found = gates.expose(path.read_bytes(), str(path))
    with tempfile.TemporaryDirectory() as folder:
        exposed = Path(folder) / path.name
        exposed.write_bytes(content)
        session = runtimes.find("litert").open(exposed, threads=1)
        try:
            source = runtimes.described(session.inputs[0], manifest.files[path.name].input)
            answers = [session.run([runtimes.to_input(one[None], source)]) for one in inputs]
            ends = session.outputs
        finally:
            session.close()
    real = [
        np.concatenate([runtimes.to_real(answer[place], ends[place]) for answer in answers])
        for place in range(len(ends))
    ]
    manifest.check_outputs(real[0], path)
    for gate, values in zip(found, real[1:], strict=True):
        if not np.isfinite(values).all():
            raise InputError(f"{path}: the {gate.kind} gate of {gate.block} has values that are no numbers")
    return real, found


def summary(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """For each gate over all images: ``block``, ``kind``, smallest ``cosine``, largest ``worst_steps``, ``mean``."""
    rows = []
    for place, first in enumerate(explanations[0].seen):
        seen = [one.seen[place] for one in explanations]
        rows.append(
            {
                "block": first.gate.block,
                "kind": first.gate.kind,
                "cosine": min(one.cosine for one in seen),
                "worst_steps": max(one.worst_steps for one in seen),
                "mean": float(np.mean([one.float_values.mean() for one in seen])),
            }
        )
    return rows


def told(explanation: Explanation, manifest: Manifest) -> dict[str, str]:
    """What each file says of the image: its class with the probability, or its values."""
    if manifest.task == "regression":
        return {
            kind: ", ".join(
                f"{name} {value:.4g}" for name, value in zip(manifest.classes, manifest.real(one[None])[0], strict=True)
            )
            for kind, one in explanation.outputs.items()
        }
    said = {}
    for kind, logits in explanation.outputs.items():
        probabilities = metrics.softmax(logits[None])[0]
        said[kind] = f"{manifest.classes[int(logits.argmax())]} {100 * probabilities.max():.1f} %"
    return said
