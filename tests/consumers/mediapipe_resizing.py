"""How far MediaPipe's own decoding and resizing move its scores, beside those of the same files fitted by edgecbam.

    python tests/consumers/mediapipe_resizing.py RESULT.json RUN

The images are held-out ones of the run, enlarged 1 to 12 times, as JPEG and PNG: with more pixels and no more to see.
Three scores of each: MediaPipe's of the file, MediaPipe's of the pixels that edgecbam fits, and LiteRT's of these.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mediapipe_scores import ours, reader, table, theirs
from PIL import Image

from edgecbam import artifacts, preprocessing

COUNT = 240
MODELS = ("model_uint8.tflite", "model_fp32.tflite")


def write_images(images: np.ndarray, folder: Path) -> list[Path]:
    """Held-out images [n, h, w, c] as files of other sizes."""
    paths = []
    for number, image in enumerate(images):
        enlarged = 1 + 11 * (number % 24) / 23
        size = tuple(round(enlarged * side) for side in (image.shape[1], image.shape[0]))
        paths.append(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
        picture = Image.fromarray(np.squeeze(image)).resize(size, Image.Resampling.BICUBIC)
        picture.convert("RGB").save(paths[-1], **({} if number % 2 else {"quality": 90}))
    return paths


def compare(run: Path, folder: Path) -> dict[str, Any]:
    """The figures of a run."""
    export = run / "export"
    manifest = artifacts.load_manifest(export)
    paths = write_images(artifacts.load_samples(export).images[:COUNT], folder)
    described = {**manifest.preprocessing, "channels": 3, "mean": [0.0], "std": [1.0]}
    rgb = np.stack([preprocessing.load_image(path, described) for path in paths])
    found = {}
    for name in MODELS:
        model = run / "app" / name
        done = reader("files", model, folder / "files.json", *paths)
        if done.returncode:
            raise SystemExit(done.stderr)
        files, pixels = table(folder / "files.json", manifest.classes), theirs(model, rgb, manifest.classes, folder)
        litert = ours(model, rgb)
        found[name] = {
            "same_class": float(np.mean(files.argmax(axis=1) == pixels.argmax(axis=1))),
            "mean_difference": float(np.abs(files - pixels).mean()),
            "largest_difference": float(np.abs(files - pixels).max()),
            "mean_top_difference": float(np.abs(files - pixels)[np.arange(len(pixels)), pixels.argmax(axis=1)].mean()),
            "largest_difference_from_litert": float(np.abs(pixels - litert).max()),
            "same_class_as_litert": float(np.mean(pixels.argmax(axis=1) == litert.argmax(axis=1))),
        }
    return {"recipe": artifacts.load_recipe(run).name, "images": len(paths), "models": found}


def main(arguments: Sequence[str]) -> None:
    """Write the figures."""
    result, run = map(Path, arguments)
    version = reader("version").stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        told = compare(run, Path(folder))
    artifacts.write_json(result, {"schema_version": 1, "mediapipe": version, **told})


if __name__ == "__main__":
    main(sys.argv[1:])
