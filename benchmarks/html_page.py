"""One self-contained HTML page of remarks, tables and charts, readable on a phone and in the dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from .wording import NONE, plain

SHORT = 24  # characters that stay on one line, where there is room


class TableLike(Protocol):
    """What is laid out as a table: see edgecbam.benchmarks.report_tables.Table."""

    @property
    def title(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def below(self) -> tuple[str, ...]: ...
    @property
    def folded(self) -> bool: ...


class ChartLike(Protocol):
    """What is shown as a figure: see edgecbam.benchmarks.chart_parts.Chart."""

    @property
    def title(self) -> str: ...
    @property
    def svg(self) -> str: ...
    @property
    def caption(self) -> str: ...


@dataclass(frozen=True)
class Section:
    """A heading of the page and what stands below it."""

    title: str
    table: TableLike | None = None
    charts: Sequence[ChartLike] = ()
    note: str = ""


# Words that decide how a cell is marked; colour never says it alone, the word is there too.
MARKS = {
    "faster": "good",
    "holds 1": "good",
    "differs": "bad",
    "passed": "good",
    "slower": "bad",
    "failed": "bad",
    "FAILED": "bad",
    "wrong_output": "bad",
    "crash": "bad",
    "timeout": "bad",
    "unsupported": "weak",
    "functional_only": "weak",
    "skipped": "weak",
    "inconclusive": "weak",
}

COLOURS = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c6370; --line: #d8dce2; --page: #fff; --band: #f4f6f8;
  --good: #0a7a3d; --bad: #b3261e; --accent: #1f6feb; --attention: #8b3fc4; --outside: #b35900; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a2a9b4; --line: #3a4048; --page: #16181b;
  --band: #1f2327; --good: #5fd08f; --bad: #ff8a80; --accent: #6ea8fe; --attention: #c792ea; --outside: #f0a35e; } }
"""

STYLE = (
    COLOURS
    + """\
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  max-width: 78rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 0 0 .5rem; }
h1, h2, h3, p, figcaption { overflow-wrap: anywhere; }
.remarks { padding: .75rem 1rem; background: var(--band); border-left: 4px solid var(--soft); }
.remarks p, .note { margin: .25rem 0; } .note, figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .45rem; border-top: 1px solid var(--line); }
td.short span { white-space: nowrap; } td:not(.short) { min-width: 10rem; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; border-top: 0; }
tbody.even { background: var(--band); }
.below td { border-top: 0; padding-top: 0; color: var(--soft); overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.weak { color: var(--soft); }
.charts { columns: 2 24rem; column-gap: 2rem; }
figure { margin: 0 0 2rem; max-width: 30rem; break-inside: avoid; }
svg.chart { display: block; width: 100%; height: auto; font-family: inherit; font-variant-numeric: tabular-nums;
  overflow: visible; }
svg.chart path { stroke-linejoin: round; }
svg.chart text { white-space: pre; paint-order: stroke; stroke: var(--page); stroke-width: 3px;
  stroke-linejoin: round; }
figcaption { margin-top: .5rem; }
details summary { cursor: pointer; } details summary h2 { display: inline-block; }
@media (max-width: 45rem) {
  thead { display: none; }
  tbody { display: block; padding: .4rem 0; border-top: 1px solid var(--line); }
  tr { display: block; }
  td, td:not(.short) { display: flex; gap: 0 .75rem; border: 0; padding: .15rem .6rem; overflow-wrap: anywhere;
    min-width: 0; }
  td.short { flex-wrap: wrap; gap: 0 .4rem; }
  td.none { display: none; }
  td::before { content: attr(data-label); color: var(--soft); flex: 0 0 7rem; overflow-wrap: normal;
    font-weight: 400; }
}
@media print { details { display: block; } figure, tbody { break-inside: avoid; } }
"""
)


def page(title: str, remarks: Sequence[str], sections: Sequence[Section]) -> str:
    """The page; every string is escaped, the charts' own elements aside."""
    said = "".join(f"<p>{_text(remark)}</p>" for remark in remarks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{_text(title)}</h1>\n<div class="remarks">{said}</div>\n'
        + "".join(map(_section, sections))
        + "</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heading = f"<h2>{_text(section.title)}</h2>"
    note = f'<p class="note">{_text(section.note)}</p>\n' if section.note else ""
    figures = "".join(map(_figure, section.charts))
    inner = note + (f'<div class="charts">\n{figures}</div>\n' if figures else "")
    if section.table is not None:
        inner += _table(section.table)
        if section.table.folded:
            return f"<section><details>\n<summary>{heading}</summary>\n{inner}</details></section>\n"
    return f"<section>\n{heading}\n{inner}</section>\n"


def _figure(chart: ChartLike) -> str:
    return (
        f"<figure>\n<h3>{_text(chart.title)}</h3>\n{chart.svg}\n"
        f"<figcaption>{_text(chart.caption)}</figcaption>\n</figure>\n"
    )


def _table(table: TableLike) -> str:
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in table.columns)
    below = table.below or ("",) * len(table.rows)
    bodies = "".join(
        _row(table.columns, row, note, number % 2 == 1)
        for number, (row, note) in enumerate(zip(table.rows, below, strict=True))
    )
    notes = "".join(f'<p class="note">{_text(note)}</p>\n' for note in table.notes)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n{bodies}</table></div>\n{notes}'


def _row(columns: Sequence[str], row: Sequence[str], note: str, even: bool) -> str:
    """A row and what stands below it: one body each, so that they stay together."""
    cells = "".join(_cell(column, text) for column, text in zip(columns, row, strict=True))
    more = f'<tr class="below">{_cell("Reason", note, len(columns))}</tr>' if note else ""
    kind = ' class="even"' if even else ""
    return f"<tbody{kind}><tr>{cells}</tr>{more}</tbody>\n"


def _cell(column: str, text: str, span: int = 1) -> str:
    kinds = [*(["short"] if len(text) <= SHORT and span == 1 else []), *(["none"] if text == NONE else [])]
    kinds += [MARKS[text]] if text in MARKS else []
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    across = f' colspan="{span}"' if span > 1 else ""
    value, bracket, interval = text.partition(" [")
    parts = [value, f"[{interval}"] if bracket and "short" in kinds else [text]
    shown = " ".join(f"<span>{_text(part)}</span>" for part in parts)  # a line may end before an interval, not inside
    return f'<td{kind}{across} data-label="{_text(column)}">{shown}</td>'


def _text(text: str) -> str:
    return escape(plain(text))
