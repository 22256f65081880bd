"""The table in the terminal: device and threads where they vary, rows without a time, and never over 80 columns."""

import copy
from typing import Any

import pytest
from example_report import ratio_of, rich

from edgecbam import tables


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(rich()[0])


def lines(report: dict[str, Any]) -> list[str]:
    text = tables.results_table(report).split("\n")
    assert max(map(len, text)) <= 80
    return text


def test_places_stand_in_columns_where_they_vary(report: dict[str, Any]) -> None:
    header, *rows = lines(report)
    assert header.split()[:4] == ["model", "runtime", "device", "thr"]
    for device, threads, p50 in (("ssh:pi", 1, "1.29"), ("cpu", 2, "0.147")):
        speed_up = tables.speed_up(ratio_of(report, "model_int8.tflite", "litert", device, threads))
        words = f"int8.tflite litert {device} {threads} {p50} {speed_up} faster"
        assert words in [" ".join(row.split()) for row in rows]
    report["results"] = [row for row in report["results"] if row["device"] == "cpu" and row["threads"] == 2]
    assert lines(report)[0].split()[:3] == ["model", "runtime", "top-1"], "nothing varies"
    assert " 88.30 " in "\n".join(lines(report))


def test_rows_without_a_time_show_why(report: dict[str, Any]) -> None:
    text = lines(report)
    (row,) = [line for line in text if "litert_gpu" in line and "fp32" in line]
    assert row.split()[3:6] == ["1", "functional_only:", "SwiftShader"]
    assert "SwiftShader Device is an emulation on the CPU: its time is no GPU's" in text
    (lost,) = [line for line in text if line.startswith("fp16") and "adb:" in line]
    assert lost.split()[2] == "adb:01234…"


def test_columns_that_find_no_room_are_named(report: dict[str, Any]) -> None:
    assert "no room for KiB, top-1 %: see report.json" in lines(report)
    nodes = {"total": 160, "integer": 152, "float": 4, "other": 4, "in_float": []}
    for row in report["results"]:
        row["runtime"], row["nodes"] = "onnxruntime_tensorrt", nodes
    for comparison in report["comparisons"]:
        comparison["runtime"] = "onnxruntime_tensorrt"
    text = lines(report)
    assert "no room for int, KiB, top-1 %: see report.json" in text
    assert text[1].split()[1] == "onnxruntime_ten…"


def test_long_names_are_told_apart_by_their_ends(report: dict[str, Any]) -> None:
    names = {
        "model_fp32.tflite": "resnet_20_at_32x32_fp32.tflite",
        "model_int8.tflite": "resnet_20_at_32x32_int8.tflite",
    }
    report["results"] = [{**row, "model": names[row["model"]]} for row in report["results"] if row["model"] in names]
    shown = {line.split()[0] for line in lines(report)[1:] if " litert" in line}
    assert shown == {"…fp32.tflite", "…int8.tflite"}
    for row in report["results"]:
        row["accuracy"] = None
    assert "top-1" not in "\n".join(lines(report))
