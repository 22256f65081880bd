"""Files to begin with: one or a few whole ones for each target, made anew, none larger than needed."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from edgecbam import artifacts, recipe
from edgecbam.export import metadata

FIXTURES = Path(__file__).parents[1] / "fixtures"


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _images() -> list[bytes]:
    found = []
    picture = Image.effect_noise((9, 7), 50)
    for kind, mode in (("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB")):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, format=kind)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    picture.save(stream, format="TIFF", compression="tiff_lzw")
    return [*found, stream.getvalue()]


def _keras() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.21.0"}')
        layer = {"module": "tf_keras.layers", "class_name": "Dense", "config": {"units": 1}, "registered_name": None}
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": [layer]}}))
        archive.writestr("model.weights.h5", b"x")
    return stream.getvalue()


def _folder() -> bytes:
    """Two classes of three images, a link and a pipe, as the target reads them."""
    picture = _images()[0]
    parts = [part for name in ("cat", "dog") for n in range(3) for part in (f"{name}/{n}.png".encode(), picture)]
    return b"\xff\xfe".join([*parts, b"@cat/link.png", b"dog/0.png", b"|dog/pipe.png", b"", b"dog/note.txt", b"x"])


def make() -> dict[str, list[bytes]]:
    """Seeds by target."""
    plain = (FIXTURES / "tiny_int8.tflite").read_bytes()
    about = metadata.image_classifier("n", "d", "1", "a", "MIT", [128.0], [128.0], -1.0, 1.0, ("cat", "dog"))
    described = metadata.embed(plain, about, {metadata.LABELS: b"cat\ndog\n"}, "it")
    settings = recipe.load("fashion_cbam")
    tensor = {"name": "x", "shape": [1, 2], "dtype": "int8", "scale": 0.5, "zero_point": 0}
    files = {"model_int8.tflite": {"sha256": "0" * 64, "bytes": 1, "input": tensor, "output": tensor}}
    record = {
        "stage": "export",
        "files": {"a/b": "0" * 64},
        "parents": {},
        "recipe_digest": "",
        "edgecbam_version": "1",
    }
    arrays = {
        "images": np.zeros((2, 3, 3, 1), np.uint8),
        "labels": np.zeros(2, np.int64),
        "keras_float": np.zeros((2, 2), np.float32),
        "keras_qat": np.zeros((2, 2), np.float32),
    }
    report = (FIXTURES / "report_version_1.json").read_bytes()
    return {
        "metadata": [described, plain],
        "tflite": [plain, (FIXTURES / "tiny_fp32.tflite").read_bytes()],
        "onnx": [(FIXTURES / "tiny_int8.onnx").read_bytes(), (FIXTURES / "tiny_fp32.onnx").read_bytes()],
        "keras": [_keras()],
        "recipe": [recipe.to_toml(settings).encode(), b'name = "x"\n[data]\nheight = 8\n'],
        "manifest": [json.dumps({"files": files, "classes": ["a", "b"], "task": "classification"}).encode()],
        "stage": [json.dumps(record).encode()],
        "samples": [_npz(**arrays)],
        "report": [report],
        "labels": ["cat\ndog, the\n猫 🐈\n".encode(), b"a\n\n b\na"],
        "plan": [json.dumps({"recipe": {"name": "x"}, "seeds": 2, "factors": ["ema"], "attention": ["cbam"]}).encode()],
        "image": _images(),
        "table": [b"file,price\na.png,1.5\nb.png,-2e3\n", b'file,"a ""b"""\r\n"x,y.png",1\r\n'],
        "folder": [_folder()],
        "page": [json.dumps({"gates": [], "samples": [{"file": "samples/1.png", "label": "cat"}]}).encode()],
    }


def write(folder: Path) -> None:
    """A folder of seeds for each target; artifacts are bytes that do not depend on the machine."""
    for name, contents in make().items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents):
            artifacts.write_whole(folder / name / f"seed-{number}", content)
