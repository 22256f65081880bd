"""Results as text: tables that can be read at 80 columns, in a terminal and in a log file alike."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

from edgecbam.benchmarks import ablation_table
from edgecbam.console import WIDTH, fold, printable, shortened
from edgecbam.runtimes.onnx_nodes import FLOAT_MODEL

INTEGERS = "int"
FAILED = "status: reason"  # of a row without a time, from its place to the right margin
PLACE = ("model", "runtime", "device", "thr")
COLUMNS = (*PLACE, "top-1 %", "RMSE", "KiB", INTEGERS, "p50 ms", "speed-up", "verdict")
VARYING = {"device": "device", "thr": "threads"}  # columns that say something only where rows differ in them
FIGURES = ("thr", "top-1 %", "RMSE", "KiB", INTEGERS, "p50 ms")
LEAST_NEEDED = (INTEGERS, "KiB", "top-1 %", "RMSE")  # in the order in which they give way
NAME_WIDTH, RUNTIME_WIDTH, DEVICE_WIDTH = 11, 16, 10


class GateLike(Protocol):
    """What a gate of ``verify`` shows of itself."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def value(self) -> Any: ...
    @property
    def threshold(self) -> Any: ...
    @property
    def meaning(self) -> str: ...
    @property
    def detail(self) -> str: ...


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns under a header. Column 0 gives way (``model_a…``) where the whole would be wider than WIDTH.

    Args:
        header: one title for each column.
        rows: the cells; a row may be shorter than the header, its last cell then runs on to the right margin.
        right: the columns to be set flush right.
    """
    in_columns = [row if len(row) == len(header) else row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in (header, *in_columns) if i < len(row)) for i in range(len(header))]
    widths[0] = max([widths[0], *(len(row[0]) for row in rows)])
    others = sum(widths[1:]) + len(widths) - 1
    widths[0] = min(widths[0], max(len(header[0]), WIDTH - others))
    return "\n".join(_line(row, widths, right) for row in (header, *rows))


def _line(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    cells = []
    for i, cell in enumerate(row):
        runs_on = i == len(row) - 1 and len(row) < len(widths)
        width = WIDTH - sum(widths[:i]) - i if runs_on else widths[i]
        text = shortened(cell, width)
        cells.append(text.rjust(width) if i in right and not runs_on else text.ljust(width))
    return " ".join(cells).rstrip()


def percent(fraction: float | None) -> str:
    """``91.80`` for 0.918; ``-`` where there is no figure."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def figure(value: Any) -> str:
    """A value of a gate: numbers with four digits, everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else printable(str(value))
    return f"{value:.4g}"


def results_table(report: Mapping[str, Any]) -> str:
    """The cells of a benchmark report: accuracy or RMSE, size, median latency, and speed-up with its 95 % interval.

    The speed-up is baseline / candidate latency in the same place; ``int`` is how many nodes run on integers, of
    those on integers or in float, where a runtime tells; device and threads (``thr``) have columns where they vary; the
    RMSE of several targets stands as ``0.021/1.3``, their names below. A cell without figures shows its status and
    reason instead. Where all columns would leave the model too little room, those of LEAST_NEEDED give way. Below
    stand the nodes that stay in float in quantized models and why, every reason that the table had to cut, and what
    the protocol is good for.
    """
    results = report["results"]
    compared = candidates(report)
    names = _names(results)
    rows = [_result_row(row, names[row["model"]], compared) for row in results]
    columns = [column for column in COLUMNS if _has_a_use(column, results)]
    left_out = []
    for column in LEAST_NEEDED:
        if column in columns and _width(columns, rows) > WIDTH:
            columns.remove(column)
            left_out.append(column)
    cells = [_cells(row, columns) for row in rows]
    right = frozenset(i for i, column in enumerate(columns) if column in FIGURES)
    text = table(columns, cells, right)
    reasons = dict.fromkeys(printable(row["reason"]) for row in results if row["reason"])
    cut = [fold(reason) for reason in reasons if reason not in text]
    in_float = [fold(line) for line in map(_in_float, results) if line]
    omitted = [f"no room for {', '.join(left_out)}: see report.json"] if left_out else []
    errors = (
        [fold(printable(f"RMSE: of {'/'.join(_targets(results))}, each in its own unit"))] if "RMSE" in columns else []
    )
    return "\n".join([text, *errors, *in_float, *cut, *omitted, fold(printable(report["protocol"]["note"]))])


def _has_a_use(column: str, results: Sequence[Mapping[str, Any]]) -> bool:
    if column == INTEGERS:  # no runtime told, or the report is older than this
        return any(row.get("nodes") for row in results)
    if column == "top-1 %":
        return any(row.get("accuracy") is not None for row in results)
    if column == "RMSE":  # a classifier has none, nor has a report of before there was regression
        return bool(_targets(results))
    if column in VARYING:
        return len({row[VARYING[column]] for row in results if VARYING[column] in row}) > 1
    return True


def _targets(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The targets of a regression, in the order in which the rows name them; none for classifiers."""
    return list(dict.fromkeys(name for row in results for name in row.get("rmse") or ()))


def _cells(row: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    """The cells of a row in these columns; one that failed ends with its status and reason."""
    if FAILED in row:
        return (*(row[column] for column in columns if column in PLACE), row[FAILED])
    return tuple(row[column] for column in columns)


def _width(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    """How wide a table of these columns is with a name of NAME_WIDTH characters."""
    others = columns[1:]
    return NAME_WIDTH + sum(1 + max([len(c), *(len(row[c]) for row in rows if c in row)]) for c in others)


def candidates(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The comparisons of different models; a control compares a baseline with itself."""
    return [comparison for comparison in report["comparisons"] if comparison["kind"] == "candidate"]


def _in_float(row: Mapping[str, Any]) -> str:
    """The float nodes of a quantized model by reason, on one line; nothing for a float model."""
    nodes, name = row.get("nodes"), _short_name(row)
    if nodes is None:
        reason = row.get("nodes_reason")
        return printable(f"{name}: nodes in float unknown: {reason}") if reason else ""
    by_reason: dict[str, list[str]] = {}
    for entry in nodes["in_float"]:
        if entry["reason"] == FLOAT_MODEL:
            return ""
        times = "" if entry["count"] == 1 else f"{entry['count']} "
        by_reason.setdefault(entry["reason"], []).append(times + entry["op"])
    texts = [f"{', '.join(ops)} ({reason})" for reason, ops in by_reason.items()]
    return printable(f"{name}, in float: {'; '.join(texts)}") if texts else ""


def _short_name(row: Mapping[str, Any]) -> str:
    return printable(PurePath(row["model"]).name).removeprefix("model_")


def _names(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What stands for each model: where names are long, without the beginning that they share."""
    names = {row["model"]: _short_name(row) for row in results}
    prefix = os.path.commonprefix(list(names.values()))  # noqa: RUF071  characters are meant
    shared = re.sub("[^-_. ]*$", "", prefix)
    if len(names) < 2 or len(shared) < 4 or max(map(len, names.values())) <= NAME_WIDTH:
        return names
    return {model: f"…{name[len(shared) :]}" for model, name in names.items()}


def _result_row(row: Mapping[str, Any], name: str, compared: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The cells of a row by column; of one without a time only those of its place, and FAILED."""
    place = {
        "model": name,
        "runtime": shortened(printable(row["runtime"]), RUNTIME_WIDTH),
        "device": shortened(printable(row.get("device", "-")), DEVICE_WIDTH),
        "thr": str(row.get("threads", "-")),
    }
    latency = row["latency_ms"]
    if row["status"] != "ok" or latency is None:
        reason = printable(row["reason"] or "")
        return {**place, FAILED: f"{row['status']}: {reason}" if reason else row["status"]}
    nodes, size = row.get("nodes"), row["bytes"]
    speed, verdict = _judgement(row, compared)
    return {
        **place,
        "top-1 %": percent(row["accuracy"]),
        "RMSE": "/".join(f"{value:.3g}" for value in (row.get("rmse") or {}).values()) or "-",
        "KiB": "-" if size is None else f"{size / 1024:.0f}",
        INTEGERS: "-" if nodes is None else f"{nodes['integer']}/{nodes['integer'] + nodes['float']}",
        "p50 ms": f"{latency['p50']:.3g}",
        "speed-up": speed,
        "verdict": verdict,
    }


def _judgement(row: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Speed-up and verdict."""
    here = [c for c in compared if all(c[key] == row[key] for key in ("runtime", "device", "threads"))]
    for comparison in here:
        if comparison["candidate"] == row["model"]:
            return speed_up(comparison["ratio"]), comparison["verdict"]
    is_baseline = any(comparison["baseline"] == row["model"] for comparison in here)
    return ("1", "baseline") if is_baseline else ("-", "-")


def speed_up(ratio: Mapping[str, float | None]) -> str:
    """``2.31 (2.20-2.43)``, from the ratio of latencies candidate / baseline; ``?`` where there is no interval."""
    value, low, high = ratio["value"], ratio["low"], ratio["high"]
    if value is None:
        return "-"
    return f"{1 / value:.2f} (?)" if low is None or high is None else f"{1 / value:.2f} ({1 / high:.2f}-{1 / low:.2f})"


def gates_line(gates: Sequence[GateLike]) -> str:
    """All gates in one line: ``gates: 9 of 9 passed``."""
    failed = [gate.name for gate in gates if not gate.passed]
    line = f"gates: {len(gates) - len(failed)} of {len(gates)} passed"
    return f"{line}; failed: {', '.join(failed)}" if failed else line


def gates_table(gates: Sequence[GateLike]) -> str:
    """One line for each gate; below them, what the failed ones mean and found."""
    rows = [
        (gate.name, "passed" if gate.passed else "FAILED", figure(gate.value), figure(gate.threshold), gate.meaning)
        for gate in gates
    ]
    names = max((len(row[0]) for row in rows), default=4)
    values = [max([len(title), *(len(row[i]) for row in rows)]) for i, title in ((2, "value"), (3, "threshold"))]
    room = WIDTH - names - len("passed") - sum(values) - 4
    shown = [(*row[:4], shortened(printable(row[4]), max(10, room))) for row in rows]
    text = table(("gate", "result", "value", "threshold", "meaning"), shown, right=frozenset({2, 3}))
    details = [fold(f"{gate.name}: {printable(f'{gate.meaning}: {gate.detail}')}") for gate in gates if not gate.passed]
    return "\n".join([text, *details])


def predictions_text(image: str, classes: Sequence[str], probabilities: Sequence[float]) -> str:
    """The image, and under it its classes with their probabilities in percent."""
    lines = [f"{100 * p:8.2f} %  {printable(name)}" for name, p in zip(classes, probabilities, strict=True)]
    return "\n".join([printable(image), *lines])


def values_text(image: str, targets: Sequence[str], values: Sequence[float]) -> str:
    """The image, and under it its targets with their values."""
    lines = [f"{value:10.6g}  {printable(name)}" for name, value in zip(targets, values, strict=True)]
    return "\n".join([printable(image), *lines])


def gates_moved(rows: Sequence[Mapping[str, Any]]) -> str:
    """What export.explanation.summary found: a line for each gate."""
    heads = ("block", "gate", "mean", "cosine", "steps")
    cells = [
        (
            printable(row["block"]),
            row["kind"],
            f"{row['mean']:.3f}",
            f"{row['cosine']:.5f}",
            f"{row['worst_steps']:.1f}",
        )
        for row in rows
    ]
    note = "mean: of the float gate; cosine: the smallest; steps: the largest difference of int8, in 1/256"
    return f"{table(heads, cells, frozenset({2, 3, 4}))}\n{fold(note)}"


def layer_costs(found: Mapping[str, Any]) -> str:
    """What sensitivity.measure found: a line for each layer, the one that matters most first."""
    regression = found["task"] == "regression"
    heads = ("layer kept float", *(("RMSE",) if regression else ("top-1 points", "95 % interval")), "error less")
    cells = [
        (
            printable(row["name"]),
            *(
                (f"{row['change']:+.4f}",)
                if regression
                else (f"{100 * row['change']:+.2f}", f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}")
            ),
            f"{100 * row['closer']:.1f} %",
        )
        for row in found["layers"]
    ]
    int8, kept = (
        f"RMSE {value:.4f}" if regression else f"{100 * value:.2f} %"
        for value in (found["int8_score"], found["float_score"])
    )
    note = (
        f"{found['images']:,} held-out images: int8 {int8}, with every layer float {kept}. "
        "Error less: by how much of itself the distance of int8's "
        f"{'values' if regression else 'logits'} from the float ones shrinks."
    )
    return f"{table(heads, cells, frozenset(range(1, len(heads))))}\n{fold(note)}"


def inspection_text(found: Mapping[str, Any]) -> str:
    """What export.inspection.inspect found, a heading and a fact on each line."""
    rows = [("file", found["file"]), ("", f"{found['bytes']:,} bytes, sha256 {found['sha256'][:16]}…")]
    rows += [("input" if key == "inputs" else "output", _tensor(one)) for key in ENDS for one in found[key] or ()]
    rows.append(("ops", ", ".join(f"{count} {kind}" for kind, count in found["ops"].items())))
    if "float_tensors" in found:
        rows.append(("floats", f"{found['float_tensors'] or 'no'} tensors of a floating-point type"))
    rows.append(("runs", found["unopened"] or _placement(found["placement"])))
    rows.append(("needs", found["minimum_runtime"] or "the file does not say"))
    rows += _metadata(found)
    width = max(len(head) for head, _ in rows)
    return "\n".join(fold(f"{head:{width}}  {printable(text)}", indent=width + 2) for head, text in rows)


ENDS = ("inputs", "outputs")


def _tensor(tensor: Mapping[str, Any]) -> str:
    text = f"{tensor['name']}: {tensor['dtype']} {list(tensor['shape'])}"
    return text if tensor["scale"] is None else f"{text}, scale {tensor['scale']:.6g}, zero {tensor['zero_point']}"


def _placement(placement: Mapping[str, Any]) -> str:
    if "xnnpack_partitions" not in placement:
        return ", ".join(f"{key} {value}" for key, value in placement.items() if isinstance(value, str | int))
    partitions, outside = placement["xnnpack_partitions"], placement["ops_outside"]
    text = f"{partitions} XNNPACK partition{'s' * (partitions != 1)} on this machine"
    return f"{text}; outside: {', '.join(outside)}" if outside else text


def _metadata(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    metadata = found["metadata"]
    if metadata is None:
        return [("metadata", "none")]
    if found["format"] == "onnx":
        return [("metadata" if i == 0 else "", f"{key}: {value}") for i, (key, value) in enumerate(metadata.items())]
    named = f"{metadata['name'] or 'without a name'}, version {metadata['version'] or 'not told'}"
    rows = [("metadata", named)]
    rows += [("", f"{key} {metadata[key]}") for key in ("description", "author", "license") if metadata[key]]
    if metadata["normalization"] is not None:
        mean, std = (_numbers(metadata["normalization"][key]) for key in ("mean", "std"))
        rows.append(("", f"pixels as (pixel - {mean}) / {std} where the input is float"))
    if metadata["labels"] is not None:
        rows.append(("", f"{len(metadata['labels'])} labels: {', '.join(metadata['labels'])}"))
    if metadata["files"]:
        rows.append(("", f"files {', '.join(f'{name} ({size:,} bytes)' for name, size in metadata['files'].items())}"))
    return rows


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def ablation_text(report: Mapping[str, Any]) -> str:
    """An ablation: accuracies, costs and paired differences as tables, and below them how to read them."""
    shown = [table(ablation_table.ACCURACY_HEADS, ablation_table.accuracy_rows(report), frozenset(range(1, 6)))]
    costs = ablation_table.cost_rows(report)
    if costs:
        shown.append(table(ablation_table.COST_HEADS, costs, frozenset({1, 2, 3})))
    rows = [
        row[:4] for factor in ablation_table.factors(report) for row in ablation_table.comparison_rows(report, factor)
    ]
    shown.append(table(ablation_table.COMPARISON_HEADS[:4], rows, frozenset({1, 2})))
    shown.append("\n".join(fold(printable(note)) for note in ablation_table.notes(report)))
    return "\n\n".join(shown)
