"""The training loop, the same for float training and quantization-aware training."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edgecbam import metrics
from edgecbam.datasets import Dataset
from edgecbam.datasets.pipeline import batches
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import TrainConfig

from .average import WeightAverage
from .history import EpochRecord, History
from .inference import predict
from .learning_rate import schedule
from .optimizers import make_optimizer
from .steps import make_step

PROGRESS_SECONDS = 0.5


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
    history = History(checkpoints.parent / "history.csv")
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=optimizer, shadows=average.shadows, updates=average.updates, epochs=epochs_done
    )
    manager = tf.train.CheckpointManager(checkpoint, str(checkpoints), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        on_event(Event(stage, message=f"continuing after epoch {int(epochs_done)} of {config.epochs}"))
    history.keep(int(epochs_done))
    step = make_step(model, optimizer, average, config)
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
