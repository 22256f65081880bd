"""The tables of a report, of plain text: what report.md and report.html both show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import chart_profile, environment, wording
from .wording import NONE

KINDS_OF_OPS = 8  # of each profile that the table tells of
# What environments are known to tell, and how it is called; what is not here is called by its key.
MACHINE = {
    "cpu": "CPU",
    "board": "Board",
    "machine": "Machine",
    "cpu_flags": "Instruction sets",
    "logical_cpus": "CPUs, logical",
    "physical_cores": "CPUs, physical",
    "affinity_cpus": "CPUs allowed by affinity",
    "cgroup_cpus": "CPUs allowed by cgroup",
    "cgroup_memory_bytes": "Memory allowed by cgroup",
    "governor": "Governor",
    "min_mhz": "Lowest MHz",
    "max_mhz": "Highest MHz",
    "virtualised": "Virtualised",
    "memory_bytes": "Memory",
    "swap_bytes": "Swap",
    "gpus": "GPUs",
    "os": "System",
    "kernel": "Kernel",
    "python": "Python",
    "versions": "Versions",
    "git_commit": "Git commit",
}
LIMITS = ("tolerance", "max_relative_error", "min_agreement", "max_distance")  # what parity may ask for
OF_SNAPSHOTS = ("load", "steal_ticks", "cpu_ticks", "user_hz")  # told as load and steal
OF_THE_SESSION = ("started_utc", "load_before", "load_after")  # the report says these of its measurements


@dataclass(frozen=True)
class Table:
    """A heading, what to read into it, and cells of plain text.

    Attributes:
        below: for each row a sentence that belongs below it, or ""; none at all where empty.
        folded: whether a page may show the heading alone until it is asked for the rest.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    folded: bool = False


def results(report: Mapping[str, Any]) -> Table:
    """Every cell, measured or not; device and threads only where they vary."""
    compared = {_key(c, "candidate"): c for c in report["comparisons"] if c["kind"] == "candidate"}
    baselines = {_key(c, "baseline") for c in compared.values()}
    targets = wording.targets(report["results"])
    rows = []
    for row in report["results"]:
        key, latency = _key(row, "model"), row["latency_ms"]
        comparison = compared.get(key)
        speed_up, verdict = NONE, "baseline" if key in baselines else NONE
        if comparison is not None:
            speed_up, verdict = wording.speed_up(comparison["ratio"]), comparison["verdict"]
        rows.append(
            (
                *_place(row),
                wording.kib(row["bytes"]),
                wording.percent(row["accuracy"]),
                wording.percent(row["agreement"]),
                *(wording.error((row["rmse"] or {}).get(name)) for name in targets),
                *(wording.with_interval(latency, name) if latency else NONE for name in ("p50", "p90", "p99")),
                _integer_nodes(row),
                speed_up,
                verdict if row["status"] == "ok" else row["status"],
            )
        )
    columns = (
        *PLACE,
        "KiB",
        "Top-1",
        "Agreement",
        *(f"RMSE {name}" for name in targets),
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "Integer nodes",
        "Speed-up",
        "Verdict",
    )
    below = tuple(row["reason"] for row in report["results"])
    table = Table("Results", columns, tuple(rows), tuple(_results_notes(report, rows, bool(compared))), below)
    return _without_empty_columns(_without_constant_place(table, report["results"]))


def _results_notes(report: Mapping[str, Any], rows: Sequence[tuple[str, ...]], compared: bool) -> list[str]:
    measured = report["results"]
    notes = [
        "Speed-up: baseline latency / latency on the same runtime, paired round by round (so not the quotient of the "
        "p50 column), with its 95 % interval. Faster or slower: the whole interval differs from 1 by over 1 %."
    ]
    images = sorted({row["parity"]["images"] for row in measured if _checked(row) and "images" in row["parity"]})
    if images:
        counts = " or ".join(map(str, images))
        what = "RMSE of each target in its own unit" if wording.targets(measured) else "Top-1 and agreement with Keras"
        notes.append(f"{what}: on {counts} held-out images, checked before anything was timed.")
    if any(row["status"] == "ok" and not _checked(row) for row in measured):
        notes.append("Accuracy and parity were not checked for want of references: these are bare model files.")
    if any(row["status"] == "functional_only" for row in measured):
        notes.append("functional_only: computes what it should where its time is no speed, so it is given none.")
    if any(row["nodes"] for row in measured):
        notes.append(
            "Integer nodes: of the nodes that ONNX Runtime runs after its own optimisation, those whose data are "
            "integers; nodes that handle shapes alone are left out."
        )
    if compared and any(row[-1] == NONE for row in rows):
        notes.append("Rows without a verdict: the baseline was not measured on their runtime.")
    return notes


def without_time(report: Mapping[str, Any]) -> Table:
    """The rows without a time, and why."""
    left = [row for row in report["results"] if row["status"] != "ok"]
    rows = tuple((*_place(row), row["status"], row["reason"]) for row in left)
    table = Table("Not measured", (*PLACE, "Status", "Reason"), rows)
    return _without_constant_place(table, report["results"])


def gate(report: Mapping[str, Any]) -> Table:
    """What ``--fail-if-slower`` found; empty where it was not asked for."""
    found = report["gate"]
    if found is None:
        return Table("Latency gate", ("Candidate",), ())
    rows = tuple(
        (
            *(row["candidate"], row["baseline"], row["runtime"], row["device"], str(row["threads"])),
            *(wording.ratio(row["ratio"]), row["verdict"]),
        )
        for row in found["rows"]
    )
    columns = ("Candidate", "Baseline", "Runtime", "Device", "Threads", "Ratio", "Verdict")
    limit = f"{found['threshold_percent']:g} %"
    said = f"Whether a candidate is slower than the baseline by more than {limit}: {found['verdict']}"
    notes = (said + (f": {found['reason']}." if found["reason"] else "."),)
    return Table("Latency gate", columns, rows or (("none",) + (NONE,) * 6,), notes)


def nodes_in_float(report: Mapping[str, Any]) -> Table:
    rows = []
    for row in report["results"]:
        nodes = row["nodes"]
        if nodes is not None:
            rows += [(*_place(row), e["op"], str(e["count"]), e["reason"]) for e in nodes["in_float"]]
        elif row["nodes_reason"]:
            rows.append((*_place(row), "unknown", NONE, row["nodes_reason"]))
    notes = ("On ONNX Runtime, from a trace of one inference after all timed ones. Each node's name: report.json.",)
    table = Table("Nodes in float", (*PLACE, "Op", "Count", "Reason"), tuple(rows), notes)
    return _without_constant_place(table, report["results"])


def parity(report: Mapping[str, Any]) -> Table:
    """What outputs were compared with and how near they came, for every row that was checked."""
    rows = []
    for row in report["results"]:
        checked = row["parity"]
        if _checked(row):
            allowed = {key: checked.get(key) for key in LIMITS}
            rows.append(
                (
                    *_place(row),
                    str(checked.get("reference", NONE)),
                    str(checked.get("images", checked.get("inputs", NONE))),
                    "; ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in allowed.items() if v is not None) or NONE,
                    *(
                        NONE if checked.get(key) is None else f"{checked[key]:.2g}"
                        for key in ("relative_error", "distance")
                    ),
                )
            )
    notes = ["Before anything was timed. The error is the largest, relative to the reference's largest output."]
    if any(row[-1] != NONE for row in rows):
        notes.append("Distance: the root mean square of the difference, as a share of the reference's own spread.")
    columns = (*PLACE, "Reference", "Inputs", "Allowed", "Relative error", "Distance")
    table = Table("Parity", columns, tuple(rows), tuple(notes), folded=True)
    return _without_empty_columns(_without_constant_place(table, report["results"]))


def start(report: Mapping[str, Any]) -> Table:
    """Loading, first inference, memory and placement of every row that ran."""
    rows = tuple(
        (
            *_place(row),
            NONE if row["init_ms"] is None else f"{row['init_ms']:.2f}",
            wording.milliseconds(row["first_ms"]),
            wording.mib(row["memory"]["peak_bytes"] if row["memory"] else None),
            wording.figure(row["placement"] or {}),
        )
        for row in report["results"]
        if row["status"] in ("ok", "functional_only")
    )
    notes = ("Medians over processes. Peak memory is the whole process up to the first inference, Python included.",)
    columns = (*PLACE, "Load ms", "First ms", "Peak MiB", "Placement")
    table = Table("Start and placement", columns, rows, notes)
    return _without_constant_place(table, report["results"])


def profiles(report: Mapping[str, Any]) -> Table:
    """Each profile on one line, and why there is none where it could not be had."""
    rows = []
    for entry in report["profiles"]:
        known = entry["status"] == "ok"
        outside = entry["not_delegated"]
        rows.append(
            (
                *_place(entry),
                chart_profile.microseconds(entry["total_us"]) if known else NONE,
                _part(entry["attention"]),
                _part(outside) + (f": {', '.join(outside['ops'])}" if outside and outside["ops"] else ""),
                entry["status"],
                (f"attention: {entry['attention_reason']}" if entry["attention_reason"] else NONE)
                if known
                else entry["reason"],
            )
        )
    notes = (
        "Means per inference of a run of their own: profiling costs time, so the sum is no latency. Not delegated: ops "
        "that the delegate left to the runtime itself.",
    )
    columns = (*PLACE, "Sum", "Attention", "Not delegated", "Profile", "Remark")
    table = Table("Profiles", columns, tuple(rows), notes)
    return _without_empty_columns(_without_constant_place(table, report["profiles"]))


def kinds_of_ops(report: Mapping[str, Any]) -> Table:
    """The dearest kinds of ops of each profile."""
    rows = tuple(
        (
            *_place(entry),
            kind["op"],
            str(kind["count"]),
            chart_profile.microseconds(kind["us"]),
            f"{100 * kind['share']:.1f} %",
        )
        for entry in report["profiles"]
        for kind in entry["by_op"][:KINDS_OF_OPS]
    )
    notes = (f"The {KINDS_OF_OPS} dearest kinds of each profile; every op: report.json.",)
    columns = (*PLACE, "Op", "Count", "Time", "Share")
    table = Table("Time by kind of op", columns, rows, notes, folded=True)
    return _without_constant_place(table, report["profiles"])


def proofs(verification: Mapping[str, Any]) -> Table:
    """The gates of ``verify``."""
    rows = tuple(
        (
            "passed" if gate["passed"] else "FAILED",
            gate["name"],
            wording.figure(gate["value"]),
            wording.figure(gate["threshold"]),
            "; ".join(filter(None, (gate["meaning"], gate["detail"]))),
        )
        for gate in verification["gates"]
    )
    return Table("Gates", ("Gate", "Name", "Value", "Threshold", "Meaning"), rows)


def controls(report: Mapping[str, Any]) -> Table:
    found = [c for c in report["comparisons"] if c["kind"] == "control"]
    said = {True: "holds 1", False: "differs"}
    rows = tuple(
        (*_place({**c, "model": c["candidate"]}), wording.ratio(c["ratio"]), said[c["verdict"] == "inconclusive"])
        for c in found
    )
    notes = ("A second process of the same file beside the first, in every session; a sound measurement holds 1.",)
    table = Table("Control: the baseline against itself", (*PLACE, "Ratio", "Verdict"), rows, notes)
    return _without_constant_place(table, report["results"])


def machines(report: Mapping[str, Any]) -> list[Table]:
    """What is known of each machine: those that were measured on, and the one that led where that is another."""
    devices: dict[str, Mapping[str, Any]] = dict(report["devices"])
    if not {"cpu", "gpu"} & set(devices):
        host = report["environment"]
        load = {"before": {"load": host["load_before"]}, "after": {"load": host["load_after"]}}
        devices = {"this one, which led": {"environment": host, **load}, **devices}
    together: list[tuple[list[str], Mapping[str, Any]]] = []
    for name, device in devices.items():  # cpu and gpu are one machine
        same = next((names for names, other in together if other["environment"] == device["environment"]), None)
        if same is None:
            together.append(([name], device))
        else:
            same.append(name)
    return [
        Table("Machine" if len(together) == 1 else f"Machine: {', '.join(names)}", ("What", "Value"), _machine(device))
        for names, device in together
    ]


def _machine(device: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    known = device["environment"]
    rows = []
    for key in [*(key for key in MACHINE if key in known), *(key for key in known if key not in MACHINE)]:
        if key in OF_THE_SESSION:
            continue
        value, name = known[key], MACHINE.get(key, key.replace("_", " ").capitalize())
        rows.append((name, _fact(key, value)))
    before, after = device["before"] or {}, device["after"] or {}
    during = environment.difference(device["before"], device["after"])
    rows.append(
        ("Load before, after", f"{wording.figure(during['load_before'])}, {wording.figure(during['load_after'])}")
    )
    rows.append(("CPU time taken by others (steal)", wording.percent(during["steal_fraction"])))
    for key in dict.fromkeys([*before, *after]):
        if key not in OF_SNAPSHOTS and (before.get(key) is not None or after.get(key) is not None):
            name = f"{key.replace('_', ' ').capitalize()} before, after"
            rows.append((name, f"{_fact(key, before.get(key))}; {_fact(key, after.get(key))}"))
    return tuple(rows)


def _fact(key: str, value: Any) -> str:
    """One fact about a machine in words."""
    if key.endswith("_bytes") and isinstance(value, int) and not isinstance(value, bool):
        return f"{value / 2**30:.1f} GiB"
    if key == "versions":
        return ", ".join(f"{package} {version or 'not installed'}" for package, version in value.items())
    if isinstance(value, Mapping):
        known = [f"{name.replace('_', ' ')} {wording.figure(one)}" for name, one in value.items() if one is not None]
        return ", ".join(known) or wording.figure(None)
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        return "; ".join(_fact(key, one) for one in value)
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return wording.figure(value)


def protocol(report: Mapping[str, Any]) -> Table:
    """How it was measured, in words."""
    how = report["protocol"]
    samples = how["processes"] * how["rounds"] * how["block"]
    counts = sorted({row["threads"] for row in report["results"]})
    times = [
        f"{entry['started_utc']} to {entry['finished_utc']}" if entry["finished_utc"] else f"{entry['started_utc']}"
        for entry in report["measurements"]
    ]
    warm_up = f"{how['warm_up']} runs" + (f" and {how['warm_up_s']:g} s" if how["warm_up_s"] else "")
    rows = (
        ("Protocol", how["note"]),
        (
            "Samples of each row",
            f"n = {samples}: {how['processes']} processes × {how['rounds']} rounds × blocks of {how['block']}",
        ),
        ("Untimed", f"{warm_up} before the first round, {how['lead_in']} before each block"),
        ("Threads", ", ".join(map(str, counts))),
        ("Inputs", _fed(report["inputs"])),
        ("Timed", how["timed"]),
        *([("CPUs", how["pinning"])] if how["pinning"] else []),
        ("Ratio", how["ratio"]),
        ("Intervals", f"{100 * how['confidence']:g} %"),
        ("Seed", str(how["seed"])),
        ("Measured (UTC)", "; ".join(times)),
    )
    return Table("Protocol", ("What", "Value"), rows)


def _fed(inputs: Mapping[str, Any]) -> str:
    shapes = ", ".join(f"{name} {sizes}" for name, sizes in inputs["shapes"].items()) or "batch 1 or as the file says"
    digest = inputs["file_sha256"]
    return f"{shapes}; real ones from a file with sha256 {digest[:12]}…" if digest else shapes


PLACE = ("Model", "Runtime", "Device", "Threads")


def _place(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["model"], row["runtime"], row["device"], str(row["threads"])


def _key(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return row[name], row["runtime"], row["device"], row["threads"]


def _without_constant_place(table: Table, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Without the columns Device and Threads where they say the same of all rows of the report."""
    constant = {name for name in ("Device", "Threads") if len({row[name.lower()] for row in rows}) <= 1}
    return _with_columns(table, [i for i, name in enumerate(table.columns) if name not in constant])


def _without_empty_columns(table: Table) -> Table:
    return _with_columns(table, [i for i in range(len(table.columns)) if any(row[i] != NONE for row in table.rows)])


def _with_columns(table: Table, keep: Sequence[int]) -> Table:
    rows = tuple(tuple(row[i] for i in keep) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in keep), rows=rows)


def _integer_nodes(row: Mapping[str, Any]) -> str:
    """``52/55``: nodes on integers, of those on integers or in float."""
    nodes = row["nodes"]
    return NONE if nodes is None else f"{nodes['integer']}/{nodes['integer'] + nodes['float']}"


def _part(part: Mapping[str, Any] | None) -> str:
    return NONE if part is None else f"{chart_profile.microseconds(part['us'])}, {100 * part['share']:.1f} %"


def _checked(row: Mapping[str, Any]) -> bool:
    return bool(row["parity"] and row["parity"]["checked"])
