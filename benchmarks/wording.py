"""How figures of a report are said, in tables and charts alike; – stands where there is none."""

from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"
CUT = "…"


def plain(text: str) -> str:
    """One line that shows what it holds: control characters and the like become �, white space a blank."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))


def shortened(text: str, width: int) -> str:
    """At most ``width`` characters, the middle left out: names that belong together differ at their ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return text[:head] + CUT + text[len(text) - (width - 1 - head) :]


def figure(value: Any) -> str:
    """Any value of JSON: numbers with four digits, lists and objects on one line."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')}: {figure(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(figure, value)) or "none"
    return str(value)


def percent(value: float | None) -> str:
    """``88.12 %`` for 0.8812."""
    return NONE if value is None else f"{100 * value:.2f} %"


def error(value: float | None) -> str:
    """An RMSE with four digits, in the unit of its target."""
    return NONE if value is None else f"{value:.4g}"


def kib(value: int | None) -> str:
    return NONE if value is None else f"{value / 1024:.1f}"


def mib(value: int | None) -> str:
    return NONE if value is None else f"{value / 2**20:.0f}"


def milliseconds(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{value:.{digits}g}"


def with_interval(latency: Mapping[str, Any], name: str) -> str:
    """``0.246 [0.242, 0.249]``: a quantile of latency in ms and its interval, where there is one."""
    value, interval = latency[name], latency["intervals"][name]
    if value is None:
        return NONE
    return f"{value:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def ratio(found: Mapping[str, float | None]) -> str:
    """``0.998 [0.982, 1.014]``, candidate / baseline latency."""
    if found["value"] is None:
        return NONE
    interval = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{found['value']:.3f}{interval}"


def speed_up(found: Mapping[str, Any]) -> str:
    """``2.50× [2.38, 2.63]``, baseline / candidate latency."""
    if found["value"] is None:
        return NONE
    interval = "" if found["low"] is None else f" [{1 / found['high']:.2f}, {1 / found['low']:.2f}]"
    return f"{1 / found['value']:.2f}×{interval}"


def targets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The targets of a regression, in the order in which the rows of a report name them; none for classifiers."""
    return list(dict.fromkeys(name for row in rows for name in row["rmse"] or ()))


def threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def place(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """``litert on gpu, 4 threads``: where a row was measured; device and threads only where they vary in ``rows``."""
    text = str(row["runtime"])
    if len({other["device"] for other in rows}) > 1:
        text += f" on {row['device']}"
    if len({other["threads"] for other in rows}) > 1:
        text += f", {threads(row['threads'])}"
    return text
