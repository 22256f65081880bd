"""CBAM, trained as in the paper, rewritten into ops that the edge runs fast, without changing what it computes.

As written, CBAM is a handful of ops that an integer runtime does badly: a convolution from two channels to one, pools
and products over very short rows. Each pass here replaces one of them in a .tflite file by ops that give the same
integers (in float32 the same values up to the order of summation):

    blocks.py         the thin convolution as one on 4x4 blocks of pixels, or as a matrix on maps of 64 pixels and less
    channel_pools.py  channel mean as a convolution with ones, channel max over a leading axis
    channel_scale.py  the channel gate spread over a row before it multiplies
    window_maxima.py  a maximum over square windows, one axis after the other
    clamps.py         a ReLU that the zero point already does

A pass takes only what it can do exactly, and only where it was measured to pay; each states its rule. docs/lowering.md
explains them with figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecbam.errors import InputError
from edgecbam.export.tflite_graph import TfliteGraph

from . import blocks, channel_pools, channel_scale, clamps, window_maxima

Pass = Callable[[TfliteGraph], int]

PROFILES: dict[str, tuple[Pass, ...]] = {
    "xnnpack": (
        clamps.drop_redundant_relus,
        window_maxima.slide_by_axis,
        channel_scale.spread_gates,
        channel_pools.average_by_convolution,
        channel_pools.maximum_over_leading_axis,
        blocks.convolve_blocks,
    ),
    "compat": (
        clamps.drop_redundant_relus,
        window_maxima.slide_by_axis,
        channel_pools.maximum_by_pooling,
        blocks.convolve_blocks,
    ),
    "reference": (),
}
# The oldest runtime that runs an int8 file of the profile in one partition; see benchmarks/results/runtimes.json.
MINIMUM_RUNTIME = {
    "xnnpack": "ai-edge-litert 1.3",
    "compat": "ai-edge-litert 1.1",
    "reference": "ai-edge-litert 1.3",
}


@dataclass(frozen=True)
class Lowered:
    """A rewritten file, and how often each pass found something to do, by the name of the pass."""

    content: bytes
    rewrites: dict[str, int]


def lower(content: bytes, profile: str, where: str = "the model") -> Lowered:
    """Rewrite a .tflite file.

    Args:
        content: a .tflite file with one subgraph; any precision. What a pass does not know stays as it is.
        profile: ``"xnnpack"``, ``"compat"`` or ``"reference"``, which changes nothing.
        where: what to call the file in an error.

    Raises:
        InputError: no such profile, or the content is no such file.
    """
    if profile not in PROFILES:
        raise InputError(f"no export profile {profile!r}: known are {', '.join(PROFILES)}")
    return rewrite(content, PROFILES[profile], where)


def rewrite(content: bytes, passes: Sequence[Pass], where: str = "the model") -> Lowered:
    """Run passes over a .tflite file; raises InputError as ``lower`` does."""
    if not passes:
        return Lowered(content, {})
    graph = TfliteGraph(content, where)
    found = {step.__name__: step(graph) for step in passes}
    rewrites = {name: count for name, count in found.items() if count}
    return Lowered(graph.to_bytes() if rewrites else content, rewrites)
