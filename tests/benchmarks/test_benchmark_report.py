"""The report shows what was measured and what was not, escapes every string, and loads nothing from elsewhere."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_report import LONG, ratio_of, rich

from edgecbam.benchmarks import report as reports
from edgecbam.benchmarks import statistics, svg
from edgecbam.benchmarks.protocol import find_protocol
from edgecbam.errors import InputError

EVIL = "<script>alert('x')</script>|`*[a](b)&"


def row(model: str, status: str = "ok", reason: str = "", **more: Any) -> dict[str, Any]:
    ok = status == "ok"
    latency = statistics.latency([[[1_000_000, 1_100_000, 1_200_000]] * 200] * 5)
    return {
        "model": model,
        "runtime": "litert",
        "runtime_version": "2.3.0",
        "device": "cpu",
        "threads": 2,
        "status": status,
        "reason": reason,
        "parity": {"checked": True, "images": 2000, "reference": "keras_float"},
        "accuracy": 0.8812 if ok else None,
        "agreement": 0.9951 if ok else None,
        "bytes": 123456,
        "init_ms": 4.5 if ok else None,
        "first_ms": 0.7 if ok else None,
        "latency_ms": latency if ok else None,
        "memory": {"imported_bytes": 40 << 20, "peak_bytes": 50 << 20} if ok else None,
        "placement": {"delegate": "xnnpack", "xnnpack_partitions": 1, "ops_outside": []} if ok else None,
        **more,
    }


def comparison(candidate: str, low: float, high: float, kind: str = "candidate") -> dict[str, Any]:
    return {
        "kind": kind,
        "baseline": "model_fp32.tflite",
        "candidate": candidate,
        "runtime": "litert",
        "device": "cpu",
        "threads": 2,
        "processes": 5,
        "ratio": {"value": (low + high) / 2, "low": low, "high": high},
        "verdict": statistics.verdict(low, high),
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "tool": {"name": "edgecbam", "version": "0.1.0"},
        "environment": {
            "board": None,
            "cpu": "Fast CPU",
            "machine": "x86_64",
            "cpu_flags": ["avx2", "avx512_vnni"],
            "logical_cpus": 2,
            "physical_cores": 2,
            "affinity_cpus": 2,
            "cgroup_cpus": "unlimited",
            "governor": None,
            "virtualised": True,
            "memory_bytes": 8 << 30,
            "os": "Debian",
            "kernel": "Linux 6",
            "python": "3.11.7",
            "versions": {"numpy": "2.4.6", "litert": "2.3.0", "openvino": None},
            "started_utc": "2026-01-01T00:00:00+00:00",
            "load_before": 0.1,
            "load_after": 1.0,
        },
        "protocol": find_protocol("quick").describe(),
        "models": [],
        "results": [
            row("model_fp32.tflite"),
            row("model_int8.tflite"),
            row("model_slow.tflite"),
            row("model_same.tflite"),
            row("model_gpu.tflite", "crash", "died in block (SIGSEGV)"),
        ],
        "comparisons": [
            comparison("model_int8.tflite", 0.38, 0.42),
            comparison("model_slow.tflite", 1.2, 1.3),
            comparison("model_same.tflite", 0.9, 1.1),
            comparison("model_fp32.tflite", 0.99, 1.01, "control"),
        ],
    }


@pytest.fixture
def verification() -> dict[str, Any]:
    gate = {
        "name": "agreement",
        "passed": True,
        "value": 0.9975,
        "threshold": 0.995,
        "meaning": "same class",
        "detail": "",
    }
    return {"schema_version": 1, "passed": True, "gates": [gate]}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "xlink:href")
        ]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested"
        if tag != "span":
            self.text += "\n"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def both(report: dict[str, Any], verification: dict[str, Any] | None) -> tuple[str, str]:
    page = Page(reports.html(report, verification))
    assert page.open == []
    return reports.markdown(report, verification), page.text


def test_both_forms_show_every_figure_with_its_interval(report: dict[str, Any], verification: dict[str, Any]) -> None:
    for text in both(report, verification):
        plain = text.replace("\\", "")
        for needed in (
            "2.50× [2.38, 2.63]",
            "0.80× [0.77, 0.83]",
            "88.12 %",
            "99.51 %",
            "120.6",
            "1.1 [1.1, 1.1]",
            "faster",
            "slower",
            "inconclusive",
            "1.000 [0.990, 1.010]",
            "Fast CPU",
            "avx512_vnni",
            "litert 2.3.0",
            "openvino not installed",
            "n = 500: 5 processes × 20 rounds × blocks of 5",
            "quick protocol: a look, not a publication",
            "agreement",
            "0.9975",
            "2000 held-out images",
        ):
            assert needed in plain, needed


def test_failed_rows_stand_in_the_table_with_their_reason(report: dict[str, Any]) -> None:
    for text in both(report, None):
        assert "model_gpu.tflite" in text.replace("\\", "")
        assert text.count("died in block (SIGSEGV)") == 1
        assert "1 of 5 rows could not be measured" in text


def test_a_failed_gate_stands_on_top(report: dict[str, Any], verification: dict[str, Any]) -> None:
    verification["passed"] = verification["gates"][0]["passed"] = False
    for text in both(report, verification):
        assert text.index("verify FAILED: agreement") < text.index("Results")


def test_a_control_that_differs_and_a_busy_machine_are_said_on_top(report: dict[str, Any]) -> None:
    quiet = reports.markdown(report, None)
    assert "do not trust" not in quiet
    assert "busy" not in quiet
    report["comparisons"][-1] = comparison("model_fp32.tflite", 1.05, 1.15, "control")
    report["environment"]["load_before"] = 1.7
    for text in both(report, None):
        assert "holds 1" not in text.replace("measurement holds 1.", "")
        assert text.index("differs from itself") < text.index("Results")
        assert text.index("the machine was busy") < text.index("Results")


def test_bare_files_are_said_to_be_unchecked(report: dict[str, Any]) -> None:
    assert "want of references" not in reports.markdown(report, None)
    for entry in report["results"]:
        entry["parity"] = {"checked": False, "inputs": 8, "reason": "bare"}
        entry["accuracy"] = entry["agreement"] = None
    for text in both(report, None):
        assert "not checked for want of references" in text
        assert "held-out" not in text
        assert "Parity" not in text
        assert "Top-1" not in text, "a column of dashes says nothing"


def test_rows_whose_baseline_is_missing_say_why_they_have_no_verdict(report: dict[str, Any]) -> None:
    assert "Rows without a verdict" not in reports.markdown(report, None)
    report["results"].append(row("model_fp32.onnx", runtime="onnxruntime"))
    for text in both(report, None):
        assert "Rows without a verdict: the baseline was not measured on their runtime" in text


def test_nodes_on_integers_are_counted_and_those_in_float_listed(report: dict[str, Any]) -> None:
    for text in both(report, None):
        assert "Integer nodes" not in text, "no row has them, as in reports that are older than this"
        assert "Nodes in float" not in text
    entry = {"op": "SpaceToDepth", "count": 3, "reason": "no integer kernel", "names": ["a", "b", "c"]}
    nodes = {"total": 60, "integer": 52, "float": 3, "other": 5, "in_float": [entry]}
    report["results"][1] |= {"nodes": nodes, "nodes_reason": ""}
    report["results"][2] |= {"nodes": None, "nodes_reason": "the trace lists no node"}
    for text in both(report, None):
        assert "52/55" in text
        cells = [cell.strip() for line in text.splitlines() for cell in line.split("|") if cell.strip()]
        listed = cells[cells.index("SpaceToDepth") - 2 :]
        assert [cell.replace("\\", "") for cell in listed[:5]] == [
            "model_int8.tflite",
            "litert",
            "SpaceToDepth",
            "3",
            "no integer kernel",
        ]
        assert [cell for cell in listed if cell == "the trace lists no node"]
    nodes["in_float"] = []
    report["results"][2]["nodes_reason"] = ""
    for text in both(report, None):
        assert "Nodes in float" not in text, "nothing is in float"


def test_hostile_strings_stay_text(report: dict[str, Any], verification: dict[str, Any]) -> None:
    for entry in report["results"]:
        listed = {"op": "Conv", "count": 1, "reason": "it did not fuse", "names": ["n"]}
        entry["nodes"] = {"total": 1, "integer": 0, "float": 1, "other": 0, "in_float": [listed]}
    clean = Page(reports.html(report, verification)).tags
    hostile, gates = copy.deepcopy(report), copy.deepcopy(verification)
    for entry in hostile["results"]:
        entry["model"] += EVIL
        entry["reason"] += EVIL + '"\n| x |' if entry["reason"] else ""
        if entry["nodes"]:
            entry["nodes"]["in_float"][0] |= {"op": EVIL, "reason": EVIL}
    for entry in hostile["comparisons"]:
        entry["candidate"] += EVIL
        entry["baseline"] += EVIL
    hostile["environment"]["cpu"] = EVIL
    gates["gates"][0] |= {"name": EVIL, "detail": EVIL}
    page = Page(reports.html(hostile, gates))
    assert page.tags == clean
    assert "script" not in page.tags
    assert EVIL in page.text
    markdown = reports.markdown(hostile, gates)
    assert "<script" not in markdown
    widths = {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert widths == {
        line.count("|") for line in reports.markdown(report, verification).splitlines() if line.startswith("|")
    }


def test_the_page_is_self_contained(report: dict[str, Any], verification: dict[str, Any]) -> None:
    text = reports.html(report, verification)
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_write_reads_both_stages_and_writes_both_forms(
    report: dict[str, Any], verification: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = reports.Table("Run", ("What", "Value"), (("Recipe", "mine"),))
    monkeypatch.setattr(reports, "about", lambda run: told)  # needs a whole run: see tests/test_api.py
    out = tmp_path / "out"
    for name in ("verify", "benchmark", "out"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"report\.json is missing"):
        reports.write(tmp_path, out)
    (tmp_path / "benchmark/report.json").write_text(json.dumps(report))
    (tmp_path / "verify/verify.json").write_text(json.dumps(verification))
    for name, content in (("is missing", None), ("is damaged", b"PK"), ("is damaged", b"")):
        if content is not None:
            (tmp_path / "benchmark/samples.npz").write_bytes(content)
        with pytest.raises(InputError, match=rf"samples\.npz {name}"):
            reports.write(tmp_path, out)
    assert list(out.iterdir()) == []
    raw = np.full((5, 20, 5), 1_000_000)
    np.savez(tmp_path / "benchmark/samples.npz", **{"model_int8.tflite|litert|cpu|2": raw})
    reports.write(tmp_path, out)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md"]
    assert (out / "report.md").read_text() == reports.markdown(report, verification, told)
    assert "| Recipe | mine |" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert page == reports.html(report, verification, told, {"model_int8.tflite|litert|cpu|2": raw})
    assert "model_int8.tflite on litert: 500 samples from 1 to 1 ms" in page


@pytest.mark.parametrize(
    "broken", [[], {}, {"results": 3}, {"schema_version": 1, "results": []}, {"schema_version": 2, "results": 3}]
)
def test_a_report_that_is_none_is_refused(
    broken: Any, verification: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "about", lambda run: None)
    for name, value in (("benchmark/report.json", broken), ("verify/verify.json", verification)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(value))
    np.savez(tmp_path / "benchmark/samples.npz")
    with pytest.raises(InputError, match=r"not what edgecbam writes|no report\.json of edgecbam"):
        reports.write(tmp_path, tmp_path)
    assert not (tmp_path / "report.md").exists()


@pytest.fixture
def full() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A report of version 2 with everything, and its samples."""
    report, samples = rich()
    return copy.deepcopy(report), samples


def cells(markdown: str, title: str) -> list[list[str]]:
    """The rows of a table of the Markdown, header first."""
    section = markdown.replace("\\", "").partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [row for row in rows if set("".join(row)) != {"-"}]


def test_device_and_threads_have_columns_where_they_vary(
    report: dict[str, Any], full: tuple[dict[str, Any], dict[str, np.ndarray]]
) -> None:
    assert cells(reports.markdown(report, None), "Results")[0][:3] == ["Model", "Runtime", "KiB"]
    header, *rows = cells(reports.markdown(full[0], None), "Results")
    assert header[:5] == ["Model", "Runtime", "Device", "Threads", "KiB"]
    by_place = {tuple(row[:4]): row for row in rows}
    assert len(by_place) == len(full[0]["results"])
    for device, threads in (("ssh:pi", 1), ("cpu", 2)):
        ratio = ratio_of(full[0], "model_int8.tflite", "litert", device, threads)
        speed_up = f"{1 / ratio['value']:.2f}× [{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]"
        assert by_place["model_int8.tflite", "litert", device, str(threads)][-2:] == [speed_up, "faster"]
    assert by_place["model_fp32.tflite", "litert", "ssh:pi", "1"][-1] == "baseline"


def test_a_functional_row_has_its_parity_and_memory_and_no_time(
    full: tuple[dict[str, Any], dict[str, np.ndarray]],
) -> None:
    text = reports.markdown(full[0], None)
    (row,) = [row for row in cells(text, "Results") if row[1] == "litert_gpu" and row[0] == "model_fp32.tflite"]
    assert row[5:] == ["88.65 %", "99.51 %", "–", "–", "–", "functional_only"]
    (reason,) = [row for row in cells(text, "Not measured") if row[-2] == "functional_only"]
    assert "emulation on the CPU" in reason[-1]
    (start,) = [row for row in cells(text, "Start and placement") if row[1] == "litert_gpu"]
    assert start[4:7] == ["–", "–", "90"]
    assert "software: yes" in start[7]
    assert [row for row in cells(text, "Parity") if row[1] == "litert_gpu"]
    assert "functional only, their time being no speed: 1 of 24 rows" in text
    assert "2 of 24 rows could not be measured" in text, "the crash and what is unsupported"


def test_the_gate_is_told_on_top_and_in_full(full: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    for text in both(full[0], None):
        plain = text.replace("\\", "")
        assert plain.index("latency gate of 5 %: failed: more than 5 % slower") < plain.index("Results")
        assert "1.330 [1.280, 1.380]" in plain
    full[0]["gate"] = {"threshold_percent": 5.0, "verdict": "inconclusive", "reason": "no baseline", "rows": []}
    for text in both(full[0], None):
        assert "latency gate of 5 %: inconclusive: no baseline" in text
        assert "Latency gate" in text
    full[0]["gate"] = None
    for text in both(full[0], None):
        assert "atency gate" not in text


def test_every_machine_is_described_once(full: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    report = full[0]
    text = reports.markdown(report, None)
    here, there = cells(text, "Machine: cpu, gpu"), cells(text, "Machine: ssh:pi")
    assert ["CPU", "Fast CPU"] in here
    assert ["Load before, after", "0.1, 1"] in here
    assert ["CPU time taken by others (steal)", "2.00 %"] in here
    assert not any("ticks" in row[0] for row in here)
    assert ["CPU", "Cortex-A76"] in there
    assert ["Load before, after", "0.2, unknown"] in there
    assert ["Governor", "unknown"] in here
    report["devices"] = {"ssh:pi": {**report["devices"]["ssh:pi"]}}
    report["devices"]["ssh:pi"]["environment"] |= {"throttle_count": 3, "caches": {"l2": 1, "l3": None}}
    text = reports.markdown(report, None)
    assert ["CPU", "Fast CPU"] in cells(text, "Machine: this one, which led")
    there = cells(text, "Machine: ssh:pi")
    assert ["Throttle count", "3"] in there, "what nobody foresaw is told all the same"
    assert ["Caches", "l2 1"] in there


def test_a_busy_device_is_named(full: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    full[0]["devices"]["ssh:pi"]["before"]["load"] = 3.5
    for text in both(full[0], None):
        assert "ssh:pi was busy: load 3.5 on 4 CPUs" in text
        assert "the machine was busy" not in text


def test_profiles_tell_attention_and_what_was_not_delegated(
    full: tuple[dict[str, Any], dict[str, np.ndarray]],
) -> None:
    text = reports.markdown(full[0], None)
    header, *rows = cells(text, "Profiles")
    assert header[-5:] == ["Sum", "Attention", "Not delegated", "Profile", "Remark"]
    assert rows[0][-5:] == ["470 µs", "100 µs, 21.3 %", "30 µs, 6.4 %: MEAN", "ok", "–"]
    assert rows[-1][-2] == "unsupported"
    assert ["model_fp32.tflite", "litert", "cpu", "CONV_2D", "13", "440 µs", "93.6 %"] in cells(
        text, "Time by kind of op"
    )
    for told in both(full[0], None):
        assert "OpenVINO tells no times of its ops here" in told
    full[0]["profiles"][0] |= {"attention": None, "attention_reason": "its ops have no names"}
    for told in both(full[0], None):
        assert "attention: its ops have no names" in told


def test_the_page_has_every_chart_and_stays_small(full: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    report, samples = full
    text = reports.html(report, None, samples=samples)
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == page.tags.count("figure") == 8
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert "url(" not in text
    assert "http" not in text
    assert len(text) < 1_000_000
    assert text == reports.html(*rich()[:1], None, samples=rich()[1])
    assert "svg" in Page(reports.html(report, None)).tags, "speed-ups need no samples"
    assert "Distribution" not in reports.html(report, None)


def test_without_matplotlib_the_page_says_what_adds_the_charts(
    full: tuple[dict[str, Any], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, samples = full
    with_charts = Page(reports.html(report, None, samples=samples))
    monkeypatch.setattr(svg.importlib.util, "find_spec", lambda name: None)
    page = Page(reports.html(report, None, samples=samples))
    assert "pip install 'edgecbam[report]'" in page.text
    assert "pip install" not in with_charts.text
    assert "svg" not in page.tags
    assert page.tags.count("table") == with_charts.tags.count("table")


def test_every_name_of_a_rich_report_may_be_hostile(full: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    report, samples = full
    clean = Page(reports.html(report, None, samples=samples)).tags
    text = json.dumps(report)
    evil = json.dumps(EVIL + "\x1b[31m\ud800")[1:-1]
    for name in ("SwiftShader Device", "Cortex-A76", "MEAN", LONG, "CPU alone", "OpenVINO tells"):
        assert name in text
        text = text.replace(name, evil + name)
    moved = {key.replace(LONG, EVIL + "\x1b[31m\ud800" + LONG): raw for key, raw in samples.items()}
    page_text = reports.html(json.loads(text), None, samples=moved)
    page = Page(page_text)
    assert page.tags == clean
    assert EVIL in page.text
    for made in (page_text, reports.markdown(json.loads(text), None)):
        assert "<script" not in made
        assert "\x1b" not in made
        made.encode()


def test_write_pages_takes_any_version(
    report: dict[str, Any], full: tuple[dict[str, Any], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for value, samples in ((report, {}), full):
        reports.write_pages(tmp_path, value, None, None, samples)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
        assert (tmp_path / "report.md").read_text() == reports.markdown(value, None)
        assert (tmp_path / "report.html").read_text() == reports.html(value, None, samples=samples)
