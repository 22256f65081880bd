"""The schedule and the moving average against their closed forms; determinism, resuming, and a loss that blows up."""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from edgecbam import models, training
from edgecbam.datasets import Dataset
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event, ignore
from edgecbam.recipe import ModelConfig, TrainConfig
from edgecbam.training import precision

PREPROCESSING = {"height": 8, "width": 8, "channels": 1, "resize": "crop", "mean": [128.0], "std": [128.0]}
CONFIG = TrainConfig(epochs=2, batch_size=8, ema_decay=0.9, flip=False, shift_pixels=0, precision="float32")
NETWORK = ModelConfig(widths=(4,), blocks=(1,), reduction_ratio=2)


def dataset(images: int = 24) -> Dataset:
    """Bright images are class 1, dark ones class 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 2
    pixels = (rng.integers(0, 100, (images, 8, 8, 1)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return Dataset(("dark", "bright"), pixels, labels, pixels[:8], labels[:8], pixels[8:20], labels[8:20])


def network(dropout: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(5)
    return models.build(dataclasses.replace(NETWORK, dropout=dropout), (8, 8, 1), 2)


def fit(
    model: keras.Model,
    folder: Path,
    config: TrainConfig = CONFIG,
    data: Dataset | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> training.FitResult:
    folder.mkdir(exist_ok=True)
    return training.fit(
        model, data or dataset(), config, PREPROCESSING, folder / "checkpoints", stage="train", on_event=on_event
    )


@pytest.mark.parametrize("staircase", [False, True])
def test_the_learning_rate_is_the_closed_form(staircase: bool) -> None:
    config = TrainConfig(learning_rate=0.1, decay_rate=0.5, decay_epochs=2.0, warmup_epochs=1.5, staircase=staircase)
    rate = training.schedule(config, steps_per_epoch=10)
    for step in (0, 3, 14, 15, 19, 20, 47):
        power = step / 20 if not staircase else step // 20
        expected = 0.1 * 0.5**power * min(1.0, (step + 1) / 15)
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_no_warm_up_starts_at_the_full_rate() -> None:
    rate = training.schedule(TrainConfig(learning_rate=0.1, warmup_epochs=0.0), steps_per_epoch=10)
    assert float(rate(0)) == pytest.approx(0.1)


def test_the_schedule_survives_serialisation() -> None:
    rate = training.schedule(TrainConfig(), 10)
    again = training.WarmUpDecay.from_config(rate.get_config())
    assert [float(again(step)) for step in (0, 5, 99)] == [float(rate(step)) for step in (0, 5, 99)]


def test_the_average_is_the_closed_form_with_warm_up() -> None:
    model = network()
    average = training.WeightAverage(model, decay=0.8)
    kernel = model.get_layer("logits").kernel
    shadow = kernel.numpy().astype(np.float64)
    for n in range(60):
        kernel.assign(np.full(kernel.shape, math.sin(n), np.float32))
        average.update()
        decay = min(0.8, (1 + n) / (10 + n))
        shadow = decay * shadow + (1 - decay) * math.sin(n)
    average.assign()
    np.testing.assert_allclose(kernel.numpy(), shadow, rtol=1e-4)


def test_batchnorm_statistics_are_averaged_like_weights() -> None:
    model = network()
    average = training.WeightAverage(model, decay=0.5)
    norm = model.get_layer("stem_bn")
    norm.moving_mean.assign(np.full(4, 11.0))
    norm.moving_variance.assign(np.full(4, 3.0))
    average.update()  # n = 0: decay is min(0.5, 1/10)
    average.assign()
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.1 * 0.0 + 0.9 * 11.0, rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.1 * 1.0 + 0.9 * 3.0, rtol=1e-6)


def test_swapping_gives_everything_back() -> None:
    model = network()
    average = training.WeightAverage(model, decay=0.5)
    for weight in model.weights:
        weight.assign(weight + 1.0)
    before = model.get_weights()
    with average.swapped():
        assert not np.allclose(model.get_layer("logits").kernel, before[-2])
        model.get_layer("stem_bn").moving_mean.assign(np.full(4, 99.0))
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "rmsprop"])
def test_every_optimizer_learns(name: str, tmp_path: Path) -> None:
    rate = 0.05 if name in ("sgd", "momentum") else 0.005
    config = dataclasses.replace(
        CONFIG, optimizer=name, learning_rate=rate, epochs=6, warmup_epochs=0.0, decay_rate=1.0
    )
    losses = [record.loss for record in fit(network(), tmp_path, config).history]
    assert losses[-1] < 0.7 * losses[0]


def first_loss(config: TrainConfig) -> float:
    """Loss of the very first step, on one batch, before any weight moves."""
    model = network()
    average = training.WeightAverage(model, config.ema_decay)
    optimizer = training.make_optimizer(config, 0.0)
    optimizer.build(model.trainable_variables)
    images = tf.constant(np.random.default_rng(1).normal(size=(8, 8, 8, 1)).astype(np.float32))
    targets = np.eye(2)[[0, 1] * 4] * (1 - config.label_smoothing) + config.label_smoothing / 2
    step = training.make_step(model, optimizer, average, config, training.losses.cross_entropy)
    loss, due = step(((images, tf.constant(targets, tf.float32), tf.ones(8)),), tf.constant(0.0)).numpy()
    assert due == 0
    return float(loss)


def test_label_smoothing_and_l2_add_what_their_formulas_say() -> None:
    model = network()
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 1)).astype(np.float32)
    log_p = tf.nn.log_softmax(model(images, training=True)).numpy()
    targets = np.eye(2)[[0, 1] * 4]
    assert first_loss(CONFIG) == pytest.approx(-np.mean(np.sum(targets * log_p, 1)), rel=1e-5)
    smooth = targets * 0.8 + 0.2 / 2
    assert first_loss(dataclasses.replace(CONFIG, label_smoothing=0.2)) == pytest.approx(
        -np.mean(np.sum(smooth * log_p, 1)), rel=1e-5
    )
    squares = sum(float(np.sum(v.numpy() ** 2)) for v in model.trainable_variables if "kernel" in v.name)
    assert first_loss(dataclasses.replace(CONFIG, l2=0.01)) == pytest.approx(
        first_loss(CONFIG) + 0.01 * squares / 2, rel=1e-5
    )


def test_adamw_decays_kernels_alone() -> None:
    model = network()
    optimizer = training.make_optimizer(dataclasses.replace(CONFIG, optimizer="adamw", weight_decay=0.5), 0.1)
    before = {v.name: v.numpy() for v in model.trainable_variables}
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
        before[variable.name] = variable.numpy()
    optimizer.apply_gradients((tf.zeros_like(v), v) for v in model.trainable_variables)
    for variable in model.trainable_variables:
        factor = 0.95 if "kernel" in variable.name else 1.0
        np.testing.assert_allclose(variable.numpy(), factor * before[variable.name], rtol=1e-5)


def test_the_model_ends_with_the_average_and_history_tells_both(tmp_path: Path) -> None:
    model = network()
    messages: list[str] = []
    result = fit(model, tmp_path, on_event=lambda event: messages.append(event.message))
    raw = training.predict(model, dataset().test_images, PREPROCESSING)
    assert not np.allclose(raw, result.raw_logits)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {"epoch", "learning_rate", "loss", "raw_accuracy", "ema_accuracy"}
    assert any("raw" in message and "EMA" in message for message in messages)


def weights(model: keras.Model) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


AUGMENTED = dataclasses.replace(CONFIG, flip=True, shift_pixels=1, epochs=3)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    models_made = []
    for name in ("a", "b"):
        training.begin(3)
        model = network()
        fit(model, tmp_path / name, AUGMENTED)
        models_made.append(weights(model))
    np.testing.assert_array_equal(models_made[0], models_made[1])


class Interrupted(Exception):
    pass


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.message.startswith("epoch 2/3"):
            raise Interrupted

    training.begin(3)
    whole = network(dropout=0.3)
    fit(whole, tmp_path / "whole", AUGMENTED)
    training.begin(3)
    with pytest.raises(Interrupted):
        fit(network(dropout=0.3), tmp_path / "parts", AUGMENTED, on_event=interrupt)
    training.begin(99)  # resuming must not hang on the process' random state
    resumed = network(dropout=0.3)
    messages: list[str] = []
    fit(resumed, tmp_path / "parts", AUGMENTED, on_event=lambda event: messages.append(event.message))
    assert "continuing after epoch 2 of 3" in messages
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert (tmp_path / "parts" / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    messages: list[str] = []

    def poison(event: Event) -> None:
        messages.append(event.message)
        if event.message.startswith("epoch 1/"):
            kernel = model.get_layer("logits").kernel
            kernel.assign(kernel * float("nan"))

    model = network()
    with pytest.raises(
        EnvironmentFailure,
        match=r"became nan in epoch 2 at step 1: start again with a lower learning_rate.*epoch 1 is kept in",
    ):
        fit(model, tmp_path, on_event=poison)
    assert list((tmp_path / "checkpoints").glob("ckpt-3.*"))  # of the third step


def test_no_validation_images_is_no_error(tmp_path: Path) -> None:
    data = dataset()
    empty = dataclasses.replace(
        data, validation_images=data.validation_images[:0], validation_labels=data.validation_labels[:0]
    )
    result = fit(network(), tmp_path, data=empty)
    assert math.isnan(result.history[0].raw)


def test_mixed_bfloat16_is_a_choice_of_the_build_only() -> None:
    with training.precision_policy("mixed_bfloat16"):
        model = models.build(NETWORK, (8, 8, 1), 2)
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert model.output.dtype == tf.float32
    assert models.build(NETWORK, (8, 8, 1), 2).get_layer("stem_conv").compute_dtype == "float32"


def test_training_in_bfloat16_ends_in_a_float32_model(tmp_path: Path) -> None:
    with training.precision_policy("mixed_bfloat16"):
        model = network()
    losses = [record.loss for record in fit(model, tmp_path, dataclasses.replace(CONFIG, epochs=4)).history]
    assert losses[-1] < losses[0]
    final = models.build(NETWORK, (8, 8, 1), 2)
    final.set_weights(model.get_weights())
    coarse = training.predict(model, dataset().test_images, PREPROCESSING)
    exact = training.predict(final, dataset().test_images, PREPROCESSING)
    assert coarse.dtype == exact.dtype == np.float32
    assert 0 < np.abs(coarse - exact).max() < 0.05 * np.abs(exact).max()


def test_auto_precision_goes_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset({"avx2"}))
    assert training.resolve_precision("auto") == "float32"
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert training.resolve_precision("auto") == "mixed_bfloat16"
    assert training.resolve_precision("float32") == "float32"
