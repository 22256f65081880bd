"""``RUN/app/web``: a page that runs the model in a browser and draws its attention over the image.

index.html, style.css, icon.svg and modules of JavaScript: the files of the folder web/ beside this one
page.json                what the page is told of this model: its gates and its samples
attention_uint8.tflite   model_uint8.tflite with its gates as further outputs
samples/                 a few held-out images, as PNG
package.json, package-lock.json   ``npm ci`` puts LiteRT.js and MediaPipe into node_modules, where the page finds them
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecbam import artifacts, runtimes
from edgecbam.artifacts import Samples

from . import gates

FOLDER = "web"
PAGE_FILE, ATTENTION_FILE = "page.json", "attention_uint8.tflite"
PACKAGE_FILES = ("package.json", "package-lock.json")
SAMPLES = 8
_SOURCE = "model_uint8.tflite"

MODULES = {
    "@litertjs/core": "./node_modules/@litertjs/core/dist/index.js",
    "@litertjs/wasm-utils": "./node_modules/@litertjs/wasm-utils/dist/index.js",
    "@mediapipe/tasks-vision": "./node_modules/@mediapipe/tasks-vision/vision_bundle.mjs",
}
_IMPORT_MAP = json.dumps({"imports": MODULES})


def policy() -> str:
    """The page's Content-Security-Policy: nothing from elsewhere, no script but its own, no form, no plugin."""
    digest = base64.b64encode(hashlib.sha256(_IMPORT_MAP.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}'; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def files() -> dict[str, bytes]:
    """The page's own files, the same for every model, by name."""
    folder = resources.files(__package__) / FOLDER
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    page = found["index.html"].decode()
    found["index.html"] = page.replace("@POLICY@", policy()).replace("@IMPORTS@", _IMPORT_MAP).encode()
    return found


def write(folder: Path, app: Path, classes: Sequence[str], samples: Samples, task: str) -> None:
    """Write the page.

    Args:
        folder: an empty folder.
        app: where the models are.
        classes: their names.
        samples: held-out images; the first of each class are shown.
        task: ``classification`` or ``regression``.
    """
    for name, content in files().items():
        artifacts.write_whole(folder / name, content)
    content, found = gates.expose((app / _SOURCE).read_bytes(), _SOURCE, unsigned=True)
    told: list[dict[str, Any]] = []
    if found:
        artifacts.write_whole(folder / ATTENTION_FILE, content)
        session = runtimes.find("litert").open(folder / ATTENTION_FILE, threads=1)
        ends = session.outputs[-len(found) :]
        session.close()
        for gate, end in zip(found, ends, strict=True):
            said = {"shape": list(end.shape), "scale": end.scale, "zero_point": end.zero_point}
            told.append({"block": gate.block, "kind": gate.kind, **said})
    (folder / "samples").mkdir()
    shown = []
    for number, index in enumerate(_choice(samples, task), start=1):
        name = f"samples/{number}.png"
        artifacts.write_whole(folder / name, _png(samples.images[index]))
        label = classes[int(samples.labels[index])] if task == "classification" else ""
        shown.append({"file": name, "label": label})
    page = {"schema_version": 1, "attention": ATTENTION_FILE if found else None, "gates": told, "samples": shown}
    artifacts.write_json(folder / PAGE_FILE, page)


def _choice(samples: Samples, task: str) -> list[int]:
    """The first image of each class, then further ones, in the order of the file."""
    count = len(samples.images)
    if task != "classification":
        return list(range(min(SAMPLES, count)))
    firsts = np.unique(samples.labels, return_index=True)[1]
    order = [*sorted(map(int, firsts)), *(index for index in range(count) if index not in set(firsts))]
    return order[:SAMPLES]


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(stream, format="png")
    return stream.getvalue()
