"""What full trainings came to: ``python -m edgecbam.benchmarks.trainings RESULTS DOCUMENT [RUN ...]``.

The figures of a finished run folder are copied to ``RESULTS/training_RECIPE_seed_K.json``; then the table in DOCUMENT
is renewed from all such files. It stands between comment lines, so that a test can compare the two.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table
from .wording import kib, milliseconds, percent

BEGIN = "<!-- begin of the trainings made by edgecbam.benchmarks.trainings -->"
PATTERN = "training_*_seed_*.json"
FLOAT, INT8, ONNX, PTQ = "model_fp32.tflite", "model_int8.tflite", "model_int8.onnx", "model_ptq_int8.tflite"


def collect(run: Path) -> dict[str, Any]:
    """The figures of a run folder that is through all stages up to ``benchmark``.

    Returns:
        ``recipe``, ``seed``, ``epochs``, ``quantize_epochs``; ``images`` by part; ``parameters`` and ``macs`` of the
        float file; ``precision``, ``images_per_second`` and ``minutes`` of float training, validation and checkpoints
        not counted, and likewise ``quantize_images_per_second``, ``quantize_minutes``; ``keras_accuracy``: top-1 on
        the test images of the weights of the last step, their average, and after quantization-aware training;
        ``accuracy`` of the files by name on ``verified_images``; ``failed_gates``; ``bytes`` and ``p50_ms`` by file;
        ``protocol`` and ``environment`` of the benchmark; ``versions`` of the tools that trained and exported.

    Raises:
        InputError: a stage is missing or altered.
    """
    settings = artifacts.load_recipe(run)
    for stage in ("train", "quantize", "export", "verify", "benchmark"):
        artifacts.check_stage(run, stage)
    trained, quantized = (artifacts.read_json(run / stage / "metrics.json") for stage in ("train", "quantize"))
    rates = [artifacts.read_json(run / stage / "timing.json")["images_per_second"] for stage in ("train", "quantize")]
    verified = artifacts.read_json(run / "verify" / "verify.json")
    measured = artifacts.read_json(run / "benchmark" / "report.json")
    images = trained["train_images"]
    plain = next(model for model in measured["models"] if model["name"] == FLOAT)
    return {
        "schema_version": 1,
        "recipe": settings.name,
        "seed": settings.train.seed,
        "epochs": settings.train.epochs,
        "quantize_epochs": settings.quantize.epochs,
        "images": {part: trained[f"{part}_images"] for part in ("train", "validation", "test")},
        "parameters": plain["parameters"],
        "macs": plain["macs"],
        "precision": trained["precision"],
        "images_per_second": rates[0],
        "minutes": settings.train.epochs * images / rates[0] / 60,
        "quantize_images_per_second": rates[1],
        "quantize_minutes": settings.quantize.epochs * images / rates[1] / 60,
        "keras_accuracy": {
            "raw": trained["test_raw_accuracy"],
            "ema": trained["test_ema_accuracy"],
            "qat": quantized["test_ema_accuracy"],
        },
        "accuracy": verified["accuracy"],
        "verified_images": verified["images"],
        "failed_gates": [gate["name"] for gate in verified["gates"] if not gate["passed"]],
        "bytes": {model["name"]: model["bytes"] for model in measured["models"]},
        "p50_ms": {row["model"]: row["latency_ms"]["p50"] for row in measured["results"] if row["status"] == "ok"},
        "protocol": measured["protocol"]["name"],
        "environment": measured["environment"],
        "versions": artifacts.load_manifest(run / "export").versions,
    }


def reports(results: Path) -> list[dict[str, Any]]:
    """All committed trainings, smaller networks first, then by seed."""
    found = [artifacts.read_json(path) for path in sorted(results.glob(PATTERN))]
    return sorted(found, key=lambda one: (one["parameters"], one["recipe"], one["seed"]))


def renew(document: str, trainings: Sequence[Mapping[str, Any]]) -> str:
    """The document with its table made of these trainings."""
    heads = [
        "Recipe",
        "Seed",
        "Parameters",
        "MMAC",
        "Epochs + QAT",
        "Minutes + QAT",
        "Keras EMA",
        "float32 .tflite",
        "PTQ int8",
        "QAT int8 .tflite",
        "int8 .onnx",
        "float − int8",
        "int8 KiB",
        "p50 ms float32 / int8",
    ]
    machines = list(dict.fromkeys(_machine(one) for one in trainings))
    body = [table(heads, [_row(one) for one in trainings]), *machines] if trainings else ["None is committed yet."]
    return replace(document, "\n\n".join([f"{BEGIN}\n{body[0]}", *body[1:]]) + f"\n{END}")


def _row(one: Mapping[str, Any]) -> list[str]:
    accuracy, latency = one["accuracy"], one["p50_ms"]
    return [
        one["recipe"],
        str(one["seed"]),
        f"{one['parameters']:,}",
        f"{one['macs'] / 1e6:.1f}",
        f"{one['epochs']} + {one['quantize_epochs']}",
        f"{one['minutes']:.0f} + {one['quantize_minutes']:.0f}",
        percent(one["keras_accuracy"]["ema"]),
        *(percent(accuracy.get(name)) for name in (FLOAT, PTQ)),
        f"**{percent(accuracy[INT8])}**",
        percent(accuracy.get(ONNX)),
        f"{100 * (accuracy[FLOAT] - accuracy[INT8]):.2f}".replace("-", "−"),
        kib(one["bytes"][INT8]),
        f"{milliseconds(latency.get(FLOAT))} / {milliseconds(latency.get(INT8))}",
    ]


def _machine(one: Mapping[str, Any]) -> str:
    environment, versions, images = one["environment"], one["versions"], one["images"]
    return (
        f"{images['train']} training, {images['validation']} validation and {images['test']} test images, trained in "
        f"{one['precision']}; top-1 of the files on {one['verified_images']} test images. {environment['cpu']}, "
        f"{environment['logical_cpus']} CPUs, {environment['os']}; TensorFlow {versions['tensorflow']}, LiteRT "
        f"{environment['versions']['litert']}; latency with 1 thread, batch 1, {one['protocol']} protocol."
    )


def main(arguments: Sequence[str]) -> None:
    """Copy the figures of the runs, then renew the table."""
    results, document, *runs = map(Path, arguments)
    for run in runs:
        one = collect(run)
        artifacts.write_json(results / f"training_{one['recipe']}_seed_{one['seed']}.json", one)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), reports(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
