"""What is fuzzed: each parser of ours, a function of bytes. An error of edgecbam is an answer, any other a fault.

A parser that takes an input must have understood it: where something else can say so (the package onnx, the file
system, writing it and reading it again), it is asked, and a WrongAcceptance is a fault too.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx as onnx_package
from google.protobuf.message import DecodeError, Message

from edgecbam.errors import EdgeCbamError

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
IMAGE = {"height": 8, "width": 8, "channels": 3, "resize": "crop", "mean": [128.0], "std": [128.0]}


class WrongAcceptance(AssertionError):
    """A parser took what it should have refused, or took it for something else."""


def must(condition: object, what: str) -> None:
    if not condition:
        raise WrongAcceptance(what)


def target(function: Target) -> Target:
    """Register a target; what edgecbam raises on purpose is an answer."""

    def answered(data: bytes) -> None:
        with contextlib.suppress(EdgeCbamError):
            function(data)

    TARGETS[function.__name__] = answered
    return function


@contextlib.contextmanager
def placed(name: str, data: bytes) -> Iterator[Path]:
    """A file of this content, alone in a folder."""
    folder = Path(tempfile.mkdtemp(prefix="edgecbam-fuzz-"))
    try:
        (folder / name).write_bytes(data)
        yield folder / name
    finally:
        shutil.rmtree(folder)


@target
def metadata(data: bytes) -> None:
    from edgecbam.export import metadata

    found = metadata.read(data, "it")
    if found is not None:
        labels, scale = found.labels(), found.normalization()
        must(labels is None or all(type(label) is str for label in labels), "labels that are no text")
        must(scale is None or all(type(number) is float for part in scale for number in part), "scales that are none")


@target
def tflite(data: bytes) -> None:
    from edgecbam.export import tflite_file

    tflite_file.read(data, "it").float_tensors()
    tflite_file.converter_minimum(data, "it")


@target
def onnx(data: bytes) -> None:
    from edgecbam.runtimes import onnx_file

    with placed("it.onnx", data) as path:
        content = onnx_file.read(path)
        nodes = onnx_file.read_nodes(path)
        _, properties = onnx_file.read_metadata(path)
    try:
        official = onnx_package.load_model_from_string(data)
    except DecodeError:  # ours passes over what it does not need
        return
    must(content.ops == {node.op_type for node in official.graph.node}, "other ops than the package onnx finds")
    must([node.name for node in nodes] == [node.name for node in official.graph.node], "other nodes")
    must(properties == {entry.key: entry.value for entry in official.metadata_props}, "other metadata")
    must({*content.external} >= {*_locations(official)}, "weights elsewhere that were not seen")


def _locations(message: Message) -> Iterator[str]:
    """Where a model says that weights lie, in any part of it."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        repeated = hasattr(value, "__len__") and not isinstance(value, Message)
        for part in value if repeated else [value]:
            if field.name == "external_data" and part.key == "location":
                yield part.value
            yield from _locations(part)


@target
def keras(data: bytes) -> None:
    from edgecbam.runtimes import keras_file

    with placed("it.keras", data) as path:
        keras_file.read(path)


@target
def recipe(data: bytes) -> None:
    from edgecbam import recipe

    settings = recipe.from_toml(data.decode("utf-8", "replace"), "it")
    must(recipe.from_toml(recipe.to_toml(settings), "again") == settings, "another recipe when written and read again")


@target
def manifest(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.MANIFEST_FILE, data) as path:
        found = artifacts.load_manifest(path.parent)
        artifacts.write_manifest(path.parent, found)
        must(artifacts.load_manifest(path.parent) == found, "another manifest when written and read again")
    for name, file in found.files.items():
        must(Path("/a/b", name).resolve().is_relative_to("/a/b"), "a file outside of the folder")
        must(file.output.shape[-1] == len(found.classes), "outputs that do not fit the classes")
        must(all(type(size) is int for size in file.input.shape), "a shape that is none")


@target
def stage(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.STAGE_FILE, data) as path:
        (path.parent / "export").mkdir()
        path.rename(path.parent / "export" / artifacts.STAGE_FILE)
        for name in artifacts.load_stage(path.parent, "export").files:
            inside = (path.parent / "export" / name).resolve().is_relative_to(path.parent.resolve())
            must(inside, "a file outside of the folder")


@target
def samples(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.SAMPLES_FILE, data) as path:
        found = artifacts.load_samples(path.parent)
    lengths = {len(found.images), len(found.labels), len(found.keras_float), len(found.keras_qat)}
    must(len(lengths) == 1, "arrays of different lengths")
    must(found.images.dtype == "uint8" and found.images.ndim == 4, "images that are none")


@target
def report(data: bytes) -> None:
    from edgecbam.benchmarks import report, report_schema

    try:
        found = report_schema.resumable(json.loads(data))
    except (ValueError, RecursionError):
        return
    if not report_schema.problem(found):
        report.markdown(found, None)
        page = report.html(found, None)
        must("<script" not in page, "a script in the report")


@target
def labels(data: bytes) -> None:
    from edgecbam.export import metadata

    lines = data.decode("utf-8", "surrogateescape").split("\n")
    metadata.check_labels(lines)
    must("\n".join(lines).splitlines() == lines, "labels that a reader of lines does not get back")
    must(len(set(lines)) == len(lines), "two classes of one name")


@target
def plan(data: bytes) -> None:
    from edgecbam import ablation

    with placed(ablation.PLAN_FILE, data) as path:
        ablation.load_plan(path.parent)


@target
def image(data: bytes) -> None:
    from edgecbam import preprocessing

    pixels = preprocessing.load_encoded(data, Path("it"), IMAGE)
    must(pixels.shape == (8, 8, 3) and pixels.dtype == "uint8", "pixels that are none")


@target
def table(data: bytes) -> None:
    from edgecbam.datasets import targets

    with placed("targets.csv", data) as path:
        found = targets.read(path, path.parent)
        must(np.isfinite(found.values).all(), "a target that is no number")
        must(found.values.shape == (len(found.paths), len(found.targets)), "a table with holes")
        inside = all(image.resolve().is_relative_to(path.parent.resolve()) for image in found.paths)
        must(inside, "an image outside of the folder")


@target
def folder(data: bytes) -> None:
    """A tree of files: name, content, name, content …, parted by 0xff 0xfe; "@" begins a link, "|" a pipe."""
    from edgecbam.datasets import folder
    from edgecbam.recipe import DataConfig

    root = Path(tempfile.mkdtemp(prefix="edgecbam-fuzz-"))
    try:
        parts = data.split(b"\xff\xfe")[:80]
        for name, content in zip(parts[::2], parts[1::2], strict=False):
            _plant(root, name, content)
        found, described = folder.load(root, DataConfig(cache="memory"), lambda event: None)
        counts = [len(found.train_images), len(found.validation_images), len(found.test_images)]
        files = [path for path in root.rglob("*") if path.is_file()]
        must(sum(counts) <= len(files) and counts[0] and counts[2], "images that are not there")
        must(found.train_images[:].shape[1:] == (described.height, described.width, described.channels), "other sizes")
        must({*found.train_labels.tolist()} == {*range(len(found.classes))}, "a class without an image")
    finally:
        shutil.rmtree(root)


def _plant(root: Path, name: bytes, content: bytes) -> None:
    kind, text = name[:1], os.fsdecode(name).lstrip("@|")
    path = root.joinpath(*(part for part in text.split("/")[:4] if part not in ("", ".", "..")))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == b"@":
            path.symlink_to(root / os.fsdecode(content).lstrip("/"))
        elif kind == b"|":
            os.mkfifo(path)
        else:
            with path.open("xb") as file:
                file.write(content)
    except (OSError, ValueError):  # a name that the file system does not take, or that is taken
        return


@target
def page(data: bytes) -> None:
    from edgecbam.export import web_page, web_server

    with placed(web_page.PAGE_FILE, data) as path:
        for address in web_server.samples(path):
            must((path.parent / address).resolve().is_relative_to(path.parent.resolve()), "a file elsewhere")
