"""float32 convolutions to one channel, such as CBAM's 7x7 from two, on 4x4 blocks of pixels.

As in lowering/blocks.py: a float kernel too computes several output channels at a time, and with one most of them are
thrown away. SpaceToDepth makes each block of 16 pixels the channels of one, the weights are scattered to a 3x3 kernel
from 16 c to 16 channels, DepthToSpace makes pixels of them again. The sums have another order.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgecbam.export.lowering.blocks import BLOCK, block_kernel

from .graph import Editor, constant, replace, shape
from .pixel_groups import MAX_INPUT_CHANNELS, joined_planes, plain_settings

MIN_SIDE = 8


@dataclass(frozen=True)
class FloatConvolution:
    """A float32 convolution to one channel: ``kernel`` [1, c, k, k], ``sources`` whose channels make its input."""

    node: ir.Node
    sources: tuple[ir.Value, ...]
    kernel: np.ndarray
    bias: np.ndarray | None
    size: tuple[int, int]


def convolve_blocks(model: ir.Model) -> int:
    """Rewrite float32 convolutions from at most MAX_INPUT_CHANNELS channels to one; returns how many."""
    count = 0
    for node in list(model.graph):
        found = _match(node) if node.op_type == "Conv" else None
        if found is not None:
            _rewrite(Editor(model, node), found)
            count += 1
    return count


def _match(node: ir.Node) -> FloatConvolution | None:
    kernel, x, found = constant(node.inputs[1]), shape(node.inputs[0]), plain_settings(node)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if kernel is None or kernel.ndim != 4 or x is None or found is None or (bias is None and len(node.inputs) > 2):
        return None
    outputs, channels, height, width = kernel.shape
    strides, pads = found
    if outputs != 1 or channels > MAX_INPUT_CHANNELS or height != width or height % 2 == 0 or height == 1:
        return None
    if strides != (1, 1) or set(pads) != {height // 2} or min(x[2:]) < MIN_SIDE or kernel.dtype != np.float32:
        return None
    return FloatConvolution(node, joined_planes(node.inputs[0]) or (node.inputs[0],), kernel, bias, (x[2], x[3]))


def _rewrite(edit: Editor, thin: FloatConvolution) -> None:
    padding = [-size % BLOCK for size in thin.size]
    parts = []
    for source in thin.sources:
        if any(padding):
            source = edit.node("Pad", [source, edit.constant(np.array([0] * 6 + padding, np.int64))])
        parts.append(edit.node("SpaceToDepth", [source], blocksize=BLOCK))
    blocks = parts[0] if len(parts) == 1 else edit.node("Concat", parts, axis=1)
    pieces = np.split(thin.kernel[0].transpose(1, 2, 0), len(parts), axis=2)  # [k, k, c] of each source
    kernel = np.concatenate([block_kernel(piece) for piece in pieces], axis=-1).transpose(0, 3, 1, 2)
    inputs = [blocks, edit.constant(np.ascontiguousarray(kernel))]
    if thin.bias is not None:
        inputs.append(edit.constant(np.repeat(thin.bias, BLOCK**2)))
    reach = kernel.shape[2] // 2
    convolved = edit.node("Conv", inputs, kernel_shape=list(kernel.shape[2:]), pads=[reach] * 4)
    pixels = edit.node("DepthToSpace", [convolved], blocksize=BLOCK)
    if any(padding):
        ends = [edit.constant(np.array(values, np.int64)) for values in ([0, 0], thin.size, [2, 3])]
        pixels = edit.node("Slice", [pixels, *ends])
    replace(thin.node.outputs[0], pixels)
