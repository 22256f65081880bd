"""What report.json holds: its published JSON Schema, and older reports brought into today's form.

    python -m edgecbam.benchmarks.report_schema > report.schema.json

A version is raised whenever a reader of the one before would no longer understand the file.
"""

import json
import sys
from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgecbam.errors import InputError

VERSION = 3
FILE = "report.schema.json"


def load() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the version that is written today."""
    schema: dict[str, Any] = json.loads(resources.files(__package__).joinpath(FILE).read_text("utf-8"))
    return schema


def upgraded(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of any version that was ever written, in today's form; what was not recorded then is null.

    Raises:
        InputError: the report is from a later edgecbam, or is none.
    """
    version = report.get("schema_version") if isinstance(report, Mapping) else None
    if version == VERSION:
        return dict(report)
    if version == 2:
        return _from_2(report)
    if version == 1:
        return _from_2(_from_1(report))
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"the report has schema version {version}, this edgecbam reads up to {VERSION}: update it")
    raise InputError("this is no report.json of edgecbam: run `edgecbam benchmark` again")


def resumable(report: Any) -> Any:
    """A report that another measurement may go on with, in today's form: one of version 2 lacks nothing but a key."""
    whole = isinstance(report, dict) and isinstance(report.get("results"), list)
    if whole and report.get("schema_version") == 2 and all(isinstance(row, dict) for row in report["results"]):
        return _from_2(report)
    return report


def problem(report: Any) -> str:
    """Why a value is no report of today's version that can be gone on with, or "".

    The schema says more; this asks for what is relied on, without a validator, which an edge device does not have.
    """
    if not isinstance(report, dict) or report.get("schema_version") != VERSION:
        return f"its schema version is not {VERSION}"
    place: dict[str, type] = {"runtime": str, "device": str, "threads": int}
    lists: dict[str, dict[str, type]] = {
        "results": {"model": str, "status": str, **place},
        "comparisons": {"kind": str, "baseline": str, "candidate": str, "process_ratios": list, **place},
        "profiles": {"model": str, "status": str, **place},
        "models": {"name": str, "sha256": str, "bytes": int},
        "measurements": {"started_utc": str, "cells": list},
    }
    for name, keys in lists.items():
        entries = report.get(name)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return f"{name} is no list of objects"
        for key, kind in keys.items():
            if not all(isinstance(entry.get(key), kind) for entry in entries):
                return f"an entry of {name} lacks {key}"
    if not all(_is_comparison(entry) for entry in report["comparisons"]):
        return "an entry of comparisons has no verdict or ratio"
    wrong = [
        name for name in ("protocol", "inputs", "devices", "environment") if not isinstance(report.get(name), dict)
    ]
    return f"{wrong[0]} is no object" if wrong else ""


def _is_comparison(entry: Mapping[str, Any]) -> bool:
    ratio = entry.get("ratio")
    return (
        entry.get("verdict") in ("faster", "slower", "inconclusive")
        and isinstance(ratio, dict)
        and {"value", "low", "high"} <= ratio.keys()
        and all(value is None or (type(value) in (int, float) and value > 0) for value in ratio.values())
    )


def _from_1(report: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 knew one machine, its CPU, and one measurement."""
    environment = report["environment"]
    unknown = {"nodes": None, "nodes_reason": "", "measurement": 0, "baseline": None, "cpus": None}
    before, after = {"load": environment["load_before"]}, {"load": environment["load_after"]}
    keys = ["|".join(str(row[name]) for name in ("model", "runtime", "device", "threads")) for row in report["results"]]
    return {
        **report,
        "schema_version": 2,
        "devices": {"cpu": {"environment": environment, "before": before, "after": after}},
        "protocol": {"warm_up_s": 0.0, "pinning": "", **report["protocol"]},
        "inputs": {"shapes": {}, "file_sha256": None},
        "results": [{**unknown, **row} for row in report["results"]],
        "comparisons": [
            {"process_ratios": None, "measurement": 0, **comparison} for comparison in report["comparisons"]
        ],
        "profiles": [],
        "measurements": [{"started_utc": environment["started_utc"], "finished_utc": None, "cells": keys}],
        "gate": None,
    }


def _from_2(report: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2 knew classifiers alone."""
    return {**report, "schema_version": VERSION, "results": [{"rmse": None, **row} for row in report["results"]]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(load(), indent=2) + "\n")
