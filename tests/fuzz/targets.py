"""What is fuzzed: each parser of ours, a function of bytes. An error of edgecbam is an answer, any other a fault."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgecbam.errors import EdgeCbamError

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
IMAGE = {"height": 8, "width": 8, "channels": 3, "resize": "crop", "mean": [128.0], "std": [128.0]}


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
        found.labels()
        found.normalization()


@target
def tflite(data: bytes) -> None:
    from edgecbam.export import tflite_file

    tflite_file.read(data, "it").float_tensors()
    tflite_file.converter_minimum(data, "it")


@target
def onnx(data: bytes) -> None:
    from edgecbam.runtimes import onnx_file

    with placed("it.onnx", data) as path:
        onnx_file.read(path)
        onnx_file.read_nodes(path)
        onnx_file.read_metadata(path)


@target
def keras(data: bytes) -> None:
    from edgecbam.runtimes import keras_file

    with placed("it.keras", data) as path:
        keras_file.read(path)


@target
def recipe(data: bytes) -> None:
    from edgecbam import recipe

    settings = recipe.from_toml(data.decode("utf-8", "replace"), "it")
    assert recipe.from_toml(recipe.to_toml(settings), "again") == settings


@target
def manifest(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.MANIFEST_FILE, data) as path:
        artifacts.load_manifest(path.parent)


@target
def stage(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.STAGE_FILE, data) as path:
        (path.parent / "export").mkdir()
        path.rename(path.parent / "export" / artifacts.STAGE_FILE)
        for name in artifacts.load_stage(path.parent, "export").files:
            assert (path.parent / "export" / name).resolve().is_relative_to(path.parent.resolve())


@target
def samples(data: bytes) -> None:
    from edgecbam import artifacts

    with placed(artifacts.SAMPLES_FILE, data) as path:
        artifacts.load_samples(path.parent)


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
        assert "<script" not in page


@target
def labels(data: bytes) -> None:
    from edgecbam.export import metadata

    metadata.check_labels(data.decode("utf-8", "surrogateescape").split("\n"))


@target
def plan(data: bytes) -> None:
    from edgecbam import ablation

    with placed(ablation.PLAN_FILE, data) as path:
        ablation.load_plan(path.parent)


@target
def image(data: bytes) -> None:
    from edgecbam import preprocessing

    pixels = preprocessing.load_encoded(data, Path("it"), IMAGE)
    assert pixels.shape == (8, 8, 3)


@target
def table(data: bytes) -> None:
    from edgecbam.datasets import targets

    with placed("targets.csv", data) as path:
        targets.read(path, path.parent)


@target
def page(data: bytes) -> None:
    from edgecbam.export import web_page, web_server

    with placed(web_page.PAGE_FILE, data) as path:
        for address in web_server.samples(path):
            assert (path.parent / address).resolve().is_relative_to(path.parent.resolve())
