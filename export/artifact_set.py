"""All files of ``RUN/export``. Each model file is reopened in its runtime; the manifest says what was found there."""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecbam import artifacts, models, runtimes
from edgecbam.artifacts import Manifest, ModelFile, Samples, Tensor, write_whole
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import Recipe

from . import lowering, onnx_model, tflite

TOOLS = (
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "tf2onnx",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "ai-edge-litert",
)


def write(
    folder: Path,
    recipe: Recipe,
    float_model: Any,
    ptq_model: Any,
    qat_model: Any,
    classes: tuple[str, ...],
    target_mean: tuple[float, ...],
    target_std: tuple[float, ...],
    samples: Samples,
    preprocessing: dict[str, Any],
    on_event: OnEvent,
) -> Manifest:
    """Convert, reopen and describe every file.

    Args:
        folder: an empty folder.
        recipe: resolved recipe.
        float_model: keras.Model with the averaged weights, float32.
        ptq_model: its quantization-aware twin, calibrated but not trained: post-training quantization.
        qat_model: its quantization-aware twin, trained.
        classes: class names in label order; in regression the names of the targets.
        target_mean: regression: what is added to an output times target_std; empty in classification.
        target_std: see target_mean.
        samples: held-out images with their references.
        preprocessing: as the manifest states it.
        on_event: listener.
    """
    profile = recipe.export.profile

    def lowered(content: bytes) -> lowering.Lowered:
        return lowering.lower(content, profile)

    plain_float = functools.cache(lambda: tflite.float32(float_model))
    plain_int8 = functools.cache(lambda: tflite.quantized(qat_model))
    int8 = functools.cache(lambda: lowered(plain_int8()))
    metadata = {
        "labels": json.dumps(list(classes), ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing, sort_keys=True),
        "recipe_digest": recipe.digest(),
        "input_layout": "NHWC",
        "task": recipe.task,
    }
    if recipe.task == "regression":
        metadata |= {"target_mean": json.dumps(target_mean), "target_std": json.dumps(target_std)}
    onnx_models = functools.cache(lambda: onnx_model.convert(plain_float(), plain_int8(), recipe.export, metadata))

    def with_io(file: lowering.Lowered, dtype: str) -> lowering.Lowered:
        return lowering.Lowered(tflite.with_io(file.content, dtype), file.rewrites)

    makers: dict[str, tuple[str, Callable[[], lowering.Lowered]]] = {
        "model_fp32.tflite": ("float32", lambda: lowered(plain_float())),
        "model_fp16.tflite": ("float16", lambda: lowered(tflite.float16(float_model))),
        "model_dynamic.tflite": ("dynamic", lambda: lowered(tflite.dynamic_range(float_model))),
        "model_ptq_int8.tflite": ("ptq_int8", lambda: with_io(lowered(tflite.quantized(ptq_model)), "int8")),
        "model_int8.tflite": ("int8", lambda: with_io(int8(), "int8")),
        "model_uint8.tflite": ("int8", lambda: with_io(int8(), "uint8")),
        "model_fp32.onnx": ("float32", lambda: _serialized(onnx_models()[0])),
        "model_int8.onnx": ("int8", lambda: _serialized(onnx_models()[1])),
    }
    cost = models.Cost.of(float_model)
    files = {}
    for done, (name, (precision, make)) in enumerate(makers.items(), start=1):
        made = make()
        if name.endswith(".tflite"):
            tflite.check_requantization(made.content, name)
        write_whole(folder / name, made.content)
        files[name] = _describe(folder / name, precision, cost, made.rewrites, recipe)
        if files[name].input.dtype == "uint8" and name.endswith(".onnx"):  # the file itself does not say what they mean
            files[name] = dataclasses.replace(files[name], input=_described(files[name].input, files))
        size = f"{len(made.content):,} bytes"
        on_event(Event("export", step=done, total=len(makers), unit="file", message=f"{name}  {size}"))
    write_whole(folder / "labels.txt", "".join(f"{name}\n" for name in classes))
    artifacts.write_samples(folder, samples)
    manifest = Manifest(
        profile,
        classes,
        preprocessing,
        files,
        recipe.digest(),
        _versions(),
        recipe.task,
        target_mean,
        target_std,
    )
    artifacts.write_manifest(folder, manifest)
    return manifest


def _serialized(converted: onnx_model.Converted) -> lowering.Lowered:
    return lowering.Lowered(converted.model.SerializeToString(), converted.rewrites)


def _describe(path: Path, precision: str, cost: models.Cost, rewrites: dict[str, int], recipe: Recipe) -> ModelFile:
    tflite_file = path.suffix == ".tflite"
    session = runtimes.find("litert" if tflite_file else "onnxruntime").open(path, threads=1)
    oldest = lowering.MINIMUM_RUNTIME[recipe.export.profile]
    try:
        ends = session.inputs[0], session.outputs[0]
        return ModelFile(
            sha256=artifacts.sha256_file(path),
            bytes=path.stat().st_size,
            format=path.suffix.removeprefix("."),
            precision=precision,
            input=_tensor(ends[0]),
            output=_tensor(ends[1]),
            macs=cost.macs,
            parameters=cost.parameters,
            partitions=session.placement().get("xnnpack_partitions"),
            rewrites=rewrites,
            minimum_runtime=oldest if tflite_file else f"ONNX opset {recipe.export.onnx_opset}",
        )
    finally:
        session.close()


def _described(tensor: Tensor, files: Mapping[str, ModelFile]) -> Tensor:
    """The input of an .onnx file of uint8 images, which are those of model_uint8.tflite."""
    meant = files["model_uint8.tflite"].input
    return dataclasses.replace(tensor, scale=meant.scale, zero_point=meant.zero_point)


def _tensor(info: runtimes.TensorInfo) -> Tensor:
    return Tensor(info.name, tuple(info.shape), info.dtype, info.scale, info.zero_point)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in TOOLS}
