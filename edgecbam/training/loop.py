"""The training loop, the same for float training and quantization-aware training, on one device or many."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edgecbam import metrics, models
from edgecbam.datasets import Dataset, pipeline
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import Task, TrainConfig

from . import distribution, losses
from .average import WeightAverage
from .checkpoints import Checkpoints, Progress
from .history import EpochRecord, History
from .inference import predict
from .learning_rate import Later, schedule
from .optimizers import make_optimizer
from .steps import make_step

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class FitResult:
    """What a training did; the model itself has been changed in place and holds the averaged weights.

    Attributes:
        history: of all epochs, also of those before a resume.
        raw_weights: of the last step, in the order of ``model.get_weights()``.
        images_per_second: trained on, by all workers together, validation and checkpoints not counted.
    """

    history: tuple[EpochRecord, ...]
    raw_weights: list[np.ndarray]
    images_per_second: float


def check(dataset: Dataset, config: TrainConfig, preprocessing: dict[str, Any]) -> None:
    """Refuse settings that do not fit the data, before anything is written.

    Args:
        dataset: as for ``fit``.
        config: its loss, class weights and augmentation are looked at.
        preprocessing: how pixels become inputs.

    Raises:
        InputError: saying which setting, and how to mend it.
    """
    _loss(dataset, config)
    pipeline.check(dataset.train_images, dataset.train_labels, _classes(dataset), config, preprocessing)


def _classes(dataset: Dataset) -> int | None:
    """The number of classes; None for a regression."""
    return None if dataset.train_labels.dtype.kind == "f" else len(dataset.classes)


def _loss(dataset: Dataset, config: TrainConfig) -> losses.Loss:
    task: Task = "regression" if _classes(dataset) is None else "classification"
    return losses.resolve(config.loss, task, len(dataset.classes))


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
        model: keras.Model from float32 [n, h, w, c] to logits [n, classes] or values [n, k]; trained on the devices of
            the tf.distribute strategy in whose scope it was built.
        dataset: uint8 images; int64 labels, or float32 [n, k] standardised targets.
        config: how to train; ``distribution`` was heeded where the model was built.
        preprocessing: how pixels become inputs, as in the manifest.
        checkpoints: folder for checkpoints; one that is found there is continued from. Each worker has its own.
        stage: name for events.
        refresh: called after averaged weights were swapped in, to bring untrained state up to date (ranges of QAT).
        on_event: listener.

    Raises:
        InputError: the loss or the augmentation does not fit, or a checkpoint is of another network.
        EnvironmentFailure: the loss is no longer finite, or a worker was lost; the last checkpoint stays.
    """
    with distribution.explained(distribution.cluster_of(model.distribute_strategy)):
        return _Fit(model, dataset, config, preprocessing, checkpoints, stage, refresh, on_event).run()


class _Fit:
    """The state of one training.

    All workers do the same at the same time, validation and checkpoints included: BatchNorm's statistics are spread
    over them, and reading one asks all workers. Only the folders differ.
    """

    def __init__(
        self,
        model: Any,
        dataset: Dataset,
        config: TrainConfig,
        preprocessing: dict[str, Any],
        checkpoints: Path,
        stage: str,
        refresh: Callable[[], None] | None,
        on_event: OnEvent,
    ) -> None:
        self.model, self.dataset, self.config, self.preprocessing = model, dataset, config, preprocessing
        self.folder, self.stage, self.refresh, self.on_event = checkpoints, stage, refresh, on_event
        self.strategy = model.distribute_strategy
        self.classes = _classes(dataset)
        self.steps_per_epoch = pipeline.batch_count(len(dataset.train_images), config)
        self.loss = _loss(dataset, config)
        distribution.synchronise(model)
        frozen_steps = min(config.freeze_epochs, config.epochs) * self.steps_per_epoch
        self.optimizer = self._optimizer(frozen_steps)
        # Adam's moments are corrected for the steps since its start: of what is unfrozen they start there.
        self.frozen_optimizer = self._optimizer(0) if frozen_steps else None
        self.average = WeightAverage(model, config.ema_decay)
        self.progress = Progress(self.strategy)
        self.checkpoints = Checkpoints(
            checkpoints,
            model,
            [optimizer for optimizer in (self.optimizer, self.frozen_optimizer) if optimizer is not None],
            self.average,
            self.progress,
            config.checkpoint_minutes,
        )
        metric = "rmse" if self.classes is None else "accuracy"
        self.history = History(checkpoints.parent / "history.csv", metric)

    def _optimizer(self, begin: int) -> Any:
        """One that starts at step ``begin``."""
        rate = schedule(self.config, self.steps_per_epoch)
        with self.strategy.scope():
            optimizer = make_optimizer(self.config, Later(rate, begin) if begin else rate)
            optimizer.build(self.model.trainable_variables)
        return optimizer

    def run(self) -> FitResult:
        epochs = self.config.epochs
        if self.checkpoints.restore(self.say):
            self.say(f"continuing {self._where()}")
        self.history.keep(self.progress.epochs)
        step, optimizer, seconds, trained = None, self.optimizer, 0.0, 0
        while self.progress.epochs < epochs:
            epoch = self.progress.epochs
            if step is None or epoch == self.config.freeze_epochs:
                self._freeze(epoch < self.config.freeze_epochs)
                optimizer = self.optimizer
                if self.frozen_optimizer is not None and epoch < self.config.freeze_epochs:
                    optimizer = self.frozen_optimizer
                step = make_step(self.model, optimizer, self.average, self.config, self.loss)
            started, before = time.perf_counter(), self.progress.images
            with pipeline.own_errors():
                self._epoch(step, epoch)
            seconds += time.perf_counter() - started
            trained += self.progress.images - before
            self._require_finite(epoch)
            rate, loss = float(optimizer.learning_rate.numpy()), self.progress.loss_sum / self.progress.images
            self.progress.next_epoch()
            record = EpochRecord(epoch + 1, rate, loss, *self._validate(), self.history.metric)
            self.history.append(record)
            self.checkpoints.save(self.progress.epochs * self.steps_per_epoch)
            self.say(_describe(record, epochs))
        self._freeze(False)
        raw_weights = self.model.get_weights()
        self.average.assign()
        if self.refresh is not None:
            self.refresh()
        return FitResult(tuple(self.history.records), raw_weights, trained / seconds if seconds else 0.0)

    def say(self, message: str) -> None:
        self.on_event(Event(self.stage, message=message))

    def _freeze(self, frozen: bool) -> None:
        if self.config.freeze_epochs:
            (models.freeze if frozen else models.unfreeze)(self.model)

    def _epoch(self, step: Any, epoch: int) -> None:
        """Run what is left of an epoch."""
        progress, all_images, shown = self.progress, len(self.dataset.train_images), time.perf_counter()
        for parts in self._stream(epoch):
            loss, due = step(parts, tf.constant(float(self.checkpoints.due()))).numpy().tolist()
            if not math.isfinite(loss):
                raise EnvironmentFailure(
                    f"the loss became {loss} in epoch {epoch + 1} at step {progress.batches + 1}: "
                    f"{self._after_divergence()}"
                )
            progress.add(loss, min(self.config.batch_size, all_images - progress.images))
            ended = progress.batches == self.steps_per_epoch
            if due and not ended:  # the same on all workers, for the step has summed their clocks' verdicts
                self._require_finite(epoch)
                self.checkpoints.save(epoch * self.steps_per_epoch + progress.batches)
            if time.perf_counter() - shown > PROGRESS_SECONDS or ended:
                shown = time.perf_counter()
                self._show(epoch, all_images)

    def _stream(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch from where it was left: for each, the parts of this process' devices."""
        dataset = self.dataset
        streams = [
            pipeline.batches(
                dataset.train_images,
                dataset.train_labels,
                classes=self.classes,
                config=self.config,
                epoch=epoch,
                preprocessing=self.preprocessing,
                start_batch=self.progress.batches,
                shard=shard,
            )
            for shard in distribution.shards(self.strategy)
        ]
        return zip(*streams, strict=True)

    def _show(self, epoch: int, images: int) -> None:
        progress, epochs = self.progress, self.config.epochs
        figures = {
            "epoch": float(epoch + 1),
            "epochs": float(epochs),
            "loss": progress.loss_sum / progress.images,
        }
        done, total = epoch * images + progress.images, epochs * images
        self.on_event(Event(self.stage, step=done, total=total, unit="image", figures=figures))

    def _require_finite(self, epoch: int) -> None:
        """Refuse to save or average weights that the last step has ruined."""
        for weight in self.model.weights:
            if weight.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(weight))):
                raise EnvironmentFailure(
                    f"{weight.name} is no longer finite after step {self.progress.batches} of epoch {epoch + 1}: "
                    f"{self._after_divergence()}"
                )

    def _after_divergence(self) -> str:
        kept = "no epoch was finished"
        if self.checkpoints.last is not None:
            epochs, batches = self.checkpoints.last
            when = f"after step {batches} of epoch {epochs + 1}" if batches else f"of epoch {epochs}"
            kept = f"the checkpoint {when} is kept in {self.folder}"
        return f"start again with a lower learning_rate and another --out or --overwrite; {kept}"

    def _where(self) -> str:
        """``after epoch 2 of 3``, or ``in epoch 3 of 3 after step 5 of 12``."""
        progress, epochs = self.progress, self.config.epochs
        if not progress.batches:
            return f"after epoch {progress.epochs} of {epochs}"
        return f"in epoch {progress.epochs + 1} of {epochs} after step {progress.batches} of {self.steps_per_epoch}"

    def _validate(self) -> tuple[float, float]:
        """The metric on the validation images, raw and averaged; NaN for both where the recipe keeps no such images."""
        if not len(self.dataset.validation_images):
            return math.nan, math.nan
        raw = self._metric()
        with self.average.swapped():
            if self.refresh is not None:
                self.refresh()
            return raw, self._metric()

    def _metric(self) -> float:
        dataset = self.dataset
        outputs = predict(self.model, dataset.validation_images, self.preprocessing)
        if self.classes is not None:
            return metrics.top1(outputs, dataset.validation_labels)
        errors = metrics.rmse(outputs, dataset.validation_labels)
        if len(errors) == 1:
            return float(errors[0] * (dataset.target_std[0] if dataset.target_std else 1.0))
        if not dataset.target_std:  # targets in units of their own, which a mean would mix
            errors = errors / np.maximum(np.std(dataset.train_labels, axis=0), 1e-12)
        return float(np.sqrt(np.mean(np.square(errors))))


def _describe(record: EpochRecord, epochs: int) -> str:
    begin = f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}"
    if math.isnan(record.raw):
        return f"{begin}  no validation images"
    if record.metric == "accuracy":
        return f"{begin}  validation {record.raw:.2%} raw, {record.ema:.2%} EMA"
    return f"{begin}  validation RMSE {record.raw:.4g} raw, {record.ema:.4g} EMA"
