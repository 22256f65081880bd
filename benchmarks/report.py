"""The report that people read: report.md and report.html, made from report.json and verify.json.

Both say the same. Figures come with their intervals, a failed row stands beside the others with its reason, and the
machine, the versions, the threads and the number of samples are part of it: without them a number is no result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.errors import InputError

from . import html_page
from .measure import REPORT_FILE

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
BUSY_LOAD = 0.5  # of the CPUs, before the first process started


@dataclass(frozen=True)
class Table:
    """A heading, what to read into it, and cells of plain text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def write(run: Path, folder: Path) -> None:
    """Write ``report.md`` and ``report.html`` into an existing folder from the stages verify and benchmark of a run.

    Raises:
        InputError: verify.json or report.json is missing or not what edgecbam writes.
    """
    measured, verified = run / "benchmark" / REPORT_FILE, run / "verify" / "verify.json"
    report, verification = artifacts.read_json(measured), artifacts.read_json(verified)
    try:
        told = about(run)
        pages = {MARKDOWN_FILE: markdown(report, verification, told), HTML_FILE: html(report, verification, told)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{measured} or {verified} is not what edgecbam writes ({error!r}): run `edgecbam verify` and "
            "`edgecbam benchmark` again"
        ) from None
    for name, text in pages.items():
        artifacts.write_whole(folder / name, text)


def about(run: Path) -> Table:
    """What was trained, on what, and how well, from the run folder."""
    recipe, manifest = artifacts.load_recipe(run), artifacts.load_manifest(run / "export")
    trained = artifacts.read_json(run / "train" / "metrics.json")
    quantized = artifacts.read_json(run / "quantize" / "metrics.json")
    entry = next(iter(manifest.files.values()))
    data = recipe.data
    rows = (
        ("Recipe", f"{recipe.name}, sha256 {manifest.recipe_digest[:12]}"),
        (
            "Images",
            f"{data.source}: {trained['train_images']} to train, {trained['validation_images']} to validate, "
            f"{trained['test_images']} to test; {len(manifest.classes)} classes; "
            f"{data.height}x{data.width}x{data.channels}",
        ),
        (
            "Network",
            f"{recipe.model.family}, attention {recipe.model.attention}: {entry.parameters:,} parameters, "
            f"{entry.macs / 1e6:.1f} M multiply-accumulates",
        ),
        ("Float top-1", f"{_percent(trained['test_raw_accuracy'])} raw, {_percent(trained['test_ema_accuracy'])} EMA"),
        ("QAT top-1 (Keras)", _percent(quantized["test_ema_accuracy"])),
    )
    return Table("Run", ("What", "Value"), rows)


def markdown(report: dict[str, Any], verification: dict[str, Any] | None, told: Table | None = None) -> str:
    """The report as GitHub-flavoured Markdown; ``told`` is what ``about`` says of the run."""
    lines = [f"# {_title(report)}", ""]
    for remark in remarks(report, verification):
        lines += [f"**{_markdown_text(remark)}**", ""]
    for table in tables(report, verification, told):
        lines += [f"## {_markdown_text(table.title)}", "", _markdown_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def results_markdown(report: dict[str, Any]) -> str:
    """The table of results alone, with its notes, as GitHub-flavoured Markdown."""
    return _markdown_table(_results(report))


def _markdown_table(table: Table) -> str:
    lines = [_markdown_row(table.columns), _markdown_row(["---"] * len(table.columns), escape=False)]
    lines += map(_markdown_row, table.rows)
    for note in table.notes:
        lines += ["", _markdown_text(note)]
    return "\n".join(lines)


def html(report: dict[str, Any], verification: dict[str, Any] | None, told: Table | None = None) -> str:
    """The report as one self-contained page: nothing is loaded from elsewhere and no script runs."""
    return html_page.page(_title(report), remarks(report, verification), tables(report, verification, told))


def remarks(report: dict[str, Any], verification: dict[str, Any] | None) -> list[str]:
    """What the reader must know before any figure."""
    said = [report["protocol"]["note"]]
    if verification is not None and not verification["passed"]:
        failed = [gate["name"] for gate in verification["gates"] if not gate["passed"]]
        said.append(f"verify FAILED: {', '.join(failed)}")
    bad = [row for row in report["results"] if row["status"] not in ("ok", "skipped")]
    if bad:
        said.append(f"{len(bad)} of {len(report['results'])} rows could not be measured; their reasons are below")
    said += [
        f"the control on {comparison['runtime']} differs from itself ({_ratio_text(comparison['ratio'])}): "
        "do not trust differences of this size; measure again on a quieter machine"
        for comparison in report["comparisons"]
        if comparison["kind"] == "control" and comparison["verdict"] != "inconclusive"
    ]
    environment = report["environment"]
    load, cpus = environment["load_before"], environment["logical_cpus"]
    if load is not None and cpus and load > BUSY_LOAD * cpus:
        said.append(f"the machine was busy: load {load:g} on {cpus} CPUs before the first process started")
    return said


def tables(report: dict[str, Any], verification: dict[str, Any] | None, told: Table | None = None) -> list[Table]:
    """The tables of the report, in reading order."""
    made = [*([told] if told else []), _results(report)]
    failed = [row for row in report["results"] if row["status"] != "ok"]
    if failed:
        cells = tuple((row["model"], row["runtime"], row["status"], row["reason"]) for row in failed)
        made.append(Table("Not measured", ("Model", "Runtime", "Status", "Reason"), cells))
    made += [_nodes_in_float(report), _memory(report)]
    if verification is not None:
        made.append(_gates(verification))
    made += [_controls(report), _environment(report), _protocol(report)]
    return [table for table in made if table.rows]


def _title(report: dict[str, Any]) -> str:
    return f"Latency report, {report['tool']['name']} {report['tool']['version']}"


def _results(report: dict[str, Any]) -> Table:
    compared = {(c["candidate"], c["runtime"]): c for c in report["comparisons"] if c["kind"] == "candidate"}
    baselines = {(c["baseline"], c["runtime"]) for c in compared.values()}
    rows = []
    for row in report["results"]:
        key = (row["model"], row["runtime"])
        comparison = compared.get(key)
        latency = row["latency_ms"]
        speed_up, verdict = "–", "baseline" if key in baselines else "–"
        if comparison is not None:
            speed_up, verdict = _speed_up_text(comparison["ratio"]), comparison["verdict"]
        rows.append(
            (
                row["model"],
                row["runtime"],
                _kib(row["bytes"]),
                _percent(row["accuracy"]),
                _percent(row["agreement"]),
                _with_interval(latency, "p50") if latency else "–",
                _with_interval(latency, "p90") if latency else "–",
                _integer_nodes(row),
                speed_up,
                verdict if row["status"] == "ok" else row["status"],
            )
        )
    columns = (
        "Model",
        "Runtime",
        "KiB",
        "Top-1",
        "Agreement",
        "p50 ms",
        "p90 ms",
        "Integer nodes",
        "Speed-up",
        "Verdict",
    )
    notes = [
        "Speed-up: baseline latency / latency on the same runtime, paired round by round (so not the quotient of the "
        "p50 column), with its 95 % interval. Faster or slower: the whole interval differs from 1 by over 1 %."
    ]
    images = sorted({row["parity"]["images"] for row in report["results"] if _checked(row)})
    if images:
        counts = " or ".join(map(str, images))
        notes.append(f"Top-1 and agreement with Keras: on {counts} held-out images, checked before anything was timed.")
    if any(row["status"] == "ok" and not _checked(row) for row in report["results"]):
        notes.append("Accuracy and parity were not checked for want of references: these are bare model files.")
    if any(_counted(row) for row in report["results"]):
        notes.append(
            "Integer nodes: of the nodes that ONNX Runtime runs after its own optimisation, those whose data are "
            "integers; nodes that handle shapes alone are left out."
        )
    if compared and any(row[-1] == "–" for row in rows):
        notes.append("Rows without a verdict: the baseline was not measured on their runtime.")
    return _without_empty_columns(Table("Results", columns, tuple(rows), tuple(notes)))


def _without_empty_columns(table: Table) -> Table:
    keep = [i for i in range(len(table.columns)) if any(row[i] != "–" for row in table.rows)]
    rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return Table(table.title, tuple(table.columns[i] for i in keep), rows, table.notes)


def _counted(row: dict[str, Any]) -> dict[str, Any] | None:
    """The nodes of a result; None where the runtime does not tell, or the report was made before it was asked."""
    nodes: dict[str, Any] | None = row.get("nodes")
    return nodes


def _integer_nodes(row: dict[str, Any]) -> str:
    """``52/55``: nodes on integers, of those on integers or in float."""
    nodes = _counted(row)
    return "–" if nodes is None else f"{nodes['integer']}/{nodes['integer'] + nodes['float']}"


def _nodes_in_float(report: dict[str, Any]) -> Table:
    rows = []
    for row in report["results"]:
        nodes = _counted(row)
        if nodes is not None:
            rows += [(row["model"], e["op"], str(e["count"]), e["reason"]) for e in nodes["in_float"]]
        elif row.get("nodes_reason"):
            rows.append((row["model"], "unknown", "–", row["nodes_reason"]))
    notes = ("On ONNX Runtime, from a trace of one inference after all timed ones. Each node's name: report.json.",)
    return Table("Nodes in float", ("Model", "Op", "Count", "Reason"), tuple(rows), notes)


def _checked(row: dict[str, Any]) -> bool:
    return bool(row["parity"] and row["parity"]["checked"])


def _memory(report: dict[str, Any]) -> Table:
    rows = tuple(
        (
            row["model"],
            row["runtime"],
            f"{row['init_ms']:.2f}",
            f"{row['first_ms']:.3g}",
            _mib(row["memory"]["peak_bytes"]),
            _placement(row["placement"]),
        )
        for row in report["results"]
        if row["status"] == "ok"
    )
    notes = ("Medians over processes. Peak memory is the whole process up to the first inference, Python included.",)
    return Table(
        "Start and placement", ("Model", "Runtime", "Load ms", "First ms", "Peak MiB", "Placement"), rows, notes
    )


def _placement(placement: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)

    return "; ".join(f"{key.replace('_', ' ')}: {shown(value)}" for key, value in placement.items())


def _gates(verification: dict[str, Any]) -> Table:
    rows = tuple(
        (
            "passed" if gate["passed"] else "FAILED",
            gate["name"],
            _figure(gate["value"]),
            _figure(gate["threshold"]),
            "; ".join(filter(None, (gate["meaning"], gate["detail"]))),
        )
        for gate in verification["gates"]
    )
    return Table("Gates", ("Gate", "Name", "Value", "Threshold", "Meaning"), rows)


def _controls(report: dict[str, Any]) -> Table:
    rows = tuple(
        (c["runtime"], c["candidate"], _ratio_text(c["ratio"]), c["verdict"])
        for c in report["comparisons"]
        if c["kind"] == "control"
    )
    notes = ("A second process of the same file beside the first, in every session; a sound measurement holds 1.",)
    return Table("Control: the baseline against itself", ("Runtime", "Model", "Ratio", "Verdict"), rows, notes)


def _environment(report: dict[str, Any]) -> Table:
    environment = report["environment"]
    versions = {key: value or "not installed" for key, value in environment["versions"].items()}
    memory = environment["memory_bytes"]
    values = {
        "CPU": environment["cpu"],
        "Board": environment["board"],
        "Machine": environment["machine"],
        "Instruction sets": " ".join(environment["cpu_flags"] or []) or None,
        "CPUs (logical, physical)": f"{_figure(environment['logical_cpus'])}, {_figure(environment['physical_cores'])}",
        "CPUs allowed (affinity, cgroup)": f"{_figure(environment['affinity_cpus'])}, "
        f"{_figure(environment['cgroup_cpus'])}",
        "Governor": environment["governor"],
        "Virtualised": environment["virtualised"],
        "Memory GiB": None if memory is None else round(memory / 2**30, 1),
        "System": environment["os"],
        "Kernel": environment["kernel"],
        "Python": environment["python"],
        "Versions": ", ".join(f"{key} {value}" for key, value in versions.items()),
        "Load before, after": f"{_figure(environment['load_before'])}, {_figure(environment['load_after'])}",
        "Started (UTC)": environment["started_utc"],
    }
    return Table("Machine", ("What", "Value"), tuple((key, _figure(value)) for key, value in values.items()))


def _protocol(report: dict[str, Any]) -> Table:
    protocol = report["protocol"]
    samples = protocol["processes"] * protocol["rounds"] * protocol["block"]
    threads = sorted({row["threads"] for row in report["results"]})
    values = {
        "Protocol": protocol["note"],
        "Samples of each row": f"n = {samples}: {protocol['processes']} processes × {protocol['rounds']} rounds × "
        f"blocks of {protocol['block']}",
        "Untimed": f"{protocol['warm_up']} runs before the first round, {protocol['lead_in']} before each block",
        "Threads, batch": f"{', '.join(map(str, threads))}; 1",
        "Timed": protocol["timed"],
        "Ratio": protocol["ratio"],
        "Seed": str(protocol["seed"]),
    }
    return Table("Protocol", ("What", "Value"), tuple(values.items()))


def _figure(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _kib(value: int | None) -> str:
    return "–" if value is None else f"{value / 1024:.1f}"


def _mib(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:.0f}"


def _with_interval(latency: dict[str, Any], name: str) -> str:
    value, interval = latency[name], latency["intervals"][name]
    if value is None:
        return "–"
    return f"{value:.3g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def _ratio_text(ratio: dict[str, float | None]) -> str:
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    return f"{ratio['value']:.3f}{interval}"


def _speed_up_text(ratio: dict[str, Any]) -> str:
    interval = "" if ratio["low"] is None else f" [{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]"
    return f"{1 / ratio['value']:.2f}×{interval}"


def _markdown_text(text: str) -> str:
    """Plain text that Markdown leaves as it is, on one line, also inside a table."""
    one_line = " ".join(text.split())
    escaped = "".join(f"\\{c}" if c in "\\`*[]|~#" else c for c in one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(_markdown_text(cell) if escape else cell for cell in cells) + " |"
