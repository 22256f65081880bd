"""The comparison with the public tools, and the sessions of a file against itself. No time decides a test here."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import runtimes
from edgecbam.benchmarks import against_tools, control_sessions, measure, public_tools, trust_table
from edgecbam.benchmarks.measure import Request
from edgecbam.benchmarks.protocol import PROTOCOLS, Protocol
from edgecbam.benchmarks.public_tools import Job, Tool
from edgecbam.errors import EnvironmentFailure, InputError

TIMEOUT_S = 120.0
PATIENT = 6


def job(model: Path, runs: int = 20) -> Job:
    return Job(model, 1, 1, runs, 1)


def tool(measure_ms: Callable[[Job, float], float], warm_up: int | None = None) -> Tool:
    return Tool("stopwatch", ".tflite", "litert_compiled", ("litert",), warm_up, measure_ms)


@pytest.mark.parametrize("name", ["tiny_fp32.tflite", "tiny_int8.tflite", "tiny_fp32.onnx", "tiny_int8_io.onnx"])
def test_the_tools_tell_a_median_that_is_not_rounded(fixtures: Path, name: str) -> None:
    model = fixtures / name
    median_ms = public_tools.tool_for(model).measure(job(model), TIMEOUT_S)
    assert 0 < median_ms < 100
    assert median_ms != round(median_ms, 2), "the tools print hundredths of a millisecond"


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_a_tool_that_fails_is_an_error_with_its_last_words(tmp_path: Path, suffix: str, fixtures: Path) -> None:
    model = tmp_path / f"damaged{suffix}"
    model.write_bytes((fixtures / f"tiny_fp32{suffix}").read_bytes()[:300])
    measure_ms = public_tools.litert_benchmark_ms if suffix == ".tflite" else public_tools.benchmark_app_ms
    with pytest.raises((EnvironmentFailure, InputError), match=r"litert-benchmark failed|damaged"):
        measure_ms(job(model), TIMEOUT_S)


def test_a_tool_that_hangs_or_dies_is_an_error() -> None:
    with pytest.raises(EnvironmentFailure, match=r"not done within 0\.2 s"):
        public_tools._run("tool", "import time; time.sleep(60)", [], 0.2)
    with pytest.raises(EnvironmentFailure, match=r"tool failed \(exit code 7\): no kernel"):
        public_tools._run("tool", "import sys; print('no kernel'); sys.exit(7)", [], TIMEOUT_S)


def test_a_tool_that_did_something_else_is_not_believed(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "INFERENCE_NUM_THREADS: {threads}\nINFERENCE_PRECISION_HINT: <Type: '{precision}'>\n"
        "PERFORMANCE_HINT: LATENCY\nCount:     20 iterations\nMedian:   12.5 us\n"
    )
    model = fixtures / "tiny_fp32.onnx"
    for threads, precision, error in ((1, "float32", ""), (2, "float32", "THREADS"), (1, "bfloat16", "PRECISION")):
        text = said.format(threads=threads, precision=precision)
        monkeypatch.setattr(public_tools, "_run", lambda *_, text=text: text)
        if error:
            with pytest.raises(EnvironmentFailure, match=error):
                public_tools.benchmark_app_ms(job(model), TIMEOUT_S)
        else:
            assert public_tools.benchmark_app_ms(job(model), TIMEOUT_S) == 0.0125


def test_benchmark_app_is_given_the_inputs_and_the_dtype_of_the_model(fixtures: Path, tmp_path: Path) -> None:
    arguments = public_tools._inputs(job(fixtures / "tiny_int8_io.onnx"), tmp_path)
    assert arguments[:3] == ["-ip", "i8", "-i"]
    given = np.load(arguments[3])
    assert given.dtype == np.int8
    assert len(np.unique(given)) > 20


def test_there_is_a_tool_for_every_format_or_a_reason() -> None:
    assert public_tools.tool_for(Path("a.tflite")).name == "litert-benchmark"
    assert public_tools.tool_for(Path("a.onnx")).name == "benchmark_app"
    with pytest.raises(EnvironmentFailure, match=r"no public tool for a\.keras"):
        public_tools.tool_for(Path("a.keras"))


def test_both_sides_do_the_same_work_and_the_ratio_is_theirs() -> None:
    jobs: list[tuple[str, Job]] = []

    def theirs(asked: Job, _: float) -> float:
        jobs.append(("theirs", asked))
        return 2.0

    def ours(asked: Job, runtime: str) -> float:
        jobs.append((runtime, asked))
        return {"litert_compiled": 2.02, "litert": 1.0}[runtime]

    rows = against_tools.compare("m", Path("m.tflite"), tool(theirs), PATIENT, 1.0, ours)
    found = {(row["kind"], row["runtime"]): row for row in rows}
    assert found["tool", "litert_compiled"]["ratio"]["value"] == pytest.approx(1.01)
    assert found["tool", "litert_compiled"]["within"] is True
    assert found["tool", "litert"]["ratio"]["value"] == pytest.approx(0.5)
    assert found["tool", "litert"]["within"] is None, "another interface: for information"
    assert found["control", "litert_compiled"]["ratio"]["value"] == pytest.approx(1.0)
    timed = {asked for _, asked in jobs[1:]}
    assert timed == {Job(Path("m.tflite"), 1, against_tools.WARM_UP, 495, against_tools.SEED)}, "1 s of 2.02 ms"
    rounds = [{who for who, _ in jobs[1 + 4 * n : 5 + 4 * n]} for n in range(PATIENT)]
    assert rounds == [{"theirs", "litert_compiled", "litert"}] * PATIENT, "and one of ours is there twice"
    orders = {tuple(who for who, _ in jobs[1 + 4 * n : 5 + 4 * n]) for n in range(PATIENT)}
    assert len(orders) > 1, "in another order each time"


def test_within_needs_the_whole_interval() -> None:
    times = itertools.cycle([1.0, 1.2])
    rows = against_tools.compare("m", Path("m.tflite"), tool(lambda *_: 1.1), PATIENT, 1.0, lambda *_: next(times))
    assert rows[0]["ratio"]["value"] == pytest.approx(1.0, abs=0.03 * 4)
    assert rows[0]["within"] is False


def test_a_model_that_a_runtime_cannot_run_is_an_error(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"\0\0\0\0TFL3 and nothing else")
    with pytest.raises(EnvironmentFailure, match=r"model\.tflite on litert: input"):
        against_tools.worker_ms(job(model), "litert")


def test_the_command_compares_and_tells_the_overhead(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "readers", lambda _: [runtimes.find("litert"), runtimes.find("tflite_micro")])
    report = tmp_path / "results" / "against_tools.json"
    smallest = str(fixtures / "tiny_fp32.tflite")
    against_tools.main([str(report), smallest, "--smallest", smallest, "--rounds", "2", "--quick"])
    value = json.loads(report.read_text())
    assert value["quick"] is True
    assert [(row["kind"], row["runtime"]) for row in value["comparisons"]] == [
        ("tool", "litert_compiled"),
        ("tool", "litert"),
        ("control", "litert_compiled"),
    ]
    assert all(len(row["process_ms"]["other"]) == 2 for row in value["comparisons"])
    assert 0 < value["overhead"]["empty_ns"]["value"] < 1e6
    assert [row["runtime"] for row in value["overhead"]["smallest"]] == ["litert"], "a simulated chip has no speed"
    assert trust_table.tools(value).count("tiny_fp32.tflite") == 3
    assert "an inference that does nothing" in trust_table.overhead(value)


def report_of(ratio: dict[str, float | None], control: dict[str, float | None]) -> dict[str, Any]:
    return {
        "measurements": [{"started_utc": "2026-01-01T00:00:00+00:00"}],
        "results": [{"model": "m", "status": "ok", "reason": "", "latency_ms": {"p50": 1.0}}],
        "comparisons": [
            {"kind": "control", "ratio": control, "process_ratios": [1.0], "verdict": "inconclusive"},
            {"kind": "candidate", "ratio": ratio, "process_ratios": [1.0, 1.01], "verdict": "inconclusive"},
        ],
    }


@pytest.mark.parametrize(
    ("ratio", "worst", "covered", "met"),
    [
        ({"value": 1.0, "low": 0.99, "high": 1.01}, 0.01, 2, True),
        ({"value": 1.021, "low": 1.011, "high": 1.031}, 0.021, 1, False),
        ({"value": 1.0, "low": 0.96, "high": 1.04}, 0.01, 2, False),
    ],
)
def test_all_sessions_count(
    fixtures: Path, ratio: dict[str, float | None], worst: float, covered: int, met: bool
) -> None:
    good = {"value": 0.99, "low": 0.98, "high": 1.0002}
    reports = iter([report_of(good, ratio), report_of(ratio, good)])
    files = []

    def measure_one(copy: Path, model: Path, request: Request) -> dict[str, Any]:
        files.append((copy.read_bytes() == model.read_bytes(), copy == model, request.runtimes, request.protocol))
        return next(reports)

    model = fixtures / "tiny_fp32.tflite"
    value = control_sessions.run(model, None, 2, "standard", measure_one=measure_one)
    assert files == [(True, False, ("litert",), "standard")] * 2
    summary = value["summary"]
    assert summary["worst"] == pytest.approx(worst)
    assert (summary["sessions"], summary["covered"], summary["met"]) == (2, covered, met)
    table = trust_table.sessions(value)
    assert ("met." in table) == met
    assert "0.990 \\[0.980, 1.000\\]" in table


def test_a_real_session_compares_the_file_with_its_copy(
    fixtures: Path, tmp_path: Path, tiny_protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "tiny", tiny_protocol)
    model = Path(shutil.copy(fixtures / "tiny_fp32.onnx", tmp_path))
    report = tmp_path / "sessions.json"
    control_sessions.main([str(report), str(model), "--sessions", "1", "--protocol", "tiny"])
    value = json.loads(report.read_text())
    assert value["runtime"] == "onnxruntime"
    row = value["sessions"][0]
    assert set(row["p50_ms"]) == {"tiny_fp32.onnx", "copy.onnx"}
    assert row["ratio"]["low"] < row["ratio"]["value"] < row["ratio"]["high"]
    assert len(row["process_ratios"]) == 2


def test_a_session_without_a_comparison_is_an_error(fixtures: Path) -> None:
    broken = report_of({"value": 1.0, "low": None, "high": None}, {"value": 1.0, "low": None, "high": None})
    model = fixtures / "tiny_fp32.tflite"
    with pytest.raises(EnvironmentFailure, match="no interval"):
        control_sessions.run(model, None, 1, "standard", measure_one=lambda *_: broken)
    broken["comparisons"] = []
    broken["results"][0] |= {"status": "crash", "reason": "SIGSEGV"}
    with pytest.raises(EnvironmentFailure, match="m: crash: SIGSEGV"):
        control_sessions.run(model, None, 1, "standard", measure_one=lambda *_: broken)
    with pytest.raises(InputError, match="at least 1"):
        control_sessions.run(model, None, 0, "standard")
    assert measure.SCHEMA_VERSION == 3, "_row reads reports of this version"
