"""Files that are nested deeply: refused in one line, whatever the limits of Python are."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecbam import ablation, artifacts, recipe
from edgecbam.benchmarks import measure
from edgecbam.errors import InputError
from edgecbam.runtimes import keras_file

DEPTHS = (100, 400, 900, 950, 980, 990, 995, 1000, 5000, 200_000)


def nested(depth: int, kind: str) -> str:
    return "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


def manifest(path: Path, text: str) -> object:
    (path / artifacts.MANIFEST_FILE).write_text(f'{{"files": {text}, "classes": {text}}}')
    return artifacts.load_manifest(path)


def stage(path: Path, text: str) -> object:
    artifacts.create_run(path, recipe.load("fashion_cbam"))
    (path / "export").mkdir()
    (path / "export" / artifacts.STAGE_FILE).write_text(f'{{"files": {text}}}')
    return artifacts.load_stage(path, "export")


def plan(path: Path, text: str) -> object:
    (path / ablation.PLAN_FILE).write_text(f'{{"recipe": {text}}}')
    return ablation.load_plan(path)


def report(path: Path, text: str) -> object:
    (path / measure.REPORT_FILE).write_text(f'{{"schema_version": 3, "results": {text}, "environment": {text}}}')
    return measure.read_report(path)


def toml(path: Path, text: str) -> object:
    return recipe.from_toml(f"[data]\nheight = {text.replace(':', '=')}\n", "it")


def keras(path: Path, text: str) -> object:
    with zipfile.ZipFile(path / "it.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.21.0"}))
        archive.writestr("config.json", f'{{"class_name": "Functional", "config": {text}}}')
        archive.writestr("model.weights.h5", b"")
    return keras_file.read(path / "it.keras")


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("reader", [manifest, stage, plan, report, toml, keras], ids=lambda reader: reader.__name__)
def test_deep_nesting_is_refused(reader: Callable[[Path, str], object], depth: int, kind: str, tmp_path: Path) -> None:
    try:
        reader(tmp_path, nested(depth, kind))
        refusal = ""
    except InputError as error:
        refusal = str(error)
    # a configuration of Keras may be as deep as can be read
    assert refusal or (reader is keras and depth < 1000)
    assert "\n" not in refusal
    assert len(refusal) < 600
