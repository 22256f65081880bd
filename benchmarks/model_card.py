"""``RUN/report/model_card.md``: what a model is, how right class by class, how sure, how fast, and what it is not.

Made of the run folder alone, after Mitchell et al.: "Model Cards for Model Reporting", 2019,
https://arxiv.org/abs/1810.03993. Nothing is said that was not measured; what nobody measured is named.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import artifacts, metrics
from edgecbam.artifacts import Manifest, Samples
from edgecbam.errors import InputError
from edgecbam.recipe import Recipe

from . import report as reports
from . import wording
from .readme_table import table
from .report import markdown_text
from .wording import percent

FILE = "model_card.md"
INT8 = "model_int8.tflite"
MATRIX_CLASSES = 20  # of more, the commonest confusions are listed instead
CONFUSIONS = 20


def write(run: Path, folder: Path) -> None:
    """Write the card into an existing folder, from the stages train, export, verify and benchmark of a run.

    Raises:
        InputError: a file of the run is missing or not what edgecbam writes.
    """
    try:
        content = text(run)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, zipfile.BadZipFile) as error:
        raise InputError(f"{run} is not as edgecbam writes it ({error!r}): run its stages again") from None
    artifacts.write_whole(folder / FILE, content)


def text(run: Path) -> str:
    """The card as GitHub-flavoured Markdown."""
    recipe, manifest = artifacts.load_recipe(run), artifacts.load_manifest(run / "export")
    samples = artifacts.load_samples(run / "export")
    verified = artifacts.read_json(run / "verify" / "verify.json")
    measured = artifacts.read_json(run / "benchmark" / "report.json")
    integers = artifacts.load_int8_outputs(run / "verify")
    if integers is not None and len(integers) != len(samples.images):
        raise InputError(f"{run}: verify and export have different samples: run `edgecbam verify {run}` again")
    sections = [
        ("", _summary(recipe, manifest)),
        ("Data", _data(run, recipe)),
        ("Training", _training(recipe)),
        ("How right it is", _accuracy(manifest, samples, verified, integers)),
        *_by_class(manifest, samples, integers),
        ("Latency", [reports.results_markdown(measured), _machine(measured)]),
        ("Files", [_files(manifest)]),
        ("Use and limits", _limits(recipe, manifest)),
    ]
    lines = [f"# Model card: {markdown_text(recipe.name)}"]
    for title, paragraphs in sections:
        lines += [f"## {title}"] * bool(title) + list(paragraphs)
    return "\n\n".join(lines) + "\n"


def _summary(recipe: Recipe, manifest: Manifest) -> list[str]:
    entry, model, data = manifest.files[INT8], recipe.model, recipe.data
    what = "one of {} classes" if manifest.task == "classification" else "the values of {} targets"
    return [
        f"From an image of {data.height} x {data.width} x {data.channels} (height, width, channels) "
        f"{what.format(len(manifest.classes))}. Network `{model.family}` with attention `{model.attention}`, "
        f"{entry.parameters:,} parameters, {entry.macs / 1e6:.1f} million multiply-accumulates.",
    ]


def _data(run: Path, recipe: Recipe) -> list[str]:
    trained = artifacts.read_json(run / "train" / "metrics.json")
    bad = len(trained.get("bad_files", ()))
    source = recipe.data.source if not Path(recipe.data.source).is_absolute() else Path(recipe.data.source).name
    return [
        f"{_code(source)}: {trained['train_images']:,} images to train, {trained['validation_images']:,} to validate, "
        f"{trained['test_images']:,} to test; sha256 of all {_code(trained['data_digest'][:16])}…; "
        f"{bad or 'no'} unreadable files left out."
    ]


def _training(recipe: Recipe) -> list[str]:
    train, quantize = recipe.train, recipe.quantize
    return [
        f"{train.epochs} epochs with {train.optimizer}, learning rate {train.learning_rate:g} with {train.schedule} "
        f"decay, batches of {train.batch_size}, moving average of the weights {train.ema_decay:g}, seed {train.seed}, "
        f"{train.precision}; then {quantize.epochs} epochs of quantization-aware training. All settings are in "
        f"`recipe.toml`, sha256 {recipe.digest()[:16]}…"
    ]


def _accuracy(
    manifest: Manifest, samples: Samples, verified: Mapping[str, Any], integers: np.ndarray | None
) -> list[str]:
    count = f"On {len(samples.images):,} test images."
    if manifest.task == "regression":
        rows = [
            [_code(name), *(f"{errors[target]:.4g}" for target in manifest.classes)]
            for name, errors in verified["rmse"].items()
        ]
        heads = ["RMSE", *map(markdown_text, manifest.classes)]
        return [f"{count} Each target in its own unit.", table(heads, rows)]
    rows = [[_code(name), percent(value)] for name, value in sorted(verified["accuracy"].items())]
    calibration = [("float (Keras)", metrics.calibration_error(samples.keras_float, samples.labels))]
    if integers is not None:
        calibration.append(("int8", metrics.calibration_error(_real(integers, manifest), samples.labels)))
    told = ", ".join(f"{name} {100 * value:.2f} points" for name, value in calibration)
    return [
        f"{count} Top-1:",
        table(["file", "top-1"], rows),
        "Expected calibration error, 15 bins (the probability of the chosen class beside how often it is right): "
        f"{told}.",
    ]


def _code(name: str) -> str:
    """As code, where HTML and Markdown mean nothing, on one line."""
    return f"`{wording.plain(name).replace('`', chr(39)).replace('|', '/')}`"


def _real(integers: np.ndarray, manifest: Manifest) -> np.ndarray:
    output = manifest.files[INT8].output
    assert output.scale is not None
    assert output.zero_point is not None
    return np.asarray((integers.astype(np.float64) - output.zero_point) * output.scale)


def _by_class(manifest: Manifest, samples: Samples, integers: np.ndarray | None) -> list[tuple[str, list[str]]]:
    if manifest.task == "regression":
        return []
    counts = {"float": metrics.confusion(samples.keras_float, samples.labels)}
    if integers is not None:
        counts["int8"] = metrics.confusion(integers, samples.labels)
    heads = ["class", "images", *(f"{kind} {what}" for kind in counts for what in ("recall", "precision"))]
    rows = []
    for index, name in enumerate(manifest.classes):
        cells = [markdown_text(name), str(int(counts["float"][index].sum()))]
        for matrix in counts.values():
            cells += [_share(matrix[index, index], matrix[index]), _share(matrix[index, index], matrix[:, index])]
        rows.append(cells)
    kind, matrix = list(counts.items())[-1]
    return [
        ("Class by class", [table(heads, rows)]),
        (f"Confusions, {kind}", _confusions(matrix, manifest.classes)),
    ]


def _share(part: Any, of: np.ndarray) -> str:
    return percent(float(part / of.sum())) if of.sum() else "–"


def _confusions(matrix: np.ndarray, classes: Sequence[str]) -> list[str]:
    names = [markdown_text(name) for name in classes]
    if len(classes) <= MATRIX_CLASSES:
        rows = [[name, *map(str, row)] for name, row in zip(names, matrix.tolist(), strict=True)]
        return ["A row is what the images are, a column what the model says.", table(["", *names], rows)]
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    rows = [[names[i], names[j], str(wrong[i, j])] for i, j in pairs if wrong[i, j]]
    return [f"The {len(rows)} commonest.", table(["is", "taken for", "images"], rows)]


def _machine(measured: Mapping[str, Any]) -> str:
    environment = measured["environment"]
    return (
        f"{markdown_text(str(environment['cpu']))}, {markdown_text(str(environment['logical_cpus']))} CPUs, "
        f"{markdown_text(str(environment['os']))}; {markdown_text(str(measured['protocol']['name']))} protocol. "
        "All of it: `report.md`."
    )


def _files(manifest: Manifest) -> str:
    rows = [
        [
            _code(name),
            f"{file.bytes:,}",
            markdown_text(file.precision),
            file.input.dtype,
            _code(f"{file.sha256[:16]}…"),
        ]
        for name, file in sorted(manifest.files.items())
    ]
    return table(["file", "bytes", "inside", "input", "sha256"], rows)


def _limits(recipe: Recipe, manifest: Manifest) -> list[str]:
    """What follows from how the model was made, and what was not measured."""
    size = f"{recipe.data.height} x {recipe.data.width}"
    if manifest.task == "classification":
        purpose = (
            f"It sorts images like those of its data into its {len(manifest.classes)} classes. It has no answer for "
            "anything else: every image gets one of them."
        )
    else:
        purpose = "It estimates its targets on images like those of its data, and gives values for any other image too."
    grey = " Colours are turned into grey levels." if recipe.data.channels == 1 else ""
    return [
        purpose,
        f"Images are scaled to {size} pixels, so that what is smaller than a few pixels there is lost.{grey}",
        "Not measured: other cameras, lighting and places than those of the data; groups of people; images made to "
        "deceive; whether a low probability finds images of none of the classes.",
        _license(recipe),
    ]


def _license(recipe: Recipe) -> str:
    export = recipe.export
    by = f" by {markdown_text(export.model_author)}" if export.model_author else ""
    told = f"Version {markdown_text(export.model_version)}{by}." if export.model_version else ""
    if export.model_license:
        licence = markdown_text(export.model_license)
        return f"{told} Licence of the model: {licence}. That of its data is not known to edgecbam."
    return (
        f"{told} Whoever publishes the model states its licence and that of its data: edgecbam knows neither "
        "(`edgecbam export RUN --set export.model_license=...`)."
    )
