"""All files of ``RUN/export``. Each model file is reopened in its runtime; the manifest says what was found there."""

import functools
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecbam import artifacts, models, runtimes
from edgecbam.artifacts import Manifest, ModelFile, Samples, Tensor, write_whole
from edgecbam.events import Event, OnEvent
from edgecbam.recipe import Recipe

from . import onnx_model, tflite

TOOLS = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert")


def write(
    folder: Path,
    recipe: Recipe,
    float_model: Any,
    ptq_model: Any,
    qat_model: Any,
    classes: tuple[str, ...],
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
        classes: class names in label order.
        samples: held-out images with their references.
        preprocessing: as the manifest states it.
        on_event: listener.
    """
    float_tflite = functools.cache(lambda: tflite.float32(float_model))
    int8_tflite = functools.cache(lambda: tflite.quantized(qat_model))
    onnx_models = functools.cache(lambda: onnx_model.convert(float_tflite(), int8_tflite(), recipe.export.onnx_opset))
    makers: dict[str, tuple[str, Callable[[], bytes]]] = {
        "model_fp32.tflite": ("float32", float_tflite),
        "model_fp16.tflite": ("float16", lambda: tflite.float16(float_model)),
        "model_dynamic.tflite": ("dynamic", lambda: tflite.dynamic_range(float_model)),
        "model_ptq_int8.tflite": ("ptq_int8", lambda: tflite.with_io(tflite.quantized(ptq_model), "int8")),
        "model_int8.tflite": ("int8", lambda: tflite.with_io(int8_tflite(), "int8")),
        "model_uint8.tflite": ("int8", lambda: tflite.with_io(int8_tflite(), "uint8")),
        "model_fp32.onnx": ("float32", lambda: onnx_models()[0].SerializeToString()),
        "model_int8.onnx": ("int8", lambda: onnx_models()[1].SerializeToString()),
    }
    cost = models.Cost.of(float_model)
    files = {}
    for done, (name, (precision, make)) in enumerate(makers.items(), start=1):
        content = make()
        write_whole(folder / name, content)
        files[name] = _describe(folder / name, precision, cost)
        on_event(Event("export", step=done, total=len(makers), unit="file", message=f"{name}  {len(content):,} bytes"))
    write_whole(folder / "labels.txt", "".join(f"{name}\n" for name in classes))
    artifacts.write_samples(folder, samples)
    manifest = Manifest(classes, preprocessing, files, recipe.digest(), _versions())
    artifacts.write_manifest(folder, manifest)
    return manifest


def _describe(path: Path, precision: str, cost: models.Cost) -> ModelFile:
    session = runtimes.find("litert" if path.suffix == ".tflite" else "onnxruntime").open(path, threads=1)
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
        )
    finally:
        session.close()


def _tensor(info: runtimes.TensorInfo) -> Tensor:
    return Tensor(info.name, tuple(info.shape), info.dtype, info.scale, info.zero_point)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in TOOLS}
