"""Scores that MediaPipe gives, in its own environment, and those that LiteRT gives to the same pixels."""

import json
import subprocess
from pathlib import Path

import numpy as np

from edgecbam import runtimes
from edgecbam.export import metadata

PYTHON = Path(__file__).parents[2] / "build" / "mediapipe-env" / "bin" / "python"
READER = Path(__file__).with_name("mediapipe_reader.py")


def reader(*words: object) -> subprocess.CompletedProcess[str]:
    assert PYTHON.exists(), "run `make test-mediapipe` first"
    return subprocess.run(
        [str(PYTHON), str(READER), *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )


def theirs(model: Path, rgb: np.ndarray, labels: tuple[str, ...], folder: Path) -> np.ndarray:
    """Scores [n, classes] that MediaPipe gives to images [n, h, w, 3] uint8."""
    np.savez(folder / "images.npz", rgb=rgb)
    done = reader("classify", model, folder / "images.npz", folder / "scores.json")
    assert done.returncode == 0, done.stderr[-2000:]
    return table(folder / "scores.json", labels)


def table(path: Path, labels: tuple[str, ...]) -> np.ndarray:
    found = json.loads(path.read_text("utf-8"))
    assert all(set(one) == set(labels) for one in found)  # every label, as it is written
    return np.array([[one[label] for label in labels] for one in found])


def ours(model: Path, rgb: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] that LiteRT gives, fed as the metadata of the file says."""
    session = runtimes.find("litert").open(model, threads=1)
    found = metadata.read(model.read_bytes(), model.name)
    assert found is not None
    (mean,), (std,) = found.normalization() or ((), ())
    integer = session.inputs[0].dtype == "uint8"
    given = rgb if integer else ((rgb.astype(np.float32) - np.float32(mean)) / np.float32(std))
    raw = np.concatenate([session.run([one[None]])[0] for one in given])
    return runtimes.to_real(raw, session.outputs[0])
