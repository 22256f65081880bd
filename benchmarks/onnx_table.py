"""The tables of docs/onnx.md: ``python -m edgecbam.benchmarks.onnx_table results/onnx.json DOCUMENT``.

They stand between comment lines, so that a test can compare them with the report that they came from.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace

NETWORKS = "<!-- begin of the networks made by edgecbam.benchmarks.onnx_table -->"
TARGETS = "<!-- begin of the targets made by edgecbam.benchmarks.onnx_table -->"
CHECKS = "<!-- begin of the checks made by edgecbam.benchmarks.onnx_table -->"
NODES = "<!-- begin of the nodes made by edgecbam.benchmarks.onnx_table -->"
RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, float32",
    "openvino_bf16": "OpenVINO, bfloat16",
    "litert": "LiteRT",
}
CBAM = {"none": "without", "cbam": "with"}


def networks(report: dict[str, Any]) -> str:
    """Latency of every file on every runtime, and its ratio to tf2onnx's float32 file of the same network."""

    def cell(row: dict[str, Any]) -> str:
        if row["status"] != "ok":
            return str(row["status"])
        return _join(f"{row['p50_ms']:.3g}", _ratio(row["ratio"], row["interval"]))

    def label(row: dict[str, Any]) -> tuple[str, ...]:
        return CBAM[row["attention"]], f"`{row['variant']}`", RUNTIMES[row["runtime"]]

    environment, versions = report["environment"], report["environment"]["versions"]
    samples = sorted({(row["processes"], row["n"]) for row in report["rows"] if row["status"] == "ok"})
    machine = (
        f"Milliseconds (p50), **ratio** to `fp32_tf2onnx` on ONNX Runtime, \\[95 % interval\\]. {environment['cpu']}, "
        f"{environment['logical_cpus']} CPUs, {environment['os']}; ONNX Runtime {versions['onnxruntime']}, OpenVINO "
        f"{versions['openvino']}, LiteRT {versions['litert']}, 1 thread, batch 1, "
        f"{' or '.join(str(count) for count in sorted({count for count, _ in samples}))} processes, "
        f"n = {' or '.join(str(n) for _, n in samples)}."
    )
    controls = "; ".join(
        _join(f"{entry['network']}, {CBAM[entry['row'].split()[0]]}:", _ratio(entry["value"], _bounds(entry)))
        for entry in report["controls"]
    )
    reasons = dict.fromkeys(
        f"{RUNTIMES[row['runtime']]}, {row['status']}: {row['reason']}."
        for row in report["rows"]
        if row["status"] != "ok"
    )
    table = _pivot(report["rows"], ("CBAM", "file", "runtime"), label, cell)
    below = [machine, f"Two processes of `fp32_tf2onnx` differ by: {controls}.", *reasons]
    return "\n".join([NETWORKS, table, "", "\n\n".join(below), END])


def targets(report: dict[str, Any]) -> str:
    """Every ratio that was asked for, with its limit and whether it was met."""

    def cell(entry: dict[str, Any]) -> str:
        text = "not measured" if entry["value"] is None else _ratio(entry["value"], entry["interval"])
        return text if entry["met"] is None else _join(text, "met" if entry["met"] else "missed")

    def label(entry: dict[str, Any]) -> tuple[str, ...]:
        sign = {"at least": "≥", "at most": "≤", None: ""}[entry["bound"]]
        return entry["name"], f"{sign} {entry['limit']:.2f}" if sign else "–"

    return "\n".join([TARGETS, _pivot(report["targets"], ("latency of … / of …", "target"), label, cell), END])


def checks(report: dict[str, Any]) -> str:
    """How far ``int8`` is from LiteRT and ``fp32`` from tf2onnx's file, network by network."""
    heads = [
        "network",
        "CBAM",
        "images",
        "classes",
        "largest difference",
        "logits beyond 1 LSB",
        "same class",
        "float32",
    ]
    lines = [
        [
            entry["network"],
            CBAM[entry["attention"]],
            str(entry["images"]),
            str(entry["classes"]),
            f"{entry['int8']['lsb']} LSB",
            str(entry["int8"]["beyond"]),
            f"{entry['int8']['as_litert']:.2%}",
            f"{entry['fp32']['relative_error']:.1g}",
        ]
        for entry in report["checks"]
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])
    return "\n".join([CHECKS, table, END])


def nodes(report: dict[str, Any]) -> str:
    """How many nodes ONNX Runtime runs on integers and how many in float, and what of our int8 file stays in float."""

    def cell(row: dict[str, Any]) -> str:
        counts = row["nodes"]
        return "not told" if counts is None else f"{counts['integer']} / {counts['float']} / {counts['other']}"

    def label(row: dict[str, Any]) -> tuple[str, ...]:
        return CBAM[row["attention"]], f"`{row['variant']}`"

    told = [row for row in report["rows"] if row["runtime"] == "onnxruntime" and row["status"] == "ok"]
    found: dict[str, list[str]] = {}
    for row in told:
        if row["variant"] == "int8" and row["nodes"] is not None:
            where = f"{row['network']} {CBAM[row['attention']]} CBAM"
            ops = [f"{entry['count']} {entry['op']} ({entry['reason']})" for entry in row["nodes"]["in_float"]]
            found.setdefault("; ".join(ops) or "nothing", []).append(where)
    below = [f"In float in `int8`, {', '.join(where)}: {ops}." for ops, where in found.items()]
    table = _pivot(told, ("CBAM", "file"), label, cell)
    legend = "Nodes that ONNX Runtime runs on integers / in float / on neither, such as shapes."
    return "\n".join([NODES, table, "", "\n\n".join([legend, *below]), END])


def renew(document: str, report: dict[str, Any]) -> str:
    """The document with its four tables replaced; raises ValueError where it lacks one."""
    for block in (networks(report), checks(report), targets(report), nodes(report)):
        document = replace(document, block)
    return document


def _pivot(
    entries: Iterable[dict[str, Any]],
    heads: Sequence[str],
    label: Callable[[dict[str, Any]], tuple[str, ...]],
    cell: Callable[[dict[str, Any]], str],
) -> str:
    """A table with a line for each label and a column for each network; ``heads`` stand over the labels."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for entry in entries:
        columns[entry["network"]] = None
        lines.setdefault(label(entry), {})[entry["network"]] = cell(entry)
    table = [[*heads, *columns], ["---"] * (len(heads) + len(columns))]
    table += [[*labels, *(found.get(name, "–") for name in columns)] for labels, found in lines.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _ratio(value: float | None, bounds: Sequence[float | None] | None) -> str:
    low, high = bounds or (None, None)
    interval = "" if low is None or high is None else f"\\[{low:.2f}, {high:.2f}\\]"
    return "" if value is None else _join(f"**{value:.2f}**", interval)


def _bounds(entry: dict[str, Any]) -> tuple[float | None, float | None]:
    return entry["low"], entry["high"]


def _join(*parts: str) -> str:
    return " ".join(filter(None, parts))


def main(arguments: list[str]) -> None:
    """Renew the tables of DOCUMENT from REPORT."""
    report, document = map(Path, arguments)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), artifacts.read_json(report)))


if __name__ == "__main__":
    main(sys.argv[1:])
