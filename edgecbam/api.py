"""The verbs as functions: what the command line calls and what a program may call.

    from edgecbam import api, recipe
    run = api.train(recipe.load("fashion_cbam"), Path("runs/first"))
    api.quantize(run)
    api.export(run)
    assert api.verify(run).passed

Nothing heavy is imported before the function that needs it is called. Every function raises errors of
``edgecbam.errors`` whose message is one line for the user.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edgecbam import artifacts, run_lock
from edgecbam.errors import EnvironmentFailure, GateFailed, InputError, MissingPackage
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import DataConfig, Recipe, override, require_trust, to_toml

if TYPE_CHECKING:
    import numpy as np

    from edgecbam.datasets import Dataset
    from edgecbam.export.verify import Verification

TRAIN_PACKAGES = {
    "tensorflow": "tensorflow",
    "tf_keras": "tf-keras",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "tf2onnx": "tf2onnx",
    "onnx": "onnx",
}
P = ParamSpec("P")
R = TypeVar("R")
CALIBRATION_BATCH = 64
MODEL_FILE = "model.keras"
QAT_FILE = "model_qat.weights.h5"
_MOVED = (
    "train.flip and train.shift_pixels move what is in the images and leave the targets as they are: "
    "set them to false and 0 where a target depends on place or direction"
)
_WIDENED = "output range widened, its requantization scale of {:.0f} was more than LiteRT's kernels hold"


@dataclass(frozen=True)
class RunResult:
    """What ``run`` made: the folder, the gates, and the value of report.json."""

    run: Path
    verification: "Verification"
    report: dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: the file.
        classes: the most probable classes, best first; in regression the names of the targets.
        probabilities: of these classes, the softmax of the logits; empty in regression.
        values: regression: of these targets, each in its own unit; empty in classification.
    """

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    values: tuple[float, ...] = ()


def _alone(stage: Callable[P, R]) -> Callable[P, R]:
    """A stage of the folder ``run`` that refuses from the start to work where another process does."""

    @functools.wraps(stage)
    def locked(*arguments: P.args, **options: P.kwargs) -> R:
        run = arguments[0] if arguments else options.get("run")
        with run_lock.hold(Path(str(run))):
            return stage(*arguments, **options)

    return locked


def default_out(recipe: Recipe) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, … that does not exist."""
    number = 1
    while (path := Path("runs") / f"{recipe.name}-{number}").exists():
        number += 1
    return path


def run(
    recipe: Recipe | None,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    on_event: OnEvent = ignore,
) -> RunResult:
    """All stages: train, quantize, export, verify, benchmark, report.

    Args:
        recipe: what to do; None with ``resume`` takes the run folder's own.
        out: the run folder.
        resume: go on in an existing run folder: train, quantize and export are kept where they are whole and fresh;
            verification and benchmark are run again, on the machine as it is now.
        overwrite: replace an existing run folder.
        trust: whether code may be imported that the run folder's own recipe names; what ``recipe`` names may always.
        on_event: listener.

    Raises:
        GateFailed: verification failed; ``RUN/verify/verify.json`` says which gates, and nothing is benchmarked.
        InputError: ``out`` exists and neither ``resume`` nor ``overwrite`` is given, or input is wrong.
    """
    if _cluster(artifacts.load_recipe(out) if recipe is None else recipe) is not None:
        raise InputError(
            "TF_CONFIG names several workers, which `edgecbam train` trains on: run that on every machine, then the "
            "other stages on the first one alone, without TF_CONFIG, by `edgecbam run --resume`"
        )
    folder = train(recipe, out, resume=resume, overwrite=overwrite, trust=trust, on_event=on_event)
    with run_lock.hold(folder):
        return _after_training(folder, on_event)


def _after_training(folder: Path, on_event: OnEvent) -> RunResult:
    if not artifacts.is_fresh(folder, "quantize"):
        quantize(folder, trust=True, on_event=on_event)  # train has asked
    if not artifacts.is_fresh(folder, "export"):
        export(folder, on_event=on_event)
    elif not artifacts.is_fresh(folder, "app"):
        bundle(folder, on_event=on_event)
    verification = verify(folder, on_event=on_event)
    if not verification.passed:
        raise GateFailed(f"{verification.failure()}; all gates: {folder / 'verify' / 'verify.json'}")
    measured = benchmark(folder, on_event=on_event)
    report(folder, on_event=on_event)
    return RunResult(folder, verification, measured)


def train(
    recipe: Recipe | None,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    on_event: OnEvent = ignore,
) -> Path:
    """Train the float model; ``RUN/train`` holds it with the averaged weights. Arguments as for ``run``.

    Where several workers train together, the first one alone reads and writes ``out``.
    """
    if recipe is None:
        recipe = artifacts.load_recipe(out)
        require_trust(recipe, str(out / artifacts.RECIPE_FILE), trust)
    cluster = _cluster(recipe)
    if cluster is None or cluster.is_chief:
        return _train(recipe, out, resume, overwrite, on_event)
    with tempfile.TemporaryDirectory(prefix="edgecbam-worker-") as folder:
        _train(recipe, Path(folder) / "run", False, False, on_event)
    return out


def _train(recipe: Recipe, out: Path, resume: bool, overwrite: bool, on_event: OnEvent) -> Path:
    run_exists = (out / artifacts.RECIPE_FILE).is_file()
    in_the_way = not artifacts.is_vacant(out)
    if in_the_way and not resume and not overwrite:
        raise InputError(f"{out} exists already: add --resume to go on in it, --overwrite to replace it, or --out DIR")
    if in_the_way and not run_exists:
        option = "--resume" if resume else "--overwrite"
        raise InputError(f"{out} is no run folder, so {option} does not touch it: give another --out")
    with run_lock.hold(out):
        pass  # refused before anything is loaded, where another process works here
    _check_runtimes(recipe)
    if resume and run_exists and artifacts.is_fresh(out, "train") and _same(recipe, artifacts.load_recipe(out)):
        return out

    _require_tensorflow("training")
    from edgecbam import datasets, models, preprocessing, training

    strategy = training.distribution.strategy(recipe.train, lambda text: on_event(Event("train", message=text)))
    on_event(Event("train", message=f"recipe {recipe.name}, data {recipe.data.source}"))
    dataset, data = datasets.load(recipe.data, on_event)
    data = _anchored(data)
    settings = dataclasses.replace(recipe.train, precision=training.resolve_precision(recipe.train.precision))
    recipe = dataclasses.replace(recipe, data=data, train=settings)
    shape = (data.height, data.width, data.channels)
    described = preprocessing.describe(data)
    training.begin(settings.seed)
    with strategy.scope(), training.precision_policy(settings.precision):
        model = models.build(recipe.model, shape, len(dataset.classes), recipe.task)
    models.load_pretrained(model, recipe.model)
    if settings.freeze_epochs and not recipe.model.weights:
        raise InputError(
            "train.freeze_epochs keeps given weights as they are at first, but model.weights gives none: leave it out"
        )
    training.check(dataset, settings, described)
    # Only now, when everything that the user gave has proven good, is anything replaced or written.
    _prepare_folder(out, recipe, resume=resume)
    on_event(Event("train", message=_describe_training(recipe, dataset, models.Cost.of(model))))
    if recipe.task == "regression" and (settings.flip or settings.shift_pixels):
        on_event(Event("train", message=_MOVED))
    with artifacts.stage_folder(out, "train", keep=True) as folder:
        begun = _begin_data(folder, out, dataset, data.source)
        result = training.fit(
            model, dataset, settings, described, folder / "checkpoints", stage="train", on_event=on_event
        )
        final = models.build(recipe.model, shape, len(dataset.classes), recipe.task)
        averaged = model.get_weights()
        if not training.distribution.is_chief(strategy):
            training.distribution.meet(strategy)  # stay until the first worker has written everything
            return out
        figures = {
            **begun,
            "bad_files": list(dataset.bad_files),
            "precision": settings.precision,
            **_how_right(recipe, final, (result.raw_weights, averaged), dataset, described),
        }
        final.save(folder / MODEL_FILE)
        _forget_times(folder / MODEL_FILE)
        artifacts.write_json(folder / "split.json", dataset.split)
        artifacts.write_json(folder / "metrics.json", figures)
        artifacts.write_json(folder / "timing.json", {"images_per_second": result.images_per_second})
    training.distribution.meet(strategy)
    on_event(
        Event(
            "train",
            message=f"test {_told(figures, 'raw', 'ema')} on {figures['test_images']} images; "
            f"{result.images_per_second:.0f} images/s",
        )
    )
    return out


@_alone
def quantize(run: Path, *, trust: bool = False, on_event: OnEvent = ignore) -> None:
    """Quantization-aware training, continued from the float averages; writes ``RUN/quantize``.

    Args:
        run: a run folder whose stage train is whole.
        trust: whether code may be imported that its recipe names.
        on_event: listener.

    Raises:
        InputError: the recipe names code and ``trust`` is False; the stage train is missing, stale or altered; or
            another process works on the folder.
        EnvironmentFailure: the loss or a weight is no longer finite.
    """
    require_trust(artifacts.load_recipe(run), str(run / artifacts.RECIPE_FILE), trust)
    artifacts.check_stage(run, "train")
    _require_tensorflow("quantization-aware training")
    from edgecbam import quantization, requantization, training

    recipe, dataset, described = _open_data(run, on_event)
    settings = dataclasses.replace(
        recipe.train,
        precision="float32",
        epochs=recipe.quantize.epochs,
        batch_size=recipe.quantize.batch_size,
        learning_rate=recipe.quantize.learning_rate,
        decay_rate=recipe.quantize.decay_rate,
        decay_epochs=recipe.quantize.decay_epochs,
        warmup_epochs=0.0,
        freeze_epochs=0,
        ema_decay=recipe.quantize.ema_decay,
    )
    training.begin(settings.seed)
    twin = load_float(run)
    model = quantization.make_quantizable(twin, quantization.input_range(described))
    parts = calibration_batches(recipe, dataset, described)
    on_event(Event("quantize", message=f"calibrating {parts.images} images, then {settings.epochs} epochs of QAT"))
    widened: dict[str, float] = {}

    def refresh() -> None:
        quantization.recompute_ranges(model, twin, parts)
        widened.clear()
        widened.update(requantization.limit(model))

    quantization.calibrate(model, twin, parts)
    requantization.limit(model)
    with artifacts.stage_folder(run, "quantize", keep=True) as folder:
        result = training.fit(
            model,
            dataset,
            settings,
            described,
            folder / "checkpoints",
            stage="quantize",
            refresh=refresh,
            on_event=on_event,
        )
        figures = {
            **_how_right(recipe, model, (result.raw_weights, model.get_weights()), dataset, described),
            "ranges": {name: list(bounds) for name, bounds in quantization.activation_ranges(model).items()},
            "widened": widened,
        }
        artifacts.write_whole(folder / QAT_FILE, _weights_file(model))
        artifacts.write_json(folder / "metrics.json", figures)
        artifacts.write_json(folder / "timing.json", {"images_per_second": result.images_per_second})
    for name, scale in widened.items():
        on_event(Event("quantize", message=f"{name}: {_WIDENED.format(scale)}"))
    on_event(
        Event(
            "quantize",
            message=f"test {_told(figures, 'ema')} with fake quantization on {figures['test_images']} images",
        )
    )


@_alone
def export(run: Path, *, settings: Sequence[str] = (), on_event: OnEvent = ignore) -> None:
    """Write every model file, samples and manifest to ``RUN/export``, and what an app takes to ``RUN/app``.

    Args:
        run: a run folder whose stage quantize is whole.
        settings: ``export.key=value`` assignments that change the recipe of the run, such as
            ``export.profile=reference``.
        on_event: listener.

    Raises:
        InputError: a setting of another section, or of no known key or value; nothing was changed.
    """
    artifacts.check_stage(run, "quantize")
    _require_tensorflow("exporting")
    from edgecbam import training
    from edgecbam.export import artifact_set

    if settings:
        _change_recipe(run, settings)
    recipe, dataset, described = _open_data(run, on_event)
    training.begin(recipe.train.seed)
    float_model = load_float(run)
    qat_model = _load_qat(run, described)
    ptq_model = _post_training(run, described, calibration_batches(recipe, dataset, described))
    count = _sample_count(recipe, dataset)
    images = dataset.test_images[:count]
    samples = artifacts.Samples(
        images,
        dataset.test_labels[:count],
        training.predict(float_model, images, described),
        training.predict(qat_model, images, described),
    )
    with artifacts.stage_folder(run, "export") as folder:
        artifact_set.write(
            folder,
            recipe,
            float_model,
            ptq_model,
            qat_model,
            dataset.classes,
            dataset.target_mean,
            dataset.target_std,
            samples,
            described,
            on_event,
        )
    bundle(run, on_event=on_event)


@_alone
def bundle(run: Path, *, on_event: OnEvent = ignore) -> None:
    """Write ``RUN/app``, what an app developer copies, from ``RUN/export``; see edgecbam.export.app_bundle."""
    from edgecbam.export import app_bundle

    about = app_bundle.about(artifacts.load_recipe(run))
    manifest = artifacts.load_manifest(run / "export")
    with artifacts.stage_folder(run, "app") as folder:
        app_bundle.write(folder, run / "export", manifest, about, on_event)


@_alone
def verify(run: Path, *, on_event: OnEvent = ignore) -> "Verification":
    """Run the gates on ``RUN/export`` and write ``RUN/verify``; a failed gate is in the result, not raised.

    Raises:
        GateFailed: a file of the export is missing or was altered.
    """
    from edgecbam.export import verify as gates

    recipe = artifacts.load_recipe(run)
    _check_export(run)
    result = gates.check(run / "export", recipe.verify, on_event)
    with artifacts.stage_folder(run, "verify") as folder:
        artifacts.write_json(folder / "verify.json", result.to_json())
        if result.int8_outputs is not None:
            artifacts.write_int8_outputs(folder, result.int8_outputs)
    return result


@_alone
def benchmark(
    run: Path,
    *,
    runtimes: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    protocol: str | None = None,
    options: "BenchmarkOptions | None" = None,
    resume: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Measure the files of ``RUN/export`` and write ``RUN/benchmark``; returns the value of report.json.

    Args:
        run: the run folder.
        runtimes: names; None: those of the recipe, on a GPU or a phone all that it has.
        threads: numbers of threads; None: that of the recipe.
        protocol: name; None: that of the recipe.
        options: devices and the rest; None: this machine's CPU.
        resume: measure only what ``RUN/benchmark`` lacks.
        on_event: told of every round.
    """
    from edgecbam.benchmarks import measure

    settings, chosen = artifacts.load_recipe(run).benchmark, options or BenchmarkOptions()
    artifacts.check_stage(run, "export")
    usual = settings.runtimes if all(name == "cpu" or name.startswith("ssh:") for name in chosen.devices) else None
    request = _request(
        chosen,
        usual if runtimes is None else tuple(runtimes),
        (settings.threads,) if threads is None else tuple(threads),
        settings.protocol if protocol is None else protocol,
    )
    earlier = measure.read_report(run / "benchmark") if resume and (run / "benchmark").is_dir() else None
    value = measure.benchmark_run(run, request, earlier=earlier, on_event=on_event)
    _judge(value, chosen, "")
    _require_a_figure(value)
    with artifacts.stage_folder(run, "benchmark") as folder:
        measure.write_report(folder, value)
    return value


def benchmark_models(
    models: Sequence[Path],
    *,
    runtimes: Sequence[str] | None = None,
    threads: Sequence[int] = (1,),
    protocol: str = "standard",
    options: "BenchmarkOptions | None" = None,
    baseline: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Measure any .tflite, .onnx and .keras files; writes report.json, report.md and report.html to ``out`` when given.

    Args:
        models: the files.
        runtimes: names; None: the usual ones of each device.
        threads: numbers of threads.
        protocol: name.
        options: devices and the rest; None: this machine's CPU.
        baseline: model file, or report (or its folder) whose model is looked for by its digest and measured again.
        out: folder for the report.
        resume: measure only what the report in ``out`` lacks.
        on_event: told of every round.
    """
    from edgecbam.benchmarks import gate, measure
    from edgecbam.benchmarks import report as reports

    if resume and out is None:
        raise InputError("--resume needs --out: name the folder of the report to go on with")
    if out is not None and out.exists() and not (resume and out.is_dir()):
        what = "is no folder: give another" if not out.is_dir() else "exists already: give another, or --resume"
        raise InputError(f"--out {out} {what}")
    chosen = options or BenchmarkOptions()
    problem = ""
    if baseline is not None and gate.is_report(baseline):
        found = gate.find_baseline(baseline, models)
        baseline, problem = found.path, found.reason
    request = _request(chosen, None if runtimes is None else tuple(runtimes), tuple(threads), protocol)
    earlier = measure.read_report(out) if out is not None and out.is_dir() else None
    with contextlib.nullcontext() if out is None else artifacts.whole_folder(out) as partial:
        value = measure.benchmark_models(models, request, baseline=baseline, earlier=earlier, on_event=on_event)
        _judge(value, chosen, problem)
        _require_a_figure(value)
        if partial is not None and out is not None:
            measure.write_report(partial, value)
            reports.write_pages(partial, value, None, None, measure.raw_samples(value))
            _keep_others(out, partial)
    return value


def _keep_others(old: Path, new: Path) -> None:
    """What a user has laid beside a report stays there when the report is renewed."""
    for path in old.iterdir() if old.is_dir() else ():
        if not (new / path.name).exists():
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, new / path.name, symlinks=True)
            else:
                shutil.copy2(path, new / path.name, follow_symlinks=False)


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """What ``edgecbam benchmark`` can be asked beyond models, runtimes, threads and protocol.

    Attributes:
        devices: ``cpu``, ``gpu``, ``ssh:HOST``, ``adb:SERIAL``.
        remote_python: Python of an ssh device, with NumPy and the runtimes to measure.
        benchmark_model: Google's benchmark_model for Android, for adb devices.
        benchmark_model_sha256: what it must be.
        adb_cores: hexadecimal mask of the cores that a phone is to use; None: its fastest ones.
        shapes: by input name whole shapes, for inputs with free dimensions.
        inputs: .npz with real inputs for bare files; None: random ones.
        profile: whether to time the ops too, in a separate run.
        attention: regular expression of the names of ops that count as attention; None: the usual names.
        fail_if_slower: percentage by which a candidate may be slower than the baseline; None: no gate.
    """

    devices: tuple[str, ...] = ("cpu",)
    remote_python: str = "python3"
    benchmark_model: Path | None = None
    benchmark_model_sha256: str | None = None
    adb_cores: str | None = None
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    inputs: Path | None = None
    profile: bool = False
    attention: str | None = None
    fail_if_slower: float | None = None


def _request(
    options: BenchmarkOptions, runtimes: tuple[str, ...] | None, threads: tuple[int, ...], protocol: str
) -> Any:
    from edgecbam.benchmarks import measure
    from edgecbam.benchmarks.devices import Settings
    from edgecbam.benchmarks.profiles import ATTENTION

    settings = Settings(
        options.remote_python, options.benchmark_model, options.benchmark_model_sha256, options.adb_cores
    )
    return measure.Request(
        runtimes,
        threads,
        protocol,
        options.devices,
        settings,
        options.shapes,
        options.inputs,
        options.profile,
        ATTENTION if options.attention is None else options.attention,
    )


def _judge(value: dict[str, Any], options: BenchmarkOptions, problem: str) -> None:
    """Put the verdict of the gate into a report, where one was asked for."""
    from edgecbam.benchmarks import gate

    if options.fail_if_slower is not None:
        value["gate"] = gate.judge(value, options.fail_if_slower, problem)


@_alone
def report(run: Path, *, on_event: OnEvent = ignore) -> Path:
    """Write ``RUN/report`` from the verification and the benchmark; returns the path of report.md."""
    from edgecbam.benchmarks import model_card
    from edgecbam.benchmarks import report as reports

    with artifacts.stage_folder(run, "report") as folder:
        reports.write(run, folder)
        model_card.write(run, folder)
    on_event(Event("report", message=f"{run / 'report' / 'report.md'}"))
    return run / "report" / "report.md"


def markdown(report: dict[str, Any]) -> str:
    """A report.json value as Markdown."""
    from edgecbam.benchmarks import report as reports

    return reports.markdown(report, None)


def predict(
    model: Path, images: Sequence[Path], *, top: int = 5, runtime: str | None = None, threads: int = 1
) -> list[Prediction]:
    """Classify image files with an exported model, or estimate its targets.

    Args:
        model: a run folder (its model_int8.tflite is used) or a model file that lies beside its manifest.json.
        images: image files of any size and mode.
        top: how many classes to give, at most all; all targets are given whatever it says.
        runtime: name of the runtime; None takes the first installed one that reads the file.
        threads: threads of the runtime.

    Raises:
        InputError: no such model, no manifest beside it, or an unreadable image.
    """
    import numpy as np

    from edgecbam import preprocessing
    from edgecbam import runtimes as adapters

    path = model / "export" / "model_int8.tflite" if model.is_dir() else model
    if not path.is_file():
        raise InputError(f"no model {path}: give a run folder or a model file of its export folder")
    manifest = artifacts.load_manifest(path.parent)
    if path.name not in manifest.files:
        raise InputError(f"{path.parent / artifacts.MANIFEST_FILE} does not list {path.name}: use an exported file")
    entry = manifest.files[path.name]
    if artifacts.sha256_file(path) != entry.sha256:
        raise InputError(f"{path} was altered after it was exported: run `edgecbam export` again")
    session = _reader(path, runtime).open(path, threads=threads)
    predictions = []
    try:
        for image in images:
            pixels = preprocessing.load_image(image, manifest.preprocessing)
            inputs = preprocessing.normalize(pixels[np.newaxis], manifest.preprocessing)
            raw = session.run([adapters.to_input(inputs, entry.input)])[0][0]
            logits = adapters.to_real(raw, entry.output).astype(np.float64)
            manifest.check_outputs(logits, path)
            if manifest.task == "regression":
                values = manifest.real(logits[np.newaxis])[0]
                predictions.append(Prediction(image, manifest.classes, (), tuple(float(value) for value in values)))
                continue
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            best = np.argsort(-probabilities, kind="stable")[:top]
            predictions.append(
                Prediction(
                    image, tuple(manifest.classes[i] for i in best), tuple(float(probabilities[i]) for i in best)
                )
            )
    finally:
        session.close()
    return predictions


def layer_costs(run: Path, *, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Tell what each layer costs in int8, by keeping it alone float; written to ``RUN/explain/layers.json`` too.

    This needs TensorFlow: the quantization-aware network is simulated. See edgecbam.sensitivity.

    Args:
        run: a run folder whose stage export is whole; the images of its samples.npz are used.
        on_event: listener.

    Returns:
        What edgecbam.sensitivity.measure gives, with ``schema_version`` and ``task``.

    Raises:
        GateFailed: a file of the export was altered.
    """
    _require_tensorflow("measuring what layers cost")
    from edgecbam import sensitivity

    _check_export(run)
    artifacts.check_stage(run, "quantize")
    folder = run / "explain"
    artifacts.require_writable(folder)  # now, not after minutes of work
    manifest, samples = artifacts.load_manifest(run / "export"), artifacts.load_samples(run / "export")
    described = manifest.preprocessing
    model = _load_qat(run, described)
    found = sensitivity.measure(model, samples.images, samples.labels, described, on_event)
    folder.mkdir(exist_ok=True)
    version = importlib.metadata.version("tensorflow")
    told = {"schema_version": 1, "task": manifest.task, "tensorflow": version, **found}
    artifacts.write_json(folder / "layers.json", told)
    return told


def explain(run: Path, images: Sequence[Path], out: Path | None = None) -> list[dict[str, Any]]:
    """Draw the gates of attention in float and int8 over images, and tell how far quantization moved them.

    This needs LiteRT and matplotlib, no TensorFlow.

    Args:
        run: a run folder whose stage export is whole.
        images: image files.
        out: folder for a picture of each image, ``explain.json`` beside them; ``RUN/explain`` by default. It is made
            where it is not there; what else is in it stays.

    Returns:
        For each gate: block, kind, smallest cosine, largest difference in steps of int8, mean of the float gate.

    Raises:
        InputError: an image cannot be read, or the network has no attention.
        GateFailed: a file of the export was altered.
    """
    from edgecbam.export import explanation, explanation_figure

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("matplotlib", "report", "drawing attention")
    if not images:
        raise InputError("no image: give at least one image file")
    _check_export(run)
    manifest = artifacts.load_manifest(run / "export")
    found = explanation.explain(run / "export", images)
    pictures = [explanation_figure.png(one, explanation.told(one, manifest), _title(one.image.name)) for one in found]
    rows = explanation.summary(found)
    folder = run / "explain" if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} is a file: give a folder with --out") from None
    for number, picture in enumerate(pictures, start=1):
        artifacts.write_whole(folder / f"{number:03}.png", picture)
    names = {f"{number:03}.png": str(image) for number, image in enumerate(images, start=1)}
    artifacts.write_json(folder / "explain.json", {"schema_version": 1, "images": names, "gates": rows})
    return rows


def _title(name: str) -> str:
    from edgecbam.preprocessing import printable

    shown = printable(name)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _reader(path: Path, runtime: str | None) -> Any:
    from edgecbam import runtimes as adapters

    if runtime is not None:
        return adapters.find(runtime)
    known = adapters.readers(path.suffix)
    if not known:
        raise InputError(f"{path} is of no known format: give a .tflite or .onnx file")
    return next((reader for reader in known if reader.installed()), known[0])


@dataclass(frozen=True)
class CalibrationBatches:
    """A seeded choice of training images as model inputs, float32 [b, h, w, c] each; can be gone through repeatedly.

    The pixels are kept, and not the four times larger inputs.

    Attributes:
        pixels: [images, h, w, c] uint8.
        preprocessing: as the manifest states it.
    """

    pixels: "np.ndarray"
    preprocessing: dict[str, Any]

    @property
    def images(self) -> int:
        """How many images there are in all."""
        return len(self.pixels)

    def __len__(self) -> int:
        return max(1, self.images // CALIBRATION_BATCH)

    def __iter__(self) -> Iterator["np.ndarray"]:
        import numpy as np

        from edgecbam.preprocessing import normalize

        for part in np.array_split(self.pixels, len(self)):
            yield normalize(part, self.preprocessing)


def calibration_batches(recipe: Recipe, dataset: "Dataset", described: dict[str, Any]) -> CalibrationBatches:
    """The images that activation ranges are measured on, ``quantize.calibration_images`` at most."""
    import numpy as np

    images = dataset.train_images
    count = min(recipe.quantize.calibration_images, len(images))
    chosen = np.sort(np.random.default_rng([recipe.train.seed, 0xCA1]).permutation(len(images))[:count])
    return CalibrationBatches(images[chosen], described)


def _open_data(run: Path, on_event: OnEvent) -> tuple[Recipe, "Dataset", dict[str, Any]]:
    """Recipe, data and preprocessing of a run, refused where the data is no longer what the model was trained on."""
    from edgecbam import datasets, preprocessing

    recipe = artifacts.load_recipe(run)
    dataset, data = datasets.load(recipe.data, on_event)
    recorded = artifacts.read_object(run / "train" / "metrics.json")
    if recorded.get("data_digest") != datasets.digest(dataset):
        raise InputError(f"the images of {data.source} have changed since {run} was trained: start a new run with them")
    return recipe, dataset, preprocessing.describe(data)


def _post_training(run: Path, described: dict[str, Any], batches: CalibrationBatches) -> Any:
    """The float model with weights and ranges quantized, without any training: what QAT has to beat."""
    from edgecbam import quantization, requantization

    twin = load_float(run)
    model = quantization.make_quantizable(twin, quantization.input_range(described))
    quantization.recompute_ranges(model, twin, batches)
    requantization.limit(model)
    return model


def _forget_times(path: Path) -> None:
    """Equal models give equal .keras files: without when each part was written."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    told = {key: value for key, value in json.loads(parts["metadata.json"]).items() if key != "date_saved"}
    parts["metadata.json"] = json.dumps(told).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # as of 1980
    artifacts.write_whole(path, stream.getvalue())


def _weights_file(model: Any) -> bytes:
    """A .weights.h5 file as of save_weights, made in memory: on a full disk HDF5 loses data silently, or crashes."""
    from tf_keras.src.saving import saving_lib

    stream = io.BytesIO()
    store = saving_lib.H5IOStore(stream, mode="w")
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_trackables=set())
    store.close()
    return stream.getvalue()


def load_float(run: Path) -> Any:
    """The trained model of a run; raises InputError where its file names code or cannot be read."""
    import tf_keras as keras

    import edgecbam.models  # noqa: F401  registers the layer classes that the file names
    from edgecbam.runtimes import keras_file

    path = run / "train" / MODEL_FILE
    content = keras_file.read(path)
    if content.foreign or content.code:
        named = ", ".join(content.foreign) or "a Lambda layer"
        raise InputError(
            f"{path} names code ({named}) that edgecbam does not write: the run folder is not to be trusted"
        )
    with _named_damage(path):
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    _require_finite(model, path)
    return model


def _load_qat(run: Path, described: dict[str, Any]) -> Any:
    """The quantization-aware model of a run, with its ranges."""
    from edgecbam import quantization

    model = quantization.make_quantizable(load_float(run), quantization.input_range(described))
    with _named_damage(run / "quantize" / QAT_FILE):
        model.load_weights(run / "quantize" / QAT_FILE)
    _require_finite(model, run / "quantize" / QAT_FILE)
    return model


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turn what Keras raises over a damaged file, which is of many kinds, into an InputError that names it."""
    from edgecbam.runtimes.session import one_line

    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path} is damaged or of another network: {one_line(error)}; make it again") from error


def _require_finite(model: Any, path: Path) -> None:
    """Refuse weights that are NaN or infinite, by the name of their layer."""
    import numpy as np

    for layer in model.layers:
        for weight in layer.weights:
            if weight.dtype.is_floating and not np.isfinite(weight.numpy()).all():
                raise InputError(
                    f"{path}: {weight.name} of the layer {layer.name} has values that are no numbers: make it again"
                )


def _sample_count(recipe: Recipe, dataset: "Dataset") -> int:
    image_bytes = math.prod(dataset.test_images.shape[1:])
    fits = max(1, recipe.export.samples_mib * 2**20 // image_bytes)
    return min(recipe.export.samples_images, fits, len(dataset.test_images))


def _begin_data(folder: Path, out: Path, dataset: "Dataset", source: str) -> dict[str, Any]:
    """What a training is begun on; refused where an unfinished one in this folder was begun on something else.

    A network for other classes has other weights, and on other images no training goes on where it was left.
    """
    from edgecbam import datasets

    begun = {"classes": list(dataset.classes), "data_digest": datasets.digest(dataset)}
    path = folder / "metrics.json"
    if path.is_file():
        found = artifacts.read_object(path)
        if found.get("classes") != begun["classes"]:
            named = found.get("classes")
            then, now = (_enumerated(names) for names in (named if isinstance(named, list) else [], begun["classes"]))
            raise InputError(
                f"{out} was begun with the classes {then}, {source} now has {now}: put them back, or start anew with "
                "--overwrite"
            )
        if found.get("data_digest") != begun["data_digest"]:
            raise InputError(
                f"the images of {source} have changed since {out} was begun: put them back, or start anew with "
                "--overwrite"
            )
    artifacts.write_json(path, begun)
    return begun


def _enumerated(names: Sequence[Any]) -> str:
    """``cat, dog``; of many the first and how many there are."""
    shown = ", ".join(map(str, names if len(names) < 6 else names[:3]))
    return shown if len(names) < 6 else f"{shown}, … ({len(names)} in all)"


def _how_right(
    recipe: Recipe,
    model: Any,
    raw_and_averaged: tuple[list["np.ndarray"], list["np.ndarray"]],
    dataset: "Dataset",
    described: dict[str, Any],
) -> dict[str, Any]:
    """The figures of metrics.json: top-1, or RMSE and MAE by target in the target's own unit.

    Of a float32 model with the weights of the last step and with their averages, with which it is left.
    """
    import numpy as np

    from edgecbam import metrics, training

    parts = {"test": (dataset.test_images, dataset.test_labels)}
    if recipe.task == "classification" and len(dataset.validation_labels):
        parts["validation"] = (dataset.validation_images, dataset.validation_labels)
    outputs: dict[str, list[np.ndarray]] = {part: [] for part in parts}
    for weights in raw_and_averaged:
        model.set_weights(weights)
        for part, (images, _) in parts.items():
            outputs[part].append(training.predict(model, images, described))
    counts = {
        "train_images": len(dataset.train_images),
        "validation_images": len(dataset.validation_images),
        "test_images": len(dataset.test_images),
    }
    if recipe.task == "classification":
        accuracies = {
            f"{part}_{weights}_accuracy": metrics.top1(found, labels)
            for part, (_, labels) in parts.items()
            for weights, found in zip(("raw", "ema"), outputs[part], strict=True)
        }
        return {**accuracies, **counts}
    labels, (raw, averaged) = dataset.test_labels, outputs["test"]
    errors = {
        "test_raw_rmse": metrics.rmse(raw, labels),
        "test_ema_rmse": metrics.rmse(averaged, labels),
        "test_mae": metrics.mae(averaged, labels),
        "test_std": np.std(labels, axis=0),  # the RMSE of always saying the mean
    }
    real = {key: metrics.by_target(one, dataset.classes, dataset.target_std) for key, one in errors.items()}
    return {**real, **counts}


def _told(figures: dict[str, Any], *kinds: str) -> str:
    """``top-1 91.20% raw, 92.10% EMA`` or ``RMSE angle 2.31 raw, 2.05 EMA, MAE 1.6``: figures of metrics.json."""
    names = {"raw": " raw", "ema": " EMA"} if len(kinds) > 1 else dict.fromkeys(kinds, "")
    if "test_ema_accuracy" in figures:
        return "top-1 " + ", ".join(f"{figures[f'test_{kind}_accuracy']:.2%}{names[kind]}" for kind in kinds)
    targets = []
    for target, mae in figures["test_mae"].items():
        errors = ", ".join(f"{figures[f'test_{kind}_rmse'][target]:.4g}{names[kind]}" for kind in kinds)
        targets.append(f"{target} {errors}, MAE {mae:.4g}")
    return f"RMSE {'; '.join(targets)};"


def _describe_training(recipe: Recipe, dataset: "Dataset", cost: Any) -> str:
    data, named = recipe.data, "targets" if recipe.task == "regression" else "classes"
    return (
        f"{len(dataset.train_images)} training, {len(dataset.validation_images)} validation, "
        f"{len(dataset.test_images)} test images of {data.height}x{data.width}x{data.channels}, "
        f"{len(dataset.classes)} {named}; {recipe.model.family} with {recipe.model.attention}: "
        f"{cost.parameters:,} parameters, {cost.macs / 1e6:.1f} M MAC; {recipe.train.precision}"
    )


def _anchored(data: DataConfig) -> DataConfig:
    """Paths made absolute, so that later stages find them from anywhere; targets in the folder stay relative to it."""
    from edgecbam.datasets import SOURCES, tfds

    if data.source in SOURCES or data.source.startswith(tfds.PREFIX) or not os.path.isdir(data.source):
        return data
    folder, targets = Path(data.source).resolve(), data.targets
    if targets and not os.path.isfile(folder / targets) and os.path.isfile(targets):
        targets = str(Path(targets).resolve())
    return dataclasses.replace(data, source=str(folder), targets=targets)


def _same(given: Recipe, resolved: Recipe) -> bool:
    """Whether a recipe is the one of a run folder, which has sizes, precision and the path of a folder filled in."""
    data = _anchored(given.data)
    filled = dataclasses.replace(
        data,
        height=data.height or resolved.data.height,
        width=data.width or resolved.data.width,
        channels=data.channels or resolved.data.channels,
    )
    precision = resolved.train.precision if given.train.precision == "auto" else given.train.precision
    settings = dataclasses.replace(given.train, precision=precision)
    return dataclasses.replace(given, data=filled, train=settings) == resolved


def _change_recipe(run: Path, settings: Sequence[str]) -> None:
    """Change settings of the export in the recipe of a run."""
    for setting in settings:
        if not setting.strip().startswith("export."):
            raise InputError(f"--set {setting!r}: an existing run can only be given another export.KEY=VALUE")
    changed = override(artifacts.load_recipe(run), tuple(settings))
    artifacts.write_whole(run / artifacts.RECIPE_FILE, to_toml(changed))


def _cluster(recipe: Recipe) -> Any:
    """The workers that a recipe and TF_CONFIG let train together (training.cluster.Cluster), or None."""
    settings = recipe.train
    if settings.distribution == "multi_worker" or (settings.distribution == "auto" and os.environ.get("TF_CONFIG")):
        _require_tensorflow("training")
        from edgecbam.training import cluster

        return cluster.of(settings)
    return None


def _require_tensorflow(purpose: str) -> None:
    """Raise MissingPackage, without importing anything, where a package of the extra ``train`` is not installed."""
    for module, package in TRAIN_PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingPackage(package, "train", purpose)


def _check_export(run: Path) -> None:
    """Raise GateFailed where a file of the export is missing or was altered, InputError where the stage is stale."""
    record = artifacts.load_stage(run, "export")
    for name, digest in record.files.items():
        path = run / "export" / name
        if not path.is_file():
            raise GateFailed(f"{path} is missing: run `edgecbam export {run}` again")
        if artifacts.sha256_file(path) != digest:
            raise GateFailed(f"{path} was altered after it was exported: run `edgecbam export {run}` again")
    artifacts.check_stage(run, "export")


def _check_runtimes(recipe: Recipe) -> None:
    """Refuse a runtime that nobody knows now, and not after hours of training."""
    from edgecbam import runtimes as adapters

    for name in recipe.benchmark.runtimes:
        adapters.find(name)


def _require_a_figure(report: dict[str, Any]) -> None:
    """Raise EnvironmentFailure where nothing could be measured: such a report must not replace a good one.

    Where a gate has failed, that is the news, and the report its evidence.
    """
    rows = report["results"]
    if (report.get("gate") or {}).get("verdict") == "failed":
        return
    if not any(row["status"] in ("ok", "functional_only") for row in rows):
        reasons = [f"{row['model']} on {row['runtime']}: {row['status']} {row.get('reason') or ''}" for row in rows]
        raise EnvironmentFailure(f"nothing could be measured: {reasons[0] if reasons else 'no runtime takes the file'}")


def _prepare_folder(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the run folder, or check that it can be gone on in."""
    if resume and (out / artifacts.RECIPE_FILE).is_file():
        if artifacts.load_recipe(out) != recipe:
            raise InputError(
                f"{out} was begun with another recipe: leave out RECIPE and --set to go on with its own, or --overwrite"
            )
        return
    with run_lock.hold(out):
        # train has made sure that the user asked for it
        artifacts.create_run(out, recipe, replace=(out / artifacts.RECIPE_FILE).is_file())
