"""Charts show what was measured, in words too; they take any name, come out the same twice, and stay small."""

import copy
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from example_report import KEY, LONG, comparison, measured, profile, rich, row

from edgecbam.benchmarks import chart_parts, chart_profile, chart_samples, chart_speed, charts, statistics, svg
from edgecbam.benchmarks.chart_parts import Chart

EVIL = "<script>alert('x')</script>&$x^2$\\frac{1}{2}\x1b[31m\u202e\n\"模型"


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(rich()[0])


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    return rich()[1]


def everything(report: dict[str, Any], samples: dict[str, np.ndarray] | None) -> list[Chart]:
    return [*charts.of_latency(report, samples), *charts.of_profiles(report)]


def texts(chart: Chart) -> list[str]:
    """The labels of a chart, without its title and description."""
    return [element.text or "" for element in ET.fromstring(chart.svg).iter("text")]


def description(chart: Chart) -> str:
    found = ET.fromstring(chart.svg).find("desc")
    assert found is not None
    return found.text or ""


def test_every_chart_has_its_name_and_its_figures_in_words(
    report: dict[str, Any], samples: dict[str, np.ndarray]
) -> None:
    drawn = everything(report, samples)
    assert [chart.title for chart in drawn] == [
        "Speed-up",
        "Accuracy against latency on cpu",
        "Accuracy against latency on ssh:pi",
        "Distribution of latency",
        "Latency over time",
        "model_fp32.tflite on litert on cpu, 1 thread",
        "model_int8.tflite on litert on cpu, 1 thread",
        f"{LONG} on litert on ssh:pi, 1 thread",
    ]
    ids = []
    for chart in drawn:
        root = ET.fromstring(chart.svg)
        assert root.get("role") == "img"
        named = (root.get("aria-labelledby") or "").split()
        inside = {element.get("id"): element for element in root if element.get("id")}
        assert list(inside) == named
        assert inside[named[0]].text == chart.title
        assert re.search(r"\d", inside[named[1]].text or ""), "the description states figures"
        assert chart.caption
        ids += named
    assert len(set(ids)) == len(ids)


def test_a_speed_up_and_its_interval_stand_where_they_should(report: dict[str, Any]) -> None:
    base = report["results"][0]
    faster, slower = ({**base, "model": name} for name in ("fast.tflite", "slow.tflite"))
    report["comparisons"] = [
        {**report["comparisons"][0], "candidate": "fast.tflite", "ratio": {"value": 0.5, "low": 0.4, "high": 0.625}}
        | {"verdict": "faster"},
        {**report["comparisons"][0], "candidate": "slow.tflite", "ratio": {"value": 1.25, "low": None, "high": None}}
        | {"verdict": "inconclusive"},
    ]
    chart = chart_speed.speed_up(report)
    assert chart is not None
    assert faster["model"] in texts(chart)
    assert "2.00× [1.60, 2.50]" in texts(chart)
    assert "0.80×" in texts(chart), slower
    assert "fast.tflite on litert: 2.00× [1.60, 2.50], faster." in description(chart)
    root = ET.fromstring(chart.svg)
    lines = [element.get("d", "") for element in root.iter("path") if "stroke-width: 2.5" in element.get("style", "")]
    (interval,) = lines  # none without an interval
    left, right = (float(x) for x in re.findall(r"[ML]([\d.]+) ", interval))
    one = next(
        float(re.findall(r"M([\d.]+) ", element.get("d", ""))[0])
        for element in root.iter("path")
        if element.get("style") == "fill: none; stroke: var(--text); stroke-width: 1.5"
    )
    logs = np.log([1.6, 2.5])
    assert one < left < right
    assert (left - one) / (right - one) == pytest.approx(logs[0] / logs[1], abs=0.01), "the scale is logarithmic"


@pytest.mark.parametrize(("verdict", "colour"), [("faster", "bad"), ("slower", "bad"), ("inconclusive", "soft")])
def test_a_control_that_differs_is_bad_news_in_either_direction(
    report: dict[str, Any], verdict: str, colour: str
) -> None:
    ratio = {"value": 0.5, "low": 0.4, "high": 0.625}
    report["comparisons"] = [{**report["comparisons"][0], "kind": "control", "ratio": ratio, "verdict": verdict}]
    chart = chart_speed.speed_up(report)
    assert chart is not None
    assert f"fill: none; stroke: var(--{colour}); stroke-width: 2.5" in chart.svg


def test_without_comparisons_accuracies_samples_or_profiles_there_is_no_chart(report: dict[str, Any]) -> None:
    report["comparisons"] = report["profiles"] = []
    for entry in report["results"]:
        entry["accuracy"] = None
    assert everything(report, None) == []
    assert everything(report, {}) == []


def points(*values: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"latency_ms": {"p50": p50}, "accuracy": accuracy} for p50, accuracy in values]


def test_the_front_is_what_nothing_beats() -> None:
    rows = points((3.0, 0.9), (1.0, 0.8), (2.0, 0.7), (2.0, 0.9), (4.0, 0.95), (1.0, 0.8), (5.0, 0.95))
    found = [(one["latency_ms"]["p50"], one["accuracy"]) for one in chart_speed.front(rows)]
    assert found == [(1.0, 0.8), (1.0, 0.8), (2.0, 0.9), (4.0, 0.95)]


def test_of_errors_the_smallest_are_on_the_front(report: dict[str, Any]) -> None:
    """A regression has a chart for each target, whose best rows are those with the smallest error."""
    report["results"] = [entry for entry in report["results"] if entry["device"] == "cpu" and entry["threads"] == 1]
    for entry in report["results"]:
        if entry["accuracy"] is not None:
            entry["rmse"] = {"weight": 3.0 * entry["accuracy"], "a_b": 0.5}
            entry["accuracy"] = None
    charts = chart_speed.quality(report)
    assert [chart.title for chart in charts] == ["RMSE of weight against latency", "RMSE of a_b against latency"]
    known = [entry for entry in report["results"] if entry["rmse"] and entry["latency_ms"]]
    fastest = min(known, key=lambda entry: float(entry["latency_ms"]["p50"]))
    smallest = min(entry["rmse"]["weight"] for entry in known)
    said = description(charts[0])
    assert f"{fastest['model']} on {fastest['runtime']}: on the front" in said
    best = [entry for entry in known if entry["rmse"]["weight"] == smallest]
    quickest = min(best, key=lambda entry: float(entry["latency_ms"]["p50"]))
    assert f"{quickest['model']} on {quickest['runtime']}: on the front, {smallest:.4g}" in said
    assert said.count("on the front") < len(known)
    assert description(charts[1]).count("on the front") == 1, "all are as right, so the fastest alone"


def test_the_front_is_marked_and_rows_without_accuracy_are_left_out(report: dict[str, Any]) -> None:
    report["results"] = [entry for entry in report["results"] if entry["device"] == "cpu" and entry["threads"] == 1]
    report["results"][0]["accuracy"] = None
    (chart,) = chart_speed.quality(report)
    said = description(chart)
    assert "model_fp32.tflite" not in said
    assert "model_int8.onnx on openvino: on the front" in said
    assert "model_int8.onnx on onnxruntime: 88.35 %" in said, "a faster row is as right"
    starred = [text for text in texts(chart) if text.startswith("★")]
    assert len(starred) == len(chart_speed.front([e for e in report["results"] if e["accuracy"] is not None]))


def test_no_row_whose_time_is_no_speed_is_in_any_chart(report: dict[str, Any], samples: dict[str, np.ndarray]) -> None:
    emulated = next(entry for entry in report["results"] if entry["status"] == "functional_only")
    assert emulated["accuracy"] is not None
    samples["|".join(str(emulated[key]) for key in KEY)] = next(iter(samples.values()))
    report["profiles"].append(profile(emulated["model"], emulated["runtime"], emulated["device"]))
    for chart in everything(report, samples):
        assert "litert_gpu" not in chart.svg
        assert "gpu" not in chart.title


def test_every_sample_is_in_the_distribution() -> None:
    figures, raw = measured(500.0, 3)
    raw[4, 19, 4] = 500_000 * 40  # one far out
    report = {"results": [row("a.tflite", "litert", **figures)]}
    (one,) = chart_samples.sampled(report, {"a.tflite|litert|cpu|1": raw})
    chart = chart_samples.distribution([one])
    assert chart is not None
    assert "500 samples" in description(chart)
    assert f"{raw.max() / 1e6:.3g} ms" in description(chart)
    areas = [
        element.get("d", "") for element in ET.fromstring(chart.svg).iter("path") if "fill: var" in str(element.attrib)
    ]
    right = max(float(x) for d in areas for x in re.findall(r"([\d.]+) [\d.]+", d))
    assert right > 0.95 * svg.WIDTH, "the farthest sample is drawn"


def test_samples_are_those_of_the_measurement_that_the_row_is_from() -> None:
    figures, raw = measured(500.0, 3)
    key = "a.tflite|litert|cpu|1"
    both = {key: raw, f"{key}|measurement 1": raw * 2}
    for measurement, times in ((0, 1), (1, 2), (2, 1)):
        report = {"results": [row("a.tflite", "litert", **figures, measurement=measurement)]}
        (one,) = chart_samples.sampled(report, both)
        assert one.low_ms == pytest.approx(times * raw.min() / 1e6)


def test_a_process_that_was_slow_is_seen_over_time() -> None:
    figures, _ = measured(500.0, 3)
    raw = np.full((3, 20, 5), 500_000)
    raw[1] = 600_000
    report = {"results": [row("a.tflite", "litert", **figures)]}
    chart = chart_samples.time_series(chart_samples.sampled(report, {"a.tflite|litert|cpu|1": raw}))
    assert chart is not None
    assert "0.5–0.6 ms" in texts(chart)
    lines = [
        element.get("d", "")
        for element in ET.fromstring(chart.svg).iter("path")
        if "stroke: var(--accent)" in element.get("style", "")
    ]
    heights = [{float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", d)} for d in lines]
    assert len(heights) == 3
    assert heights[0] == heights[2]
    assert max(heights[1]) < min(heights[0]), "slower is higher up"


def test_one_sample_one_round_and_equal_samples_can_be_drawn() -> None:
    for shape in ((1, 1, 1), (1, 40, 1), (2, 1, 1)):
        raw = np.full(shape, 1000)
        figures = {**measured(500.0, 3)[0], "latency_ms": statistics.latency(list(raw))}
        report = {"results": [row("a.tflite", "litert", **figures)]}
        rows = chart_samples.sampled(report, {"a.tflite|litert|cpu|1": raw})
        assert chart_samples.distribution(rows)
        assert chart_samples.time_series(rows)


def test_the_dearest_ops_are_shown_with_what_they_are(report: dict[str, Any]) -> None:
    chart = chart_profile.profiles(report)[0]
    shown = texts(chart)
    assert "470 µs in all ops; attention 21.3 %; not delegated 6.4 %" in shown
    assert shown.index("90 µs · 19.1 %") < shown.index("80 µs · 17.0 %")
    assert "CONV_2D · attention" in shown
    assert "MEAN · attention · not delegated" in shown
    assert "the other 4 ops" in shown
    assert "20 µs · 4.3 %" in shown
    bars = re.findall(r"M0 [\d.]+L([\d.]+) [^\"]*\" style=\"fill: var\(--(accent|attention|outside)\)", chart.svg)
    assert [float(width) for width, _ in bars[:3]] == pytest.approx([360, 320, 280], abs=0.1)
    assert [colour for _, colour in bars[:6]] == ["accent", "accent", "attention", "accent", "accent", "outside"]


def test_a_runtime_without_delegates_leaves_nothing_undelegated(report: dict[str, Any]) -> None:
    entry = report["profiles"][0] | {"delegate": None, "not_delegated": None, "attention": None}
    report["profiles"] = [entry]
    (chart,) = chart_profile.profiles(report)
    assert "delegated" not in " ".join(texts(chart))
    assert "470 µs in all ops" in texts(chart)


def test_names_from_strangers_stay_text(report: dict[str, Any]) -> None:
    figures, raw = measured(500.0, 3)
    for name in (EVIL, "$x^2$", "$" * 30, "a_{b}", "\ud800", "x" * 5000, " ", "%s{}"):
        rows = [row(model, EVIL, **figures, accuracy=0.5) for model in (name, "b")]
        hostile = {**report, "results": rows}
        hostile["comparisons"] = [comparison(rows[1], name, raw, raw)]
        listed = profile(name, EVIL)
        listed["ops"][0] |= {"name": name, "op": name, "where": EVIL}
        hostile["profiles"] = [{**listed, "delegate": name}]
        raws = {f"{model}|{EVIL}|cpu|1": raw for model in (name, "b")}
        drawn = everything(hostile, raws)
        assert len(drawn) == 5
        for chart in drawn:
            tags = {element.tag for element in ET.fromstring(chart.svg).iter()}
            assert tags <= {"svg", "title", "desc", "text", "path"}
            assert not re.search(r"[\x00-\x1f\u202e\ud800]", chart.svg)


def test_a_formula_in_a_name_is_not_interpreted(report: dict[str, Any]) -> None:
    report["comparisons"][0]["candidate"] = "$x^2$.tflite"
    chart = chart_speed.speed_up(report)
    assert chart is not None
    assert "$x^2$.tflite" in texts(chart)


def test_equal_reports_give_equal_bytes(report: dict[str, Any], samples: dict[str, np.ndarray]) -> None:
    again, other = copy.deepcopy(rich())
    first = [chart.svg for chart in everything(report, samples)]
    assert first == [chart.svg for chart in everything(again, other)]
    assert not any(re.search(r"20\d\d-\d\d|matplotlib", text) for text in first)


def test_the_page_colours_everything(report: dict[str, Any], samples: dict[str, np.ndarray]) -> None:
    for chart in everything(report, samples):
        styles = [element.get("style", "") for element in ET.fromstring(chart.svg) if element.tag in ("path", "text")]
        assert styles
        for style in styles:
            assert "#" not in style
            assert "font-family" not in style
            assert re.search(r"(fill|stroke): var\(--(\w+)\)", style), style
            assert set(re.findall(r"var\(--(\w+)\)", style)) <= set(svg.COLOURS)


def test_no_user_setting_of_matplotlib_changes_a_chart(report: dict[str, Any]) -> None:
    import matplotlib

    before = chart_speed.speed_up(report)
    with matplotlib.rc_context({"svg.fonttype": "path", "lines.linewidth": 9, "font.size": 40, "axes.linewidth": 5}):
        assert chart_speed.speed_up(report) == before
        assert matplotlib.rcParams["svg.fonttype"] == "path", "and the user's settings are as they were"


def test_a_long_measurement_does_not_blow_up_the_page() -> None:
    results, raws = [], {}
    for i in range(40):
        raw = np.random.default_rng(i).lognormal(13, 0.1, (15, 120, 10)).astype(np.int64)
        figures = {**measured(500.0, 3)[0], "latency_ms": statistics.latency(list(raw))}
        results.append(row(f"model_{i}.tflite", "litert", **figures))
        raws[f"model_{i}.tflite|litert|cpu|1"] = raw
    rows = chart_samples.sampled({"results": results}, raws)
    over_time, spread = chart_samples.time_series(rows), chart_samples.distribution(rows)
    assert over_time is not None
    assert spread is not None
    assert len(over_time.svg) + len(spread.svg) < 1_000_000
    assert "the median of 3 neighbouring rounds" in over_time.caption


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.1, [0.9, 0.95, 1.0, 1.05, 1.1]),
        (0.5, 6.0, [0.5, 1.0, 1.5, 2.0, 3.0, 5.0]),
        (0.001, 1000.0, [0.001, 0.1, 10.0, 1000.0]),
        (0.13, 0.7, [0.15, 0.2, 0.3, 0.5]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    scale = chart_parts.Scale(low, high, 0, 100)
    assert chart_parts.ticks(scale) == pytest.approx(expected)


def test_long_names_keep_both_ends() -> None:
    board = svg.Board()
    chart_parts.label(board, 10, LONG, "2.50× [2.38, 2.63]")
    drawn = board.svg("a", 20, "t", "d")
    (name,) = [text for text in re.findall(r">([^<]+)</text>", drawn) if "…" in text]
    assert name.startswith("a/very/long")
    assert name.endswith("v2.tflite")
    assert svg.width_of(name) + svg.width_of("2.50× [2.38, 2.63]", svg.SMALL) <= svg.WIDTH
