"""What the ONNX files are worth: rows and targets from planted samples, and the tables made of them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import onnx_files, onnx_table, onnx_targets
from edgecbam.benchmarks.measure import Outcome
from edgecbam.benchmarks.onnx_files import Network
from edgecbam.benchmarks.onnx_targets import Row
from edgecbam.errors import InputError

VARIANTS = ("fp32_tf2onnx", "fp32", "int8_as_written", "int8", "int8_quantize_static")
TIMES_NS = {"fp32_tf2onnx": 6e6, "fp32": 5e6, "int8_as_written": 5e6, "int8": 2.4e6, "int8_quantize_static": 6e6}
WITHOUT = {"fp32_tf2onnx": 3.6e6, "fp32": 3.6e6, "int8_as_written": 1.8e6, "int8": 1.6e6, "int8_quantize_static": 1.5e6}
CHECK = {
    "images": 1000,
    "classes": 7,
    "int8": {"lsb": 2, "beyond": 3, "as_litert": 0.9995},
    "fp32": {"relative_error": 2.5e-7},
}
MOOD = (1.0, 1.5, 0.8)  # of the machine in each session: it must cancel


@pytest.fixture
def network(fixtures: Path) -> Network:
    files = {
        attention: {
            **dict.fromkeys(VARIANTS, fixtures / "tiny_int8.onnx"),
            "int8_tflite": fixtures / "tiny_int8.tflite",
        }
        for attention in onnx_files.ATTENTIONS
    }
    return Network(
        "net", 8, 8, files, {"none": {}, "cbam": {"int8_opset21": "no converter"}}, dict.fromkeys(files, CHECK)
    )


def planted(network: Network) -> dict[str, Outcome]:
    """Outcomes with known times: [processes, rounds, runs]; controls are 2 % slower; bfloat16 is not to be had."""
    outcomes = {}
    for row, cell in [*onnx_files.cells(network).items(), *onnx_files.controls(network).items()]:
        if cell.status or row.runtime == "openvino_bf16":
            outcomes[cell.key] = Outcome(status=cell.status or "unsupported", reason=cell.reason or "no bfloat16")
            continue
        base = (TIMES_NS if row.attention == "cbam" else WITHOUT).get(row.variant, 1e6) * (1.02 if cell.control else 1)
        outcomes[cell.key] = Outcome(samples_ns=[[[round(base * mood)] * 5] * 4 for mood in MOOD])
    return outcomes


def report(network: Network) -> dict[str, Any]:
    outcomes = planted(network)
    by_row = {row: outcomes[cell.key] for row, cell in onnx_files.cells(network).items()}
    return {
        "rows": onnx_files.rows(network, outcomes, "quick"),
        "targets": onnx_targets.judge(network.name, by_row),
        "controls": onnx_files.judged_controls(network, outcomes),
        "checks": [{"network": network.name, "attention": a, **network.checks[a]} for a in onnx_files.ATTENTIONS],
        "environment": {
            "cpu": "A CPU",
            "logical_cpus": 2,
            "os": "Debian",
            "versions": {"onnxruntime": "1.32.0", "openvino": "2026.4.1", "litert": "2.3.0"},
        },
    }


def test_every_file_is_measured_where_it_runs(network: Network) -> None:
    runtimes = {(row.variant, row.runtime) for row in onnx_files.cells(network)}
    assert {runtime for variant, runtime in runtimes if variant == "int8"} == {
        "onnxruntime",
        "openvino",
        "openvino_bf16",
    }
    assert ("int8_tflite", "litert") in runtimes
    assert ("int8_quantize_static", "openvino") not in runtimes


def test_rows_hold_ratios_to_the_baseline_and_reasons(network: Network) -> None:
    rows = {(r["attention"], r["variant"], r["runtime"]): r for r in report(network)["rows"]}
    ours = rows["cbam", "int8", "onnxruntime"]
    assert math.isclose(ours["ratio"], 0.4)
    assert ours["interval"] == pytest.approx([0.4, 0.4])
    assert ours["p50_ms"] == pytest.approx(2.4 * math.prod(MOOD) ** (1 / 3))  # of a typical process
    assert (ours["n"], ours["processes"]) == (60, 3)
    without = rows["cbam", "int8", "openvino_bf16"]
    assert (without["status"], without["p50_ms"], without["ratio"]) == ("unsupported", None, None)
    left_out = rows["cbam", "int8_opset21", "onnxruntime"]
    assert (left_out["status"], left_out["reason"]) == ("skipped", "no converter")


def test_targets_are_judged_by_their_limits(network: Network) -> None:
    judged = {entry["name"]: entry for entry in report(network)["targets"]}
    faster = judged["cbam: tf2onnx float32 / int8"]
    assert (faster["value"], faster["met"]) == (pytest.approx(2.5), True)
    cost = judged["CBAM's cost: int8 / int8 without"]
    assert (cost["value"], cost["met"]) == (pytest.approx(1.5), False)
    assert judged["CBAM's cost: int8 / as written without"]["met"] is None
    assert judged["none: int8 / quantize_static"]["met"] is False
    assert judged["cbam: int8 / quantize_static"]["met"] is True
    missing = judged["cbam: OpenVINO int8 / bfloat16"]
    assert missing["value"] is None
    assert missing["reason"]


def test_controls_show_what_equal_things_differ_by(network: Network) -> None:
    assert [entry["value"] for entry in report(network)["controls"]] == pytest.approx([1.02, 1.02])


def test_an_index_of_something_else_is_refused(network: Network, tmp_path: Path) -> None:
    entry = {
        "name": "net",
        "height": 8,
        "width": 8,
        "files": {a: {v: str(path) for v, path in files.items()} for a, files in network.files.items()},
        "left_out": network.left_out,
        "check": network.checks,
    }
    artifacts.write_json(tmp_path / "index.json", {"networks": [entry]})
    assert onnx_files.read_index(tmp_path) == [network]
    del entry["files"]["none"]["fp32_tf2onnx"]
    artifacts.write_json(tmp_path / "index.json", {"networks": [entry]})
    with pytest.raises(InputError, match=r"index\.json is no index of an ONNX study"):
        onnx_files.read_index(tmp_path)


def test_the_tables_say_what_the_report_says(network: Network) -> None:
    made = report(network)
    blocks = [onnx_table.NETWORKS, onnx_table.CHECKS, onnx_table.TARGETS, onnx_table.NODES]
    document = "\n\n".join(f"{block}\n<!-- end of the table -->" for block in blocks)
    renewed = onnx_table.renew(document, made)
    assert onnx_table.renew(renewed, made) == renewed
    assert "| with | `int8` | ONNX Runtime | 2.55 **0.40** \\[0.40, 0.40\\] |" in renewed
    assert "≤ 1.40 | **1.50** \\[1.50, 1.50\\] missed |" in renewed
    assert "no bfloat16" in renewed
    assert "| net | with | 1000 | 7 | 2 LSB | 3 | 99.95% | 2e-07 |" in renewed
    with pytest.raises(ValueError, match="lacks the lines"):
        onnx_table.renew("no table", made)


def test_rows_are_values_that_name_themselves() -> None:
    assert str(Row("cbam", "int8")) == "cbam int8 on onnxruntime"
    assert dataclasses.replace(Row("cbam", "int8"), runtime="litert") == Row("cbam", "int8", "litert")
