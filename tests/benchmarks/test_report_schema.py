"""The published schema takes what edgecbam writes and nothing else, and old reports are still read."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from example_report import rich

from edgecbam.benchmarks import gate, measure, protocol, readme_table, report_schema
from edgecbam.benchmarks import report as reports
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import InputError


def problems(report: dict[str, Any]) -> list[str]:
    """Where a report breaks the schema, as JSON paths."""
    validator = jsonschema.Draft202012Validator(report_schema.load())
    return sorted(error.json_path for error in validator.iter_errors(json.loads(json.dumps(report))))


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(rich()[0])


def test_the_schema_is_one_and_its_name_holds_its_version() -> None:
    schema = report_schema.load()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(f":report:{report_schema.VERSION}")
    assert schema["properties"]["schema_version"] == {"const": report_schema.VERSION}


def test_the_schema_can_be_had_from_an_installed_package() -> None:
    command = [sys.executable, "-m", "edgecbam.benchmarks.report_schema"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(told) == report_schema.load()


def test_a_rich_report_fits(report: dict[str, Any]) -> None:
    assert problems(report) == []


def test_what_is_really_measured_fits(
    fixtures: Path, tiny_protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(protocol.PROTOCOLS, "quick", tiny_protocol)
    request = measure.Request(runtimes=("litert",), protocol="quick", devices=("cpu", "gpu"), profile=True)
    models = [fixtures / "tiny_int8.tflite"]
    report = measure.benchmark_models(models, request, baseline=fixtures / "tiny_fp32.tflite")
    assert {row["status"] for row in report["results"]} == {"ok", "unsupported"}
    assert {entry["status"] for entry in report["profiles"]} == {"ok"}
    report["gate"] = gate.judge(report, 5.0)
    measure.write_report(tmp_path, report)
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert problems(written) == []
    samples = measure.raw_samples(report)
    reports.write_pages(tmp_path, written, None, None, samples)
    page = (tmp_path / "report.html").read_text("utf-8")
    for title in ("Speed-up", "Distribution of latency", "Latency over time", "tiny_int8.tflite on litert"):
        assert f"<h3>{title}" in page


def objects(value: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects inside a value."""
    if isinstance(value, dict):
        yield path, value
        for key, entry in value.items():
            yield from objects(entry, f"{path}.{key}")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from objects(entry, f"{path}[{i}]")


OPEN = ("environment", "placement", "parity", "before", "after", "versions", "devices")


def test_a_word_nobody_knows_is_found_wherever_things_are_not_meant_to_grow(report: dict[str, Any]) -> None:
    checked = 0
    small = {**report, "results": report["results"][:1], "comparisons": report["comparisons"][:1]}
    small |= {"profiles": report["profiles"][:1], "models": report["models"][:1]}
    for path, value in list(objects(small)):
        if path.rpartition(".")[2] in OPEN:
            continue
        value["nobody_knows"] = 1
        assert problems(small), path
        del value["nobody_knows"]
        checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda r: r.update(schema_version=4), "$.schema_version"),
        (lambda r: r.pop("gate"), "$"),
        (lambda r: r["results"][0].update(status="fine"), "$.results[0]"),
        (lambda r: r["results"][0].update(latency_ms=None), "$.results[0].latency_ms"),
        (lambda r: r["results"][0].update(reason="but"), "$.results[0].reason"),
        (lambda r: r["results"][-1].update(reason=""), "$.results[20].reason"),
        (lambda r: r["results"][-1].update(latency_ms=r["results"][0]["latency_ms"]), "$.results[20].latency_ms"),
        (lambda r: r["results"][0].update(threads=0), "$.results[0].threads"),
        (lambda r: r["results"][0].update(accuracy=88.1), "$.results[0].accuracy"),
        (lambda r: r["results"][0].update(device="tpu"), "$.results[0].device"),
        (lambda r: r["results"][0]["latency_ms"]["intervals"].update(p50=[1.0]), "intervals.p50"),
        (lambda r: r["comparisons"][0].update(verdict="better"), "$.comparisons[0].verdict"),
        (lambda r: r["comparisons"][0].update(kind="other"), "$.comparisons[0].kind"),
        (lambda r: r["models"][0].update(sha256="abc"), "$.models[0].sha256"),
        (lambda r: r["profiles"][0]["ops"][0].update(attention="yes"), "attention"),
        (lambda r: r["profiles"][-1].update(reason=""), "$.profiles[3].reason"),
        (lambda r: r["protocol"].pop("seed"), "$.protocol"),
        (lambda r: r["measurements"].clear(), "$.measurements"),
        (lambda r: r["gate"].update(verdict="maybe"), "$.gate.verdict"),
        (lambda r: r["gate"]["rows"][0].update(verdict="faster"), "$.gate.rows[0].verdict"),
        (lambda r: r["devices"].update({"toaster": r["devices"]["cpu"]}), "$.devices"),
    ],
)
def test_what_is_wrong_is_found_in_its_place(
    report: dict[str, Any], spoil: Callable[[dict[str, Any]], Any], where: str
) -> None:
    report["results"] = [*report["results"][:20], report["results"][-1]]
    assert problems(report) == []
    spoil(report)
    found = problems(report)
    assert found
    assert all(where in path for path in found)


def test_version_1_is_brought_into_todays_form() -> None:
    old = json.loads((Path(__file__).parents[1] / "fixtures" / "report_version_1.json").read_text("utf-8"))
    assert old["schema_version"] == 1
    new = report_schema.upgraded(old)
    assert problems(new) == ["$.measurements[0].finished_utc"], "it was not recorded then, so it is null"
    assert new["devices"]["cpu"]["before"] == {"load": old["environment"]["load_before"]}
    assert "model_int8.tflite" in readme_table.block(old)
    assert "model_int8.tflite" in reports.html(old, None)


def test_version_2_is_brought_into_todays_form_and_can_be_gone_on_with(tmp_path: Path) -> None:
    """Version 2 knew no regression; the committed report of the README is one."""
    old = json.loads((Path(reports.__file__).parent / "results" / "demo.json").read_text("utf-8"))
    old = {**old, "schema_version": 2, "results": [{k: v for k, v in r.items() if k != "rmse"} for r in old["results"]]}
    new = report_schema.upgraded(old)
    assert problems(new) == []
    assert {row["rmse"] for row in new["results"]} == {None}
    assert "model_int8.tflite" in readme_table.block(old)
    (tmp_path / "report.json").write_text(json.dumps(old))
    np.savez(tmp_path / "samples.npz")
    assert measure.read_report(tmp_path)["results"] == new["results"]
    for broken in ({"schema_version": 2}, {"schema_version": 2, "results": 3}, {"schema_version": 2, "results": [3]}):
        (tmp_path / "report.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match="is no whole report"):
            measure.read_report(tmp_path)


def test_a_row_of_a_regression_fits(report: dict[str, Any]) -> None:
    report["results"][0].update(accuracy=None, agreement=None, rmse={"weight_g": 3.25, "angle": 0.0})
    assert problems(report) == []
    for wrong in ({"weight_g": -1.0}, {"weight_g": None}, 3.25):
        report["results"][0]["rmse"] = wrong
        assert problems(report)


def test_reports_of_the_future_are_refused_with_the_way_out(report: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="schema version 4, this edgecbam reads up to 3: update it"):
        reports.markdown({**report, "schema_version": 4}, None)
    for broken in ({}, [], {"schema_version": None}, {"schema_version": "2"}):
        with pytest.raises(InputError, match=r"no report\.json of edgecbam"):
            report_schema.upgraded(broken)  # type: ignore[arg-type]
