"""The same model with and without its SOFTMAX, for `make bench-app`.

    python -m edgecbam.export.app_study OUT RUN

XNNPACK takes SOFTMAX in float, and not in int8: what stands outside the delegate is one op and the copies around it.
Writes OUT/RECIPE_int8_softmax.tflite and _plain.tflite, taking uint8, and the same of the float model.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from edgecbam import artifacts

from . import app_model

SOURCES = {"int8": ("model_int8.tflite", "uint8"), "fp32": ("model_fp32.tflite", "float32")}
ENDS = {"softmax": "classification", "plain": "regression"}  # whose models end in what the network gives


def write(out: Path, run: Path) -> list[Path]:
    """Write the files of a classifier's run; returns their paths."""
    artifacts.check_stage(run, "export")
    manifest = artifacts.load_manifest(run / "export")
    name = artifacts.load_recipe(run).name
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, (source, dtype) in SOURCES.items():
        content = (run / "export" / source).read_bytes()
        for end, task in ENDS.items():
            made = app_model.make(content, manifest.preprocessing, task, dtype, source)
            paths.append(out / f"{name}_{kind}_{end}.tflite")
            artifacts.write_whole(paths[-1], made.content)
    return paths


def main(arguments: Sequence[str]) -> None:
    """Write the files of each run."""
    out, *runs = map(Path, arguments)
    for run in runs:
        for path in write(out, run):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
