"""The picture of an explanation: a row for each block, its gates in float beside those in int8."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .explanation import Explanation, Seen

INCHES = 2.1  # of a map's side
COLOURS = "viridis"


def png(explanation: Explanation, told: Mapping[str, str], title: str) -> bytes:
    """Draw an explanation; equal ones give equal bytes.

    Args:
        explanation: of one image.
        told: what each file says of the image.
        title: plain text over the figure; it is never read as a formula.
    """
    from matplotlib.figure import Figure

    blocks: dict[str, dict[str, Seen]] = {}
    for seen in explanation.seen:
        blocks.setdefault(seen.gate.block, {})[seen.gate.kind] = seen
    figure = Figure(figsize=(4 * INCHES + 1.0, (INCHES + 0.35) * len(blocks) + 0.9), layout="constrained")
    answers = "\n".join(f"{kind}: {text}" for kind, text in told.items())
    figure.suptitle(f"{title}\n{answers}", fontsize=9, parse_math=False)
    grid = figure.subplots(len(blocks), 4, squeeze=False, width_ratios=(1, 1, 1, 1.5))
    picture = explanation.pixels.squeeze()
    for axes, (block, kinds) in zip(grid, blocks.items(), strict=True):
        axes[0].imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=255)
        axes[0].set_title(block, fontsize=7, parse_math=False)
        _maps(axes[1:3], kinds.get("spatial"), picture)
        _bars(axes[3], kinds.get("channel"))
        for one in axes[:3]:
            one.set_axis_off()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _maps(axes: np.ndarray, seen: Seen | None, picture: np.ndarray) -> None:
    """The spatial gate over the image, float and int8 on the same scale."""
    if seen is None:
        return
    both = (seen.float_values, seen.int8_values)
    low, high = min(map(np.min, both)), max(map(np.max, both))
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for one, kind, values in zip(axes, ("float", "int8"), both, strict=True):
        one.imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=255, extent=extent)
        drawn = one.imshow(np.atleast_2d(values), cmap=COLOURS, alpha=0.75, vmin=low, vmax=high, extent=extent)
        one.set_title(f"spatial, {kind}", fontsize=7)
    bar = axes[-1].figure.colorbar(drawn, ax=list(axes), fraction=0.05, pad=0.01)
    bar.ax.tick_params(labelsize=6)


def _bars(axes: Any, seen: Seen | None) -> None:
    """The channel gate as two outlines, one behind the other."""
    if seen is None:
        axes.set_axis_off()
        return
    edges = np.arange(len(np.atleast_1d(seen.float_values)) + 1)
    axes.stairs(np.atleast_1d(seen.float_values), edges, fill=True, color="#9ecae1", label="float")
    axes.stairs(np.atleast_1d(seen.int8_values), edges, color="#08306b", linewidth=1, label="int8")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, edges[-1])
    axes.set_title("channel gate", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6, loc="lower right")
