"""RUN/app/android: compiled by the Kotlin compiler and run on the JVM, with stand-ins for Android and LiteRT's package.

The stand-in for LiteRT asks LiteRT itself, so that the test for Android passes the proof pack here.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecbam import artifacts, preprocessing, runtimes
from edgecbam.export import mobile_sources, proof

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "kotlin"
COMPILER = ROOT / "build" / "kotlin" / "node_modules" / "kotlin-compiler"
Run = Callable[..., subprocess.CompletedProcess[str]]


def compile_app(app: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Compile the sources of a bundle with the stand-ins; every warning is an error."""
    assert (COMPILER / "bin" / "kotlinc").is_file(), "the Kotlin compiler is missing: run `make test-kotlin`"
    sources = [*sorted(STAND_INS.glob("*.kt")), *sorted((app / "android").glob("*.kt"))]
    command = ["bash", COMPILER / "bin" / "kotlinc", "-Werror", "-d", target, *sources]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)


def runner(app: Path, program: Path) -> Run:
    java = shutil.which("java")
    assert java, "java is missing: run `make test-kotlin`, or install the package default-jre-headless"

    def run(*words: object, **assets: Path) -> subprocess.CompletedProcess[str]:
        folders = {"APP_ASSETS": app, "TEST_ASSETS": app / "proof"} | assets
        environment = {"PYTHON": sys.executable, "RUN_MODEL": str(STAND_INS / "run_model.py")}
        return subprocess.run(
            [java, "-cp", f"{program}:{COMPILER / 'lib' / 'kotlin-stdlib.jar'}", "MainKt", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **environment, **{name: str(folder) for name, folder in folders.items()}},
        )

    return run


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    program = tmp_path_factory.mktemp("kotlin") / "app.jar"
    done = compile_app(trained_run / "app", program)
    assert done.returncode == 0, done.stdout + done.stderr
    return runner(trained_run / "app", program)


def test_a_regression_of_another_shape_that_stretches_compiles_too(trained_run: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "proof").mkdir(parents=True)
    told = json.loads((trained_run / "app" / "manifest.json").read_text())
    pack = json.loads((trained_run / "app" / "proof" / "proof.json").read_text())
    image = {"height": 20, "width": 33, "resize": "stretch", "channels": 3}
    source = proof.picture(41, 29)
    pack["fitting"]["shape"] = list(source.shape)
    told |= {"task": "regression", "target_mean": [1e-7] * 10, "target_std": [2e9] * 10, "image": image}
    mobile_sources.write(app, told, pack)
    done = compile_app(app, tmp_path / "app.jar")
    assert done.returncode == 0, done.stdout + done.stderr
    source.tofile(app / "proof" / "source.bin")
    fitted = preprocessing.fit(Image.fromarray(source), {**image, "mean": [0.0], "std": [1.0]})
    fitted.tofile(app / "proof" / "source_fitted.bin")
    done = runner(app, tmp_path / "app.jar")("imagesAreFittedAsInTraining")
    assert done.stdout == "passed: imagesAreFittedAsInTraining\n", done.stderr


def test_the_test_for_android_passes(run: Run) -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    names = {"answersAreThoseOfTheProofPack", "imagesAreFittedAsInTraining"}
    assert {line.removeprefix("passed: ") for line in done.stdout.splitlines()} == names


@pytest.mark.parametrize("name", ["output_int8.bin", "source_fitted.bin"])
def test_the_test_for_android_fails_on_another_answer(run: Run, trained_run: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(trained_run / "app" / "proof", tmp_path / "proof"))
    content = np.fromfile(folder / name, np.uint8)
    content[::3] ^= 0x40
    content.tofile(folder / name)
    done = run(TEST_ASSETS=folder)
    assert done.returncode != 0
    assert ("is off by" if name == "output_int8.bin" else "arrays differ") in done.stderr


@pytest.mark.parametrize("size", [(28, 28), (90, 61), (20, 200)])
def test_an_image_gets_the_scores_of_python(run: Run, trained_run: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """Also one that lies in the memory of a GPU, and one with transparency."""
    width, height = size
    argb = np.random.default_rng(width).integers(0, 256, (height, width, 4), np.uint8)
    argb[..., 0] = np.where(argb[..., 0] < 128, 255, argb[..., 0])
    argb.tofile(tmp_path / "image")
    done = run(tmp_path / "image", width, height)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    classes = list(artifacts.load_manifest(trained_run / "export").classes)
    assert lines[: len(classes)] == lines[len(classes) :]
    alpha = argb[..., :1].astype(int)
    colours = ((argb[..., 1:] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    told = {"height": 28, "width": 28, "channels": 3, "resize": "crop", "mean": [0.0], "std": [1.0]}
    pixels = preprocessing.fit(Image.fromarray(colours), told)
    session = runtimes.find("litert").open(trained_run / "app" / mobile_sources.MODEL, threads=1)
    raw = session.run([(pixels.astype(int) - 128).astype(np.int8)[None]])[0]
    expected = np.asarray(runtimes.to_real(raw, session.outputs[0]))[0]
    session.close()
    order = np.argsort(-expected, kind="stable")[: len(classes)]
    assert [(float(value), label) for value, label in lines[: len(classes)]] == [
        (float(expected[index]), classes[index]) for index in order
    ]
