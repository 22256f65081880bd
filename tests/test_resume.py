"""kill -9 at any moment, then resume: the same weights, optimiser and average, bit for bit, in float and in QAT."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from edgecbam import api, artifacts, recipe

SETTINGS = (
    "data.train_images=64",
    "data.test_images=20",
    "data.height=16",
    "data.width=16",
    "model.widths=[4,8]",
    "model.blocks=[1,1]",
    "model.reduction_ratio=2",
    "model.dropout=0.2",
    "train.epochs=3",
    "train.batch_size=16",
    "train.precision=float32",
    "train.mixup=0.2",
    "train.checkpoint_minutes=0",  # after every step
    "quantize.epochs=3",
    "quantize.batch_size=16",
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


def moments(seed: int) -> list[str]:
    """Three moments to kill at: after 1 to 4 steps of an attempt and up to 0.1 s more."""
    draw = random.Random(seed)
    return [f"{draw.randint(1, 4)}+{draw.uniform(0.0, 0.1):.3f}" for _ in range(3)]


def train_on(run: Path, stage: str, disturbances: list[str]) -> list[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_training.py")), str(run), stage, *disturbances],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder through train and quantize."""
    run = tmp_path_factory.mktemp("resume") / "undisturbed"
    artifacts.create_run(run, resolved())
    train_on(run, "train", [])
    train_on(run, "quantize", [])
    return run


def resolved() -> recipe.Recipe:
    """The recipe as a run folder holds it."""
    return recipe.load("fashion_cbam", (*SETTINGS, "data.channels=1"))


def disturb(run: Path, stage: str, undisturbed: Path) -> None:
    lines = train_on(run, stage, moments(seed=6))
    assert lines.count("killed") == 3, lines
    assert sum(line.startswith("continuing in epoch") for line in lines) >= 2, lines
    assert lines[-1] == "exit 0"
    assert state(run / stage) == state(undisturbed / stage)
    history = (run / stage / "history.csv").read_text()
    assert history == (undisturbed / stage / "history.csv").read_text()


def test_a_killed_training_reaches_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    artifacts.create_run(run, resolved())
    disturb(run, "train", undisturbed)
    assert model_weights(run) == model_weights(undisturbed)


def model_weights(run: Path) -> list[bytes]:
    import tf_keras as keras

    model = keras.models.load_model(run / "train" / api.MODEL_FILE, compile=False)
    return [weight.tobytes() for weight in model.get_weights()]


def test_a_killed_quantization_reaches_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    shutil.rmtree(run / "quantize")
    disturb(run, "quantize", undisturbed)
