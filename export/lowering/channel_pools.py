"""The mean and the maximum over the channels of each pixel, [1, h, w, c] -> [1, h, w, 1].

A runtime reduces the last axis with one short call a pixel. Other ops do the same work on long rows.
"""

import math
from typing import Any

import numpy as np

from edgecbam.export.tflite_graph import TfliteGraph, elements

MAX_MEAN_CHANNELS = 64
MAX_CONVOLUTION_STEP = 8
MIN_PIXELS = 100
MAX_MAXIMUM_CHANNELS = {"INT8": 32, "FLOAT32": 16}
MAX_MAXIMUM_PIXELS = {"INT8": math.inf, "FLOAT32": 2500}  # beyond it a float32 map leaves the second-level cache
VALID = 1  # Padding in schema.fbs


def average_by_convolution(graph: TfliteGraph) -> int:
    """int8 channel means as convolutions with ones; returns how many.

    A convolution [k, 1, k, c] of stride (1, k) gives the means of k neighbours as its k output channels: weight 1 at
    its own pixel, 0 elsewhere, weight scale 1/c. k is the largest divisor of the width up to 8.

    Both ops round a quotient to the nearest integer, but not the same quotient: MEAN that of the stored integers, the
    convolution that of the integers less the zero point. Halves go to the even side, so the two differ on halves where
    the zero point is odd. Every sum that can occur is compared beforehand, and the op stays where one differs.

    It paid on x86 up to 64 channels, not on maps of 64 pixels and hardly from 96 channels on.
    """
    count = 0
    for op in list(graph.graph.operators):
        if graph.kind(op) == "MEAN" and _reduces_channels(graph, op) and _mean_pays(graph, op):
            _replace_mean(graph, op, f"edgecbam/mean{count}")
            count += 1
    return count


def maximum_over_leading_axis(graph: TfliteGraph) -> int:
    """Channel maxima of narrow maps as TRANSPOSE and a maximum over the leading axis; returns how many.

    It paid on x86 up to 32 channels in int8; in float32 up to 16 channels, on maps of up to 2,500 pixels.
    """
    count = 0
    for op in list(graph.graph.operators):
        if graph.kind(op) != "REDUCE_MAX" or not _reduces_channels(graph, op):
            continue
        x = int(op.inputs[0])
        _, height, width, channels = graph.shape(x)
        if not 1 < channels <= MAX_MAXIMUM_CHANNELS.get(graph.dtype(x), 0):
            continue
        if not MIN_PIXELS <= height * width <= MAX_MAXIMUM_PIXELS[graph.dtype(x)]:
            continue
        name = f"edgecbam/max{count}"
        transpose, planes = _transpose(graph, x, name)
        largest = graph.add_tensor(f"{name}/plane", (1, 1, height, width), like=x)
        axes = graph.add_int32(f"{name}/axis", [1])
        reduce = graph.new_op("REDUCE_MAX", [planes, axes], [largest], graph.version(op), keepDims=True)
        graph.replace([op], [transpose, reduce, reshape(graph, largest, int(op.outputs[0]), name)])
        count += 1
    return count


def maximum_by_pooling(graph: TfliteGraph) -> int:
    """All REDUCE_MAX over channels or over pixels as MAX_POOL_2D, which older runtimes delegate; returns how many."""
    count = 0
    for op in list(graph.graph.operators):
        if graph.kind(op) != "REDUCE_MAX":
            continue
        x, output = int(op.inputs[0]), int(op.outputs[0])
        name, shape = f"edgecbam/pool{count}", graph.shape(x)
        if len(shape) != 4 or shape[0] != 1:
            continue
        _, height, width, channels = shape
        if _reduces_channels(graph, op) and channels > 1:
            transpose, planes = _transpose(graph, x, name)
            columns = graph.add_tensor(f"{name}/columns", (1, channels, 1, height * width), like=x)
            largest = graph.add_tensor(f"{name}/largest", (1, 1, 1, height * width), like=x)
            ops = [transpose, reshape(graph, planes, columns, f"{name}/in")]
            ops += [_pool(graph, columns, largest, channels, 1), reshape(graph, largest, output, name)]
        elif graph.axes(op) == (1, 2) and height * width > 1:
            largest = graph.add_tensor(f"{name}/largest", (1, 1, 1, channels), like=x)
            ops = [_pool(graph, x, largest, height, width), reshape(graph, largest, output, name)]
        else:
            continue
        graph.replace([op], ops)
        count += 1
    return count


def reshape(graph: TfliteGraph, source: int, target: int, name: str) -> Any:
    """A RESHAPE of one tensor into another."""
    shape = graph.shape(target)
    size = graph.add_int32(f"{name}/shape", shape)
    return graph.new_op("RESHAPE", [source, size], [target], newShape=np.array(shape, np.int32))


def _reduces_channels(graph: TfliteGraph, op: Any) -> bool:
    """Whether an op reduces the last axis of [1, h, w, c] and keeps it."""
    shape = graph.shape(int(op.inputs[0]))
    if len(shape) != 4 or shape[0] != 1 or graph.axes(op) != (3,):
        return False
    return graph.shape(int(op.outputs[0])) == (*shape[:3], 1)


def _mean_pays(graph: TfliteGraph, op: Any) -> bool:
    x, output = int(op.inputs[0]), int(op.outputs[0])
    shape, quantization = graph.shape(x), graph.quantization(x)
    if graph.dtype(x) != "INT8" or quantization is None or not graph.same_quantization(x, output):
        return False
    if not 1 < shape[3] <= MAX_MEAN_CHANNELS or elements(shape[1:3]) < MIN_PIXELS:
        return False
    return rounds_alike(shape[3], float(quantization[0][0]), int(quantization[1][0]))


def rounds_alike(channels: int, scale: float, zero_point: int) -> bool:
    """Whether the convolution rounds every possible sum of ``channels`` int8 values as MEAN does.

    Both are emulated in float32 as XNNPACK computes them: MEAN as sum * (1 / c), the convolution as
    (sum - c * zero_point) * (scale * weight_scale / scale) + zero_point, each rounded half to even.
    """
    sums = np.arange(-128 * channels, 127 * channels + 1)
    share, step = np.float32(1) / np.float32(channels), np.float32(scale)
    multiplier = np.float32(np.float32(step * share) / step)
    mean = np.rint(sums.astype(np.float32) * share)
    convolution = np.rint((sums - channels * zero_point).astype(np.float32) * multiplier) + zero_point
    return bool(np.array_equal(mean, convolution))


def _replace_mean(graph: TfliteGraph, op: Any, name: str) -> None:
    x, output = int(op.inputs[0]), int(op.outputs[0])
    _, height, width, channels = graph.shape(x)
    quantization = graph.quantization(x)
    assert quantization is not None
    step = max(k for k in range(1, MAX_CONVOLUTION_STEP + 1) if width % k == 0)
    ones = np.zeros((step, 1, step, channels), np.int8)
    ones[np.arange(step), 0, np.arange(step)] = 1
    share = np.float32(1) / np.float32(channels)
    weights = graph.add_tensor(f"{name}/ones", ones.shape, like=x, data=ones)
    graph.set_quantization(weights, float(share), 0)
    bias = graph.add_int32(f"{name}/bias", np.zeros(step))
    graph.set_quantization(bias, float(quantization[0][0] * share), 0)
    rows = graph.add_tensor(f"{name}/rows", (1, height, width // step, step), like=output)
    convolution = graph.new_op(
        "CONV_2D",
        [x, weights, bias],
        [rows],
        3,
        padding=VALID,
        strideH=1,
        strideW=step,
        dilationHFactor=1,
        dilationWFactor=1,
    )
    graph.replace([op], [convolution, reshape(graph, rows, output, name)])


def _transpose(graph: TfliteGraph, x: int, name: str) -> tuple[Any, int]:
    """[1, h, w, c] -> [1, c, h, w]: the op and its output."""
    _, height, width, channels = graph.shape(x)
    planes = graph.add_tensor(f"{name}/planes", (1, channels, height, width), like=x)
    order = graph.add_int32(f"{name}/order", [0, 3, 1, 2])
    return graph.new_op("TRANSPOSE", [x, order], [planes], 2 if graph.dtype(x) == "INT8" else 1), planes


def _pool(graph: TfliteGraph, x: int, output: int, height: int, width: int) -> Any:
    """MAX_POOL_2D of windows [height, width] side by side."""
    version = 2 if graph.dtype(x) == "INT8" else 1
    return graph.new_op(
        "MAX_POOL_2D",
        [x],
        [output],
        version,
        padding=VALID,
        filterHeight=height,
        filterWidth=width,
        strideH=height,
        strideW=width,
    )
