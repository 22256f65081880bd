"""The gate for continuous integration: what it judges, and which file it takes for the baseline."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import gate, measure, references
from edgecbam.benchmarks.cells import bare_cells, spots
from edgecbam.benchmarks.child import Child
from edgecbam.benchmarks.devices import LocalDevice
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import InputError

PLACE = {"runtime": "litert", "device": "cpu", "threads": 1}


def compared(*ratios: list[float], control: list[float] | None = None) -> dict[str, Any]:
    """A report with one candidate for each list of per-process ratios."""
    names = [f"new{i}" for i in range(len(ratios))]
    comparison = {"baseline": "old", **PLACE}
    return {
        "comparisons": [
            {"kind": "control", "candidate": "old", "process_ratios": control or [1.0, 1.01] * 4, **comparison},
            *(
                {"kind": "candidate", "candidate": name, "process_ratios": one, **comparison}
                for name, one in zip(names, ratios, strict=True)
            ),
        ],
        "results": [
            {"model": name, "baseline": "old", "status": "ok", "parity": {"checked": True}, **PLACE}
            for name in ("old", *names)
        ],
    }


SLOW, EQUAL, OPEN = [1.20, 1.21, 1.19, 1.2, 1.2], [1.0, 1.001, 0.999, 1.0, 1.0], [0.8, 1.3, 0.9, 1.2, 1.0]


@pytest.mark.parametrize(
    ("ratios", "verdict", "reason"),
    [
        ([SLOW], "failed", "more than 5 % slower than the baseline: new0 on litert"),
        ([EQUAL], "passed", ""),
        ([OPEN], "inconclusive", "the interval holds the threshold: new0 on litert"),
        ([EQUAL, SLOW], "failed", "new1 on litert"),
        ([OPEN, SLOW], "failed", "new1 on litert"),
        ([EQUAL, OPEN], "inconclusive", "new1 on litert"),
        ([], "passed", "every model is the baseline itself"),
        ([[1.2]], "inconclusive", "new0"),
    ],
)
def test_the_verdict_is_that_of_the_whole_interval(ratios: list[list[float]], verdict: str, reason: str) -> None:
    judged = gate.judge(compared(*ratios), 5.0)
    assert (judged["verdict"], bool(judged["reason"])) == (verdict, bool(reason))
    assert reason in judged["reason"]
    assert len(judged["rows"]) == len(ratios), "the control is not judged"
    assert judged["threshold_percent"] == 5.0


def test_more_candidates_make_the_intervals_wider() -> None:
    alone = gate.judge(compared(OPEN), 5.0)["rows"][0]["ratio"]
    among = gate.judge(compared(OPEN, EQUAL, EQUAL), 5.0)["rows"][0]["ratio"]
    assert math.isclose(alone["value"], among["value"])
    assert among["low"] < alone["low"] < alone["high"] < among["high"]


def without_comparison(report: dict[str, Any], model: str, **changes: Any) -> dict[str, Any]:
    report["comparisons"] = [c for c in report["comparisons"] if model not in (c["candidate"], c["baseline"])]
    next(row for row in report["results"] if row["model"] == model).update(changes)
    return report


@pytest.mark.parametrize("status", ["wrong_output", "crash", "timeout"])
def test_a_candidate_that_computes_wrongly_or_not_at_all_fails(status: str) -> None:
    judged = gate.judge(without_comparison(compared(EQUAL, EQUAL), "new1", status=status), 5.0)
    told = f"computes wrongly or not at all: new1 on litert ({status})"
    assert (judged["verdict"], judged["reason"]) == ("failed", told)


@pytest.mark.parametrize("status", ["unsupported", "skipped", "functional_only"])
def test_a_candidate_that_was_not_measured_does_not_pass(status: str) -> None:
    judged = gate.judge(without_comparison(compared(EQUAL, EQUAL), "new1", status=status), 5.0)
    told = f"not compared with the baseline: new1 on litert ({status})"
    assert (judged["verdict"], judged["reason"]) == ("inconclusive", told)


@pytest.mark.parametrize("status", ["wrong_output", "crash", "timeout", "unsupported"])
def test_a_baseline_that_did_not_run_is_no_fault_of_the_candidate(status: str) -> None:
    judged = gate.judge(without_comparison(compared(EQUAL), "old", status=status), 5.0)
    assert judged["verdict"] == "inconclusive"
    assert "not compared with the baseline: new0 on litert (ok)" in judged["reason"]


def test_a_reference_that_proves_nothing_is_no_fault_either() -> None:
    parity = {"checked": True, "proves_nothing": True}
    report = without_comparison(compared(EQUAL), "new0", status="wrong_output", parity=parity)
    assert gate.judge(report, 5.0)["verdict"] == "inconclusive"


def test_outputs_that_could_not_be_checked_do_not_pass() -> None:
    report = compared(EQUAL)
    report["results"][1]["parity"] = {"checked": False}
    judged = gate.judge(report, 5.0)
    assert (judged["verdict"], judged["reason"]) == (
        "inconclusive",
        "the outputs could not be checked: new0 on litert (ok)",
    )
    report = compared(SLOW)
    report["results"][1]["parity"] = {"checked": False}
    assert gate.judge(report, 5.0)["verdict"] == "failed", "slow it is in any case"


@pytest.mark.parametrize("control", [SLOW, [1 / one for one in SLOW]])
def test_where_the_control_differs_from_itself_nothing_is_decided(control: list[float]) -> None:
    judged = gate.judge(compared(SLOW, control=control), 5.0)
    assert judged["verdict"] == "inconclusive"
    assert "the control differs from itself by as much (litert on cpu)" in judged["reason"]
    assert gate.judge(compared(SLOW, control=[1.03, 1.04] * 4), 5.0)["verdict"] == "failed", "not by as much"


def test_without_the_baseline_nothing_is_decided() -> None:
    report = compared()
    report["comparisons"], report["results"] = [], [{**compared(EQUAL)["results"][1], "baseline": None}]
    judged = gate.judge(report, 5.0, "the baseline was not found")
    assert judged["verdict"] == "inconclusive"
    assert judged["reason"].startswith("the baseline was not found; not compared with the baseline: new0")


@pytest.fixture
def old(fixtures: Path, tmp_path: Path) -> Path:
    """A folder with a report of tiny_fp32.tflite, which lies beside it under another name."""
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(fixtures / "tiny_fp32.tflite", folder / "kept.tflite")
    path = fixtures / "tiny_fp32.tflite"
    model = {"name": path.name, "sha256": artifacts.sha256_file(path), "bytes": path.stat().st_size}
    (folder / "report.json").write_text(json.dumps({"models": [model], "comparisons": []}))
    return folder


def test_a_report_names_its_model_by_digest(old: Path, fixtures: Path, tmp_path: Path) -> None:
    candidate = tmp_path / "new" / "tiny_int8.tflite"
    candidate.parent.mkdir()
    shutil.copy(fixtures / "tiny_int8.tflite", candidate)
    for report in (old, old / "report.json"):
        assert gate.is_report(report)
        assert gate.find_baseline(report, [candidate]) == gate.Baseline(old / "kept.tflite")
    (old / "kept.tflite").rename(candidate.parent / "moved.tflite")
    assert gate.find_baseline(old, [candidate]).path == candidate.parent / "moved.tflite"
    changed = (candidate.parent / "moved.tflite").read_bytes()
    (candidate.parent / "moved.tflite").write_bytes(changed[:-1] + b"!")
    found = gate.find_baseline(old, [candidate])
    assert found.path is None
    assert "tiny_fp32.tflite (sha256 79c203f03288" in found.reason
    assert not gate.is_report(candidate)


def test_of_several_models_the_namesake_is_the_baseline(old: Path, fixtures: Path) -> None:
    value = json.loads((old / "report.json").read_text())
    other = {"name": "other.tflite", "sha256": "0", "bytes": 1}
    value["models"].append(other)
    (old / "report.json").write_text(json.dumps(value))
    assert gate.find_baseline(old, [Path("x/tiny_fp32.tflite")]).path == old / "kept.tflite"
    with pytest.raises(InputError, match=r"of several models \(tiny_fp32.tflite, other.tflite\)"):
        gate.find_baseline(old, [Path("x/new.tflite")])
    value["comparisons"] = [{"baseline": "tiny_fp32.tflite"}]
    (old / "report.json").write_text(json.dumps(value))
    assert gate.find_baseline(old, [Path("x/new.tflite")]).path == old / "kept.tflite"


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", '{"models": []}', '{"models": [{"name": "x"}]}', '{"models": 3}'),
        '{"models": [{"name": 1, "sha256": "x", "bytes": 1}]}',
        '{"models": [{"name": "x", "sha256": 5, "bytes": 1}]}',
    ],
)
def test_other_json_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match="no benchmark report"):
        gate.find_baseline(tmp_path / "report.json", [])


class Slowed(Child):
    """A real worker of which every block takes longer by a factor."""

    factor = 1.0

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        answer = super().ask(message, timeout_s)
        if message["command"] == "block":
            answer["ns"] = [round(ns * self.factor) for ns in answer["ns"]]
        return answer


@pytest.mark.parametrize(("factor", "verdict"), [(3.0, "failed"), (0.3, "passed")])
def test_a_planted_slowdown_of_a_real_model_is_found(
    fixtures: Path, tmp_path: Path, factor: float, verdict: str
) -> None:
    """Far beyond what one quiet or busy machine makes of the same file."""
    copy = tmp_path / "copy.tflite"
    shutil.copy(fixtures / "tiny_fp32.tflite", copy)

    def start(cell: Any, task: dict[str, Any]) -> Child:
        child = Slowed(task)
        child.factor = factor if cell.model == "copy.tflite" else 1.0
        return child

    where = spots(("litert",), [LocalDevice("cpu")], (1,))
    cells, models = bare_cells([copy], where, fixtures / "tiny_fp32.tflite")
    made = references.make(copy, tmp_path / "reference.npz", 1, {})
    cells = [dataclasses.replace(cell, reference=made.path) for cell in cells]
    report = measure.measure(cells, models, Protocol("short", 4, 10, 5, 1, 20, "a test"), start=start)
    assert gate.judge(report, 50.0)["verdict"] == verdict


@pytest.mark.parametrize("comparisons", [None, 3, [None], [{"baseline": []}], [{"baseline": 1}]])
def test_comparisons_of_strangers_do_no_harm(old: Path, comparisons: Any) -> None:
    value = json.loads((old / "report.json").read_text())
    value["models"].append({"name": "other.tflite", "sha256": "0", "bytes": 1})
    (old / "report.json").write_text(json.dumps({**value, "comparisons": comparisons}))
    with pytest.raises(InputError, match="of several models"):
        gate.find_baseline(old, [Path("x/new.tflite")])
