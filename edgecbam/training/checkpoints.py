"""Checkpoints: everything that a training needs to go on as if it had never stopped.

A checkpoint holds the weights, the optimiser, the moving average and how far the training has come: the epoch, the
step in it, and the sums behind the epoch's mean loss. The order of the images and their augmentation need no saving,
for every batch is a function of the seed, the epoch and its number. TensorFlow writes a checkpoint under another name
and renames it, then the file that names the newest one, then removes the oldest: a process that is killed at any of
these moments leaves a whole checkpoint. The last two are kept.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgecbam.errors import EnvironmentFailure, InputError

from . import distribution
from .average import WeightAverage

KEPT = 2
_UNREADABLE = (tf.errors.OpError, IndexError)  # the second is what TensorFlow makes of "out of range"


class Progress:
    """How far a training has come, saved with the weights.

    Attributes:
        epochs: how many epochs are done.
        batches: how many steps of the next one are done.
        loss_sum: sum of loss times images over these steps.
        images: how many images these steps had.
    """

    def __init__(self, strategy: Any) -> None:
        with strategy.scope():
            self._counts = tf.Variable([0, 0, 0], dtype=tf.int64, trainable=False, name="progress")
            self._loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="loss_sum")
        self.variables = [self._counts, self._loss_sum]
        self.load()

    def load(self) -> None:
        """Take what the variables hold."""
        self.epochs, self.batches, self.images = (int(count) for count in self._counts.numpy())
        self.loss_sum = float(self._loss_sum.numpy())

    def store(self) -> None:
        """Put it into the variables, for a checkpoint."""
        self._counts.assign([self.epochs, self.batches, self.images])
        self._loss_sum.assign(self.loss_sum)

    def add(self, loss: float, images: int) -> None:
        """One more step is done."""
        self.batches += 1
        self.loss_sum += loss * images
        self.images += images

    def next_epoch(self) -> None:
        self.epochs, self.batches, self.loss_sum, self.images = self.epochs + 1, 0, 0.0, 0


class Checkpoints:
    """The checkpoints of a training in a folder.

    Args:
        folder: where they are; each worker has its own, and only the first one's is read.
        model: keras.Model.
        optimizers: built for the model.
        average: of the model.
        progress: see Progress.
        minutes: how much time may pass before one is due in the midst of an epoch; with 0 one is due after every step.
        clock: seconds.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        optimizers: Sequence[Any],
        average: WeightAverage,
        progress: Progress,
        minutes: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._progress = progress
        self._strategy = model.distribute_strategy
        self._variables = [
            *model.weights,
            *(variable for optimizer in optimizers for variable in optimizer.variables),
            *average.shadows,
            average.updates,
            *progress.variables,
        ]
        self._checkpoint = tf.train.Checkpoint(
            model=model,
            **{f"optimizer{number or ''}": optimizer for number, optimizer in enumerate(optimizers)},
            shadows=average.shadows,
            updates=average.updates,
            progress=progress.variables,
        )
        _mend_list(folder)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=KEPT)
        self._sweep()
        self._seconds = 60.0 * minutes
        self._clock = clock
        self._last_seconds = clock()
        self.last: tuple[int, int] | None = None  # epochs and batches done at the one last written or read

    def due(self) -> bool:
        """Whether it is time for a checkpoint in the midst of an epoch."""
        return self._clock() - self._last_seconds >= self._seconds

    def save(self, number: int) -> None:
        """Write one, unless it is there already; every worker must call this at the same step."""
        if self.last == (self._progress.epochs, self._progress.batches):
            return
        self._progress.store()
        self._manager.save(checkpoint_number=number)
        self.last = self._progress.epochs, self._progress.batches
        self._last_seconds = self._clock()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed process left of checkpoints that it had not finished, or not wholly removed."""
        last = map(Path, self._manager.checkpoints[-KEPT:])  # the list has one more while a checkpoint is replaced
        kept = {path.name for path in last if path.with_name(f"{path.name}.index").exists()}
        for path in self.folder.glob("*"):
            if path.name == "checkpoint" or (path.is_file() and path.name.partition(".")[0] in kept):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def restore(self, tell: Callable[[str], None]) -> bool:
        """Go back to the newest one that can be read, on all workers; returns whether there was any.

        Args:
            tell: told of a checkpoint that had to be passed over.

        Raises:
            InputError: a checkpoint belongs to another network or optimiser.
            EnvironmentFailure: there are checkpoints, but none can be read.
        """
        if distribution.is_chief(self._strategy):
            self._read(tell)
        distribution.share(self._strategy, self._variables)
        self._progress.load()
        if self._progress.epochs or self._progress.batches:
            self.last = self._progress.epochs, self._progress.batches
        return self.last is not None

    def _read(self, tell: Callable[[str], None]) -> None:
        found = list(reversed(self._manager.checkpoints))
        for path in found:
            name = Path(path).name
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
                return
            except _UNREADABLE:
                tell(f"the checkpoint {name} in {self.folder} cannot be read: going on from the one before it")
            except (ValueError, AssertionError):
                raise InputError(
                    f"the checkpoint {name} in {self.folder} is of another network or optimiser: go on with the "
                    "recipe that it was begun with, or start anew with --overwrite; nothing was changed"
                ) from None
        if found:
            raise EnvironmentFailure(
                f"none of the {len(found)} checkpoints in {self.folder} can be read: start anew with --overwrite"
            )


def _is_whole(path: Path) -> bool:
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (*_UNREADABLE, ValueError):
        return False
    return True


def _mend_list(folder: Path) -> None:
    """Let TensorFlow find whole checkpoints whose list a power cut has emptied: it would begin anew without a word."""
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # the list is empty
        state = None
    if state is not None and state.model_checkpoint_path:
        named = (state.model_checkpoint_path, *state.all_model_checkpoint_paths)
        if not all(Path(path).parent.resolve() == folder.resolve() for path in named):
            raise InputError(
                f"{folder / 'checkpoint'} names files outside of its folder: start anew with --overwrite, or remove it"
            )
        return
    numbered = {int(path.stem.rpartition("-")[2]): path for path in folder.glob("ckpt-*.index")}
    if not (folder / "checkpoint").exists():  # the first one was just being written, or is whole
        numbered = {number: path for number, path in numbered.items() if _is_whole(path.with_suffix(""))}
    kept = [numbered[number] for number in sorted(numbered)][-KEPT:]
    if kept:
        times = [path.stat().st_mtime for path in kept]
        tf.compat.v1.train.update_checkpoint_state(
            str(folder),
            str(kept[-1].with_suffix("")),
            [str(path.with_suffix("")) for path in kept],
            all_model_checkpoint_timestamps=times,
            last_preserved_timestamp=min(times) - 1.0,
        )
    else:
        (folder / "checkpoint").unlink(missing_ok=True)
