"""Where the time of an inference goes: the dearest ops of a profile as bars."""

from collections.abc import Mapping
from typing import Any

from . import wording
from .chart_parts import Chart, Row, label, told
from .svg import SMALL, WIDTH, Board, Colour, fitted

TOP = 10
ROW = 42.0


def profiles(report: Mapping[str, Any]) -> list[Chart]:
    """A chart for each profile of a row whose time is a speed."""
    place = ("model", "runtime", "device", "threads")
    measured = {tuple(row[key] for key in place) for row in report["results"] if row["status"] == "ok"}
    shown = [
        entry
        for entry in report["profiles"]
        if entry["status"] == "ok" and entry["ops"] and tuple(entry[key] for key in place) in measured
    ]
    return [_profile(entry, report, number + 1) for number, entry in enumerate(shown)]


def outside(entry: Row, op: Row) -> bool:
    """Whether an op ran elsewhere than where the ops of its profile are meant to run."""
    return entry["delegate"] is not None and op["where"] != entry["delegate"]


def summary(entry: Row) -> str:
    """``512 µs; attention 12.1 %; not delegated 3.0 %``, of what is known."""
    parts = [f"{microseconds(entry['total_us'])} in all ops"]
    if entry["attention"] is not None:
        parts.append(f"attention {100 * entry['attention']['share']:.1f} %")
    if entry["not_delegated"] is not None:
        parts.append(f"not delegated {100 * entry['not_delegated']['share']:.1f} %")
    return "; ".join(parts)


def microseconds(value: float) -> str:
    return f"{value:,.0f} µs" if value >= 100 else f"{value:.3g} µs"


def _profile(entry: Row, report: Mapping[str, Any], number: int) -> Chart:
    ops, rest = entry["ops"][:TOP], entry["ops"][TOP:]
    longest = max(op["us"] for op in ops) or 1.0
    board, top, sentences = Board(), 0.0, [f"{summary(entry)}."]
    board.text((0, 12), fitted(summary(entry), WIDTH, SMALL), size=SMALL, colour="soft")
    top += 20
    for op in ops:
        tags = [*(["attention"] if op["attention"] else []), *(["not delegated"] if outside(entry, op) else [])]
        colour: Colour = "outside" if outside(entry, op) else "attention" if op["attention"] else "accent"
        figure = f"{microseconds(op['us'])} · {100 * op['share']:.1f} %"
        label(board, top + 13, " · ".join([op["op"], *tags]), figure)
        board.text((0, top + 26), fitted(op["name"], WIDTH, SMALL), size=SMALL, colour="soft")
        if op["us"] > 0:
            board.bar(0, top + 30, max(1.0, op["us"] / longest * WIDTH), 6, colour)
        sentences.append(f"{op['op']} {op['name']}: {', '.join([figure, *tags])}.")
        top += ROW
    if rest:
        share = sum(op["share"] for op in rest)
        figure = f"{microseconds(sum(op['us'] for op in rest))} · {100 * share:.1f} %"
        label(board, top + 13, f"the other {len(rest)} ops" if len(rest) > 1 else "one more op", figure)
        top += 18
    caption = (
        f"Means of {entry['runs']} inferences in a run of their own; profiling costs time, so the sum is no latency. "
        "Bars are relative to the longest."
    )
    if entry["resolution_us"]:
        caption += f" Resolution of the profiler: {entry['resolution_us']:g} µs."
    title = f"{entry['model']} on {wording.place(entry, report['results'])}"
    return Chart(title, board.svg(f"profile-{number}", top + 4, title, told(sentences)), caption)
