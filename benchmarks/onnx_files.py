"""What ONNX Runtime and OpenVINO make of our .onnx files and of others: measures the files of export/onnx_study.py.

    python -m edgecbam.benchmarks.onnx_files FOLDER REPORT.json [--quick]

All files of a network, with CBAM and without, are measured side by side in the same sessions, so that every ratio is of
times from the same rounds. One more process of each baseline runs along as a control.
"""

import datetime
import sys
import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts, runtimes
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent, ignore

from . import environment, onnx_targets, parity, sessions, statistics, study_command
from .cells import Cell
from .onnx_targets import Row
from .protocol import Protocol
from .sessions import Outcome

INDEX_FILE = "index.json"
ATTENTIONS = ("none", "cbam")
BASELINE = "fp32_tf2onnx"
ON_OPENVINO = ("fp32", "int8")
RUNTIMES = ("onnxruntime", "openvino", "openvino_bf16", "litert")

FAST = Protocol("onnx", 5, 20, 5, 1, 20, "networks of up to 20 ms; read the figures with their intervals")
SLOW = Protocol("onnx_slow", 5, 10, 3, 1, 5, "networks above 20 ms: in a third of the runs")
QUICK = Protocol("quick", 2, 5, 3, 1, 5, "a look, not a publication")
SLOW_MS = 20.0


@dataclass(frozen=True)
class Network:
    """An entry of the study's index.

    Attributes:
        files: path by attention and variant.
        left_out: why a variant has no file, likewise.
        checks: by attention, what the study found when it compared the files.
    """

    name: str
    height: int
    width: int
    files: Mapping[str, Mapping[str, Path]]
    left_out: Mapping[str, Mapping[str, str]]
    checks: Mapping[str, Mapping[str, Any]]


def read_index(folder: Path) -> list[Network]:
    """The networks of a study; raises InputError where ``index.json`` is missing or no such index."""
    path = folder / INDEX_FILE
    raw = artifacts.read_json(path)
    try:
        found = [
            Network(
                entry["name"],
                int(entry["height"]),
                int(entry["width"]),
                {a: {variant: folder / name for variant, name in entry["files"][a].items()} for a in ATTENTIONS},
                {a: dict(entry["left_out"][a]) for a in ATTENTIONS},
                {a: dict(entry["check"][a]) for a in ATTENTIONS},
            )
            for entry in raw["networks"]
        ]
        for network in found:
            controls(network)  # each needs its baseline
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no index of an ONNX study ({error!r}): make it again") from None


def cells(network: Network) -> dict[Row, Cell]:
    """A cell for each file on each runtime that it is measured on."""
    found = {}
    for attention in ATTENTIONS:
        baseline = _model(attention, BASELINE)
        for variant, path in network.files[attention].items():
            for runtime in _runtimes(variant, path):
                cell = Cell(_model(attention, variant), path, runtime, 1, None, baseline)
                found[Row(attention, variant, runtime)] = cell
        for variant, reason in network.left_out[attention].items():
            cell = Cell(_model(attention, variant), Path(), "onnxruntime", 1, None, baseline, False, "skipped", reason)
            found[Row(attention, variant)] = cell
    return found


def controls(network: Network) -> dict[Row, Cell]:
    """A second process of each baseline."""
    found = {}
    for attention in ATTENTIONS:
        model, path = _model(attention, BASELINE), network.files[attention][BASELINE]
        found[Row(attention, BASELINE)] = Cell(model, path, "onnxruntime", 1, None, model, control=True)
    return found


def rows(network: Network, outcomes: Mapping[str, Outcome], protocol: str) -> list[dict[str, Any]]:
    """One row for each cell, compared with the baseline of the same attention; no figures where it was not measured.

    Args:
        network: what was measured.
        outcomes: of its cells, by key.
        protocol: name of the protocol.
    """
    found = []
    for row, cell in cells(network).items():
        outcome = outcomes[cell.key]
        baseline = Row(row.attention, BASELINE)
        compared = outcomes[cells(network)[baseline].key]
        ok = outcome.status == "ok"
        latency = statistics.latency(outcome.samples_ns) if ok else {}
        ratio = onnx_targets.ratio(outcome, compared) if ok and compared.status == "ok" else None
        found.append(
            {
                "network": network.name,
                "attention": row.attention,
                "runtime": row.runtime,
                "variant": row.variant,
                "protocol": protocol,
                "status": outcome.status,
                "reason": outcome.reason,
                "bytes": cell.path.stat().st_size if cell.path.is_file() else None,
                "p50_ms": latency.get("p50"),
                "baseline": str(baseline),
                "ratio": ratio["value"] if ratio else None,
                "interval": [ratio["low"], ratio["high"]] if ratio else None,
                "n": latency.get("n", 0),
                "processes": latency.get("processes", 0),
                "nodes": outcome.nodes,
                "nodes_reason": outcome.nodes_reason,
            }
        )
    return found


def judged_controls(network: Network, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """What two processes of the same file differ by; no value where one was not measured."""
    found = []
    for row, control in controls(network).items():
        pair = outcomes[control.key], outcomes[cells(network)[row].key]
        nothing = {"value": None, "low": None, "high": None}
        ratio = onnx_targets.ratio(*pair) if all(outcome.status == "ok" for outcome in pair) else nothing
        found.append({"network": network.name, "row": str(row), **ratio})
    return found


def run(folder: Path, quick: bool, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Measure a study.

    Args:
        folder: what export/onnx_study.py wrote.
        quick: a fast look.
        on_event: told of every network.

    Raises:
        InputError: no study, or a file is damaged.
    """
    networks = read_index(folder)
    surroundings = environment.describe(RUNTIMES)
    surroundings["started_utc"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    surroundings["load_before"] = environment.load_average()
    report: dict[str, Any] = {"rows": [], "targets": [], "controls": [], "checks": []}
    for network in networks:
        protocol = QUICK if quick else _protocol(network)
        on_event(Event("onnx_files", message=f"{network.name}: {protocol.name}"))
        of_rows = cells(network)
        outcomes = sessions.run_sessions([*of_rows.values(), *controls(network).values()], protocol)
        report["rows"] += rows(network, outcomes, protocol.name)
        by_row = {row: outcomes[cell.key] for row, cell in of_rows.items()}
        report["targets"] += onnx_targets.judge(network.name, by_row)
        report["controls"] += judged_controls(network, outcomes)
        report["checks"] += [{"network": network.name, "attention": a, **network.checks[a]} for a in ATTENTIONS]
    surroundings["load_after"] = environment.load_average()
    return {
        "schema_version": 1,
        "command": "make bench-onnx" + (" ARGS=--quick" if quick else ""),
        "environment": surroundings,
        "protocol": [protocol.describe() for protocol in ([QUICK] if quick else [FAST, SLOW])],
        **report,
    }


def _model(attention: str, variant: str) -> str:
    return f"{attention} {variant}"


def _runtimes(variant: str, path: Path) -> tuple[str, ...]:
    if path.suffix == ".tflite":
        return ("litert",)
    return ("onnxruntime", "openvino", "openvino_bf16") if variant in ON_OPENVINO else ("onnxruntime",)


def _protocol(network: Network) -> Protocol:
    """By the baseline with CBAM: best of three."""
    session = runtimes.find("onnxruntime").open(network.files["cbam"][BASELINE], threads=1)
    try:
        session.prepare(parity.random_inputs(session, FAST.seed)[0])
        best_s = min(timeit.repeat(session.invoke, number=1, repeat=3))
    finally:
        session.close()
    return SLOW if best_s * 1e3 > SLOW_MS else FAST


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    study_command.main("onnx_files", __doc__, "onnx_study", run, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
