"""A model of RUN/export as an app wants it: RGB pixels in, probabilities out; between, bit for bit what it was.

    pixels ─▶ front ─▶ the network ─▶ SOFTMAX ─▶ probabilities

**Input.** Always RGB. An integer file takes the pixels themselves (uint8), or pixel - 128 (int8). A float file takes
(pixel - mean) / std with one mean and one std, which its metadata states.

**Front.** A 1x1 convolution, and only where the network wants something else: grey levels (ITU-R 601 luma, as
preprocessing.load_image computes it), another mean and std for each channel, or integers that are not the pixels. A
grey picture stored as RGB comes through exactly: in integers the weights are 65, 127 and 24 of 216, their sum is one.

**SOFTMAX.** Scale 1/256, as the integer kernels define it. XNNPACK does not take it in int8, so that it runs beside the
delegate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecbam.errors import InputError

from .tflite_graph import TfliteGraph

LUMA = (0.299, 0.587, 0.114)
LUMA_INTEGERS = (65, 127, 24)
PIXEL_MEAN = PIXEL_STD = 128.0  # what the input of a front stands for: (pixel - 128) / 128, in int8 pixel - 128


@dataclass(frozen=True)
class AppModel:
    """A file without metadata, and what a reader must do to pixels to feed it.

    Attributes:
        content: the .tflite file.
        mean: of a float input (pixel - mean) / std; an integer input is fed pixels, and its scale stands for this.
        std: see mean.
        front: whether a convolution stands before the network.
        softmax: whether one stands behind it.
    """

    content: bytes
    mean: float
    std: float
    front: bool
    softmax: bool


def make(content: bytes, preprocessing: Mapping[str, Any], task: str, dtype: str, where: str) -> AppModel:
    """Put front and softmax to a file of RUN/export.

    Args:
        content: a .tflite file with a float32 or int8 input and output of logits.
        preprocessing: as the manifest states it.
        task: ``classification`` gets a softmax, ``regression`` none.
        dtype: of the new input and output: ``float32`` of a float file, ``int8`` or ``uint8`` of an int8 file.
        where: what errors call the file.

    Raises:
        InputError: the file is none of edgecbam's, or dtype is not possible for it.
    """
    graph = TfliteGraph(content, where)
    if len(graph.graph.inputs) != 1 or len(graph.graph.outputs) != 1:
        raise InputError(f"{where} has several inputs or outputs: give a file of RUN/export")
    source = int(graph.graph.inputs[0])
    if (graph.dtype(source), dtype) not in (("FLOAT32", "float32"), ("INT8", "int8"), ("INT8", "uint8")):
        raise InputError(f"{where} has an input of {graph.dtype(source).lower()}: no model of {dtype} comes of it")
    mean, std = (np.broadcast_to(np.asarray(preprocessing[key], float), (len(LUMA),)) for key in ("mean", "std"))
    front = _needs_front(graph, source, mean, std)
    stated = (PIXEL_MEAN, PIXEL_STD) if front else (float(mean[0]), float(std[0]))
    if front:
        _add_front(graph, mean, std)
    if task == "classification":
        _add_softmax(graph)
    if dtype == "uint8":
        _take_uint8(graph)
    _name_ends(graph, "probabilities" if task == "classification" else "values")
    return AppModel(graph.to_bytes(), *stated, front, task == "classification")


def _needs_front(graph: TfliteGraph, source: int, mean: np.ndarray, std: np.ndarray) -> bool:
    if graph.shape(source)[-1] == 1 or len(set(mean)) > 1 or len(set(std)) > 1:
        return True
    quantization = graph.quantization(source)
    if graph.dtype(source) == "FLOAT32" or quantization is None:
        return False
    pixels = np.arange(256)
    scale, zero_point = float(quantization[0][0]), int(quantization[1][0])
    wanted = np.clip(np.rint((pixels - mean[0]) / std[0] / scale) + zero_point, -128, 127)
    return not np.array_equal(wanted, pixels - 128)


def _add_front(graph: TfliteGraph, mean: np.ndarray, std: np.ndarray) -> None:
    """A convolution [1, h, w, 3] -> [1, h, w, c] that makes the network's input of (pixel - 128) / 128."""
    old = int(graph.graph.inputs[0])
    _, height, width, channels = graph.shape(old)
    rows = np.asarray(LUMA)[None] if channels == 1 else np.eye(3)
    std, mean = std[:channels], mean[:channels]
    gain, offset = PIXEL_STD / std, (PIXEL_MEAN - mean) / std
    image = graph.add_tensor("image", (1, height, width, 3), like=old)
    shape = (channels, 1, 1, 3)
    if graph.dtype(old) == "FLOAT32":
        weights = (rows * gain[:, None]).astype(np.float32).reshape(shape)
        kernel = graph.add_tensor("edgecbam/front/kernel", shape, like=old, data=weights)
        bias = graph.add_tensor("edgecbam/front/bias", (channels,), like=old, data=offset.astype(np.float32))
        version = 1
    else:
        integers = np.asarray([LUMA_INTEGERS]) if channels == 1 else 127 * np.eye(3, dtype=int)
        scales = gain / integers.sum(axis=1)
        graph.set_quantization(image, 1 / PIXEL_STD, 0)
        kernel = graph.add_tensor("edgecbam/front/kernel", shape, old, integers.astype(np.int8).reshape(shape))
        graph.set_channel_scales(kernel, scales)
        bias = graph.add_int32("edgecbam/front/bias", np.rint(offset / (scales / PIXEL_STD)))
        graph.set_channel_scales(bias, scales / PIXEL_STD)
        version = 3
    padding = graph.schema.Padding.VALID
    front = graph.new_op(
        "CONV_2D",
        [image, kernel, bias],
        [old],
        version,
        padding=padding,
        strideW=1,
        strideH=1,
        dilationWFactor=1,
        dilationHFactor=1,
    )
    graph.graph.operators = [front, *graph.graph.operators]
    graph.graph.inputs = np.array([image], np.int32)
    graph.refresh()


def _add_softmax(graph: TfliteGraph) -> None:
    logits = int(graph.graph.outputs[0])
    probabilities = graph.add_tensor("probabilities", graph.shape(logits), like=logits)
    version = 1
    if graph.dtype(logits) == "INT8":
        graph.set_quantization(probabilities, 1 / 256, -128)
        version = 2
    graph.graph.operators.append(graph.new_op("SOFTMAX", [logits], [probabilities], version, beta=1.0))
    graph.graph.outputs = np.array([probabilities], np.int32)
    graph.refresh()


def _take_uint8(graph: TfliteGraph) -> None:
    """QUANTIZE ops at both ends, between int8 and uint8 of the same scale: the integer plus or minus 128."""
    first, last = int(graph.graph.inputs[0]), int(graph.graph.outputs[0])
    source = graph.unsigned_like(first)
    graph.graph.operators = [graph.new_op("QUANTIZE", [source], [first]), *graph.graph.operators]
    target = graph.to_uint8(last)
    graph.graph.inputs, graph.graph.outputs = np.array([source], np.int32), np.array([target], np.int32)
    graph.refresh()


def _name_ends(graph: TfliteGraph, output: str) -> None:
    for tensors, name in ((graph.graph.inputs, "image"), (graph.graph.outputs, output)):
        graph.graph.tensors[int(tensors[0])].name = name.encode()
    for signature in graph.model.signatureDefs or []:
        for entries, tensors, name in (
            (signature.inputs, graph.graph.inputs, "image"),
            (signature.outputs, graph.graph.outputs, output),
        ):
            entries[0].name, entries[0].tensorIndex = name.encode(), int(tensors[0])
