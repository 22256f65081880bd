"""``RUN/app/proof``: golden inputs and outputs, so that a port in any language can be checked in minutes.

    pixels.bin                      [n, height, width, 3] uint8: what preprocess.py makes of an image file
    input_int8.bin  input_float32.bin   the same as the other files take it
    output_NAME.bin                 what LiteRT answered where the model was exported
    source.bin  source_fitted.bin   an image of another size, and what fitting makes of it
    proof.json                      shapes, types and tolerances
    preprocess.py                   from an image file to pixels, in Pillow and NumPy
    check.c                         passes the pack through LiteRT's C interface

Arrays are raw bytes, row by row, little-endian.
"""

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecbam import artifacts, preprocessing, runtimes
from edgecbam.artifacts import write_whole

IMAGES = 16
MAX_BYTES = 4 * 2**20  # of the largest array
FLOAT_TOLERANCE = {"model_fp32.tflite": 1e-4, "model_fp16.tflite": 1e-2}  # a GPU computes the latter in 16 bits
LOGIT_STEPS = 2  # by which integer logits may differ from one kernel to another (docs/onnx.md)

PREPROCESS = '''"""Image file -> pixels [1, height, width, 3] uint8, as the models of this folder take them."""

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = {height}, {width}


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")  # upright; transparency lies on white in edgecbam
    if image.size != (WIDTH, HEIGHT):
        w, h = image.size
        across, down = {fit}
        left, top = (w - across) / 2, (h - down) / 2
        image = image.resize((WIDTH, h), Image.Resampling.BILINEAR, (left, 0, left + across, h))
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, (0, top, WIDTH, top + down))
    return np.asarray(image)[None]  # int8: minus 128; float: minus {mean:g}, divided by {std:g}
'''
FIT = {
    "crop": "min(w, WIDTH / HEIGHT * h), min(h, w / (WIDTH / HEIGHT))  # the largest centred part of that shape",
    "stretch": "w, h  # all of it",
}


def write(folder: Path, app: Path, told: Mapping[str, Any], images: np.ndarray, logit_scale: float) -> dict[str, Any]:
    """Write the pack.

    Args:
        folder: an empty folder.
        app: where the models are.
        told: the manifest of the bundle.
        images: [m, height, width, 1 or 3] uint8; the first of them are taken, grey ones as RGB.
        logit_scale: what a step of the integer logits is worth.

    Returns:
        The content of ``proof.json``.
    """
    count = max(1, min(IMAGES, len(images), MAX_BYTES // (4 * 3 * images[0].size // images.shape[-1])))
    rgb = np.ascontiguousarray(np.broadcast_to(images[:count], (*images[:count].shape[:3], 3)))
    models = {}
    for name, file in told["files"].items():
        inputs = fed(rgb, file)
        session = runtimes.find("litert").open(app / name, threads=1)
        try:
            outputs = np.concatenate([session.run([one[None]])[0] for one in inputs])
        finally:
            session.close()
        dtype = str(inputs.dtype)
        given = "pixels.bin" if dtype == "uint8" else f"input_{dtype}.bin"
        stem = name.removeprefix("model_").removesuffix(".tflite")
        write_whole(folder / given, inputs.tobytes())
        write_whole(folder / f"output_{stem}.bin", outputs.tobytes())
        integer = outputs.dtype.kind in "iu"
        models[name] = {
            "input": {"file": given, "dtype": dtype, "shape": list(inputs.shape)},
            "output": {"file": f"output_{stem}.bin", "dtype": str(outputs.dtype), "shape": list(outputs.shape)},
            "tolerance": tolerance(told["task"], logit_scale) if integer else FLOAT_TOLERANCE[name],
            "unit": "steps" if integer else "absolute",
        }
    image, file = told["image"], told["files"]["model_fp32.tflite"]
    source = picture(image["height"] * 5 // 4 + 3, image["width"] * 7 // 4 + 2)
    fitted = preprocessing.fit(Image.fromarray(source), {**image, "mean": [0.0], "std": [1.0]})
    write_whole(folder / "source.bin", source.tobytes())
    write_whole(folder / "source_fitted.bin", fitted.tobytes())
    fitting = {"source": "source.bin", "shape": list(source.shape), "fitted": "source_fitted.bin"}
    proof = {"schema_version": 1, "images": count, "fitting": fitting, "models": models}
    artifacts.write_json(folder / "proof.json", proof)
    script = PREPROCESS.format(
        height=image["height"], width=image["width"], fit=FIT[image["resize"]], mean=file["mean"], std=file["std"]
    )
    write_whole(folder / "preprocess.py", script)
    write_whole(folder / "check.c", (resources.files(__package__) / "templates" / "check.c").read_text("utf-8"))
    return proof


def picture(height: int, width: int) -> np.ndarray:
    """Some image [height, width, 3] uint8 with edges and slopes everywhere."""
    y, x, channel = np.mgrid[0:height, 0:width, 0:3]
    return np.asarray((7 * x + 13 * y + 31 * channel) ^ (x * y // 3)).astype(np.uint8)


def fed(rgb: np.ndarray, file: Mapping[str, Any]) -> np.ndarray:
    """Pixels as a file of the bundle takes them: [n, h, w, 3] uint8 -> the dtype of its input."""
    dtype = file["input"]["dtype"]
    if dtype == "uint8":
        return rgb
    if dtype == "int8":
        return (rgb.astype(np.int16) - 128).astype(np.int8)
    return np.asarray((rgb.astype(np.float32) - np.float32(file["mean"])) / np.float32(file["std"]))


def tolerance(task: str, logit_scale: float) -> int:
    """Steps by which integer outputs may differ where logits differ by LOGIT_STEPS.

    Of a regression just these. A probability p whose logit is off by d one way, and all others by d the other way, has
    odds p / (1 - p) that are off by a factor of exp(2 d): p changes by tanh(d / 2) at most, and a step is 1 / 256.
    """
    if task == "regression":
        return LOGIT_STEPS
    return math.ceil(256 * math.tanh(LOGIT_STEPS * logit_scale / 2)) + 1
