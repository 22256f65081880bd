"""``RUN/app``: what an app developer copies. The models of RUN/export with RGB pixels in, probabilities out, metadata.

model_uint8.tflite   int8 inside, pixels in: for MediaPipe, LiteRT and LiteRT.js on phones and in browsers
model_int8.tflite    the same with pixel - 128 in, for runtimes that know int8 alone, such as tflite-micro
model_fp16.tflite    float, with weights of 16 bits: for GPUs
model_fp32.tflite    float: the reference
model_int8.h         model_int8.tflite as an array for C and C++
labels.txt, manifest.json, README.md
proof/               golden inputs and outputs (proof.py)
web/                 a page that runs the model in a browser (web_page.py)
android/, ios/       sources in Kotlin and Swift with their tests (mobile_sources.py)
"""

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.artifacts import Manifest
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import Recipe

from . import app_model, metadata, microcontroller, mobile_sources, proof, web_page

README_FILE = "README.md"
FOR_MICRO, HEADER_FILE = "model_int8.tflite", "model_int8.h"
PROOF_FOLDER = "proof"


@dataclass(frozen=True)
class Variant:
    """A file of the bundle.

    Attributes:
        source: the file of RUN/export that it is made of.
        dtype: of its input and output.
        use: what it is for, in a few words.
    """

    source: str
    dtype: str
    use: str


VARIANTS = {
    "model_uint8.tflite": Variant("model_int8.tflite", "uint8", "int8, pixels in: phones and browsers"),
    "model_int8.tflite": Variant("model_int8.tflite", "int8", "int8, pixel - 128 in: microcontrollers"),
    "model_fp16.tflite": Variant("model_fp16.tflite", "float32", "weights of 16 bits: GPUs"),
    "model_fp32.tflite": Variant("model_fp32.tflite", "float32", "float, the reference"),
}


@dataclass(frozen=True)
class About:
    """What the metadata says of the model besides what follows from the run: its name and, if told, its origin."""

    name: str
    version: str
    author: str
    license: str


def about(recipe: Recipe) -> About:
    """What a recipe says of its model."""
    export = recipe.export
    return About(recipe.name, export.model_version, export.model_author, export.model_license)


def write(folder: Path, export: Path, manifest: Manifest, about: About, on_event: OnEvent) -> dict[str, Any]:
    """Write the bundle.

    Args:
        folder: an empty folder.
        export: RUN/export.
        manifest: of RUN/export.
        about: what the metadata says.
        on_event: listener.

    Returns:
        The content of ``manifest.json``.

    Raises:
        InputError: class names that labels.txt cannot hold.
        EnvironmentFailure: LiteRT does not open a file that was written.
    """
    labels = manifest.classes
    metadata.check_labels(labels)
    content = "".join(f"{label}\n" for label in labels).encode()
    regression = manifest.task == "regression"
    files = {}
    for done, (name, variant) in enumerate(VARIANTS.items(), start=1):
        source = (export / variant.source).read_bytes()
        made = app_model.make(source, manifest.preprocessing, manifest.task, variant.dtype, variant.source)
        described = metadata.image_classifier(
            about.name,
            _description(manifest, variant),
            about.version,
            about.author,
            about.license,
            [made.mean],
            [made.std],
            (0.0 - made.mean) / made.std,
            (255.0 - made.mean) / made.std,
            () if regression else labels,
        )
        held = {} if regression else {metadata.LABELS: content}
        artifacts.write_whole(folder / name, metadata.embed(made.content, described, held, name))
        files[name] = _describe(folder / name, made, variant, manifest)
        on_event(Event("app", step=done, total=len(VARIANTS), unit="file", message=f"{name}  {variant.use}"))
    artifacts.write_whole(folder / metadata.LABELS, content)
    small = files[FOR_MICRO]
    micro = microcontroller.arena(folder / FOR_MICRO)
    line = f"{FOR_MICRO} of {about.name}, {small['bytes']} bytes, sha256 {small['sha256']}"
    array = microcontroller.header((folder / FOR_MICRO).read_bytes(), Path(FOR_MICRO).stem, line)
    artifacts.write_whole(folder / HEADER_FILE, "".join(f"{text}\n" for text in array))
    told = {
        "schema_version": 1,
        "name": about.name,
        "version": about.version,
        "author": about.author,
        "license": about.license,
        "task": manifest.task,
        "classes": list(labels),
        "target_mean": list(manifest.target_mean),
        "target_std": list(manifest.target_std),
        "image": {key: manifest.preprocessing[key] for key in ("height", "width", "resize")} | {"channels": 3},
        "recipe_digest": manifest.recipe_digest,
        "files": files,
        "tflite_micro": {"file": FOR_MICRO, "array": HEADER_FILE, **micro},
    }
    artifacts.write_json(folder / artifacts.MANIFEST_FILE, told)
    artifacts.write_whole(folder / README_FILE, _readme(told))
    (folder / PROOF_FOLDER).mkdir()
    scale = manifest.files["model_int8.tflite"].output.scale
    assert scale is not None  # of an int8 output
    samples = artifacts.load_samples(export)
    pack = proof.write(folder / PROOF_FOLDER, folder, told, samples.images, scale)
    mobile_sources.write(folder, told, pack)
    (folder / web_page.FOLDER).mkdir()
    web_page.write(folder / web_page.FOLDER, folder, labels, samples, manifest.task)
    return told


def _description(manifest: Manifest, variant: Variant) -> str:
    kind = "Image classifier" if manifest.task == "classification" else "Image regression"
    return f"{kind} with CBAM attention, {variant.use}; made by edgecbam"


def _describe(path: Path, made: app_model.AppModel, variant: Variant, manifest: Manifest) -> dict[str, Any]:
    source = manifest.files[variant.source]
    try:
        session = runtimes.find("litert").open(path, threads=1)
    except runtimes.CannotRun as error:
        raise EnvironmentFailure(f"LiteRT does not open the {path.name} that was just written: {error}") from None
    try:
        placement = session.placement()
        ends = {key: dataclasses.asdict(t) for key, t in (("input", session.inputs[0]), ("output", session.outputs[0]))}
    finally:
        session.close()
    return {
        **ends,
        "sha256": artifacts.sha256_file(path),
        "bytes": path.stat().st_size,
        "source": variant.source,
        "source_sha256": source.sha256,
        "use": variant.use,
        "mean": made.mean,
        "std": made.std,
        "front": made.front,
        "softmax": made.softmax,
        "minimum_runtime": source.minimum_runtime,
        "partitions": placement.get("xnnpack_partitions"),
        "ops_outside": placement.get("ops_outside"),
    }


def _micro(found: dict[str, Any]) -> str:
    if found["arena_bytes"] is None:
        return f"Whether tflite-micro runs it is not known: {found['reason']}."
    return (
        f"tflite-micro's interpreter runs it in an arena of {found['arena_bytes']:,} bytes on the machine of the "
        "export; on a controller of 32 bits, whose pointers are shorter, it takes a little less."
    )


def _readme(told: dict[str, Any]) -> str:
    """How to use the files, for somebody who has only this folder."""
    image, files = told["image"], told["files"]
    first = files["model_fp32.tflite"]
    fit = (
        "cut the largest centred rectangle of that shape out of the image and scale it"
        if image["resize"] == "crop"
        else "scale the whole image, without keeping its proportions,"
    )
    rows = [
        f"| `{name}` | {file['bytes']:,} | {file['input']['dtype']} | {file['output']['dtype']} | {file['use']} |"
        for name, file in files.items()
    ]
    answer = (
        "One probability for each line of `labels.txt`, in its order. An integer output q means "
        "(q - zero point) / 256: zero point 0 in uint8, -128 in int8."
        if told["task"] == "classification"
        else "One value for each line of `labels.txt`: output x std + mean with `target_std` and `target_mean` of "
        "`manifest.json`; an integer output q stands for scale x (q - zero point)."
    )
    size = f"{image['height']} x {image['width']}"
    paragraphs = [
        f"Input: one RGB image of {size} pixels (height x width), [1, {size.replace(' x ', ', ')}, 3]. Turn it "
        f"upright, {fit} to that size (bilinear, averaging where it shrinks). The uint8 file takes the pixels "
        f"themselves, the int8 file pixel - 128, the float files (pixel - {first['mean']:g}) / {first['std']:g}.",
        f"Output: {answer}",
        "The .tflite files say all this in their metadata, which MediaPipe's ImageClassifier reads: no code for pixels "
        "or labels is needed there. It does not take int8 inputs.",
        f"`{HEADER_FILE}` is `{FOR_MICRO}` as an array for C and C++. {_micro(told['tflite_micro'])}",
        "`web/` is a page that runs the model in a browser, with LiteRT.js or MediaPipe, and draws its attention "
        "over the image: `npm ci --ignore-scripts` in that folder, then let any web server serve this one and open "
        "`/web/`. Without a server of your own: `edgecbam demo RUN`. MediaPipe's package for the web reports figures "
        "of its use to Google, as its privacy notice says; this page does not let it, a page of yours must see to it.",
        "`android/` and `ios/` have a class in Kotlin and one in Swift that take an image and give the classes, each "
        "with a test on `proof/`. Their first lines say what they need, and how far they were tried: not on a phone.",
        "`proof/` has golden inputs and outputs of each file, with tolerances, to check a port in any language; "
        "`proof/preprocess.py` is the way from an image file to pixels, `proof/check.c` a program in C that passes "
        "the pack.",
    ]
    told_by = [f"{key}: {told[key]}" for key in ("version", "author", "license") if told[key]]
    return "\n".join(
        [
            f"# {told['name']}",
            "",
            *([f"{', '.join(told_by)}.", ""] if told_by else []),
            "| file | bytes | input | output | for |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            *(line for text in paragraphs for line in (*textwrap.wrap(text, 100, break_long_words=False), "")),
        ]
    )
