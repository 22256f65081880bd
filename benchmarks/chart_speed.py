"""How fast, and at which price: the forest plot of speed-ups; accuracy, or the RMSE of a target, against latency."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .chart_parts import (
    HEADING,
    LEFT,
    RIGHT,
    Chart,
    Row,
    Scale,
    below,
    groups,
    heading,
    label,
    linear_ticks,
    logarithmic,
    ticks,
    told,
)
from .svg import LABEL, SMALL, WIDTH, Board, Colour

ROW = 32.0
AXIS = 20.0  # height of the line of tick labels
VERDICTS: dict[str, Colour] = {"faster": "good", "slower": "bad", "inconclusive": "soft"}
PLOT = 210.0  # height of accuracy against latency
NEAR = 12.0  # how far the number of a point may stand from others


@dataclass(frozen=True)
class Quality:
    """A figure of how right a row is.

    Attributes:
        title: what the chart is called, before ``against latency``.
        axis: what stands at the axis.
        of: the figure of a row of results; None where it is not known.
        sign: 1 where more is better, -1 where less is.
        said: the figure in words.
        tick: the figure at the axis.
        least: the smallest span that the axis shows.
    """

    title: str
    axis: str
    of: Callable[[Row], float | None]
    sign: int
    said: Callable[[float], str]
    tick: Callable[[float], str]
    least: float


ACCURACY = Quality(
    "Accuracy",
    "Top-1 (higher is better)",
    lambda row: row["accuracy"],
    1,
    wording.percent,
    lambda value: f"{100 * value:.4g} %",
    0.002,
)


def _rmse(target: str, rows: Sequence[Row]) -> Quality:
    """The RMSE of a target of a regression."""

    def of(row: Row) -> float | None:
        value: float | None = (row["rmse"] or {}).get(target)
        return value

    largest = max((value for row in rows if (value := of(row)) is not None), default=0.0)
    title = f"RMSE of {wording.plain(target)}"
    return Quality(title, "RMSE (lower is better)", of, -1, wording.error, wording.error, 0.02 * largest or 1.0)


def speed_up(report: Mapping[str, Any]) -> Chart | None:
    """Each comparison with its interval, controls too, and the line of no difference; None: nothing was compared."""
    rows = [row for row in report["comparisons"] if row["ratio"]["value"]]
    if not rows:
        return None
    places = groups(rows, rows)
    headings = len(places) > 1
    bottom = ROW * len(rows) + (HEADING * len(places) if headings else 0)
    ends = [1 / row["ratio"][key] for row in rows for key in ("value", "low", "high") if row["ratio"][key]]
    scale = logarithmic([*ends, 1.0], LEFT, RIGHT)
    board, top = Board(), 0.0
    for tick in ticks(scale):
        board.line([(scale(tick), 0), (scale(tick), bottom + 3)], "line")
        below(board, scale(tick), bottom + AXIS - 4, f"{tick:g}×")
    board.line([(scale(1.0), 0), (scale(1.0), bottom + 3)], "text", 1.5)
    sentences = []
    for place, members in places.items():
        if headings:
            top = heading(board, top, place)
        for row in members:
            name = row["candidate"] if row["kind"] == "candidate" else f"control, {row['candidate']}"
            label(board, top + 13, name, wording.speed_up(row["ratio"]))
            _interval(board, top + 22, scale, row)
            sentences.append(f"{name} on {place}: {wording.speed_up(row['ratio'])}, {row['verdict']}.")
            top += ROW
    caption = (
        "Baseline latency / latency in the same place, with its 95 % interval; right of the line at 1 is faster. "
        "Filled: faster or slower by over 1 %. Hollow: inconclusive. A control that misses 1 shows how far a "
        "difference of this session is to be trusted."
    )
    title = "Speed-up"
    return Chart(title, board.svg("speed-up", bottom + AXIS, title, told(sentences)), caption)


def _interval(board: Board, y: float, scale: Scale, row: Row) -> None:
    """A control that differs from itself is bad news in either direction."""
    ratio, differs = row["ratio"], row["verdict"] != "inconclusive"
    colour = "bad" if differs and row["kind"] == "control" else VERDICTS[row["verdict"]]
    if ratio["low"] is not None:
        left, right = scale(1 / ratio["high"]), scale(1 / ratio["low"])
        board.line([(left, y), (right, y)], colour, 2.5)
        for end in (left, right):
            board.line([(end, y - 4), (end, y + 4)], colour, 1.5)
    board.dot((scale(1 / ratio["value"]), y), 4, colour, filled=differs)


def quality(report: Mapping[str, Any]) -> list[Chart]:
    """How right rows are against p50, for each device on which at least two rows have both; nothing beats the front.

    How right is top-1, in regression the RMSE of each target on a chart of its own.
    """
    rows = [row for row in report["results"] if row["status"] == "ok" and row["latency_ms"]]
    charts: list[Chart] = []
    for measure in (ACCURACY, *(_rmse(target, rows) for target in wording.targets(rows))):
        known = [row for row in rows if measure.of(row) is not None]
        devices = dict.fromkeys(row["device"] for row in known)
        for device in devices:
            here = [row for row in known if row["device"] == device]
            title = f"{measure.title} against latency" + (f" on {device}" if len(devices) > 1 else "")
            if len(here) > 1:
                charts.append(_against_latency(here, measure, title, f"accuracy-{len(charts) + 1}"))
    return charts


def front(rows: Sequence[Row], measure: Quality = ACCURACY) -> list[Row]:
    """The rows than which no other is both at least as fast and at least as right, and better in one; fastest first."""

    def figures(row: Row) -> tuple[float, float]:
        return row["latency_ms"]["p50"], -measure.sign * _known(measure, row)

    def beaten(row: Row) -> bool:
        ours = figures(row)
        return any(theirs != ours and theirs[0] <= ours[0] and theirs[1] <= ours[1] for theirs in map(figures, rows))

    return sorted((row for row in rows if not beaten(row)), key=lambda row: float(row["latency_ms"]["p50"]))


def _known(measure: Quality, row: Row) -> float:
    value = measure.of(row)
    assert value is not None
    return value


def _against_latency(rows: Sequence[Row], measure: Quality, title: str, name: str) -> Chart:
    places = groups(rows, rows)
    rows = [row for members in places.values() for row in members]  # numbered as they are listed
    best = front(rows, measure)
    x = logarithmic([value for row in rows for value in _span(row)], 52, RIGHT - 10)
    right = [_known(measure, row) for row in rows]
    spread = max(max(right) - min(right), measure.least)
    y = Scale(min(right) - 0.15 * spread, max(right) + 0.15 * spread, PLOT, 22)
    board = Board()
    board.text((0, 11), measure.axis, size=SMALL, colour="soft")
    board.text((WIDTH, 11), "p50 (left is faster)", size=SMALL, colour="soft", anchor="right")
    for tick in linear_ticks(y.low, y.high, 5):
        board.line([(46, y(tick)), (WIDTH, y(tick))], "line")
        board.text((42, y(tick) + 4), measure.tick(tick), size=SMALL, colour="soft", anchor="right")
    for tick in ticks(x, 5):
        board.line([(x(tick), 22), (x(tick), PLOT + 3)], "line")
        below(board, x(tick), PLOT + 16, f"{tick:g} ms")
    points = [(x(row["latency_ms"]["p50"]), y(_known(measure, row))) for row in rows]
    _front(board, [(x(row["latency_ms"]["p50"]), y(_known(measure, row))) for row in best])
    for row, (left, height) in zip(rows, points, strict=True):
        low, high = _span(row)
        colour: Colour = "accent" if row in best else "soft"
        board.line([(x(low), height), (x(high), height)], colour, 1.5)
        board.dot((left, height), 4.5, colour, filled=row in best)
    for number, place in enumerate(_numbers(points)):
        board.text(place, str(number + 1), size=SMALL, anchor="center", bold=True)
    top, sentences = PLOT + 26, []
    numbers = {id(row): number + 1 for number, row in enumerate(rows)}
    for where, members in places.items():
        if len(places) > 1:
            top = heading(board, top, where)
        for row in members:
            mark = "on the front, " if row in best else ""
            said = f"{measure.said(_known(measure, row))} at {wording.milliseconds(row['latency_ms']['p50'])} ms"
            label(board, top + 13, f"{numbers[id(row)]}  {row['model']}", ("★ " if mark else "") + said)
            sentences.append(f"{row['model']} on {where}: {mark}{said}.")
            top += 18
    caption = (
        "Filled and ★: on the front, which is to say that no other row here is as fast and as right. Lines through the "
        "points: 95 % interval of p50. Rows of which it is not known how right they are are left out."
    )
    return Chart(title, board.svg(name, top + 4, title, told(sentences)), caption)


def _span(row: Row) -> tuple[float, float]:
    low, high = row["latency_ms"]["intervals"]["p50"] or [row["latency_ms"]["p50"]] * 2
    return low, high


def _front(board: Board, points: Sequence[tuple[float, float]]) -> None:
    """Steps: between two points of the front, nothing righter than the faster one can be had."""
    steps: list[tuple[float, float]] = []
    for left, height in points:
        if steps:
            steps.append((left, steps[-1][1]))
        steps.append((left, height))
    if len(steps) > 1:
        board.line(steps, "accent", 1, dashed=True)


def _numbers(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where the number of each point is to stand: near it, away from all points and other numbers where possible."""
    taken = [(left, height) for left, height in points]
    found = []
    for left, height in points:
        choices = [
            (min(max(left + distance * dx, 50), WIDTH - 8), min(max(height + distance * dy, 22), PLOT - 6))
            for distance in (NEAR, 1.8 * NEAR, 2.6 * NEAR)
            for dx, dy in ((0, -1), (0, 1), (1, 0), (-1, 0), (0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
        ]

        def crowded(place: tuple[float, float]) -> float:
            nearest = min(max(abs(place[0] - other[0]) / 1.5, abs(place[1] - other[1])) for other in taken)
            return -min(nearest, 0.8 * NEAR)

        chosen = min(choices, key=crowded)  # the first of the best, and so the nearest
        taken.append(chosen)
        found.append((chosen[0], chosen[1] + 0.35 * LABEL))
    return found
