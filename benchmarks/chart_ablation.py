"""The forest plot of an ablation: every paired difference with its interval and the line of no difference."""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .ablation_table import HEADINGS, compared, factors, interval, points
from .chart_parts import HEADING, LEFT, RIGHT, Chart, Row, Scale, below, heading, label, linear_ticks, told
from .html_page import COLOURS
from .svg import LABEL, SMALL, WIDTH, Board, Colour

ROW = 32.0
AXIS = 22.0  # height of the line of tick labels
VERDICTS: dict[str, Colour] = {"better": "good", "worse": "bad", "inconclusive": "soft"}
MARGIN, LINE = 12.0, 15.0
CAPTION_CHARACTERS = 62  # of a line of the caption
ZOOM = 1.6  # how much larger than on a phone the file is shown
REACH = 4.0  # how many times the largest difference an interval may stretch the scale


def differences(report: Mapping[str, Any]) -> Chart | None:
    """Each comparison on the test images, grouped by factor; needs matplotlib. None: nothing was compared."""
    rows = report["comparisons"]
    if not rows:
        return None
    groups = {factor: [row for row in rows if row["factor"] == factor] for factor in factors(report)}
    bottom = ROW * len(rows) + HEADING * len(groups)
    scale = _scale(rows)
    board, top = Board(), 0.0
    for tick in linear_ticks(scale.low, scale.high):
        board.line([(scale(tick), 0), (scale(tick), bottom + 3)], "line")
        below(board, scale(tick), bottom + AXIS - 6, "0" if tick == 0 else f"{100 * tick:+g}".replace("-", "−"))
    board.line([(scale(0.0), 0), (scale(0.0), bottom + 3)], "text", 1.5)
    sentences = []
    for factor, members in groups.items():
        top = heading(board, top, HEADINGS[factor])
        for row in members:
            found = row["test"] if len(row["seeds"]) > 1 else row["images"][0]
            bounds = "" if found is None else f" [{interval(found)}]"
            label(board, top + 13, compared(row), points(row["test"]["value"]))
            _difference(board, top + 22, scale, row, found)
            sentences.append(f"{compared(row)}: {points(row['test']['value'])} points{bounds}, {row['verdict']}.")
            top += ROW
    return Chart(
        "Differences of test top-1",
        board.svg("ablation", bottom + AXIS, "Differences of test top-1", told(sentences)),
        caption(report),
    )


def caption(report: Mapping[str, Any]) -> str:
    """How to read the plot."""
    over = (
        f"95 % interval over {len(report['seeds'])} seeds, ticks: the seeds"
        if len(report["seeds"]) > 1
        else "95 % interval over test images, one seed"
    )
    return (
        f"Candidate − baseline test top-1 in percentage points with its {over}. Right of the line at 0 is better. "
        "Filled: the whole interval lies on one side. An arrow: the interval goes on beyond the plot."
    )


def _scale(rows: Sequence[Row]) -> Scale:
    """Wide enough for every difference, and for intervals as far as they do not dwarf them all."""
    values = [0.0, *(value for row in rows for value in row["test"]["differences"])]
    spread = max(map(abs, values)) or 0.001
    found = [row["test"] if len(row["seeds"]) > 1 else row["images"][0] for row in rows]
    ends = [entry[end] for entry in found if entry is not None and entry["low"] is not None for end in ("low", "high")]
    limit = REACH * spread
    low = max(min([*values, *ends]), -limit)
    high = min(max([*values, *ends]), limit)
    pad = 0.04 * (high - low) or 0.001
    return Scale(low - pad, high + pad, LEFT, RIGHT)


def _difference(board: Board, y: float, scale: Scale, row: Row, found: Mapping[str, Any] | None) -> None:
    colour, value = VERDICTS[row["verdict"]], row["test"]["value"]
    if found is not None and found["low"] is not None:
        ends = [min(max(found[end], scale.low), scale.high) for end in ("low", "high")]
        board.line([(scale(end), y) for end in ends], colour, 2.0)
        for end, kept, direction in ((found["low"], ends[0], -1), (found["high"], ends[1], 1)):
            at = scale(kept)
            if end == kept:
                board.line([(at, y - 4), (at, y + 4)], colour, 1.5)
            else:
                board.area([(at + 3 * direction, y), (at - 4 * direction, y - 4), (at - 4 * direction, y + 4)], colour)
    if len(row["seeds"]) > 1:
        for difference in row["test"]["differences"]:
            board.line([(scale(difference), y - 3), (scale(difference), y + 3)], "text", 1.0)
    board.dot((scale(value), y), 4, colour, filled=row["verdict"] != "inconclusive")


def standalone(chart: Chart, title: str) -> str:
    """The chart as an SVG file of its own, light or dark as its reader prefers, with its title and caption."""
    height = float(chart.svg.split('viewBox="', 1)[1].split('"')[0].split()[3])
    lines = textwrap.wrap(chart.caption, CAPTION_CHARACTERS)
    top = MARGIN + 2 * LINE
    whole = (WIDTH + 2 * MARGIN, top + height + LINE * (len(lines) + 1) + MARGIN)
    inner = chart.svg.replace("<svg ", f'<svg x="{MARGIN:g}" y="{top:g}" width="{WIDTH:g}" height="{height:g}" ', 1)
    caption = "".join(
        f'<text x="{MARGIN:g}" y="{top + height + LINE * (number + 1.2):g}" style="font-size: {SMALL:g}px; '
        f'fill: var(--soft)">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]:g} {whole[1]:g}" '
        f'width="{ZOOM * whole[0]:g}" height="{ZOOM * whole[1]:g}">\n'
        f"<style>{COLOURS}svg {{ font-family: system-ui, sans-serif; font-variant-numeric: tabular-nums; }}\n"
        "svg.chart { overflow: visible; } svg.chart text { white-space: pre; paint-order: stroke; "
        "stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }</style>\n"
        '<rect width="100%" height="100%" style="fill: var(--page)"/>\n'
        f'<text x="{MARGIN:g}" y="{MARGIN + LABEL:g}" style="font-size: {LABEL + 2:g}px; font-weight: 600; '
        f'fill: var(--text)">{escape(title)}</text>\n{inner}\n{caption}\n</svg>\n'
    )
