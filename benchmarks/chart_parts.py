"""What the charts of a report share: rows grouped by place, scales with readable ticks, and names that fit.

A row of a chart is a line of text (the model on the left, its figure on the right) with the drawing below it, so that
long names never stand in the way of what is drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .svg import SMALL, WIDTH, Board, fitted, width_of

Row = Mapping[str, Any]

LEFT, RIGHT = 6.0, WIDTH - 6.0  # where scales begin and end
HEADING = 22.0  # height of the heading of a group
TOLD = 12  # rows that a description tells of


@dataclass(frozen=True)
class Chart:
    """A drawing and how to read it.

    Attributes:
        svg: the element, with its main figures in words.
        caption: plain text.
    """

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Scale:
    """Maps values to positions: linearly in ``bend(value)``, from ``low`` at ``start`` to ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float
    bend: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        low, high = self.bend(self.low), self.bend(self.high)
        return self.start + (self.bend(value) - low) / (high - low) * (self.end - self.start)


def logarithmic(values: Sequence[float], start: float, end: float, pad: float = 0.04) -> Scale:
    """A logarithmic scale around positive values, with some room at both ends and never narrower than 5 %."""
    low, high = min(values), max(values)
    widen = max((high / low) ** pad, 1.025 if high / low < 1.05 else 1.0)
    return Scale(low / widen, high * widen, start, end, math.log)


def ticks(scale: Scale, most: int = 6) -> list[float]:
    """Round values inside a scale of positive values, ``most`` at the most; 1 is one of them where it lies inside."""
    low, high = scale.low, scale.high
    if high / low > 2.5:
        for steps in ((1, 1.5, 2, 3, 5), (1, 2, 5), (1,)):
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]
    return linear_ticks(low, high, most)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten between two values."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(i * step, 12) for i in range(first, last + 1)]


def groups(rows: Sequence[Row], all_rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by where they were measured, in the order in which they stand in the report."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(wording.place(row, all_rows), []).append(row)
    return found


def heading(board: Board, top: float, text: str) -> float:
    """Draw the heading of a group; returns where its rows begin."""
    board.text((0, top + 15), fitted(text, WIDTH / 1.1), bold=True)  # bold is wider
    return top + HEADING


def label(board: Board, base: float, name: str, figure: str) -> None:
    """Draw the line of text of a row: the name as long as the figure leaves room."""
    figure = fitted(figure, 0.7 * WIDTH, SMALL)
    board.text((WIDTH, base), figure, size=SMALL, anchor="right")
    board.text((0, base), fitted(name, WIDTH - width_of(f" {figure}", SMALL)))


def below(board: Board, at: float, base: float, text: str) -> None:
    """Draw the label of a tick, centred below it as far as the edges of the board allow."""
    half = width_of(text, SMALL) / 2
    board.text((min(max(at, half), WIDTH - half), base), text, size=SMALL, colour="soft", anchor="center")


def told(sentences: Sequence[str]) -> str:
    """The first sentences of a description, and how many more there are."""
    rest = f" And {len(sentences) - TOLD} more, see the table." if len(sentences) > TOLD else ""
    return " ".join(sentences[:TOLD]) + rest
