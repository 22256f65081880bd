"""Schedules, losses, optimisers and the moving average against their closed forms; determinism, resuming, freezing."""

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from edgecbam import models, training
from edgecbam.datasets import Dataset
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, ignore
from edgecbam.recipe import ModelConfig, TrainConfig
from edgecbam.training import checkpoints, loop, precision

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


def test_the_cosine_is_the_closed_form_and_ends_at_0() -> None:
    config = TrainConfig(schedule="cosine", learning_rate=0.1, epochs=5, warmup_epochs=1.5)
    rate = training.schedule(config, steps_per_epoch=10)
    for step in (0, 3, 14, 15, 30, 49, 50, 60):
        share = min(1.0, max(0.0, (step - 15) / 35))
        expected = 0.1 * (1 + math.cos(math.pi * share)) / 2 * min(1.0, (step + 1) / 15)
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-8)


def test_no_warm_up_starts_at_the_full_rate() -> None:
    rate = training.schedule(TrainConfig(learning_rate=0.1, warmup_epochs=0.0), steps_per_epoch=10)
    assert float(rate(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["exponential", "cosine"])
def test_the_schedule_survives_serialisation(name: Literal["exponential", "cosine"]) -> None:
    rate = training.schedule(TrainConfig(schedule=name), 10)
    again = type(rate).from_config(rate.get_config())
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


def test_the_average_is_that_of_tensorflow() -> None:
    model = network()
    average = training.WeightAverage(model, decay=0.8)
    updates = tf.Variable(0, dtype=tf.int64)
    theirs = tf.train.ExponentialMovingAverage(0.8, num_updates=updates)
    theirs.apply(average.variables)
    for n in range(40):
        for variable in average.variables:
            variable.assign(variable + math.sin(n))
        average.update()
        theirs.apply(average.variables)
        updates.assign_add(1)
    for variable, shadow in zip(average.variables, average.shadows, strict=True):
        np.testing.assert_array_equal(shadow.numpy(), theirs.average(variable).numpy())


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


def closed_form(name: str, gradients: list[float], rate: float, config: TrainConfig) -> float:
    """Where a weight that begins at 1 is after these gradients."""
    weight, first, second, velocity = 1.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        if name == "sgd":
            weight -= rate * gradient
        elif name == "momentum":  # Nesterov's
            velocity = config.momentum * velocity - rate * gradient
            weight += config.momentum * velocity - rate * gradient
        elif name == "rmsprop":
            second = 0.9 * second + 0.1 * gradient**2
            velocity = config.momentum * velocity + rate * gradient / math.sqrt(second + 1e-3)
            weight -= velocity
        else:
            if name == "adamw":
                weight -= rate * config.weight_decay * weight
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            weight -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-7)
    return weight


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "rmsprop"])
def test_every_optimizer_is_its_closed_form(name: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=name, momentum=0.8, weight_decay=0.3)
    optimizer = training.make_optimizer(config, 0.05)
    weight = tf.Variable(1.0, name="kernel")
    gradients = [0.5, -1.0, 2.0, 0.25, -0.125]
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
    assert float(weight) == pytest.approx(closed_form(name, gradients, 0.05, config), rel=2e-4)


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
    assert any(not np.allclose(*pair) for pair in zip(model.get_weights(), result.raw_weights, strict=True))
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


def state(folder: Path) -> dict[str, bytes]:
    """Everything that the newest checkpoint holds, by name: weights, optimiser, average, progress."""
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith(("_CHECK", "save_counter"))]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in sorted(names)}


def interrupted_at(step: int, folder: Path, config: TrainConfig) -> None:
    """Train anew until a step has been saved, and no further."""
    steps = 0

    def interrupt(event: Event) -> None:
        nonlocal steps
        steps += event.step > 0
        if steps > step:  # told after the step was saved
            raise Interrupted

    training.begin(3)
    with pytest.raises(Interrupted):
        fit(network(dropout=0.3), folder, config, on_event=interrupt)


EVERY_STEP = dataclasses.replace(AUGMENTED, checkpoint_minutes=0.0, freeze_epochs=1)


@pytest.fixture
def every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", -1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed training; its first epoch trains the head and the attention alone."""
    folder = tmp_path_factory.mktemp("training") / "whole"
    training.begin(3)
    fit(network(dropout=0.3), folder, EVERY_STEP)
    return folder


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.usefixtures("every_event")
def test_a_training_resumes_in_the_midst_of_an_epoch(step: int, whole: Path, tmp_path: Path) -> None:
    interrupted_at(step, tmp_path / "parts", EVERY_STEP)
    training.begin(99)
    messages: list[str] = []
    resumed = network(dropout=0.3)
    fit(resumed, tmp_path / "parts", EVERY_STEP, on_event=lambda event: messages.append(event.message))
    where = {2: "in epoch 1 of 3 after step 2 of 3", 4: "in epoch 2 of 3 after step 2 of 3"}  # frozen, and not
    assert f"continuing {where[step]}" in messages
    assert state(tmp_path / "parts") == state(whole)
    assert (tmp_path / "parts" / "history.csv").read_text() == (whole / "history.csv").read_text()


@pytest.mark.usefixtures("every_event")
def test_a_checkpoint_that_cannot_be_read_is_passed_over(whole: Path, tmp_path: Path) -> None:
    interrupted_at(4, tmp_path / "parts", EVERY_STEP)
    newest = tmp_path / "parts" / "checkpoints" / "ckpt-5.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:1000])
    messages: list[str] = []
    fit(network(dropout=0.3), tmp_path / "parts", EVERY_STEP, on_event=lambda event: messages.append(event.message))
    assert any("ckpt-5" in message and "cannot be read" in message for message in messages)
    assert "continuing in epoch 2 of 3 after step 1 of 3" in messages
    assert state(tmp_path / "parts") == state(whole)


@pytest.mark.parametrize("content", [None, b""], ids=["no list", "an empty list"])
def test_checkpoints_whose_list_a_power_cut_took_are_found(content: bytes | None, tmp_path: Path) -> None:
    fit(network(), tmp_path)
    before, listed = state(tmp_path), tmp_path / "checkpoints" / "checkpoint"
    listed.unlink() if content is None else listed.write_bytes(content)
    messages: list[str] = []
    fit(network(), tmp_path, on_event=lambda event: messages.append(event.message))
    assert "continuing after epoch 2 of 2" in messages
    assert state(tmp_path) == before


def test_an_empty_list_of_no_checkpoints_is_a_new_beginning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").write_bytes(b"")
    assert len(fit(network(), tmp_path).history) == CONFIG.epochs


def test_no_readable_checkpoint_is_said_and_nothing_is_begun_anew(tmp_path: Path) -> None:
    fit(network(), tmp_path)
    found = sorted((tmp_path / "checkpoints").glob("ckpt-*.data*"))
    assert len(found) == 2
    for path in found:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EnvironmentFailure, match=r"none of the 2 checkpoints in .* can be read"):
        fit(network(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"network": dataclasses.replace(NETWORK, widths=(8,))},
        {"network": dataclasses.replace(NETWORK, blocks=(2,))},
        {"optimizer": "momentum"},
    ],
    ids=["wider", "deeper", "optimizer"],
)
def test_a_checkpoint_of_another_recipe_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    fit(network(), tmp_path)
    kept = sorted((path.name, path.read_bytes()) for path in (tmp_path / "checkpoints").iterdir())
    other = models.build(change.get("network", NETWORK), (8, 8, 1), 2)
    config = dataclasses.replace(CONFIG, optimizer=change.get("optimizer", "adamw"))
    with pytest.raises(InputError, match=r"^the checkpoint ckpt-6 in .* is of another network or optimiser"):
        fit(other, tmp_path, config)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "checkpoints").iterdir()) == kept


def test_checkpoints_are_due_by_the_clock(tmp_path: Path) -> None:
    model = network()
    optimizer = training.make_optimizer(CONFIG, 0.1)
    optimizer.build(model.trainable_variables)
    average = training.WeightAverage(model, 0.9)
    seconds = 0.0
    saved = checkpoints.Checkpoints(
        tmp_path, model, [optimizer], average, checkpoints.Progress(model.distribute_strategy), 2.0, lambda: seconds
    )
    seconds = 119.0
    assert not saved.due()
    seconds = 120.0
    assert saved.due()
    saved.save(1)
    assert not saved.due()


def test_frozen_epochs_train_the_head_and_the_attention_alone(tmp_path: Path) -> None:
    model = network()
    after: dict[str, dict[str, np.ndarray]] = {"start": {w.name: w.numpy() for w in model.weights}}

    def remember(event: Event) -> None:
        if event.message.startswith("epoch "):
            after[event.message[:7]] = {w.name: w.numpy() for w in model.weights}

    config = dataclasses.replace(CONFIG, epochs=2, freeze_epochs=1, l2=0.01)
    fit(model, tmp_path, config, on_event=remember)

    def changed(before: str, now: str) -> set[str]:
        return {name for name, value in after[before].items() if not np.array_equal(value, after[now][name])}

    first, second = changed("start", "epoch 1"), changed("epoch 1", "epoch 2")
    assert any(name.startswith("logits/kernel") for name in first)
    assert any("attention" in name for name in first)
    assert not any(name.startswith("stem_") or "_1_conv" in name or "_1_bn" in name for name in first)
    assert {"stem_conv/kernel:0", "stem_bn/moving_mean:0", "logits/kernel:0"} <= second
    assert model.get_layer("stem_conv").trainable


def test_what_is_unfrozen_has_an_optimiser_that_starts_there_at_the_rate_of_the_schedule(tmp_path: Path) -> None:
    rates = []
    for freeze_epochs in (0, 1):
        config = dataclasses.replace(CONFIG, epochs=2, freeze_epochs=freeze_epochs)
        folder = tmp_path / str(freeze_epochs)
        folder.mkdir()
        trained = loop._Fit(
            network(), dataset(), config, PREPROCESSING, folder / "checkpoints", "train", None, lambda _: None
        )
        rates.append([record.learning_rate for record in trained.run().history])
        assert int(trained.optimizer.iterations) == trained.steps_per_epoch * (2 - freeze_epochs)
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)


def test_an_image_lost_in_mid_training_is_said_as_itself(tmp_path: Path) -> None:
    class Lost:
        """Images of which the last is gone."""

        shape, dtype = (24, 8, 8, 1), np.dtype(np.uint8)

        def __len__(self) -> int:
            return 24

        def __getitem__(self, rows: Any) -> np.ndarray:
            if not isinstance(rows, slice) and 23 in rows:
                raise InputError("photos/23.png does not exist: put it back")
            return dataset().train_images[rows]

    data = dataclasses.replace(dataset(), train_images=Lost())
    with pytest.raises(InputError, match=r"^photos/23.png does not exist: put it back$"):
        fit(network(), tmp_path, data=data)


def test_the_error_of_several_targets_in_their_own_units_is_in_standard_deviations(tmp_path: Path) -> None:
    grams = dataclasses.replace(regression(), target_mean=(), target_std=())
    scale = np.array([1.0, 1000.0], np.float32)
    metres = dataclasses.replace(
        grams, **{f"{part}_labels": getattr(grams, f"{part}_labels") * scale for part in ("train", "validation")}
    )
    found = []
    for name, data in (("grams", grams), ("metres", metres)):
        folder = tmp_path / name
        folder.mkdir()
        model = models.build(NETWORK, (8, 8, 1), 2, "regression")
        for weight in model.get_layer("logits").weights:  # its answer is 0 in any unit
            weight.assign(tf.zeros_like(weight))
        begun = loop._Fit(model, data, CONFIG, PREPROCESSING, folder / "checkpoints", "train", None, lambda _: None)
        found.append(begun._metric())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def regression(images: int = 24) -> Dataset:
    """Brightness in two units: standardised targets of mean 0, once as it is and once upside down."""
    data = dataset(images)
    labels = (np.stack([data.train_labels, 1 - data.train_labels], 1) * 2.0 - 1.0).astype(np.float32)
    return dataclasses.replace(
        data,
        classes=("light", "dark"),
        train_labels=labels,
        validation_labels=labels[:8],
        test_labels=labels[8:20],
        target_mean=(5.0, 7.0),
        target_std=(3.0, 10.0),
    )


def one_target(data: Dataset) -> Dataset:
    return dataclasses.replace(
        data,
        classes=("light",),
        **{f"{part}_labels": getattr(data, f"{part}_labels")[:, :1] for part in ("train", "validation", "test")},
        target_mean=(5.0,),
        target_std=(3.0,),
    )


@pytest.mark.parametrize("targets", [1, 2])
def test_a_regression_learns_and_tells_its_rmse(targets: int, tmp_path: Path) -> None:
    data = one_target(regression()) if targets == 1 else regression()
    keras.utils.set_random_seed(5)
    model = models.build(NETWORK, (8, 8, 1), targets, task="regression")
    config = dataclasses.replace(CONFIG, epochs=8, learning_rate=0.02, ema_decay=0.5)
    result = fit(model, tmp_path, config, data)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert set(rows[0]) == {"epoch", "learning_rate", "loss", "raw_rmse", "ema_rmse"}
    outputs = training.predict(model, data.validation_images, PREPROCESSING)
    unit = 3.0 if targets == 1 else 1.0  # one target in its own unit, several in standard deviations
    expected = unit * math.sqrt(np.mean((outputs - data.validation_labels) ** 2))
    assert float(rows[-1]["ema_rmse"]) == pytest.approx(expected, rel=1e-4)
    assert result.history[-1].loss < 0.6 * result.history[0].loss


def test_the_loss_of_a_step_weighs_the_images(tmp_path: Path) -> None:
    model = network()
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 1)).astype(np.float32)
    log_p = tf.nn.log_softmax(model(images, training=True)).numpy()
    targets = np.eye(2, dtype=np.float32)[[0, 1] * 4]
    weights = np.array([0, 1, 2, 3, 0, 0.5, 1, 1], np.float32)
    expected = np.sum(weights * -np.sum(targets * log_p, 1)) / np.sum(weights)
    model = network()
    optimizer = training.make_optimizer(CONFIG, 0.0)
    optimizer.build(model.trainable_variables)
    average = training.WeightAverage(model, 0.9)
    step = training.make_step(model, optimizer, average, CONFIG, training.losses.cross_entropy)
    parts = ((tf.constant(images), tf.constant(targets), tf.constant(weights)),)
    loss, due = step(parts, tf.constant(1.0)).numpy()
    assert (loss, due) == (pytest.approx(expected, rel=1e-5), 1)
    nothing = ((*parts[0][:2], tf.zeros(8)),)
    assert step(nothing, tf.constant(0.0)).numpy()[0] == 0


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
