"""The tables of docs/lowering.md: ``python -m edgecbam.benchmarks.lowering_table results/lowering.json DOCUMENT``.

They stand between comment lines, so that a test can compare them with the report that they came from.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table

NETWORKS = "<!-- begin of the networks made by edgecbam.benchmarks.lowering_table -->"
MAPS = "<!-- begin of the maps made by edgecbam.benchmarks.lowering_table -->"
LIMITS = "<!-- begin of the limits made by edgecbam.benchmarks.lowering_table -->"
LARGEST_OPS = 4


def networks(report: dict[str, Any]) -> str:
    """Latency without CBAM, as written and lowered, with the ratios, the targets and the machine."""
    rows = [
        [
            row["network"],
            row["dtype"],
            *(f"{row[form]:.3g}" for form in ("none_ms", "plain_ms", "lowered_ms")),
            f"{row['plain_ratio']:.2f}",
            f"**{row['lowered_ratio']:.2f}** {_interval(row['interval'])}",
            _target(row),
        ]
        for row in report["rows"]
        if not row["network"].startswith("map ")
    ]
    heads = ["network", "precision", "without", "as written", "lowered", "ratio", "lowered ratio", "target"]
    environment = report["environment"]
    speedups = [
        f"{entry['network']}: {entry['value']:.2f}× {_interval([entry['low'], entry['high']])}"
        for entry in report["against_float"]
    ]
    samples = sorted({(row["processes"], row["n"]) for row in report["rows"]})
    machine = (
        f"Milliseconds (p50). {environment['cpu']}, {environment['logical_cpus']} CPUs, {environment['os']}; "
        f"LiteRT {environment['versions']['litert']}, 1 thread, batch 1, {samples[0][0]} processes, "
        f"n = {' or '.join(str(n) for _, n in samples)}. Intervals are of 95 %."
    )
    against = f"Lowered int8 against float32 with CBAM as written, times faster: {'; '.join(speedups)}."
    return "\n".join([NETWORKS, table(heads, rows), "", machine, "", against, END])


def maps(report: dict[str, Any]) -> str:
    """Latency of one lowered CBAM over that of a plain one, map by map."""
    found: dict[str, dict[str, str]] = {}
    for row in report["rows"]:
        if row["network"].startswith("map "):
            ratio = row["lowered_to_plain"]
            text = f"{ratio['value']:.2f} {_interval([ratio['low'], ratio['high']])} {ratio['verdict']}"
            found.setdefault(row["network"].removeprefix("map "), {})[row["dtype"]] = text
    rows = [[name, by_dtype["int8"], by_dtype["float32"]] for name, by_dtype in found.items()]
    return "\n".join([MAPS, table(["map", "int8", "float32"], rows), END])


def limits(report: dict[str, Any]) -> str:
    """What attention adds, beside the time that memory traffic alone would take, and the ops that add most."""
    rows = []
    for entry in report["profiles"]:
        none = entry["none_us"]
        added = {op: (time - none.get(op, 0.0)) / 1000 for op, time in entry["lowered_us"].items()}
        largest = sorted(added, key=lambda op: -added[op])[:LARGEST_OPS]
        rows.append(
            [
                entry["network"],
                entry["dtype"],
                f"{entry['extra_ms']:.3g}",
                f"{entry['bound_ms']:.2g}",
                ", ".join(f"{op} {added[op]:.2g}" for op in largest),
            ]
        )
    heads = ["network", "precision", "attention adds, ms", "memory bound, ms", "largest additions by op, ms"]
    return "\n".join([LIMITS, table(heads, rows), END])


def renew(document: str, report: dict[str, Any]) -> str:
    """The document with its three tables replaced; raises ValueError where it lacks one."""
    for block in (networks(report), maps(report), limits(report)):
        document = replace(document, block)
    return document


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "" if low is None or high is None else f"\\[{low:.2f}, {high:.2f}\\]"


def _target(row: dict[str, Any]) -> str:
    if row["target"] is None:
        return "–"
    return f"≤ {row['target']:.2f} {'met' if row['met'] else 'missed'}"


def main(arguments: list[str]) -> None:
    """Renew the tables of DOCUMENT from REPORT."""
    report, document = map(Path, arguments)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), artifacts.read_json(report)))


if __name__ == "__main__":
    main(sys.argv[1:])
