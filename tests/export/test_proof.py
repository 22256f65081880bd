"""The proof pack is whole and true; a program in C that knows LiteRT alone passes it, and fails a wrong model."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest
from PIL import Image

from edgecbam import artifacts, preprocessing
from edgecbam.export import proof

Run = Callable[..., subprocess.CompletedProcess[str]]
LITERT = Path(ai_edge_litert.__file__).parent


@pytest.fixture(scope="module")
def check(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Builds check.c as its first lines say, and runs it on a model of the bundle."""
    compiler = shutil.which("cc")
    assert compiler, "no C compiler: apt-get install gcc"
    folder = trained_run / "app" / "proof"
    program = tmp_path_factory.mktemp("proof") / "check"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    link = ["-L", str(LITERT), "-l", "LiteRt", f"-Wl,-rpath,{LITERT}", "-lm"]
    subprocess.run([compiler, *flags, str(folder / "check.c"), "-o", str(program), *link], check=True)

    def run(model: Path, entry: dict, **changed: str) -> subprocess.CompletedProcess[str]:
        words = {
            "input": str(folder / entry["input"]["file"]),
            "output": str(folder / entry["output"]["file"]),
            "type": entry["output"]["dtype"],
            "tolerance": str(entry["tolerance"]),
        } | changed
        return subprocess.run(
            [str(program), str(model), *words.values()], capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture(scope="module")
def pack(trained_run: Path) -> dict:
    return json.loads((trained_run / "app" / "proof" / "proof.json").read_text())


def test_a_program_in_c_passes_every_model(trained_run: Path, check: Run, pack: dict) -> None:
    assert len(pack["models"]) == 4
    for name, entry in pack["models"].items():
        done = check(trained_run / "app" / name, entry)
        assert done.returncode == 0, done.stderr + done.stdout
        assert f"passed: {pack['images']} images, worst difference " in done.stdout


def test_on_the_machine_of_the_export_integers_are_equal(trained_run: Path, check: Run, pack: dict) -> None:
    for name in ("model_int8.tflite", "model_uint8.tflite"):
        done = check(trained_run / "app" / name, pack["models"][name], tolerance="0")
        assert done.returncode == 0, done.stdout


def test_another_model_fails(trained_run: Path, check: Run, pack: dict, tmp_path: Path) -> None:
    """The network whose ranges were never trained on, with the weights of a class moved."""
    from edgecbam.export import app_model
    from edgecbam.export.tflite_graph import TfliteGraph

    graph = TfliteGraph((trained_run / "export" / "model_int8.tflite").read_bytes(), "it")
    dense = next(op for op in graph.graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    weights = graph.constant(int(dense.inputs[1]))
    assert weights is not None
    graph.model.buffers[graph.graph.tensors[int(dense.inputs[1])].buffer].data = np.frombuffer(
        np.roll(weights, 1, axis=0).tobytes(), np.uint8
    )
    described = artifacts.load_manifest(trained_run / "export").preprocessing
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(app_model.make(graph.to_bytes(), described, "classification", "int8", "it").content)
    done = check(wrong, pack["models"]["model_int8.tflite"])
    assert (done.returncode, done.stdout.split(":")[0]) == (1, "FAILED")


def test_what_does_not_belong_together_is_not_run(trained_run: Path, check: Run, pack: dict) -> None:
    entry = pack["models"]["model_int8.tflite"]
    short = str(trained_run / "app" / "proof" / entry["output"]["file"])
    for changed in ({"type": "uint8"}, {"type": "float32"}, {"input": short}, {"output": short + ".json"}):
        done = check(trained_run / "app" / "model_int8.tflite", entry, **changed)
        assert done.returncode == 2, changed
        assert "do not belong to" in done.stderr or "cannot read" in done.stderr
    assert check(trained_run / "app" / "missing.tflite", entry).returncode == 2


def test_arrays_are_what_they_are_said_to_be(trained_run: Path, pack: dict) -> None:
    folder = trained_run / "app" / "proof"
    samples = artifacts.load_samples(trained_run / "export")
    pixels = np.fromfile(folder / "pixels.bin", np.uint8).reshape(pack["images"], 28, 28, 3)
    np.testing.assert_array_equal(pixels, np.repeat(samples.images[: pack["images"]], 3, axis=-1))
    for entry in pack["models"].values():
        for end in (entry["input"], entry["output"]):
            size = math.prod(end["shape"]) * np.dtype(end["dtype"]).itemsize
            assert (folder / end["file"]).stat().st_size == size
    floats = np.fromfile(folder / "input_float32.bin", np.float32).reshape(pixels.shape)
    np.testing.assert_array_equal(floats, (pixels - np.float32(128)) / np.float32(128))
    integers = np.fromfile(folder / "input_int8.bin", np.int8).reshape(pixels.shape)
    np.testing.assert_array_equal(integers.astype(int) + 128, pixels)
    answers = np.fromfile(folder / "output_fp32.bin", np.float32).reshape(pack["images"], 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert answers.argmax(axis=1).tolist() == samples.keras_float[: pack["images"]].argmax(axis=1).tolist()


def test_preprocessing_is_that_of_edgecbam(trained_run: Path, tmp_path: Path) -> None:
    """On files of every orientation, larger, smaller and of the very size."""
    spec = importlib.util.spec_from_file_location("preprocess", trained_run / "app" / "proof" / "preprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    described = artifacts.load_manifest(trained_run / "export").preprocessing | {"channels": 3}
    rng = np.random.default_rng(0)
    for number, size in enumerate([(28, 28), (90, 40), (31, 77), (9, 12)], start=1):
        path = tmp_path / f"{number}.png"
        exif = Image.Exif()
        exif[0x0112] = 2 * number  # turned and mirrored
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path, exif=exif)
        found = module.pixels(path)
        assert found.shape == (1, 28, 28, 3)
        np.testing.assert_array_equal(found[0], preprocessing.load_image(path, described))


def test_the_tolerance_is_what_softmax_makes_of_two_steps() -> None:
    rng = np.random.default_rng(1)
    for scale in (0.01, 0.04, 0.2):
        logits = rng.normal(0, 3, (5000, 2))
        moved = logits + proof.LOGIT_STEPS * scale * np.array([1, -1])
        first, second = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, moved))
        worst = 256 * np.abs(first - second).max()
        assert 0.9 * proof.tolerance("classification", scale) - 2 <= worst <= proof.tolerance("classification", scale)


def test_a_pack_of_large_images_stays_small(trained_run: Path, tmp_path: Path) -> None:
    told = json.loads((trained_run / "app" / "manifest.json").read_text())
    samples = artifacts.load_samples(trained_run / "export")
    limit = proof.MAX_BYTES
    try:
        proof.MAX_BYTES = 3 * 28 * 28 * 3 * 4
        assert proof.write(tmp_path, trained_run / "app", told, samples.images, 0.05)["images"] == 3
    finally:
        proof.MAX_BYTES = limit
