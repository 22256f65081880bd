"""The report that people read: report.md and report.html, made from report.json, its raw samples and verify.json.

Both say the same; the page has charts besides. Figures come with their intervals, a failed row stands beside the
others with its reason, and the machine, the versions, the threads and the number of samples are part of it: without
them a number is no result.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import array_file, artifacts
from edgecbam.errors import InputError

from . import charts, html_page, report_schema, svg, wording
from . import report_tables as tables_of
from .chart_parts import Chart
from .html_page import Section
from .measure import MAX_RAW, RAW_FILE, REPORT_FILE
from .report_tables import Table

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
BUSY_LOAD = 0.5  # of the CPUs, before the first process started
NO_CHARTS = f"Charts need matplotlib, which is not installed: {svg.COMMAND}, then make the report again."


def write(run: Path, folder: Path) -> None:
    """Write ``report.md`` and ``report.html`` into an existing folder from the stages verify and benchmark of a run.

    Raises:
        InputError: verify.json, report.json or samples.npz is missing or not what edgecbam writes.
    """
    measured, verified = run / "benchmark" / REPORT_FILE, run / "verify" / "verify.json"
    report, verification = artifacts.read_json(measured), artifacts.read_json(verified)
    samples = _read_samples(run / "benchmark" / RAW_FILE)
    try:
        write_pages(folder, report, verification, about(run), samples)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise InputError(
            f"{measured} or {verified} is not what edgecbam writes ({error!r}): run `edgecbam verify` and "
            "`edgecbam benchmark` again"
        ) from None


def write_pages(
    folder: Path,
    report: Mapping[str, Any],
    verification: Mapping[str, Any] | None,
    told: Table | None,
    samples: Mapping[str, np.ndarray],
) -> None:
    """Write ``report.md`` and ``report.html`` whole into an existing folder.

    Args:
        folder: where to.
        report: the value of report.json, of any version.
        verification: the value of verify.json; None for bare files.
        told: what ``about`` says of the run; None for bare files.
        samples: the arrays of samples.npz.

    Raises:
        InputError: the report is from a later edgecbam.
    """
    pages = {
        MARKDOWN_FILE: markdown(report, verification, told),
        HTML_FILE: html(report, verification, told, samples),
    }
    for name, text in pages.items():
        artifacts.write_whole(folder / name, text)


def about(run: Path) -> Table:
    """What was trained, on what, and how well, from the run folder."""
    recipe, manifest = artifacts.load_recipe(run), artifacts.load_manifest(run / "export")
    trained = artifacts.read_json(run / "train" / "metrics.json")
    quantized = artifacts.read_json(run / "quantize" / "metrics.json")
    entry = next(iter(manifest.files.values()))
    data = recipe.data
    named = "targets" if manifest.task == "regression" else "classes"
    rows = (
        ("Recipe", f"{recipe.name}, sha256 {manifest.recipe_digest[:12]}"),
        (
            "Images",
            f"{data.source}: {trained['train_images']} to train, {trained['validation_images']} to validate, "
            f"{trained['test_images']} to test; {len(manifest.classes)} {named}; "
            f"{data.height}x{data.width}x{data.channels}",
        ),
        (
            "Network",
            f"{recipe.model.family}, attention {recipe.model.attention}: {entry.parameters:,} parameters, "
            f"{entry.macs / 1e6:.1f} M multiply-accumulates",
        ),
        *_how_right(manifest, trained, quantized),
    )
    return Table("Run", ("What", "Value"), rows)


def _how_right(
    manifest: artifacts.Manifest, trained: Mapping[str, Any], quantized: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What Keras made of all test images: top-1, or the error of each target beside its spread."""
    if manifest.task == "classification":
        raw, average = (wording.percent(trained[f"test_{kind}_accuracy"]) for kind in ("raw", "ema"))
        return [
            ("Float top-1", f"{raw} raw, {average} EMA"),
            ("QAT top-1 (Keras)", wording.percent(quantized["test_ema_accuracy"])),
        ]
    rows = []
    for name in manifest.classes:
        raw, average = (wording.error(trained[f"test_{kind}_rmse"][name]) for kind in ("raw", "ema"))
        after = wording.error(quantized["test_ema_rmse"][name])
        spread = wording.error(trained["test_std"][name])
        said = f"{raw} raw, {average} EMA, {after} QAT (Keras); standard deviation of the test targets {spread}"
        rows.append((f"RMSE {name}", said))
    return rows


def markdown(report: Mapping[str, Any], verification: Mapping[str, Any] | None, told: Table | None = None) -> str:
    """The report as GitHub-flavoured Markdown; ``told`` is what ``about`` says of the run."""
    value = report_schema.upgraded(report)
    lines = [f"# {_title(value)}", ""]
    for remark in remarks(value, verification):
        lines += [f"**{markdown_text(remark)}**", ""]
    for table in _tables(value, verification, told):
        lines += [f"## {markdown_text(table.title)}", "", _markdown_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def results_markdown(report: Mapping[str, Any]) -> str:
    """The table of results alone, with its notes, as GitHub-flavoured Markdown."""
    return _markdown_table(tables_of.results(report_schema.upgraded(report)))


def html(
    report: Mapping[str, Any],
    verification: Mapping[str, Any] | None,
    told: Table | None = None,
    samples: Mapping[str, np.ndarray] | None = None,
) -> str:
    """The report as one self-contained page: nothing is loaded from elsewhere and no script runs.

    Without matplotlib it has no charts, and says what would add them; without ``samples`` it lacks those of them.
    """
    value = report_schema.upgraded(report)
    return html_page.page(_title(value), remarks(value, verification), _sections(value, verification, told, samples))


def remarks(report: Mapping[str, Any], verification: Mapping[str, Any] | None) -> list[str]:
    """What the reader must know before any figure."""
    said = [report["protocol"]["note"]]
    if verification is not None and not verification["passed"]:
        failed = [gate["name"] for gate in verification["gates"] if not gate["passed"]]
        said.append(f"verify FAILED: {', '.join(failed)}")
    gate = report["gate"]
    if gate is not None:
        because = f": {gate['reason']}" if gate["reason"] else ""
        said.append(f"latency gate of {gate['threshold_percent']:g} %: {gate['verdict']}{because}")
    rows = report["results"]
    bad = [row for row in rows if row["status"] not in ("ok", "skipped", "functional_only")]
    if bad:
        said.append(f"{len(bad)} of {len(rows)} rows could not be measured; their reasons are below")
    functional = [row for row in rows if row["status"] == "functional_only"]
    if functional:
        said.append(f"functional only, their time being no speed: {len(functional)} of {len(rows)} rows")
    said += [
        f"the control on {wording.place(comparison, rows)} differs from itself ({wording.ratio(comparison['ratio'])}): "
        "do not trust differences of this size; measure again on a quieter machine"
        for comparison in report["comparisons"]
        if comparison["kind"] == "control" and comparison["verdict"] != "inconclusive"
    ]
    return said + _busy(report)


def _busy(report: Mapping[str, Any]) -> list[str]:
    """The machines that had other things to do before the first process started."""
    found = {}
    for name, device in report["devices"].items():
        load, cpus = (device["before"] or {}).get("load"), device["environment"].get("logical_cpus")
        if load is not None and cpus and load > BUSY_LOAD * cpus:
            where = "the machine" if name in ("cpu", "gpu") else name
            found[where] = f"{where} was busy: load {load:g} on {cpus} CPUs before the first process started"
    return list(found.values())


def _tables(
    report: Mapping[str, Any], verification: Mapping[str, Any] | None, told: Table | None = None
) -> list[Table]:
    """The tables of the report, in reading order."""
    made = [
        *([told] if told else []),
        tables_of.results(report),
        tables_of.without_time(report),
        tables_of.gate(report),
        *_details(report, verification),
    ]
    return [table for table in made if table.rows]


def _details(report: Mapping[str, Any], verification: Mapping[str, Any] | None) -> list[Table]:
    return [
        tables_of.profiles(report),
        tables_of.kinds_of_ops(report),
        tables_of.nodes_in_float(report),
        tables_of.start(report),
        tables_of.parity(report),
        *([tables_of.proofs(verification)] if verification is not None else []),
        tables_of.controls(report),
        *tables_of.machines(report),
        tables_of.protocol(report),
    ]


def _sections(
    report: Mapping[str, Any],
    verification: Mapping[str, Any] | None,
    told: Table | None,
    samples: Mapping[str, np.ndarray] | None,
) -> list[Section]:
    """The tables with the charts between them; reasons stand below their rows, and not in a table of their own."""
    able = svg.available()
    of_latency: list[Chart] = charts.of_latency(report, samples) if able else []
    of_profiles = charts.of_profiles(report) if able else []
    tables = [tables_of.results(report), tables_of.gate(report)]
    made = [
        *([Section(told.title, table=told)] if told else []),
        *(Section(table.title, table=table) for table in tables),
        Section("Charts", charts=of_latency, note="" if able else NO_CHARTS),
        Section("Where the time goes", charts=of_profiles),
        *(Section(table.title, table=table) for table in _details(report, verification)),
    ]
    return [section for section in made if section.charts or section.note or (section.table and section.table.rows)]


def _read_samples(path: Path) -> dict[str, np.ndarray]:
    try:
        return array_file.load(path, MAX_RAW)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `edgecbam benchmark` again") from None
    except (OSError, ValueError):
        raise InputError(f"{path} is damaged or too large: run `edgecbam benchmark` again") from None


def _title(report: Mapping[str, Any]) -> str:
    return f"Latency report, {report['tool']['name']} {report['tool']['version']}"


def _markdown_table(table: Table) -> str:
    lines = [_markdown_row(table.columns), _markdown_row(["---"] * len(table.columns), escape=False)]
    lines += map(_markdown_row, table.rows)
    for note in table.notes:
        lines += ["", markdown_text(note)]
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Plain text that Markdown leaves as it is, on one line, also inside a table."""
    escaped = "".join(f"\\{c}" if c in "\\`*[]|~#" else c for c in wording.plain(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(markdown_text(cell) if escape else cell for cell in cells) + " |"
