"""The tables of docs/trust.md: ``python -m edgecbam.benchmarks.trust_table RESULTS DOCUMENT``.

RESULTS is the folder with coverage.json, against_tools.json and control_sessions.json. The tables stand between comment
lines, so that a test can compare them with the reports that they came from.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace

FILES = ("coverage.json", "against_tools.json", "control_sessions.json")
MACHINES = "<!-- begin of the machines made by edgecbam.benchmarks.trust_table -->"
COVERAGE = "<!-- begin of the coverage made by edgecbam.benchmarks.trust_table -->"
LIMITS = "<!-- begin of the limits made by edgecbam.benchmarks.trust_table -->"
GATE = "<!-- begin of the gate made by edgecbam.benchmarks.trust_table -->"
FAMILIES = "<!-- begin of the families made by edgecbam.benchmarks.trust_table -->"
TOOLS = "<!-- begin of the tools made by edgecbam.benchmarks.trust_table -->"
OVERHEAD = "<!-- begin of the overhead made by edgecbam.benchmarks.trust_table -->"
SESSIONS = "<!-- begin of the sessions made by edgecbam.benchmarks.trust_table -->"
INTERVALS = ("ratio", "p50", "p90", "p99")
Report = Mapping[str, Any]


def machines(report: Report) -> str:
    """What disturbs a time on each simulated machine."""
    heads = ["machine", "run to run", "correlation", "disturbed runs", "process to process", "drift", "besides"]
    rows = []
    for machine in report["machines"]:
        besides = []
        if machine["trend"]:
            besides.append(f"{_percent(machine['trend'], 0)} slower by the end")
        if machine["slow_share"]:
            share, size = _percent(machine["slow_share"], 0), _percent(machine["slow_size"], 0)
            besides.append(f"{share} of the processes {size} slower")
        figures = [_percent(machine["noise"]), f"{machine['correlation']:.1f}", _percent(machine["bursts"])]
        figures += [_percent(machine["process"]), _percent(machine["drift"])]
        rows.append([machine["name"], *figures, ", ".join(besides) or "–"])
    return _block(MACHINES, heads, rows)


def coverage(report: Report) -> str:
    """Coverage of every interval, and its half-width, on the machines that the intervals are made for."""
    below = f"{report['measurements']} simulated measurements each; nominal {_percent(report['nominal'], 0)}."
    return _coverage(COVERAGE, report, False, below)


def limits(report: Report) -> str:
    """The same on the machines that they are not made for."""
    return _coverage(LIMITS, report, True, "")


def gate(report: Report) -> str:
    """How often the gate at 5 % calls a candidate slower, and the false alarms at every threshold."""
    slowdowns = sorted({row["slowdown"] for row in report["gate"]})
    thresholds = sorted({row["threshold"] for row in report["gate"]})
    heads = ["machine", "protocol", *(f"A/A at {t:g} %" for t in thresholds)]
    heads += [f"{s:g} % at {max(thresholds):g} %" for s in slowdowns if s]
    found = {(row["machine"], row["protocol"], row["threshold"], row["slowdown"]): row for row in report["gate"]}
    rows = []
    for machine, protocol in _places(report, False):
        cells = [found[machine, protocol, threshold, 0.0]["slower"] for threshold in thresholds]
        cells += [found[machine, protocol, max(thresholds), slowdown]["slower"] for slowdown in slowdowns if slowdown]
        rows.append([machine, protocol, *(_percent(share) for share in cells)])
    return _block(GATE, heads, rows)


def families(report: Report) -> str:
    """False alarms of a gate of several candidates, all equal to the baseline, at 0 %."""
    heads = ["protocol", "candidates", "with widened intervals", "were they not widened"]
    rows = [
        [row["protocol"], str(row["candidates"]), _percent(row["corrected"]), _percent(row["plain"])]
        for row in report["families"]
    ]
    names = ", ".join(dict.fromkeys(row["machine"] for row in report["families"]))
    below = f"The machine “{names}”, {report['family_measurements']} simulated measurements each."
    return _block(FAMILIES, heads, rows, below)


def tools(report: Report) -> str:
    """p50 of edgecbam over that of each public tool."""
    heads = ["file", "tool", "edgecbam's runtime", "edgecbam, ms", "tool, ms", "ratio", "within 3 %"]
    rows = []
    for row in report["comparisons"]:
        control = row["kind"] == "control"
        met = {None: "–", True: "yes", False: "no"}[None if control else row["within"]]
        other = "edgecbam again" if control else f"`{row['tool']}`"
        times = [f"{row['edgecbam_ms']:.4g}", f"{row['other_ms']:.4g}"]
        rows.append([f"`{row['model']}`", other, f"`{row['runtime']}`", *times, _ratio(row["ratio"]), met])
    counts = sorted({row["rounds"] for row in report["comparisons"]})
    versions = ", ".join(f"{name} of {version}" for name, version in report["versions"].items())
    below = f"{_machine(report)}; {versions}; 1 thread, {' or '.join(map(str, counts))} fresh processes of each side."
    return _block(TOOLS, heads, rows, below)


def overhead(report: Report) -> str:
    """What the harness takes, and the smallest models."""
    taken = report["overhead"]
    rows = [["an inference that does nothing", "–", _microseconds(taken["empty_ns"], 1e-3)]]
    rows += [
        [f"`{row['model']}`", f"`{row['runtime']}`", _microseconds(row["p50_ms"], 1e3)]
        for row in taken["smallest"]
        if not row["reason"]
    ]
    below = f"{_machine(report)}; p50 of {taken['runs']} runs in each of {taken['processes']} fresh processes."
    return _block(OVERHEAD, ["what", "runtime", "µs"], rows, below)


def sessions(report: Report) -> str:
    """Every session of a file against its copy."""
    heads = ["session", "ratio", "half-width", "control", "verdict"]
    rows = [
        [str(n), _ratio(row["ratio"]), _percent(row["half_width"], 2), _ratio(row["control"]), row["verdict"]]
        for n, row in enumerate(report["sessions"], 1)
    ]
    summary, protocol = report["summary"], report["protocol"]
    worst, widest = _percent(summary["worst"], 2), _percent(summary["widest"], 2)
    below = (
        f"`{report['model']['name']}` on {report['runtime']}, 1 thread, {protocol['name']} protocol; "
        f"{_machine(report)}. Farthest from 1: {worst}; widest half-width: {widest}; 1 lies within the interval in "
        f"{summary['covered']} of {summary['sessions']} sessions. Asked for: both at most "
        f"{_percent(summary['limit'], 0)}, {'met' if summary['met'] else 'missed'}."
    )
    return _block(SESSIONS, heads, rows, below)


def renew(document: str, simulated: Report, beside: Report, controls: Report) -> str:
    """The document with its tables replaced; raises ValueError where it lacks one."""
    blocks = [make(simulated) for make in (machines, coverage, limits, gate, families)]
    for block in [*blocks, tools(beside), overhead(beside), sessions(controls)]:
        document = replace(document, block)
    return document


def _coverage(begin: str, report: Report, limit: bool, below: str) -> str:
    found = {(row["machine"], row["protocol"], row["interval"]): row for row in report["coverage"]}

    def cell(machine: str, protocol: str, interval: str) -> str:
        row = found.get((machine, protocol, interval))
        return "–" if row is None else f"{_percent(row['coverage'])} (± {_percent(row['half_width'])})"

    rows = [[*place, *(cell(*place, name) for name in INTERVALS)] for place in _places(report, limit)]
    return _block(begin, ["machine", "protocol", *INTERVALS], rows, below)


def _places(report: Report, limit: bool) -> list[tuple[str, str]]:
    """Machine and protocol, of the machines that are limits or that are not."""
    names = [machine["name"] for machine in report["machines"] if machine["limit"] == limit]
    return [(name, protocol["name"]) for name in names for protocol in report["protocols"]]


def _machine(report: Report) -> str:
    environment = report["environment"]
    return f"{environment['cpu']}, {environment['logical_cpus']} CPUs, {environment['os']}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _ratio(found: Mapping[str, float | None]) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return "–" if value is None else f"{value:.3f}"
    return f"{value:.3f} \\[{low:.3f}, {high:.3f}\\]"


def _microseconds(found: Mapping[str, Any], factor: float) -> str:
    low, high = (f"{factor * bound:.3g}" for bound in found["interval"])
    return f"{factor * found['value']:.3g} \\[{low}, {high}\\]"


def _block(begin: str, heads: Sequence[str], rows: Sequence[Sequence[str]], below: str = "") -> str:
    lines = [f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]]
    return "\n".join([begin, *lines, *(["", below] if below else []), END])


def main(arguments: Sequence[str]) -> None:
    """Renew the tables of DOCUMENT from the reports in RESULTS."""
    results, document = map(Path, arguments)
    reports = [artifacts.read_json(results / name) for name in FILES]
    artifacts.write_whole(document, renew(document.read_text("utf-8"), *reports))


if __name__ == "__main__":
    main(sys.argv[1:])
