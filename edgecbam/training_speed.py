"""How fast training is beside a plain tf_keras ``fit`` of the same network, and whether the input keeps up.

    python -m edgecbam.training_speed REPORT.json [--recipe NAME] [--set KEY=VALUE] [--sessions N] [--epochs N]

Each session trains the same network on the same images in four fresh processes, in an order that differs from session
to session: ``ours`` is ``training.fit`` as ``edgecbam train`` calls it, with augmentation, moving average and the
precision that the recipe resolves to on this machine; ``plain`` is ``compile`` and ``fit`` in float32 on tensors that
are ready in memory, without any of these; ``input`` makes the batches of ``ours`` and trains nothing; ``step`` trains
on one batch again and again. The ratios are of images a second within a session.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import random
import statistics as median
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgecbam import artifacts, recipe
from edgecbam.benchmarks import environment, statistics
from edgecbam.errors import EnvironmentFailure
from edgecbam.events import Event
from edgecbam.recipe import Recipe

KINDS = ("ours", "plain", "input", "step")
MADE_WITH = ("tensorflow", "tf-keras")
TIMEOUT_SECONDS = 3600.0


def measure(name: str, assignments: Sequence[str], sessions: int, epochs: int) -> dict[str, Any]:
    """The report: images a second of each kind by session, and the ratios that the module names.

    Args:
        name: recipe, as ``edgecbam train`` takes it.
        assignments: as ``--set``.
        sessions: how many times each kind is measured.
        epochs: how many are timed in each process, after one that is not.

    Raises:
        EnvironmentFailure: a process failed.
    """
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    facts: dict[str, Any] = {}
    order = random.Random(1)
    for session in range(sessions):
        for kind in order.sample(KINDS, len(KINDS)):
            found = _in_process(kind, name, assignments, epochs)
            rates[kind].append(found["images_per_second"])
            facts |= found["facts"]
            sys.stderr.write(f"session {session + 1}/{sessions} {kind}: {found['images_per_second']:.0f} images/s\n")

    def ratio(numerator: str, denominator: str) -> dict[str, float | None]:
        pairs = zip(rates[numerator], rates[denominator], strict=True)
        return statistics.ratio_of_processes([a / b for a, b in pairs])

    about = environment.describe(())
    about["versions"] |= {package: importlib.metadata.version(package) for package in MADE_WITH}
    return {
        "schema_version": 1,
        "recipe": name,
        "set": list(assignments),
        "sessions": sessions,
        "epochs_timed": epochs,
        **facts,
        "images_per_second": rates,
        "median_images_per_second": {kind: median.median(values) for kind, values in rates.items()},
        "ours_over_plain": ratio("ours", "plain"),
        "input_over_step": ratio("input", "step"),
        "ours_over_step": ratio("ours", "step"),
        "environment": about,
    }


def _in_process(kind: str, name: str, assignments: Sequence[str], epochs: int) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "edgecbam.training_speed",
        "--child",
        kind,
        "--recipe",
        name,
        "--epochs",
        str(epochs),
    ]
    words += [word for assignment in assignments for word in ("--set", assignment)]
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode != 0:
        raise EnvironmentFailure(f"the process that measures {kind!r} ended with code {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(kind: str, settings: Recipe, epochs: int) -> dict[str, Any]:
    """Measure one kind in this process: ``images_per_second``, and ``facts`` of the network and the data."""
    from edgecbam import datasets, models, preprocessing, training

    dataset, data = datasets.load(settings.data)
    chosen = "float32" if kind == "plain" else training.resolve_precision(settings.train.precision)
    training.begin(settings.train.seed)
    with training.precision_policy(chosen):
        shape = (data.height, data.width, data.channels)
        model = models.build(settings.model, shape, len(dataset.classes))
    measures: dict[str, Callable[..., float]] = {"ours": _ours, "plain": _plain, "input": _input, "step": _step}
    rate = measures[kind](model, dataset, settings, preprocessing.describe(data), epochs)
    cost = models.Cost.of(model)
    facts: dict[str, Any] = {
        "parameters": cost.parameters,
        "macs": cost.macs,
        "train_images": len(dataset.train_images),
        "batch_size": settings.train.batch_size,
    }
    if kind == "ours":
        facts["precision"] = chosen
    return {"images_per_second": rate, "facts": facts}


def _ours(model: Any, dataset: Any, settings: Recipe, described: dict[str, Any], epochs: int) -> float:
    """Images a second between the end of an epoch's validation and the last progress of the next."""
    from edgecbam import training

    began, seconds, last = 0.0, [], 0.0

    def listen(event: Event) -> None:
        nonlocal began, last
        if event.total:
            last = time.perf_counter()
        elif event.message.startswith("epoch "):
            if began:
                seconds.append(last - began)
            began = time.perf_counter()

    config = dataclasses.replace(settings.train, epochs=epochs + 1)
    with TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        training.fit(model, dataset, config, described, checkpoints, stage="train", on_event=listen)
    return float(len(dataset.train_images) * len(seconds) / sum(seconds))


def _plain(model: Any, dataset: Any, settings: Recipe, described: dict[str, Any], epochs: int) -> float:
    """Images a second within epochs: between them Keras drops its iterator, which waits for tf.data's tuner to wake."""
    import tensorflow as tf
    import tf_keras as keras

    from edgecbam import training
    from edgecbam.preprocessing import normalize

    images, labels = normalize(dataset.train_images[:], described), dataset.train_labels
    stream = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).batch(settings.train.batch_size)
    model.compile(
        optimizer=training.make_optimizer(settings.train, settings.train.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    stream = stream.prefetch(tf.data.AUTOTUNE)
    began, seconds = 0.0, 0.0

    def begin(epoch: int, logs: Any) -> None:
        nonlocal began
        began = time.perf_counter()

    def end(epoch: int, logs: Any) -> None:
        nonlocal seconds
        seconds += (time.perf_counter() - began) * (epoch > 0)

    clock = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    model.fit(stream, epochs=epochs + 1, verbose=0, callbacks=[clock])
    return float(len(images) * epochs / seconds)


def _input(model: Any, dataset: Any, settings: Recipe, described: dict[str, Any], epochs: int) -> float:
    began = 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            began = time.perf_counter()
        for _ in _stream(dataset, settings, described, epoch):
            pass
    return float(len(dataset.train_images) * epochs / (time.perf_counter() - began))


def _step(model: Any, dataset: Any, settings: Recipe, described: dict[str, Any], epochs: int) -> float:
    import tensorflow as tf

    from edgecbam import training

    config = settings.train
    optimizer = training.make_optimizer(config, config.learning_rate)
    optimizer.build(model.trainable_variables)
    average = training.WeightAverage(model, config.ema_decay)
    loss = training.losses.resolve(config.loss, settings.task, len(dataset.classes))
    step = training.make_step(model, optimizer, average, config, loss)
    batch, due = next(iter(_stream(dataset, settings, described, 0))), tf.constant(0.0)
    steps, began = -(-len(dataset.train_images) // config.batch_size), 0.0
    for number in range(steps * (epochs + 1)):
        if number == steps:
            began = time.perf_counter()
        step((batch,), due).numpy()
    return float(len(batch[0]) * steps * epochs / (time.perf_counter() - began))


def _stream(dataset: Any, settings: Recipe, described: dict[str, Any], epoch: int) -> Any:
    from edgecbam.datasets.pipeline import batches

    return batches(
        dataset.train_images,
        dataset.train_labels,
        classes=len(dataset.classes),
        config=settings.train,
        epoch=epoch,
        preprocessing=described,
    )


def main(arguments: Sequence[str]) -> None:
    """The command line that the module shows; ``--child`` is for its own processes."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.training_speed", description=__doc__)
    parser.add_argument("report", type=Path, nargs="?", help="the JSON file to write")
    parser.add_argument("--recipe", default=recipe.DEFAULT_RECIPE)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        settings = recipe.load(options.recipe, tuple(options.assignments))
        sys.stdout.write(json.dumps(child(options.child, settings, options.epochs)) + "\n")
        return
    if options.report is None:
        parser.error("give the JSON file to write")
    options.report.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(options.report, measure(options.recipe, options.assignments, options.sessions, options.epochs))


if __name__ == "__main__":
    main(sys.argv[1:])
