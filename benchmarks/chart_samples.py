"""All raw samples of every row: how they spread, and how they moved while they were taken.

Both charts show a sample as its distance from the median of its own row, so that slow and fast rows can be compared.
The scale is linear to about ±5 % and logarithmic beyond: the body of a distribution and its tail both have room.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .chart_parts import HEADING, LEFT, RIGHT, Chart, Row, Scale, below, groups, heading, label, told
from .svg import SMALL, WIDTH, Board

LINEAR = 0.05  # around the median
TICKS = (1.0, 1.1, 0.9, 2.0, 10.0, 1.05, 0.95, 1.02, 0.98, 1.3, 0.7, 5.0, 0.5, 3.0, 30.0, 100.0, 1000.0)
# in the order in which they are given room
BINS = 120
BAND = 30.0  # height of a distribution
LINE = 40.0  # height of a time series
MOST_POINTS = 30_000  # of all time series together, for the size of the page


@dataclass(frozen=True)
class Sampled:
    """A measured row and its samples: [processes, rounds, runs] over the median of them all."""

    row: Row
    relative: np.ndarray
    low_ms: float
    median_ms: float
    high_ms: float


def sampled(report: Mapping[str, Any], samples: Mapping[str, np.ndarray]) -> list[Sampled]:
    """The rows whose time is a speed and whose samples are at hand."""
    found = []
    for row in report["results"]:
        raw = _samples_of(row, samples)
        if row["status"] == "ok" and raw is not None and raw.ndim == 3 and raw.size and np.all(raw > 0):
            low, median, high = (float(figure) for figure in (raw.min(), np.median(raw), raw.max()))
            found.append(Sampled(row, raw / median, low / 1e6, median / 1e6, high / 1e6))
    return found


def _samples_of(row: Row, samples: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Those of the measurement that the row is from."""
    key = "|".join(str(row[name]) for name in ("model", "runtime", "device", "threads"))
    return samples.get(f"{key}|measurement {row['measurement']}", samples.get(key))


def distribution(rows: Sequence[Sampled]) -> Chart | None:
    """A histogram for each row on one common scale; None where there are no samples."""
    if not rows:
        return None
    scale = _scale([float(r.relative.min()) for r in rows], [float(r.relative.max()) for r in rows], LEFT, RIGHT)
    places = groups([r.row for r in rows], [r.row for r in rows])
    headings = HEADING * len(places) if len(places) > 1 else 0
    bottom = headings + len(rows) * (BAND + 24)
    board, top = Board(), 0.0
    for tick in _ticks(scale, 34):
        board.line([(scale(tick), 0), (scale(tick), bottom)], "soft" if tick == 1 else "line")
        below(board, scale(tick), bottom + 14, _distance(tick))
    by_row = {id(r.row): r for r in rows}
    sentences = []
    for place, members in places.items():
        if headings:
            top = heading(board, top, place)
        for row in members:
            one, latency = by_row[id(row)], row["latency_ms"]
            label(board, top + 13, row["model"], f"{one.low_ms:.3g}–{one.high_ms:.3g} ms")
            _histogram(board, top + 18 + BAND, scale, one.relative)
            for name in ("p90", "p99"):
                if latency[name] is not None:
                    at = scale(latency[name] / latency["p50"])
                    board.line([(at, top + 18 + BAND), (at, top + 23 + BAND)], "text", 1.5)
            sentences.append(
                f"{row['model']} on {place}: {one.relative.size} samples from {one.low_ms:.3g} to "
                f"{one.high_ms:.3g} ms, p50 {latency['p50']:.3g}, p90 {latency['p90']:.3g}."
            )
            top += BAND + 24
    caption = (
        "All samples of each row by their distance from the row's own median; from and to in ms beside the name. Ticks "
        "below the line: p90, and p99 where there are samples enough. A single sample is still drawn as a line. Linear "
        "to about ±5 %, logarithmic beyond."
    )
    title = "Distribution of latency"
    return Chart(title, board.svg("distribution", bottom + 18, title, told(sentences)), caption)


def _histogram(board: Board, base: float, scale: Scale, relative: np.ndarray) -> None:
    places = np.asarray([scale(float(value)) for value in relative.ravel()])
    counts, edges = np.histogram(places, BINS, (scale.start, scale.end))
    heights = np.where(counts > 0, np.maximum(counts / counts.max() * BAND, 1.0), 0.0)
    filled = np.flatnonzero(counts)
    for run in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
        points = [(float(edges[run[0]]), base)]
        for i in run:
            points += [(float(edges[i]), base - float(heights[i])), (float(edges[i + 1]), base - float(heights[i]))]
        board.area([*points, (float(edges[run[-1] + 1]), base)], "accent")
    board.line([(LEFT, base), (RIGHT, base)], "line")


def time_series(rows: Sequence[Sampled]) -> Chart | None:
    """Medians of blocks, round after round and process after process; None where there are no samples."""
    if not rows:
        return None
    every = max(1, -(-sum(one.relative.shape[0] * one.relative.shape[1] for one in rows) // MOST_POINTS))
    by_row = {id(one.row): one for one in rows}
    lines = {key: _thinned(np.median(one.relative, axis=2), every) for key, one in by_row.items()}
    scale = _scale([float(v.min()) for v in lines.values()], [float(v.max()) for v in lines.values()], LINE, 0)
    places = groups([one.row for one in rows], [one.row for one in rows])
    board, top, sentences = Board(), 0.0, []
    for place, members in places.items():
        if len(places) > 1:
            top = heading(board, top, place)
        for row in members:
            medians = lines[id(row)]
            low, high = (float(end) * by_row[id(row)].median_ms for end in (medians.min(), medians.max()))
            label(board, top + 13, row["model"], f"{low:.3g}–{high:.3g} ms")
            _line(board, top + 19, scale, medians)
            first, last = float(np.median(medians[0])), float(np.median(medians[-1]))
            sentences.append(
                f"{row['model']} on {place}: {len(medians)} processes, the first's median {_distance(first)} and the "
                f"last's {_distance(last)} from the row's."
            )
            top += LINE + 26
    together = f" Each point is the median of {every} neighbouring rounds." if every > 1 else ""
    caption = (
        "Medians of blocks in the order in which they were taken: rounds from left to right, a new process at each "
        "upright line; from and to in ms beside the name. Dashed: the row's median; faint lines and labels: the "
        "distance from it, linear to about ±5 %, logarithmic beyond. Drift shows as a slope, a bad process as a "
        f"step.{together}"
    )
    title = "Latency over time"
    return Chart(title, board.svg("over-time", top, title, told(sentences)), caption)


def _thinned(medians: np.ndarray, every: int) -> np.ndarray:
    """Medians of ``every`` neighbouring rounds, those of the last, shorter group too."""
    groups_of = [medians[:, i : i + every] for i in range(0, medians.shape[1], every)]
    return np.stack([np.median(group, axis=1) for group in groups_of], axis=1)


def _line(board: Board, top: float, scale: Scale, medians: np.ndarray) -> None:
    processes, rounds = medians.shape
    left = LEFT + 34  # of the labels
    width = (WIDTH - left) / processes
    for tick in _ticks(scale, 13):
        y = top + scale(tick)
        board.line([(left, y), (WIDTH, y)], "soft" if tick == 1 else "line", dashed=tick == 1)
        board.text((left - 4, y + 4), _distance(tick), size=SMALL - 1, colour="soft", anchor="right")
    for process in range(processes):
        start = left + process * width
        board.line([(start, top), (start, top + LINE)], "line")
        step = width / max(rounds, 2)
        points = [
            (start + (i + 0.5) * step, top + scale(float(value))) for i, value in enumerate(medians[process].tolist())
        ]
        if len(points) > 1:
            board.line(points, "accent", 1.2)
        else:
            board.dot(points[0], 2, "accent")


def _bend(ratio: float) -> float:
    return math.asinh((ratio - 1) / LINEAR)


def _scale(lows: Sequence[float], highs: Sequence[float], start: float, end: float) -> Scale:
    """Around all values, the median in it, and never narrower than ±2 %."""
    return Scale(min(*lows, 0.98) - 0.002, max(*highs, 1.02) * 1.01, start, end, _bend)


def _ticks(scale: Scale, apart: float) -> list[float]:
    """Those of TICKS inside the scale that stand far enough from each other."""
    found: list[float] = []
    for tick in TICKS:
        near = any(abs(scale(tick) - scale(other)) < apart for other in found)
        if scale.low <= tick <= scale.high and not near:
            found.append(tick)
    return found


def _distance(ratio: float) -> str:
    """``+10 %`` for 1.1, ``−2 %`` for 0.98, ``10×`` from twice on."""
    if ratio >= 2:
        return f"{ratio:.3g}×"
    change = 100 * (ratio - 1)
    return "0 %" if abs(change) < 0.05 else f"{'+' if change > 0 else '−'}{abs(change):.3g} %"
