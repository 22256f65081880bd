"""kill -9 at any moment, then resume: the same weights, optimiser and average, bit for bit, in float and in QAT."""

import os
import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from edgecbam import api, artifacts, models, recipe  # noqa: F401  models registers the layers that model.keras names

SETTINGS = (
    "data.train_images=64",
    "data.test_images=20",
    "data.height=16",
    "data.width=16",
    "model.widths=[4]",
    "model.blocks=[1]",
    "model.reduction_ratio=2",
    "model.dropout=0.2",
    "train.epochs=2",
    "train.batch_size=12",
    "train.precision=float32",
    "train.mixup=0.2",
    "train.checkpoint_minutes=0",  # after every step
    "quantize.epochs=2",
    "quantize.batch_size=12",
    "quantize.calibration_images=32",
)
ROOT = Path(__file__).parents[1]


def state(stage: Path) -> dict[str, bytes]:
    """All arrays of the last checkpoint of a stage: weights, optimiser, average, progress."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(stage / "checkpoints")))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith(("_CHECK", "save_counter"))]
    assert any("shadows" in name for name in names)
    assert any("optimizer" in name for name in names)
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


def moments(seed: int) -> str:
    """Three moments to kill at: after 1 or 2 steps of an attempt and up to 0.1 s more."""
    draw = random.Random(seed)
    return ",".join(f"{draw.randint(1, 2)}+{draw.uniform(0.0, 0.1):.3f}" for _ in range(3))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A run that was never disturbed, one that was killed three times in each stage, and what the second said."""
    folder = tmp_path_factory.mktemp("resume")
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    settings = recipe.load("fashion_cbam", (*SETTINGS, "data.channels=1"))
    for run in (undisturbed, killed):
        artifacts.create_run(run, settings)
    jobs = [
        f"{undisturbed}:train:",
        f"{undisturbed}:quantize:",
        f"{killed}:train:{moments(seed=1)}",
        f"{killed}:quantize:{moments(seed=2)}",
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_training.py")), *jobs],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return undisturbed, killed, done.stdout.splitlines()


@pytest.mark.parametrize("stage", ["train", "quantize"])
def test_what_was_killed_ends_with_the_same_weights(stage: str, ended: tuple[Path, Path, list[str]]) -> None:
    undisturbed, killed, lines = ended
    said = [line.partition(": ")[2] for line in lines if line.startswith(f"killed {stage}: ")]
    assert said.count("killed") == 3, lines
    assert sum(text.startswith("continuing in epoch") for text in said) >= 2, lines
    assert said[-1] == "exit 0"
    assert state(killed / stage) == state(undisturbed / stage)
    assert (killed / stage / "history.csv").read_bytes() == (undisturbed / stage / "history.csv").read_bytes()
    ends = [weights_of(run, stage) for run in (killed, undisturbed)]
    assert ends[0] == ends[1]


def weights_of(run: Path, stage: str) -> list[bytes]:
    """What the next stage is given."""
    if stage == "train":
        model = keras.models.load_model(run / "train" / api.MODEL_FILE, compile=False)
        return [weight.tobytes() for weight in model.get_weights()]
    arrays: list[bytes] = []
    with h5py.File(run / "quantize" / api.QAT_FILE) as file:
        file.visititems(lambda _, item: arrays.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None)
    return arrays
