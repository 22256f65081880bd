"""What the terminal shows of events: bars on a terminal, few plain lines elsewhere, no wider than 80 columns."""

import io
import os
import pty
import re
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecbam import console, tables
from edgecbam.events import Event
from edgecbam.runtimes.onnx_nodes import FLOAT_MODEL

Listener = TypeVar("Listener", console.Bars, console.PlainLines)


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def plain(events: list[tuple[float, Event]]) -> list[str]:
    """The lines for events, each of which comes so many seconds after the one before."""
    clock, stream = Clock(), io.StringIO()
    listener = console.PlainLines(stream, clock)
    for seconds, event in events:
        clock.seconds += seconds
        listener(event)
    return stream.getvalue().splitlines()


def test_messages_are_shown_with_the_time_and_their_figures() -> None:
    events = [
        (0.0, Event("train", "6,000 images")),
        (65.0, Event("train", "epoch 1", figures={"loss": 0.51234, "ema_accuracy": 0.8812})),
        (3600.0, Event("quantize", "calibrated")),
    ]
    assert plain(events) == [
        "00:00 train: 6,000 images",
        "01:05 train: epoch 1, loss 0.5123, ema_accuracy 88.12 %",
        "1:01:05 quantize: calibrated",
    ]


def test_steps_are_shown_at_most_once_in_ten_seconds_and_epochs_always() -> None:
    steps = [(0.125, Event("train", step=i, total=800)) for i in range(1, 801)]
    lines = plain(steps)
    assert lines[0] == "00:10 train: 80/800 step, 8 step/s, 1 min 30 s left"
    assert len(lines) == 10
    epochs = [(0.125, Event("train", step=i, total=20, unit="epoch")) for i in range(1, 21)]
    assert len(plain(epochs)) == 20


def test_a_count_that_begins_anew_begins_its_rate_anew() -> None:
    first = [(1.0, Event("train", step=i, total=9)) for i in range(1, 10)]
    second = [(5.0, Event("train", step=i, total=9)) for i in range(1, 10)]
    assert plain(first + second)[:2] == ["00:14 train: 1/9 step", "00:24 train: 3/9 step, 5 s/step, 30 s left"]


def test_a_message_between_steps_leaves_their_rate_alone() -> None:
    steps = [(1.0, Event("train", step=i, total=40)) for i in range(1, 20)]
    steps.insert(5, (0.0, Event("train", "a word")))
    assert plain(steps)[1] == "00:15 train: 15/40 step, 1 step/s, 25 s left"


def test_a_step_without_total_shows_its_count_alone() -> None:
    assert plain([(0.0, Event("x", step=1)), (20.0, Event("x", step=41, unit="image"))])[0] == "00:20 x: 41 image"


def test_long_messages_are_folded_and_paths_stay_whole() -> None:
    path = "/a" * 60
    lines = plain([(0.0, Event("export", f"wrote {path} and {'much ' * 30}"))])
    assert path in " ".join(lines)
    assert [line for line in lines if len(line) > 80] == [line for line in lines if path in line]


def test_events_cannot_steer_the_terminal() -> None:
    assert plain([(0.0, Event("train", "a\x1b[31m\rb\nc"))])[0] == "00:00 train: a?[31m b c"


def bars(events: list[tuple[float, Event]], width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The last picture of the bars for events, before the stage is done."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    clock, stream = Clock(), Terminal()
    listener = console.Bars(stream, clock)
    for seconds, event in events:
        clock.seconds += seconds
        listener(event)
    listener._progress.refresh()
    picture = stream.getvalue()
    listener.close()
    return picture


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_bars_show_stage_count_rate_and_figures_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"loss": 0.4123, "raw_accuracy": 0.871, "ema_accuracy": 0.8812}
    events = [
        (0.0, Event("train", "6,000 [images] :smile:")),
        (0.0, Event("train", step=2, total=20, unit="epoch")),
        (0.0, Event("train", step=1, total=1760)),
        (10.0, Event("train", step=321, total=1760, figures=figures)),
    ]
    picture = without_escapes(bars(events, 80, monkeypatch))
    lines = re.split(r"[\r\n]+", picture)
    assert "00:00 train: 6,000 [images] :smile:" in [line.rstrip() for line in lines]
    last = [line for line in lines if "321/1760" in line][-1]
    assert re.match(r"train .* 321/1760 32 step/s .*loss 0\.4123", last)
    assert any("2/20" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_bars_of_a_stage_give_way_to_those_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        (0.0, Event("train", step=5, total=10)),
        (5.0, Event("train", step=2, total=10)),
        (61.0, Event("verify", "begun", step=1, total=2, unit="image")),
    ]
    picture = without_escapes(bars(events, 80, monkeypatch))
    after = picture[picture.index("01:06 verify: begun") :]
    assert "1/2" in after
    assert "2/10" not in after


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_terminal_is_given_back_however_the_work_ends(
    monkeypatch: pytest.MonkeyPatch, stream: Callable[[], io.StringIO]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    target = stream()

    def work() -> None:
        with console.shown_events(target) as on_event:
            on_event(Event("train", "begun", step=1, total=2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    text = target.getvalue()
    assert "train: begun" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == target.isatty()  # the cursor is hidden, and back


def test_bars_need_a_terminal_that_can_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    try:
        with os.fdopen(slave, "w") as stream:
            assert console.can_move_cursor(stream)
            monkeypatch.setenv("TERM", "dumb")
            assert not console.can_move_cursor(stream)
    finally:
        os.close(master)
    assert not console.can_move_cursor(io.StringIO())


def test_a_reader_that_has_gone_does_not_end_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    listener = console.PlainLines(stream)
    listener(Event("train", "begun"))
    with pytest.raises(BrokenPipeError):  # what was left in the buffer: the pipe was closed indeed
        stream.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.999, "10.0 s"),
        (10.4, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (4020, "1 h 07 min"),
        (-1.0, "0.0 s"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


# Tables


@given(st.text(max_size=60), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_no_name_makes_a_table_wider_than_80_columns_or_breaks_its_lines(name: str, runtimes: list[str]) -> None:
    rows = [(console.printable(name), console.printable(runtime), "1.00") for runtime in runtimes]
    text = tables.table(("model", "runtime", "p50 ms"), rows, frozenset({2}))
    assert len(text.split("\n")) == len(rows) + 1
    assert all(len(line) <= 80 for line in text.split("\n"))


def test_a_long_reason_runs_to_the_margin_and_is_cut_there() -> None:
    text = tables.table(("model", "runtime", "p50 ms", "verdict"), [("a", "litert", "crash: " + "why " * 40)])
    assert text.split("\n")[1].startswith("a     litert  crash: why why")
    assert text.split("\n")[1].endswith("…")
    assert len(text.split("\n")[1]) == 80


def test_a_reason_that_the_table_cuts_stands_whole_below_it() -> None:
    reason = "openvino is not installed here and would be needed to run it: pip install 'edgecbam[openvino]'"
    row = {"model": "a.onnx", "runtime": "openvino", "status": "unsupported", "reason": reason, "latency_ms": None}
    text = tables.results_table({"results": [row], "comparisons": [], "protocol": {"note": "quick"}})
    assert reason in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.split("\n"))


def test_a_speed_up_is_the_reciprocal_of_the_ratio_with_its_bounds_exchanged() -> None:
    assert tables.speed_up({"value": 0.5, "low": 0.4, "high": 0.625}) == "2.00 (1.60-2.50)"
    assert tables.speed_up({"value": 2.0, "low": None, "high": None}) == "0.50 (?)"


def test_a_model_is_compared_on_its_own_runtime_only() -> None:
    def row(model: str, runtime: str) -> dict[str, object]:
        return {
            "model": model,
            "runtime": runtime,
            "device": "cpu",
            "threads": 1,
            "status": "ok",
            "reason": "",
            "accuracy": None,
            "bytes": None,
            "latency_ms": {"p50": 1.0},
        }

    compared = {
        "kind": "candidate",
        "baseline": "a.onnx",
        "candidate": "b.onnx",
        "runtime": "openvino",
        "device": "cpu",
        "threads": 1,
        "ratio": {"value": 0.5, "low": 0.4, "high": 0.6},
        "verdict": "faster",
    }
    rows = [row(model, runtime) for runtime in ("onnxruntime", "openvino") for model in ("a.onnx", "b.onnx")]
    report = {"protocol": {"note": "a look"}, "results": rows, "comparisons": [compared]}
    lines = tables.results_table(report).split("\n")[1:-1]
    assert [line.split()[-1] for line in lines] == ["-", "-", "baseline", "faster"]


def measured(model: str, runtime: str, nodes: dict[str, object] | None) -> dict[str, object]:
    return {
        "model": f"model_{model}",
        "runtime": runtime,
        "device": "cpu",
        "threads": 1,
        "status": "ok",
        "reason": "",
        "accuracy": 0.918,
        "bytes": 394300,
        "latency_ms": {"p50": 0.1234},
        "nodes": nodes,
        "nodes_reason": "",
    }


def test_nodes_on_integers_have_a_column_that_fits_and_those_in_float_a_line() -> None:
    def entry(op: str, count: int, reason: str) -> dict[str, object]:
        return {"op": op, "count": count, "reason": reason, "names": ["n"] * count}

    listed = [entry("QuantizeLinear", 1, "converts the input"), entry("Tanh", 2, "why"), entry("Erf", 1, "why")]
    rows = [
        measured("ptq_int8.tflite", "litert", None),
        measured("fp32.onnx", "onnxruntime", {"integer": 0, "float": 40, "in_float": [entry("all", 40, FLOAT_MODEL)]}),
        measured("int8.onnx", "onnxruntime", {"integer": 152, "float": 4, "other": 9, "in_float": listed}),
    ]
    compared = {"kind": "candidate", "device": "cpu", "threads": 1, "verdict": "inconclusive"} | {
        "baseline": "model_fp32.onnx",
        "candidate": "model_int8.onnx",
        "runtime": "onnxruntime",
        "ratio": {"value": 1.0, "low": 0.96, "high": 1.05},
    }
    report = {"protocol": {"note": "a look"}, "results": rows, "comparisons": [compared]}
    lines = tables.results_table(report).split("\n")
    assert all(len(line) <= 80 for line in lines)
    column = lines[0].split().index("int") - 1  # "top-1 %" is two words
    assert [line.split()[column] for line in lines[1:4]] == ["-", "0/40", "152/156"]
    assert lines[3].startswith("int8.onnx ")
    assert lines[3].endswith("1.00 (0.95-1.04) inconclusive")
    assert lines[4:] == ["int8.onnx, in float: QuantizeLinear (converts the input); 2 Tanh, Erf (why)", "a look"]


def test_without_nodes_there_is_no_column_and_a_reason_for_it_is_told() -> None:
    row = measured("int8.onnx", "onnxruntime", None)
    report = {"protocol": {"note": "a look"}, "results": [row], "comparisons": []}
    older = {key: value for key, value in row.items() if not key.startswith("nodes")}
    assert tables.results_table(report) == tables.results_table({**report, "results": [older]})
    assert " int " not in tables.results_table(report)
    assert tables.results_table(report).split("\n")[1].endswith("385  0.123 -        -")
    row["nodes_reason"] = "the trace lists no node"
    assert "int8.onnx: nodes in float unknown: the trace lists no node" in tables.results_table(report)
