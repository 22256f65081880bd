"""One self-contained HTML page of remarks and tables, readable on a phone and in the dark."""

from collections.abc import Sequence
from html import escape
from typing import Protocol


class TableLike(Protocol):
    """What is drawn: see edgecbam.benchmarks.report.Table."""

    @property
    def title(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


# Words that decide how a cell is marked; colour never says it alone, the word is there too.
MARKS = {
    "faster": "good",
    "passed": "good",
    "slower": "bad",
    "FAILED": "bad",
    "wrong_output": "bad",
    "crash": "bad",
    "timeout": "bad",
    "unsupported": "weak",
    "skipped": "weak",
    "inconclusive": "weak",
}

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5c6370; --line: #d8dce2; --page: #fff; --band: #f4f6f8;
  --good: #0a7a3d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a2a9b4; --line: #3a4048; --page: #16181b;
  --band: #1f2327; --good: #5fd08f; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  max-width: 75rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.remarks { padding: .75rem 1rem; background: var(--band); border-left: 4px solid var(--soft); }
.remarks p, .note { margin: .25rem 0; } .note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.weak { color: var(--soft); }
@media (max-width: 45rem) {
  thead { display: none; }
  tr { display: block; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; gap: .75rem; border: 0; padding: .15rem .6rem; overflow-wrap: anywhere; }
  td::before { content: attr(data-label); color: var(--soft); flex: 0 0 8rem; overflow-wrap: normal; }
}
"""


def page(title: str, remarks: Sequence[str], tables: Sequence[TableLike]) -> str:
    """The page; every string is escaped."""
    said = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<div class="remarks">{said}</div>\n'
        + "".join(map(_table, tables))
        + "</body>\n</html>\n"
    )


def _table(table: TableLike) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "".join(
        "<tr>" + "".join(_cell(column, text) for column, text in zip(table.columns, row, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in table.notes)
    return (
        f"<section>\n<h2>{escape(table.title)}</h2>\n"
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
        f"{notes}</section>\n"
    )


def _cell(column: str, text: str) -> str:
    mark = MARKS.get(text)
    kind = f' class="{mark}"' if mark else ""
    return f'<td{kind} data-label="{escape(column)}"><span>{escape(text)}</span></td>'
