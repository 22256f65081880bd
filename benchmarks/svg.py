"""A drawing board for charts that live inside an HTML page: matplotlib draws them, the page's style sheet colours them.

A board is as wide as a phone and is laid out in its own units, from the top left, so that text keeps its size where a
small screen shrinks it least. Everything is drawn in marker colours that no chart uses otherwise, and each of them
becomes a CSS variable of the page afterwards (``var(--bad)``): one drawing serves light and dark. Text stays text, in
the page's font, and is never read as a formula. Equal charts give equal bytes.
"""

import importlib.util
import io
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .wording import plain, shortened

WIDTH = 360.0
LABEL, SMALL = 12.0, 11.0  # sizes of text, in the board's units
MOST_CHARACTERS = 200  # of a label, before it is made to fit
# How wide characters are, in sizes of the text and on the safe side: which font a page gets is the reader's affair.
WIDTHS = {"fijlrtI.,:;|!'()[] /\\": 0.42, "mwMW@%…": 1.0}
CAPITAL, OTHER = 0.78, 0.64
COLOURS = ("text", "soft", "line", "band", "page", "accent", "good", "bad", "attention", "outside")
VARIABLES = {f"#0a0b{i + 16:02x}": f"var(--{name})" for i, name in enumerate(COLOURS)}  # by marker colour
STYLES = ("fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "text-anchor", "font-size", "font-weight")
COMMAND = "pip install 'edgecbam[report]'"

Colour = Literal["text", "soft", "line", "band", "page", "accent", "good", "bad", "attention", "outside"]
Anchor = Literal["left", "center", "right"]
Point = tuple[float, float]


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def width_of(text: str, size: float = LABEL) -> float:
    """About how wide a text is at the most, in the board's units."""
    return size * sum(map(_width_of, text))


def _width_of(character: str) -> float:
    for characters, width in WIDTHS.items():
        if character in characters:
            return width
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    return CAPITAL if character.isupper() or not character.isascii() else OTHER


def fitted(text: str, width: float, size: float = LABEL) -> str:
    """The text as plain, its middle left out as far as it would be wider than ``width``."""
    text = shortened(plain(text), MOST_CHARACTERS)
    count = len(text)
    while width_of(text, size) > width and count > 1:
        count -= 1
        text = shortened(text, count)
    return text


@dataclass(frozen=True)
class _Text:
    at: Point
    text: str
    size: float
    colour: Colour
    anchor: Anchor
    bold: bool


@dataclass(frozen=True)
class _Shape:
    """A line, or an area where ``filled``."""

    points: tuple[Point, ...]
    colour: Colour
    width: float
    filled: bool
    dashed: bool
    opacity: float


@dataclass(frozen=True)
class _Dot:
    at: Point
    radius: float
    colour: Colour
    filled: bool


@dataclass
class Board:
    """What is to be drawn, in the order of drawing. x grows to the right, y downwards."""

    items: list[_Text | _Shape | _Dot] = field(default_factory=list)

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float = LABEL,
        colour: Colour = "text",
        anchor: Anchor = "left",
        bold: bool = False,
    ) -> None:
        """One line of text on a base line."""
        self.items.append(_Text(at, plain(text), size, colour, anchor, bold))

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0, *, dashed: bool = False) -> None:
        self.items.append(_Shape(tuple(points), colour, width, False, dashed, 1.0))

    def area(self, points: Sequence[Point], colour: Colour, opacity: float = 1.0) -> None:
        self.items.append(_Shape(tuple(points), colour, 0.0, True, False, opacity))

    def bar(self, left: float, top: float, width: float, height: float, colour: Colour) -> None:
        right, bottom = left + width, top + height
        self.area([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def dot(self, at: Point, radius: float, colour: Colour, *, filled: bool = True) -> None:
        self.items.append(_Dot(at, radius, colour, filled))

    def svg(self, name: str, height: float, title: str, description: str) -> str:
        """The drawing as an ``<svg>`` element.

        Args:
            name: unique in the page; letters, digits and hyphens.
            height: of the board.
            title: what is drawn.
            description: its main figures, for those who cannot see it.
        """
        return _inline(_drawn(self.items, height), name, height, title, description)


def _drawn(items: Sequence[_Text | _Shape | _Dot], height: float) -> str:
    """What matplotlib makes of it: one axes without frame, its units the points of the page."""
    from matplotlib import lines, patches, style, text
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "edgecbam"}
    with style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the page's fonts have it, or nobody has
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        for order, item in enumerate(items):
            if isinstance(item, _Text):
                written = text.Text(
                    *item.at,
                    item.text,
                    fontsize=item.size,
                    color=_marker(item.colour),
                    horizontalalignment=item.anchor,
                    fontweight="bold" if item.bold else "normal",
                    parse_math=False,
                    zorder=order,
                )
                axes.add_artist(written)
            elif isinstance(item, _Dot):
                face = _marker(item.colour if item.filled else "page")
                edge = _marker(item.colour)
                axes.add_artist(
                    patches.Circle(item.at, item.radius, facecolor=face, edgecolor=edge, linewidth=1.5, zorder=order)
                )
            elif item.filled:
                axes.add_artist(
                    patches.Polygon(
                        item.points, facecolor=_marker(item.colour), alpha=item.opacity, linewidth=0, zorder=order
                    )
                )
            else:
                x, y = zip(*item.points, strict=True)
                drawn = lines.Line2D(x, y, color=_marker(item.colour), linewidth=item.width, zorder=order)
                drawn.set_linestyle((0, (3, 3)) if item.dashed else "-")
                axes.add_artist(drawn)
        for artist in axes.get_children():
            artist.set_clip_on(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _marker(colour: Colour) -> str:
    return list(VARIABLES)[COLOURS.index(colour)]


def _inline(drawn: str, name: str, height: float, title: str, description: str) -> str:
    """matplotlib's document as an element of a page: no ids that could meet others, no style of its own, few digits."""
    svg = ET.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
        },
    )
    ET.SubElement(svg, "title", {"id": f"{name}-title"}).text = plain(title)
    ET.SubElement(svg, "desc", {"id": f"{name}-desc"}).text = plain(description)
    _copy(ET.fromstring(drawn), svg)
    return ET.tostring(svg, encoding="unicode")


def _copy(source: ET.Element, target: ET.Element) -> None:
    """Take over paths and texts, out of the groups that matplotlib puts them into."""
    for child in source:
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        style = _styled(child.get("style", ""))
        if tag == "g":
            _copy(child, target)
        elif tag == "path" and child.get("d") and style != "fill: none":  # not what lies outside, nor the frame
            ET.SubElement(target, "path", {"d": _few_digits(child.attrib["d"]), "style": style})
        elif tag == "text":
            at = {key: f"{float(child.attrib[key]):g}" for key in ("x", "y")}
            ET.SubElement(target, "text", {**at, "style": style}).text = child.text


def _few_digits(path: str) -> str:
    numbers = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), path)
    return re.sub(r" ?([A-Za-z]) ?", r"\1", " ".join(numbers.split()))


def _styled(style: str) -> str:
    """The style with markers as variables of the page, and what the page's style sheet decides left out."""
    kept = []
    for part in filter(None, map(str.strip, style.split(";"))):
        key, _, value = part.partition(": ")
        if key == "font":  # older matplotlib writes one property: "700 12px 'DejaVu Sans', …"
            weight, size = re.match(r"(\w+ )?([\d.]+)px", value).groups()  # type: ignore[union-attr]
            kept += [f"font-weight: {weight.strip()}"] if weight else []
            kept.append(f"font-size: {size}px")
        elif key in STYLES:
            kept.append(f"{key}: {VARIABLES.get(value, value)}")
    return "; ".join(kept)
