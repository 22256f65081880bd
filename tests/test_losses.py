"""Losses against their formulas, one of one's own by import path, and whatever can be wrong with it."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from edgecbam import models, training
from edgecbam.datasets import Dataset
from edgecbam.errors import InputError
from edgecbam.events import ignore
from edgecbam.recipe import ModelConfig, TrainConfig
from edgecbam.training import losses

DOCUMENT = Path(__file__).parents[1] / "docs" / "training.md"
PREPROCESSING = {"height": 8, "width": 8, "channels": 1, "resize": "crop", "mean": [128.0], "std": [128.0]}


def test_cross_entropy_is_its_formula() -> None:
    random = np.random.default_rng(0)
    targets, outputs = random.dirichlet([1, 1, 1], 5).astype(np.float32), random.normal(size=(5, 3)).astype(np.float32)
    expected = -np.sum(targets * (outputs - np.log(np.exp(outputs).sum(1, keepdims=True))), 1)
    np.testing.assert_allclose(losses.cross_entropy(tf.constant(targets), tf.constant(outputs)), expected, rtol=1e-5)


def test_the_mean_squared_error_is_averaged_over_the_targets() -> None:
    targets, outputs = tf.constant([[1.0, 2.0], [0.0, 0.0]]), tf.constant([[2.0, 5.0], [0.0, 1.0]])
    np.testing.assert_allclose(losses.mean_squared_error(targets, outputs), [5.0, 0.5])


def test_auto_goes_by_the_task() -> None:
    assert losses.resolve("auto", "classification", 10) is losses.cross_entropy
    assert losses.resolve("auto", "regression", 1) is losses.mean_squared_error
    assert losses.resolve("mean_squared_error", "classification", 10) is losses.mean_squared_error
    with pytest.raises(InputError, match=r"for classes, but data\.targets asks for a regression"):
        losses.resolve("cross_entropy", "regression", 1)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example() -> str:
    """The loss that docs/training.md shows."""
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_asymmetric_loss_of_the_document_shifts_what_is_learned(workplace: Path) -> None:
    """On targets that no image tells apart, it estimates high; the squared error estimates the mean."""
    (workplace / "asymmetric_example.py").write_text(example())
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (48, 8, 8, 1)).astype(np.uint8)
    labels = np.tile(np.array([[-1.0], [1.0]], np.float32), (24, 1))
    data = Dataset(("level",), images, labels, images[:0], labels[:0], images, labels, target_std=(1.0,))
    network = ModelConfig(widths=(4,), blocks=(1,), attention="none")
    settings = TrainConfig(
        epochs=40, batch_size=48, learning_rate=0.05, flip=False, shift_pixels=0, precision="float32", ema_decay=0.5
    )
    settings = dataclasses.replace(settings, decay_rate=1.0, warmup_epochs=0.0, optimizer="momentum", weight_decay=0.0)
    means = {}
    for name in ("mean_squared_error", "asymmetric_example:under_costs_more"):
        training.begin(1)
        model = models.build(network, (8, 8, 1), 1, task="regression")
        for layer in model.layers:
            layer.trainable = layer.name == "logits"  # so that the bias is what is learned
        folder = workplace / name.partition(":")[0]
        folder.mkdir()
        config = dataclasses.replace(settings, loss=name)
        training.fit(model, data, config, PREPROCESSING, folder / "checkpoints", stage="train", on_event=ignore)
        means[name] = float(training.predict(model, images, PREPROCESSING).mean())
    assert abs(means["mean_squared_error"]) < 0.2
    # 4 (1 - x) = 1 (x + 1) where under-estimates cost four times as much
    assert means["asymmetric_example:under_costs_more"] == pytest.approx(0.6, abs=0.2)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("no_such_loss", "", "is not known: use auto, cross_entropy, mean_squared_error, or module:function"),
        (":half", "", "is not known"),
        ("no_such_module:loss", "", "the module no_such_module cannot be imported from .*ModuleNotFoundError"),
        ("bad_import:loss", "raise RuntimeError('on import')", "bad_import cannot be imported .*on import"),
        ("bad_syntax:loss", "def loss(:", "bad_syntax cannot be imported .*SyntaxError"),
        ("bad_name:loss", "x = 1", "loss does not exist in .*bad_name.py"),
        ("bad_kind:loss", "loss = 1", "loss is no function in .*bad_kind.py"),
        ("bad_call:loss", "def loss(t): return t", "fails on four images: .*positional argument"),
        (
            "bad_shape:loss",
            "import tensorflow as tf\ndef loss(t, o): return tf.reduce_mean((t - o) ** 2)",
            r"gives the shape \(\) for 4 images: return one loss for each image",
        ),
        (
            "bad_rank:loss",
            "def loss(t, o): return (t - o) ** 2",
            r"gives the shape \(4, 2\) for 4 images",
        ),
        (
            "bad_type:loss",
            "import tensorflow as tf\ndef loss(t, o): return tf.cast(tf.reduce_sum((t - o) ** 2, 1), tf.float64)",
            "gives float64: return float32",
        ),
        (
            "bad_value:loss",
            "import tensorflow as tf\ndef loss(t, o): return tf.reduce_sum(tf.math.log(-tf.abs(o) - 1.0), 1)",
            "is not finite",
        ),
        (
            "bad_gradient:loss",
            "import tensorflow as tf\ndef loss(t, o): return tf.reduce_sum((t - tf.stop_gradient(o)) ** 2, 1)",
            "has no gradient",
        ),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_line(name: str, source: str, message: str, workplace: Path) -> None:
    if source:
        (workplace / f"{name.partition(':')[0]}.py").write_text(source)
    with pytest.raises(InputError, match=message) as caught:
        losses.resolve(name, "classification", 2)
    assert "\n" not in str(caught.value)


def test_nothing_is_replaced_for_a_loss_that_cannot_be_used(small_run: Path) -> None:
    from edgecbam import api, artifacts, recipe

    before = (small_run / "train" / "stage.json").read_bytes()
    wrong = recipe.override(artifacts.load_recipe(small_run), ("train.loss=no_such_loss",))
    with pytest.raises(InputError, match="no_such_loss"):
        api.train(wrong, small_run, overwrite=True)
    assert (small_run / "train" / "stage.json").read_bytes() == before
