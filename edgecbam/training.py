"""The training loop: exponentially decaying learning rate, moving average of the weights, checkpoints.

Float training and quantization-aware training run the same loop. The moving average is TensorFlow's
``tf.train.ExponentialMovingAverage`` with its warm-up: shadow = d * shadow + (1 - d) * variable with
d = min(decay, (1 + n) / (10 + n)) at update n. BatchNorm's moving mean and variance are averaged together with the
weights, as EfficientNet's training does (https://arxiv.org/abs/1905.11946 §5).
"""

import contextlib
import csv
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edgecbam import metrics
from edgecbam.artifacts import write_whole
from edgecbam.datasets import Dataset
from edgecbam.datasets.pipeline import batches
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import normalize
from edgecbam.recipe import Precision, TrainConfig

EVALUATION_BATCH = 250
PROGRESS_SECONDS = 0.5


@keras.utils.register_keras_serializable("edgecbam")
class WarmUpDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then ``ExponentialDecay``: lr * rate ** (step / decay_steps), in whole powers if staircase.

    During the first ``warmup_steps`` the decayed rate is multiplied by (step + 1) / warmup_steps.
    """

    def __init__(
        self, learning_rate: float, decay_rate: float, decay_steps: float, staircase: bool, warmup_steps: float
    ) -> None:
        self.decay = keras.optimizers.schedules.ExponentialDecay(learning_rate, decay_steps, decay_rate, staircase)
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        progress = (tf.cast(step, tf.float32) + 1.0) / max(self.warmup_steps, 1e-6)
        return self.decay(step) * tf.minimum(progress, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.decay.initial_learning_rate,
            "decay_rate": self.decay.decay_rate,
            "decay_steps": self.decay.decay_steps,
            "staircase": self.decay.staircase,
            "warmup_steps": self.warmup_steps,
        }


def schedule(config: TrainConfig, steps_per_epoch: int) -> WarmUpDecay:
    """The learning rate over steps, from settings that count epochs."""
    return WarmUpDecay(
        config.learning_rate,
        config.decay_rate,
        config.decay_epochs * steps_per_epoch,
        config.staircase,
        config.warmup_epochs * steps_per_epoch,
    )


def make_optimizer(config: TrainConfig, learning_rate: Any) -> Any:
    """The optimiser by its name in the recipe; AdamW decays kernels only, not biases or BatchNorm."""
    optimizers = keras.optimizers
    match config.optimizer:
        case "sgd":
            return optimizers.SGD(learning_rate)
        case "momentum":
            return optimizers.SGD(learning_rate, momentum=config.momentum, nesterov=True)
        case "adam":
            return optimizers.Adam(learning_rate)
        case "rmsprop":
            return optimizers.RMSprop(learning_rate, rho=0.9, momentum=config.momentum, epsilon=1e-3)
        case "adamw":
            optimizer = optimizers.AdamW(learning_rate, weight_decay=config.weight_decay)
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            return optimizer


class WeightAverage:
    """The exponential moving average of a model's trainable weights and BatchNorm statistics."""

    def __init__(self, model: Any, decay: float) -> None:
        self.model = model
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="ema_updates")
        self.variables = list(model.trainable_variables) + batchnorm_statistics(model)
        self._average = tf.train.ExponentialMovingAverage(decay, num_updates=self.updates)
        self._average.apply(self.variables)  # creates the shadows, equal to the variables
        self.shadows = [self._average.average(variable) for variable in self.variables]

    def update(self) -> None:
        """Average the present weights in; call once after every optimiser step, inside or outside a tf.function."""
        self._average.apply(self.variables)
        self.updates.assign_add(1)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averaged weights inside the block and all that it had before afterwards."""
        before = [tf.identity(weight) for weight in self.model.weights]
        self.assign()
        try:
            yield
        finally:
            for weight, value in zip(self.model.weights, before, strict=True):
                weight.assign(value)

    def assign(self) -> None:
        """Give the model the averaged weights for good."""
        for variable, shadow in zip(self.variables, self.shadows, strict=True):
            variable.assign(shadow)


def batchnorm_statistics(model: Any) -> list[Any]:
    """Moving means and variances of a model, plain or quantization-aware."""
    layers = (getattr(layer, "layer", layer) for layer in model.layers)
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.csv. Accuracies are top-1 on the validation images, 0…1; loss is the mean over the epoch."""

    epoch: int
    learning_rate: float
    loss: float
    raw_accuracy: float
    ema_accuracy: float


@dataclass(frozen=True)
class FitResult:
    """What a training did; the model itself has been changed in place and holds the averaged weights."""

    history: tuple[EpochRecord, ...]
    raw_logits: np.ndarray
    images_per_second: float


def fit(
    model: Any,
    dataset: Dataset,
    config: TrainConfig,
    preprocessing: dict[str, Any],
    checkpoints: Path,
    *,
    stage: str,
    refresh: Callable[[], None] | None = None,
    on_event: OnEvent,
) -> FitResult:
    """Train a model in place and leave it with the averaged weights.

    Args:
        model: keras.Model from float32 [n, h, w, c] to logits [n, classes].
        dataset: uint8 images and int64 labels.
        config: how to train.
        preprocessing: how pixels become inputs, as in the manifest.
        checkpoints: folder for a checkpoint after each epoch; a checkpoint found there is continued from.
        stage: name for events.
        refresh: called after averaged weights were swapped in, to bring untrained state up to date (ranges of QAT).
        on_event: listener.

    Raises:
        EnvironmentFailure: the loss is no longer finite; the checkpoint of the last whole epoch stays.
    """
    images, labels = dataset.train_images, dataset.train_labels
    steps_per_epoch = math.ceil(len(images) / config.batch_size)
    optimizer = make_optimizer(config, schedule(config, steps_per_epoch))
    optimizer.build(model.trainable_variables)
    average = WeightAverage(model, config.ema_decay)
    epochs_done = tf.Variable(0, dtype=tf.int64, trainable=False)
    history = _History(checkpoints.parent / "history.csv")
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=optimizer, shadows=average.shadows, updates=average.updates, epochs=epochs_done
    )
    manager = tf.train.CheckpointManager(checkpoint, str(checkpoints), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        on_event(Event(stage, message=f"continuing after epoch {int(epochs_done)} of {config.epochs}"))
    history.keep(int(epochs_done))
    step = _make_step(model, optimizer, average, config)
    seconds, trained = 0.0, 0
    for epoch in range(int(epochs_done), config.epochs):
        started = time.perf_counter()
        stream = batches(
            images,
            labels,
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=epoch,
            flip=config.flip,
            shift_pixels=config.shift_pixels,
            preprocessing=preprocessing,
            shuffle=True,
        )
        loss = _epoch(step, stream, stage, epoch, config.epochs, len(images), checkpoints, on_event)
        seconds += time.perf_counter() - started
        trained += len(images)
        _require_finite(model, epoch, checkpoints)
        record = EpochRecord(
            epoch + 1,
            float(optimizer.learning_rate),
            loss,
            *_validate(model, average, dataset, preprocessing, refresh),
        )
        epochs_done.assign(epoch + 1)
        history.append(record)
        manager.save()
        on_event(Event(stage, message=_describe(record, config.epochs)))
    raw_logits = predict(model, dataset.test_images, preprocessing)
    average.assign()
    if refresh is not None:
        refresh()
    return FitResult(tuple(history.records), raw_logits, trained / seconds if seconds else 0.0)


def _make_step(model: Any, optimizer: Any, average: WeightAverage, config: TrainConfig) -> Any:
    classes = model.output_shape[-1]
    kernels = [v for v in model.trainable_variables if "kernel" in v.name]
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None], tf.int64),
    ]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = tf.cast(model(images, training=True), tf.float32)
            if config.label_smoothing:
                targets = tf.one_hot(labels, classes)
                targets = targets * (1.0 - config.label_smoothing) + config.label_smoothing / classes
                losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
            if config.l2:
                loss += config.l2 * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        average.update()
        return loss

    return step


def _epoch(
    step: Any,
    stream: Any,
    stage: str,
    epoch: int,
    epochs: int,
    images: int,
    checkpoints: Path,
    on_event: OnEvent,
) -> float:
    """Run one epoch; returns the mean loss over its images."""
    total, done, shown = 0.0, 0, time.perf_counter()
    for batch, (inputs, labels) in enumerate(stream, start=1):
        loss = float(step(inputs, labels))
        if not math.isfinite(loss):
            raise EnvironmentFailure(
                f"the loss became {loss} in epoch {epoch + 1} at step {batch}: {_after_divergence(epoch, checkpoints)}"
            )
        total += loss * len(labels)
        done += len(labels)
        if time.perf_counter() - shown > PROGRESS_SECONDS or done == images:
            shown = time.perf_counter()
            figures = {"epoch": float(epoch + 1), "epochs": float(epochs), "loss": total / done}
            on_event(Event(stage, step=epoch * images + done, total=epochs * images, unit="image", figures=figures))
    return total / done


def _require_finite(model: Any, epoch: int, checkpoints: Path) -> None:
    """Refuse to save or average weights that the last step of an epoch has ruined."""
    for weight in model.weights:
        if weight.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(weight))):
            raise EnvironmentFailure(
                f"{weight.name} is no longer finite after epoch {epoch + 1}: {_after_divergence(epoch, checkpoints)}"
            )


def _after_divergence(epochs_done: int, checkpoints: Path) -> str:
    kept = f"the checkpoint of epoch {epochs_done} is kept in {checkpoints}" if epochs_done else "no epoch was finished"
    return f"start again with a lower learning_rate and another --out or --overwrite; {kept}"


def _validate(
    model: Any, average: WeightAverage, dataset: Dataset, preprocessing: dict[str, Any], refresh: Any
) -> tuple[float, float]:
    """Raw and averaged top-1 on the validation images; NaN for both where the recipe keeps no validation images."""
    if not len(dataset.validation_images):
        return math.nan, math.nan
    raw = metrics.top1(predict(model, dataset.validation_images, preprocessing), dataset.validation_labels)
    with average.swapped():
        if refresh is not None:
            refresh()
        ema = metrics.top1(predict(model, dataset.validation_images, preprocessing), dataset.validation_labels)
    return raw, ema


def _describe(record: EpochRecord, epochs: int) -> str:
    shown = f"validation {record.raw_accuracy:.2%} raw, {record.ema_accuracy:.2%} EMA"
    if math.isnan(record.raw_accuracy):
        shown = "no validation images"
    return f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  {shown}"


def predict(model: Any, images: np.ndarray, preprocessing: dict[str, Any]) -> np.ndarray:
    """Logits of a Keras model in inference mode: uint8 [n, h, w, c] -> float32 [n, classes]."""
    call = _inference(model)
    parts = [
        call(tf.constant(normalize(images[start : start + EVALUATION_BATCH], preprocessing))).numpy()
        for start in range(0, len(images), EVALUATION_BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, model.output_shape[-1]), np.float32)


def _inference(model: Any) -> Any:
    """A compiled call in inference mode, traced once for each model."""
    if not hasattr(model, "_edgecbam_inference"):
        signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
        model._edgecbam_inference = tf.function(
            lambda images: tf.cast(model(images, training=False), tf.float32), input_signature=signature
        )
    return model._edgecbam_inference


class _History:
    """history.csv, rewritten whole after each epoch, so that a resumed training finds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[EpochRecord] = []
        if path.is_file():
            for row in csv.DictReader(io.StringIO(path.read_text("utf-8"))):
                self.records.append(EpochRecord(int(row.pop("epoch")), **{k: float(v) for k, v in row.items()}))

    def keep(self, epochs: int) -> None:
        self.records = self.records[:epochs]

    def append(self, record: EpochRecord) -> None:
        self.records.append(record)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(vars(record)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(entry) for entry in self.records)
        write_whole(self.path, buffer.getvalue())


def resolve_precision(choice: Precision) -> Precision:
    """``auto`` is mixed_bfloat16 on a CPU with AMX-BF16, where it was measured to pay, and float32 elsewhere."""
    if choice != "auto":
        return choice
    return "mixed_bfloat16" if "amx_bf16" in _cpu_flags() else "float32"


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())


@contextlib.contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Build models under a Keras precision policy; float32 is restored afterwards."""
    keras.mixed_precision.set_global_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


def begin(seed: int) -> None:
    """Begin a stage: same seed, same machine, same result, whatever ran before in this process.

    Seeds Python, NumPy and TensorFlow, refuses nondeterministic kernels, and lets Keras count layer names anew.
    """
    tf.config.experimental.enable_op_determinism()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
