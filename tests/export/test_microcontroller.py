"""The int8 model for microcontrollers: the C array holds the very bytes, and tflite-micro runs them."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgecbam import artifacts, runtimes
from edgecbam.events import ignore
from edgecbam.export import app_bundle, microcontroller

PROGRAM = """
#include "model_int8.h"
#include <stdio.h>
int main(void) {
  fwrite(model_int8, 1, sizeof model_int8, stdout);
  return (uintptr_t)model_int8 % 16 != 0;
}
"""


@pytest.mark.parametrize(("compiler", "standard", "ending"), [("cc", "c11", "c"), ("c++", "c++17", "cpp")])
def test_the_array_is_the_file(trained_run: Path, tmp_path: Path, compiler: str, standard: str, ending: str) -> None:
    assert shutil.which(compiler), f"no {compiler}: apt-get install g++"
    source, program = tmp_path / f"main.{ending}", tmp_path / "main"
    source.write_text(PROGRAM)
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-I", str(trained_run / "app")]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, check=True)
    assert done.stdout == (trained_run / "app" / "model_int8.tflite").read_bytes()
    assert hashlib.sha256(done.stdout).hexdigest() in (trained_run / "app" / "model_int8.h").read_text()


def test_tflite_micro_runs_it_within_the_tolerance_of_the_proof_pack(trained_run: Path) -> None:
    app = trained_run / "app"
    told = json.loads((app / "manifest.json").read_text())
    entry = json.loads((app / "proof" / "proof.json").read_text())["models"]["model_int8.tflite"]
    session = runtimes.find("tflite_micro").open(app / "model_int8.tflite")
    assert told["tflite_micro"] == {
        "file": "model_int8.tflite",
        "array": "model_int8.h",
        "arena_bytes": session.placement()["arena_bytes"],
        "reason": None,
    }
    assert told["tflite_micro"]["arena_bytes"] > 28 * 28 * 8  # the first map of the network
    images = np.fromfile(app / "proof" / "input_int8.bin", np.int8).reshape(entry["input"]["shape"])
    expected = np.fromfile(app / "proof" / "output_int8.bin", np.int8).reshape(entry["output"]["shape"])
    found = np.concatenate([session.run([image[None]])[0] for image in images])
    assert np.abs(found.astype(int) - expected).max() <= entry["tolerance"]
    assert f"arena of {told['tflite_micro']['arena_bytes']:,} bytes" in (app / "README.md").read_text()


@pytest.mark.parametrize("installed", [True, False])
def test_an_op_that_it_lacks_is_named(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    kind = type(runtimes.find("tflite_micro"))
    if installed:
        refusal = runtimes.CannotRun("tflite-micro lacks the op GELU")
        monkeypatch.setattr(microcontroller.runtimes, "find", Refusing(refusal))
    else:
        monkeypatch.setattr(kind, "installed", lambda self: self.name != "tflite_micro")
    manifest = artifacts.load_manifest(trained_run / "export")
    about = app_bundle.About("n", "1", "", "")
    told = app_bundle.write(tmp_path, trained_run / "export", manifest, about, ignore)
    assert told["tflite_micro"]["arena_bytes"] is None
    wanted = "tflite-micro lacks the op GELU" if installed else "pip install 'edgecbam[micro]'"
    assert wanted in told["tflite_micro"]["reason"]
    assert wanted in " ".join((tmp_path / "README.md").read_text().split())
    assert (tmp_path / "model_int8.h").exists()


class Refusing:
    """``runtimes.find``, whose tflite-micro refuses every file."""

    def __init__(self, refusal: Exception) -> None:
        self.refusal, self.find = refusal, runtimes.find

    def __call__(self, name: str) -> object:
        return self if name == "tflite_micro" else self.find(name)

    def installed(self) -> bool:
        return True

    def open(self, path: Path, threads: int) -> object:
        raise self.refusal


def test_a_name_cannot_end_the_comment() -> None:
    text = "\n".join(microcontroller.header(b"ab", "model", "evil */ int x; /*"))
    assert text.splitlines()[0].count("*/") == 1
