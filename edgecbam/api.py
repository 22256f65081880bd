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
import hashlib
import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecbam import artifacts
from edgecbam.errors import EnvironmentFailure, GateFailed, InputError, MissingPackage
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import Recipe, override, to_toml

if TYPE_CHECKING:
    from edgecbam.datasets import Dataset
    from edgecbam.export.verify import Verification

TRAIN_PACKAGES = {
    "tensorflow": "tensorflow",
    "tf_keras": "tf-keras",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "tf2onnx": "tf2onnx",
    "onnx": "onnx",
}
CALIBRATION_BATCH = 64
MODEL_FILE = "model.keras"
QAT_FILE = "model_qat.weights.h5"
_WIDENED = "output range widened, its requantization scale of {:.0f} was more than LiteRT's kernels hold"


@dataclass(frozen=True)
class RunResult:
    """What ``run`` made: the folder, the gates, and the value of report.json."""

    run: Path
    verification: "Verification"
    report: dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first; probabilities are the softmax of the logits."""

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


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
    on_event: OnEvent = ignore,
) -> RunResult:
    """All stages: train, quantize, export, verify, benchmark, report.

    Args:
        recipe: what to do; None with ``resume`` takes the run folder's own.
        out: the run folder.
        resume: go on in an existing run folder: train, quantize and export are kept where they are whole and fresh;
            verification and benchmark are run again, on the machine as it is now.
        overwrite: replace an existing run folder.
        on_event: listener.

    Raises:
        GateFailed: verification failed; ``RUN/verify/verify.json`` says which gates, and nothing is benchmarked.
        InputError: ``out`` exists and neither ``resume`` nor ``overwrite`` is given, or input is wrong.
    """
    folder = train(recipe, out, resume=resume, overwrite=overwrite, on_event=on_event)
    if not artifacts.is_fresh(folder, "quantize"):
        quantize(folder, on_event=on_event)
    if not artifacts.is_fresh(folder, "export"):
        export(folder, on_event=on_event)
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
    on_event: OnEvent = ignore,
) -> Path:
    """Train the float model; ``RUN/train`` holds it with the averaged weights. Arguments as for ``run``."""
    run_exists = (out / artifacts.RECIPE_FILE).is_file()
    in_the_way = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if in_the_way and not resume and not overwrite:
        raise InputError(f"{out} exists already: add --resume to go on in it, --overwrite to replace it, or --out DIR")
    if in_the_way and not run_exists:
        option = "--resume" if resume else "--overwrite"
        raise InputError(f"{out} is no run folder, so {option} does not touch it: give another --out")
    if recipe is None:
        recipe = artifacts.load_recipe(out)
    _check_runtimes(recipe)
    if resume and run_exists and artifacts.is_fresh(out, "train") and _same(recipe, artifacts.load_recipe(out)):
        return out

    _require_tensorflow("training")
    from edgecbam import datasets, models, preprocessing, training

    on_event(Event("train", message=f"recipe {recipe.name}, data {recipe.data.source}"))
    dataset, data = datasets.load(recipe.data, on_event)
    if Path(data.source).is_dir():
        data = dataclasses.replace(data, source=str(Path(data.source).resolve()))  # later stages find it from anywhere
    settings = dataclasses.replace(recipe.train, precision=training.resolve_precision(recipe.train.precision))
    recipe = dataclasses.replace(recipe, data=data, train=settings)
    shape = (data.height, data.width, data.channels)
    training.begin(settings.seed)
    with training.precision_policy(settings.precision):
        model = models.build(recipe.model, shape, len(dataset.classes))
    # Only now, when everything that the user gave has proven good, is anything replaced or written.
    _prepare_folder(out, recipe, resume=resume)
    described = preprocessing.describe(data)
    on_event(Event("train", message=_describe_training(recipe, dataset, models.Cost.of(model))))
    with artifacts.stage_folder(out, "train", keep=True) as folder:
        result = training.fit(
            model, dataset, settings, described, folder / "checkpoints", stage="train", on_event=on_event
        )
        final = models.build(recipe.model, shape, len(dataset.classes))
        final.set_weights(model.get_weights())
        final.save(folder / MODEL_FILE)
        logits = training.predict(final, dataset.test_images, described)
        figures = {
            "classes": list(dataset.classes),
            "data_digest": _digest(dataset),
            "bad_files": list(dataset.bad_files),
            "precision": settings.precision,
            **_accuracies(result.raw_logits, logits, dataset),
        }
        artifacts.write_json(folder / "metrics.json", figures)
        artifacts.write_json(folder / "timing.json", {"images_per_second": result.images_per_second})
    on_event(
        Event(
            "train",
            message=f"test top-1 {figures['test_raw_accuracy']:.2%} raw, {figures['test_ema_accuracy']:.2%} EMA "
            f"on {figures['test_images']} images; {result.images_per_second:.0f} images/s",
        )
    )
    return out


def quantize(run: Path, *, on_event: OnEvent = ignore) -> None:
    """Quantization-aware training, continued from the float averages; writes ``RUN/quantize``."""
    artifacts.check_stage(run, "train")
    _require_tensorflow("quantization-aware training")
    import numpy as np

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
        ema_decay=recipe.quantize.ema_decay,
    )
    training.begin(settings.seed)
    twin = _load_float(run)
    model = quantization.make_quantizable(twin, quantization.input_range(described))
    inputs = calibration_inputs(recipe, dataset, described)
    parts = np.array_split(inputs, max(1, len(inputs) // CALIBRATION_BATCH))
    on_event(Event("quantize", message=f"calibrating {len(inputs)} images, then {settings.epochs} epochs of QAT"))
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
        model.save_weights(folder / QAT_FILE)
        logits = training.predict(model, dataset.test_images, described)
        figures = {
            **_accuracies(result.raw_logits, logits, dataset),
            "ranges": {name: list(bounds) for name, bounds in quantization.activation_ranges(model).items()},
            "widened": widened,
        }
        artifacts.write_json(folder / "metrics.json", figures)
        artifacts.write_json(folder / "timing.json", {"images_per_second": result.images_per_second})
    for name, scale in widened.items():
        on_event(Event("quantize", message=f"{name}: {_WIDENED.format(scale)}"))
    on_event(
        Event(
            "quantize",
            message=f"test top-1 {figures['test_ema_accuracy']:.2%} with fake quantization "
            f"on {figures['test_images']} images",
        )
    )


def export(run: Path, *, settings: Sequence[str] = (), on_event: OnEvent = ignore) -> None:
    """Write every model file, samples and manifest to ``RUN/export``.

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
    from edgecbam import quantization, training
    from edgecbam.export import artifact_set

    if settings:
        _change_recipe(run, settings)
    recipe, dataset, described = _open_data(run, on_event)
    training.begin(recipe.train.seed)
    float_model = _load_float(run)
    qat_model = quantization.make_quantizable(_load_float(run), quantization.input_range(described))
    qat_model.load_weights(run / "quantize" / QAT_FILE)
    inputs = calibration_inputs(recipe, dataset, described)
    ptq_model = _post_training(run, described, inputs)
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
            samples,
            described,
            on_event,
        )


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
    return result


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
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)


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


def report(run: Path, *, on_event: OnEvent = ignore) -> Path:
    """Write ``RUN/report`` from the verification and the benchmark; returns the path of report.md."""
    from edgecbam.benchmarks import report as reports

    with artifacts.stage_folder(run, "report") as folder:
        reports.write(run, folder)
    on_event(Event("report", message=f"{run / 'report' / 'report.md'}"))
    return run / "report" / "report.md"


def markdown(report: dict[str, Any]) -> str:
    """A report.json value as Markdown."""
    from edgecbam.benchmarks import report as reports

    return reports.markdown(report, None)


def predict(
    model: Path, images: Sequence[Path], *, top: int = 5, runtime: str | None = None, threads: int = 1
) -> list[Prediction]:
    """Classify image files with an exported model.

    Args:
        model: a run folder (its model_int8.tflite is used) or a model file that lies beside its manifest.json.
        images: image files of any size and mode.
        top: how many classes to give, at most all.
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


def _reader(path: Path, runtime: str | None) -> Any:
    from edgecbam import runtimes as adapters

    if runtime is not None:
        return adapters.find(runtime)
    known = adapters.readers(path.suffix)
    if not known:
        raise InputError(f"{path} is of no known format: give a .tflite or .onnx file")
    return next((reader for reader in known if reader.installed()), known[0])


def calibration_inputs(recipe: Recipe, dataset: "Dataset", described: dict[str, Any]) -> Any:
    """A seeded choice of training images as model inputs: [n, h, w, c] float32."""
    import numpy as np

    from edgecbam.preprocessing import normalize

    count = min(recipe.quantize.calibration_images, len(dataset.train_images))
    chosen = np.random.default_rng([recipe.train.seed, 0xCA1]).permutation(len(dataset.train_images))[:count]
    return normalize(dataset.train_images[np.sort(chosen)], described)


def _open_data(run: Path, on_event: OnEvent) -> tuple[Recipe, "Dataset", dict[str, Any]]:
    """Recipe, data and preprocessing of a run, refused where the data is no longer what the model was trained on."""
    from edgecbam import datasets, preprocessing

    recipe = artifacts.load_recipe(run)
    dataset, data = datasets.load(recipe.data, on_event)
    recorded = artifacts.read_json(run / "train" / "metrics.json")
    if recorded["data_digest"] != _digest(dataset):
        raise InputError(f"the images of {data.source} have changed since {run} was trained: start a new run with them")
    return recipe, dataset, preprocessing.describe(data)


def _post_training(run: Path, described: dict[str, Any], inputs: Any) -> Any:
    """The float model with weights and ranges quantized, without any training: what QAT has to beat."""
    import numpy as np

    from edgecbam import quantization, requantization

    twin = _load_float(run)
    model = quantization.make_quantizable(twin, quantization.input_range(described))
    quantization.recompute_ranges(model, twin, np.array_split(inputs, max(1, len(inputs) // CALIBRATION_BATCH)))
    requantization.limit(model)
    return model


def _load_float(run: Path) -> Any:
    import tf_keras as keras

    import edgecbam.models  # noqa: F401  registers the layer classes that the file names

    return keras.models.load_model(run / "train" / MODEL_FILE, compile=False)


def _sample_count(recipe: Recipe, dataset: "Dataset") -> int:
    image_bytes = int(dataset.test_images[0].nbytes)
    fits = max(1, recipe.export.samples_mib * 2**20 // image_bytes)
    return min(recipe.export.samples_images, fits, len(dataset.test_images))


def _accuracies(raw_logits: Any, ema_logits: Any, dataset: "Dataset") -> dict[str, float | int]:
    from edgecbam import metrics

    return {
        "test_raw_accuracy": metrics.top1(raw_logits, dataset.test_labels),
        "test_ema_accuracy": metrics.top1(ema_logits, dataset.test_labels),
        "train_images": len(dataset.train_images),
        "validation_images": len(dataset.validation_images),
        "test_images": len(dataset.test_images),
    }


def _digest(dataset: "Dataset") -> str:
    """sha256 over the classes and all arrays of a data set."""
    hasher = hashlib.sha256()
    for field in dataclasses.fields(dataset):
        value = getattr(dataset, field.name)
        hasher.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
    return hasher.hexdigest()


def _describe_training(recipe: Recipe, dataset: "Dataset", cost: Any) -> str:
    data = recipe.data
    return (
        f"{len(dataset.train_images)} training, {len(dataset.validation_images)} validation, "
        f"{len(dataset.test_images)} test images of {data.height}x{data.width}x{data.channels}, "
        f"{len(dataset.classes)} classes; {recipe.model.family} with {recipe.model.attention}: "
        f"{cost.parameters:,} parameters, {cost.macs / 1e6:.1f} M MAC; {recipe.train.precision}"
    )


def _same(given: Recipe, resolved: Recipe) -> bool:
    """Whether a recipe is the one of a run folder, which has sizes, precision and the path of a folder filled in."""
    data, source = given.data, given.data.source
    filled = dataclasses.replace(
        data,
        source=str(Path(source).resolve()) if Path(source).is_dir() else source,
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
    if (out / artifacts.RECIPE_FILE).is_file():
        shutil.rmtree(out)  # train has made sure that the user asked for it
    artifacts.create_run(out, recipe)
