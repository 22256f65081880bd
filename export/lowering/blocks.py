"""A convolution to one channel, such as CBAM's 7x7 from two, computed for 16 neighbouring pixels at once.

An integer kernel computes 16 output channels at a time; with one channel, 15 sixteenths of the work are thrown away.
SPACE_TO_DEPTH turns each 4x4 block of pixels into the channels of one pixel, [1, h, w, c] -> [1, h/4, w/4, 16 c]. There
the same sums are a 3x3 convolution to 16 channels, one for each pixel of a block: every weight of the 7x7 kernel stands
once in each of them and all other weights are 0. DEPTH_TO_SPACE turns the 16 channels back into pixels.

    output[4y + py, 4x + px] = sum over dy, dx, c of kernel[dy, dx, c] * input[4y + py + dy - r, 4x + px + dx - r, c]

and with 4 by + iy = py + dy - r, 0 <= iy < 4, the weight of block (y + by), pixel iy in it. In integers the sums are
the same integers and all copies of the kernel share its scale, so the output is the same to the bit.

A height or width that is no multiple of 4 is padded with zeros, as SAME padding would; padding and cutting work on
[1, 1, h, w], whose rows are long. A map of at most 64 pixels is one matrix [h w, h w c] instead.

It paid on x86 for every map that was tried, with kernels from 1x1 to 11x11, in int8 and in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecbam.export.tflite_graph import TfliteGraph, elements

from .channel_pools import reshape

BLOCK = 4
DENSE_PIXELS = 64
MAX_INPUT_CHANNELS = 4
SAME = 0  # Padding in schema.fbs


@dataclass(frozen=True)
class ThinConvolution:
    """A convolution to one channel that can be computed in blocks, with the ops around it that go with it.

    Attributes:
        sources: tensors [1, h, w, c_i] whose channels, one after another, are the convolution's input.
        gate: the LOGISTIC that alone reads the result; None without one.
        kernel: [k, k, c] in the type that is stored.
        stored: the tensor that holds the kernel, which a DEQUANTIZE may read.
    """

    op: Any
    joined: Any | None
    sources: tuple[int, ...]
    gate: Any | None
    kernel: np.ndarray
    stored: int
    bias: np.ndarray | None


def convolve_blocks(graph: TfliteGraph) -> int:
    """Rewrite stride-1 SAME convolutions from at most 4 channels to one; returns how many.

    On maps of two pixels and more, that is: one pixel needs no spatial convolution.
    """
    count = 0
    for op in list(graph.graph.operators):
        found = _match(graph, op)
        if found is not None:
            _rewrite(graph, found, f"edgecbam/blocks{count}")
            count += 1
    return count


def block_kernel(kernel: np.ndarray) -> np.ndarray:
    """Scatter a kernel [k, k, c], k odd, into [16, s, s, 16 c], the layout OHWI of TFLite on 4x4 blocks."""
    size, _, channels = kernel.shape
    radius = size // 2
    reach = (radius + BLOCK - 1) // BLOCK  # how many blocks away the farthest pixel lies
    scattered = np.zeros((BLOCK**2, 2 * reach + 1, 2 * reach + 1, BLOCK**2, channels), kernel.dtype)
    for py, px, dy, dx in np.ndindex(BLOCK, BLOCK, size, size):
        by, iy = divmod(py + dy - radius, BLOCK)
        bx, ix = divmod(px + dx - radius, BLOCK)
        scattered[py * BLOCK + px, by + reach, bx + reach, iy * BLOCK + ix] = kernel[dy, dx]
    return scattered.reshape(*scattered.shape[:3], -1)


def matrix_kernel(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    """The convolution of a whole map as a matrix [h w, h w c]; kernel [k, k, c]."""
    size, _, channels = kernel.shape
    radius = size // 2
    matrix = np.zeros((height, width, height, width, channels), kernel.dtype)
    for y, x, dy, dx in np.ndindex(height, width, size, size):
        row, column = y + dy - radius, x + dx - radius
        if 0 <= row < height and 0 <= column < width:
            matrix[y, x, row, column] = kernel[dy, dx]
    return matrix.reshape(height * width, -1)


def _match(graph: TfliteGraph, op: Any) -> ThinConvolution | None:
    if graph.kind(op) != "CONV_2D":
        return None
    options, (x, weights), output = op.builtinOptions, (int(t) for t in op.inputs[:2]), int(op.outputs[0])
    shape, filter_shape = graph.shape(x), graph.shape(weights)
    strides = options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor
    if strides != (1, 1, 1, 1) or options.padding != SAME or shape[0] != 1 or filter_shape[0] != 1:
        return None
    if elements(shape[1:3]) == 1:  # nothing to gain, and the MLP's convolutions are of this kind
        return None
    if filter_shape[1] != filter_shape[2] or filter_shape[1] % 2 == 0 or shape[3] > MAX_INPUT_CHANNELS:
        return None
    stored = _stored(graph, weights)
    kernel = graph.constant(stored)
    has_bias = len(op.inputs) > 2 and int(op.inputs[2]) >= 0
    bias = graph.constant(_stored(graph, int(op.inputs[2]))) if has_bias else None
    types = graph.dtype(x), graph.dtype(weights)
    if kernel is None or types not in (("INT8", "INT8"), ("FLOAT32", "FLOAT32")) or has_bias != (bias is not None):
        return None
    joined = graph.producer.get(x)
    together = joined is not None and graph.only_consumer(x) is op and _joins_channels(graph, joined)
    sources = tuple(int(t) for t in joined.inputs) if joined is not None and together else (x,)
    reader = graph.only_consumer(output)
    gate = reader if reader is not None and graph.kind(reader) == "LOGISTIC" else None
    return ThinConvolution(op, joined if together else None, sources, gate, kernel[0], stored, bias)


def _stored(graph: TfliteGraph, weights: int) -> int:
    """The constant behind weights: itself, or the float16 that a DEQUANTIZE reads."""
    producer = graph.producer.get(weights)
    return int(producer.inputs[0]) if producer is not None and graph.kind(producer) == "DEQUANTIZE" else weights


def _joins_channels(graph: TfliteGraph, op: Any) -> bool:
    if graph.kind(op) != "CONCATENATION" or op.builtinOptions.axis not in (3, -1):
        return False
    return all(graph.same_quantization(int(tensor), int(op.outputs[0])) for tensor in op.inputs)


def _rewrite(graph: TfliteGraph, thin: ThinConvolution, name: str) -> None:
    _, height, width, _ = graph.shape(thin.sources[0])
    old = [op for op in (thin.joined, thin.op, thin.gate) if op is not None]
    dense = elements((height, width)) <= DENSE_PIXELS
    graph.replace(old, (_as_matrix if dense else _on_blocks)(graph, thin, height, width, name))


def _on_blocks(graph: TfliteGraph, thin: ThinConvolution, height: int, width: int, name: str) -> list[Any]:
    padded = -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK
    rows, columns = padded[0] // BLOCK, padded[1] // BLOCK
    ops: list[Any] = []
    parts = []
    for index, source in enumerate(thin.sources):
        label = f"{name}/in{index}"
        channels = graph.shape(source)[3]
        whole = _pad(graph, source, padded, ops, label) if padded != (height, width) else source
        blocks = graph.add_tensor(label, (1, rows, columns, BLOCK**2 * channels), like=source)
        ops.append(graph.new_op("SPACE_TO_DEPTH", [whole], [blocks], blockSize=BLOCK))
        parts.append(blocks)
    joined = _join(graph, parts, 3, ops, f"{name}/joined")
    kernel = _by_source(graph, thin, block_kernel)
    result = graph.add_tensor(f"{name}/result", (1, rows, columns, BLOCK**2), like=int(thin.op.outputs[0]))
    inputs = [joined, *_constants(graph, thin, kernel, BLOCK**2, ops, name)]
    options = vars(thin.op.builtinOptions)
    ops.append(graph.new_op("CONV_2D", inputs, [result], graph.version(thin.op), **options))
    result, output = _open_gate(graph, thin, result, ops, name)
    if padded == (height, width):
        ops.append(graph.new_op("DEPTH_TO_SPACE", [result], [output], blockSize=BLOCK))
        return ops
    pixels = graph.add_tensor(f"{name}/pixels", (1, *padded, 1), like=output)
    ops.append(graph.new_op("DEPTH_TO_SPACE", [result], [pixels], blockSize=BLOCK))
    _cut(graph, pixels, output, ops, name)
    return ops


def _as_matrix(graph: TfliteGraph, thin: ThinConvolution, height: int, width: int, name: str) -> list[Any]:
    ops: list[Any] = []
    parts = []
    for index, source in enumerate(thin.sources):
        flat = graph.add_tensor(f"{name}/in{index}", (1, elements(graph.shape(source))), like=source)
        ops.append(reshape(graph, source, flat, f"{name}/in{index}"))
        parts.append(flat)
    joined = _join(graph, parts, 1, ops, f"{name}/joined")
    matrix = _by_source(graph, thin, lambda kernel: matrix_kernel(kernel, height, width))
    result = graph.add_tensor(f"{name}/result", (1, height * width), like=int(thin.op.outputs[0]))
    inputs = [joined, *_constants(graph, thin, matrix, height * width, ops, name)]
    version = 4 if graph.dtype(joined) == "INT8" else 1
    activation = thin.op.builtinOptions.fusedActivationFunction
    ops.append(graph.new_op("FULLY_CONNECTED", inputs, [result], version, fusedActivationFunction=activation))
    result, output = _open_gate(graph, thin, result, ops, name)
    ops.append(reshape(graph, result, output, f"{name}/out"))
    return ops


def _by_source(graph: TfliteGraph, thin: ThinConvolution, scatter: Any) -> np.ndarray:
    """The kernel of each source scattered by itself, one after another along the last axis."""
    ends = np.cumsum([graph.shape(source)[3] for source in thin.sources])[:-1]
    return np.concatenate([scatter(part) for part in np.split(thin.kernel, ends, axis=2)], axis=-1)


def _join(graph: TfliteGraph, parts: Sequence[int], axis: int, ops: list[Any], name: str) -> int:
    if len(parts) == 1:
        return parts[0]
    shape = list(graph.shape(parts[0]))
    shape[axis] = sum(graph.shape(part)[axis] for part in parts)
    joined = graph.add_tensor(name, shape, like=parts[0])
    version = 2 if graph.dtype(joined) == "INT8" else 1
    ops.append(graph.new_op("CONCATENATION", parts, [joined], version, axis=axis))
    return joined


def _constants(
    graph: TfliteGraph, thin: ThinConvolution, kernel: np.ndarray, copies: int, ops: list[Any], name: str
) -> list[int]:
    """Weights and bias as inputs of the new op. One scale holds for all copies, as it did for the one channel."""
    weights = graph.add_tensor(f"{name}/kernel", kernel.shape, like=thin.stored, data=kernel)
    if thin.stored != int(thin.op.inputs[1]):
        half, weights = weights, graph.add_tensor(f"{name}/weights", kernel.shape, like=int(thin.op.inputs[1]))
        ops.append(graph.new_op("DEQUANTIZE", [half], [weights], graph.version(graph.producer[int(thin.op.inputs[1])])))
    if thin.bias is None:
        return [weights, -1]
    tensor = int(thin.op.inputs[2])
    repeated = np.repeat(thin.bias, copies).astype(np.int32 if graph.dtype(tensor) == "INT32" else np.float32)
    return [weights, graph.add_tensor(f"{name}/bias", repeated.shape, like=tensor, data=repeated)]


def _open_gate(graph: TfliteGraph, thin: ThinConvolution, result: int, ops: list[Any], name: str) -> tuple[int, int]:
    """Run the gate's LOGISTIC on the result as it lies; returns what is to be turned into pixels, and the output."""
    if thin.gate is None:
        return result, int(thin.op.outputs[0])
    output = int(thin.gate.outputs[0])
    opened = graph.add_tensor(f"{name}/gate", graph.shape(result), like=output)
    ops.append(graph.new_op("LOGISTIC", [result], [opened], graph.version(thin.gate)))
    return opened, output


def _pad(graph: TfliteGraph, source: int, size: tuple[int, int], ops: list[Any], name: str) -> int:
    """Zeros below and to the right of [1, h, w, c]; a map of one channel is padded as [1, 1, h, w]."""
    _, height, width, channels = graph.shape(source)
    below, right = size[0] - height, size[1] - width
    planar = channels == 1
    rows = (1, 1, height, width) if planar else (1, height, width, channels)
    wider = (1, 1, *size) if planar else (1, *size, channels)
    amounts = [[0, 0], [0, 0], [0, below], [0, right]] if planar else [[0, 0], [0, below], [0, right], [0, 0]]
    if planar:
        plane = graph.add_tensor(f"{name}/plane", rows, like=source)
        ops.append(reshape(graph, source, plane, f"{name}/plane"))
        source = plane
    padded = graph.add_tensor(f"{name}/padded", wider, like=source)
    paddings = graph.add_int32(f"{name}/paddings", amounts)
    ops.append(graph.new_op("PAD", [source, paddings], [padded], 2 if graph.dtype(source) == "INT8" else 1))
    if not planar:
        return padded
    whole = graph.add_tensor(f"{name}/whole", (1, *size, 1), like=source)
    ops.append(reshape(graph, padded, whole, f"{name}/whole"))
    return whole


def _cut(graph: TfliteGraph, pixels: int, output: int, ops: list[Any], name: str) -> None:
    """The upper left corner of [1, h', w', 1] that is [1, h, w, 1]."""
    _, height, width, _ = graph.shape(output)
    plane = graph.add_tensor(f"{name}/plane", (1, 1, *graph.shape(pixels)[1:3]), like=output)
    corner = graph.add_tensor(f"{name}/corner", (1, 1, height, width), like=output)
    start, size = graph.add_int32(f"{name}/start", [0] * 4), graph.add_int32(f"{name}/size", (1, 1, height, width))
    ops.append(reshape(graph, pixels, plane, f"{name}/out"))
    version = 2 if graph.dtype(pixels) == "INT8" else 1
    ops.append(graph.new_op("SLICE", [plane, start, size], [corner], version))
    ops.append(reshape(graph, corner, output, f"{name}/cut"))
