"""Convolutions from few channels, such as CBAM's 7x7 from two and a network's first, on groups of pixels.

A convolution from two or three channels gathers its input two or three bytes at a time, and one to a single channel
leaves most of an integer kernel's lanes empty. Here ``g`` neighbouring pixels of a row count as one pixel with g times
the channels, and ``k`` neighbouring outputs are computed as k times as many channels. With strides s and padding t, l:

    output[y, k j + p, o] = sum over dy, dx, c of kernel[o, c, dy, dx] * input[s y + dy - t, s (k j + p) + dx - l, c]

Write s (k j + p) + dx - l as g (j s k / g + b) + i with 0 <= i < g: the weight belongs to pixel i of the group that is
b groups to the right; all other weights are 0. The sums are the same integers and the weights keep their scales, so the
output is the same to the bit. On rows in memory the grouping moves nothing: it is a Reshape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .graph import BATCH, Editor, Quantized, QuantizedOp, constant, quantized_op, replace, shape

MAX_INPUT_CHANNELS = 4
WHOLE_ROW = 64  # pixels
WANTED_OUTPUTS = 32  # of a convolution to one channel, at once
WANTED_GROUP = 8
PIXELS_OF_FIRST = 4


@dataclass(frozen=True)
class Grouping:
    """Pixels of a row that count as one: ``inputs`` (g above), and ``outputs`` (k above) computed at once."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class ThinConvolution:
    """A quantized convolution from few channels.

    Attributes:
        planes: tensors [n, 1, h, w] that a Concat joins to the input; empty where the input is one tensor.
        kernel: [o, c, kh, kw].
        strides: down and to the right.
        pads: top, left, bottom, right.
    """

    op: QuantizedOp
    planes: tuple[ir.Value, ...]
    kernel: np.ndarray
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def group_pixels(model: ir.Model) -> int:
    """Rewrite quantized convolutions from at most MAX_INPUT_CHANNELS channels; returns how many."""
    count = 0
    for node in list(model.graph):
        found = _match(node)
        grouping = None if found is None else choose(found)
        if found is not None and grouping is not None:
            _rewrite(Editor(model, node), found, grouping)
            count += 1
    return count


def choose(thin: ThinConvolution) -> Grouping | None:
    """The grouping of such a convolution, chosen for the kernels of x86; None where none is possible."""
    width, stride, reach = thin.output_shape[3], thin.strides[1], thin.kernel.shape[3]
    if width == 1 or thin.input_shape[3] != width * stride:
        return None
    if thin.output_shape[1] > 1:
        outputs = next((k for k in (PIXELS_OF_FIRST, 2) if width % k == 0), 0)
        return Grouping(outputs * stride, outputs) if outputs else None
    if width <= WHOLE_ROW:
        return Grouping(width * stride, width)
    divisors = [k for k in range(4, 2 * WANTED_OUTPUTS + 1) if width % k == 0]
    for outputs in sorted(divisors, key=lambda k: abs(k - WANTED_OUTPUTS)):
        groups = [g for g in range(2, outputs * stride + 1) if outputs * stride % g == 0 and 2 * g >= reach - 1]
        if groups:
            return Grouping(min(groups, key=lambda g: abs(g - WANTED_GROUP)), outputs)
    return Grouping(width * stride, width) if width <= 2 * WHOLE_ROW else None


def grouped_kernel(
    kernel: np.ndarray, grouping: Grouping, stride: int, left: int, by_plane: bool
) -> tuple[np.ndarray, int, int]:
    """Scatter a kernel [o, c, kh, kw] into [k o, g c, kh, groups].

    Args:
        kernel: the weights.
        grouping: g and k.
        stride: to the right.
        left: padding on the left, in pixels.
        by_plane: input channels lie plane after plane, (c, i), instead of pixel after pixel, (i, c).

    Returns:
        The scattered kernel, and how many groups it reaches to the left of its own and to the right.
    """
    outputs, channels, height, width = kernel.shape
    g, k = grouping.inputs, grouping.outputs
    offsets = {(p, dx): divmod(stride * p + dx - left, g) for p in range(k) for dx in range(width)}
    first, last = (pick(group for group, _ in offsets.values()) for pick in (min, max))
    reach = min(first, 0)
    scattered = np.zeros((k, outputs, channels, g, height, last - reach + 1), kernel.dtype)
    for (p, dx), (group, i) in offsets.items():
        scattered[p, :, :, i, :, group - reach] = kernel[:, :, :, dx]
    if not by_plane:
        scattered = scattered.transpose(0, 1, 3, 2, 4, 5)
    return scattered.reshape(k * outputs, channels * g, height, -1), -reach, last


def _match(node: ir.Node) -> ThinConvolution | None:
    op = quantized_op(node) if node.op_type == "Conv" else None
    if op is None or len(op.inputs) != len(node.inputs):  # weights that are not quantized
        return None
    kernel, bias = constant(op.inputs[1].integers), op.inputs[2:]
    before, after = shape(node.inputs[0]), shape(node.outputs[0])
    if kernel is None or kernel.ndim != 4 or before is None or after is None or kernel.shape[1] > MAX_INPUT_CHANNELS:
        return None
    if any(constant(entry.integers) is None for entry in bias) or np.any(op.inputs[1].zero_point):
        return None
    found = plain_settings(node)
    if found is None:
        return None
    strides, pads = found
    return ThinConvolution(op, joined_planes(op.inputs[0].integers), kernel, strides, pads, before, after)


def plain_settings(node: ir.Node) -> tuple[tuple[int, int], tuple[int, int, int, int]] | None:
    """Strides and pads of a 2-D convolution without groups and dilations; None for any other."""
    numbers = {name: tuple(a.as_ints()) for name, a in node.attributes.items() if a.type == ir.AttributeType.INTS}
    group = node.attributes.get("group")
    if (group is not None and group.as_int() != 1) or set(numbers.get("dilations", (1,))) != {1}:
        return None
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET":
        return None
    strides, pads = numbers.get("strides", (1, 1)), numbers.get("pads", (0, 0, 0, 0))
    return None if len(strides) != 2 else (strides, pads)


def joined_planes(x: ir.Value) -> tuple[ir.Value, ...]:
    """The tensors [n, 1, h, w] that a Concat joins to x; () where it does not."""
    joined = x.producer()
    if joined is None or joined.op_type != "Concat" or joined.attributes["axis"].as_int() != 1:
        return ()
    parts = tuple(part for part in joined.inputs if part is not None)
    return parts if all((shape(part) or ())[1:2] == (1,) for part in parts) else ()


def _rewrite(edit: Editor, thin: ThinConvolution, grouping: Grouping) -> None:
    op, (g, k) = thin.op, (grouping.inputs, grouping.outputs)
    _, channels, height, width = thin.input_shape
    stride, (top, left, bottom, _) = thin.strides[1], thin.pads
    kernel, before, after = grouped_kernel(thin.kernel, grouping, stride, left, bool(thin.planes))
    group_shape = (BATCH, height, width // g, channels * g)
    if thin.planes:
        parts = [edit.reshape(part, (BATCH, height, width // g, g)) for part in thin.planes]
        groups = edit.node("Concat", parts, axis=3)
    else:
        groups = edit.reshape(edit.channels_last(op.inputs[0].integers), group_shape)
    x = Quantized(edit.channels_first(groups), op.inputs[0].scale, op.inputs[0].zero_point)
    step = stride * k // g  # groups from one set of outputs to the next
    last = (thin.output_shape[3] // k - 1) * step + after
    convolved = edit.node(
        "Conv",
        [edit.dequantize(x), *_weights(edit, op.inputs[1:], kernel, k)],
        kernel_shape=list(kernel.shape[2:]),
        strides=[thin.strides[0], step],
        pads=[top, before, bottom, max(0, last - width // g + 1)],
    )
    rows = edit.channels_last(edit.quantize(convolved, op.output))
    _, outputs, down, across = thin.output_shape
    if outputs == 1:
        replace(op.output.integers, edit.reshape(rows, (BATCH, 1, down, across)))
    else:
        replace(op.output.integers, edit.channels_first(edit.reshape(rows, (BATCH, down, across, outputs))))


def _weights(edit: Editor, constants: Sequence[Quantized], kernel: np.ndarray, copies: int) -> list[ir.Value]:
    """Kernel and bias, dequantized: outputs repeat as a whole, and their scales with them."""
    count = len(kernel) // copies

    def repeated(value: np.ndarray | None) -> np.ndarray:
        return np.tile(np.broadcast_to(np.asarray(value), count), copies)

    made = []
    for index, entry in enumerate(constants):
        values = repeated(constant(entry.integers)) if index else kernel
        stored = Quantized(edit.constant(values), repeated(entry.scale), repeated(entry.zero_point))
        made.append(edit.dequantize(stored, axis=0))
    return made
