"""An ablation in words and tables: ``python -m edgecbam.benchmarks.ablation_table RESULTS DOCUMENT``.

RESULTS is a folder with ``ablation*.json`` files and their plots. In the document the tables stand between comment
lines, so that a test can compare them with the reports that they came from.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .ablation_comparisons import WEIGHTS, attention_baseline
from .readme_table import END, replace
from .wording import NONE, plain

BEGIN = "<!-- begin of the results made by edgecbam.benchmarks.ablation_table -->"
PATTERN = "ablation*.json"
SHORT = {"raw": "raw", "ema": "EMA", "ptq_int8": "PTQ int8", "qat_int8": "QAT int8"}
HEADINGS = {
    "attention": "What attention is worth",
    "ema": "What averaging the weights is worth",
    "decay": "What the falling learning rate is worth",
    "quantization": "What int8 costs",
}
Report = Mapping[str, Any]


def side(name: str, weights: str) -> str:
    """``cbam, QAT int8``: one side of a comparison."""
    return f"{name}, {SHORT[weights]}"


def compared(row: Mapping[str, Any]) -> str:
    """``cbam against none, EMA``, or ``cbam: EMA against raw`` within one arm."""
    ours, theirs = SHORT[row["candidate_weights"]], SHORT[row["baseline_weights"]]
    if row["candidate"] == row["baseline"]:
        return f"{row['candidate']}: {ours} against {theirs}"
    if ours == theirs:
        return f"{row['candidate']} against {row['baseline']}, {ours}"
    return (
        f"{side(row['candidate'], row['candidate_weights'])} against {side(row['baseline'], row['baseline_weights'])}"
    )


def points(value: float | None) -> str:
    """A difference of accuracies in percentage points: ``+0.41`` for 0.0041."""
    if value is None:
        return NONE
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def interval(found: Mapping[str, Any] | None) -> str:
    """``−0.12 to +0.94``; – where there is none."""
    if found is None or found["low"] is None:
        return NONE
    return f"{points(found['low'])} to {points(found['high'])}"


def sentence(row: Mapping[str, Any]) -> str:
    """What one comparison says, in plain words."""
    count, value = len(row["seeds"]), row["test"]["value"]
    told = f"{compared(row)}: "
    if count == 1:
        images = row["images"][0]
        told += f"{points(value)} points with one seed, which has no interval: nothing can be said of the next training"
        if images is not None:
            told += f"; for these two networks other images would give {interval(images)} points"
        return f"{told}."
    if row["verdict"] == "inconclusive":
        return f"{told}no difference shown: {points(value)} points, and {interval(row['test'])} are all possible."
    return f"{told}{row['verdict']} by {points(abs(value)).lstrip('+')} points ({interval(row['test'])})."


def notes(report: Report) -> list[str]:
    """What holds for every figure of an ablation: data, seeds, intervals, machine."""
    data, seeds = report["data"], report["seeds"]
    said = [
        f"Recipe {report['recipe']['name']} on {data['source']}: {data['train_images']} training, "
        f"{data['validation_images']} validation and {data['test_images']} test images, "
        f"{data['epochs']} {'epoch' if data['epochs'] == 1 else 'epochs'}, then {data['quantize_epochs']} of QAT; "
        + ("one seed" if len(seeds) == 1 else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})")
        + ", the same split for all.",
    ]
    if len(seeds) > 1:
        said.append(
            "Differences are candidate − baseline test top-1 in percentage points, paired by seed, with Student's 95 % "
            f"interval over the seeds. Each of the {len(report['comparisons'])} intervals stands for itself: one in "
            "twenty misses its truth. They speak of training again, tested on these same images."
        )
    else:
        said.append(
            "With one seed there is no interval over trainings: intervals here are over test images, for the two "
            "networks at hand alone, and no verdict follows from them."
        )
    missing = report["planned_runs"] - len(report["runs"])
    if missing:
        said.append(
            f"{missing} of {report['planned_runs']} trainings are still missing and pairs without both are left out: "
            "verdicts are premature."
        )
    said += [
        plain(f"{run['arm']}, seed {run['seed']}, failed and is left out: {run['reason']}")
        for run in report["runs"]
        if run["status"] != "ok"
    ]
    said += [
        f"{run['arm']}, seed {run['seed']}: gates of verify that failed: {', '.join(run['failed_gates'])}."
        for run in report["runs"]
        if run["failed_gates"]
    ]
    if len({tuple(sorted(run["versions"].items())) for run in report["runs"] if run["status"] == "ok"}) > 1:
        said.append("Not all trainings were made with the same versions: those named are of the last one.")
    return [*said, machine(report)]


def machine(report: Report) -> str:
    """The machine and the versions that made the figures."""
    environment = report["environment"]
    versions = environment["versions"]
    names = {
        "tensorflow": "TensorFlow",
        "tf-keras": "tf-keras",
        "tensorflow-model-optimization": "tfmot",
        "litert": "LiteRT",
    }
    made = ", ".join(f"{shown} {versions[name]}" for name, shown in names.items() if versions.get(name))
    told = f"{environment['cpu']}, {environment['logical_cpus']} CPUs, {environment['os']}; {made}."
    measured = report["benchmark"]
    if measured is not None:
        told += (
            f" Latency: model_int8.tflite of seed {measured['seed']} in LiteRT, 1 thread, batch 1, n = {measured['n']} "
            f"in {measured['processes']} processes, {measured['protocol']} protocol."
        )
    return told


def accuracy_rows(report: Report) -> list[list[str]]:
    """For each arm: test top-1 of each of WEIGHTS in percent, and that of the averaged weights on validation images."""
    cells = {(row["arm"], row["weights"]): row for row in report["summary"]}

    def mean(arm: str, weights: str, part: str) -> str:
        found = cells.get((arm, weights), {}).get(part)
        return NONE if found is None else f"{100 * found['mean']:.2f}"

    return [
        [
            arm["name"],
            *(mean(arm["name"], weights, "test") for weights in WEIGHTS),
            mean(arm["name"], "ema", "validation"),
        ]
        for arm in report["arms"]
    ]


ACCURACY_HEADS = ["arm", *SHORT.values(), "validation"]
COST_HEADS = ["arm", "parameters", "M MAC", "int8 p50, ms", "latency ratio", "verdict"]
COMPARISON_HEADS = ["compared", "points", "95 % interval", "verdict", "validation"]


def cost_rows(report: Report) -> list[list[str]]:
    """For each arm of its own architecture: parameters, multiply-accumulates, and latency where it was measured."""
    rows = []
    for arm in report["arms"]:
        if arm["parameters"] is None or arm["decay"] == "constant":
            continue
        latency, ratio = arm["p50_ms"], arm["latency_ratio"]
        shown = NONE if latency is None else f"{latency:.3g}"
        if ratio is None:
            compared_with, verdict = ("1", "baseline") if latency is not None else (NONE, NONE)
        else:
            bounds = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            compared_with, verdict = f"{ratio['value']:.2f}{bounds}", ratio["verdict"]
        rows.append([arm["name"], f"{arm['parameters']:,}", f"{arm['macs'] / 1e6:.2f}", shown, compared_with, verdict])
    return rows


def comparison_rows(report: Report, factor: str) -> list[list[str]]:
    """The comparisons of a factor."""
    return [
        [
            compared(row),
            points(row["test"]["value"]),
            interval(row["test"] if len(row["seeds"]) > 1 else row["images"][0]),
            row["verdict"] if len(row["seeds"]) > 1 else "one seed",
            NONE if row["validation"] is None else points(row["validation"]["value"]),
        ]
        for row in report["comparisons"]
        if row["factor"] == factor
    ]


def factors(report: Report) -> list[str]:
    """The factors that have comparisons, in the order in which they are shown."""
    present = {row["factor"] for row in report["comparisons"]}
    return [factor for factor in HEADINGS if factor in present]


def price(report: Report) -> list[str]:
    """What attention costs in int8 latency, a sentence for each arm that was measured."""
    baseline = attention_baseline(report["arms"]) if report["arms"] else ""
    return [
        f"{arm['name']} takes {arm['latency_ratio']['value']:.2f} times as long as {baseline} in int8 "
        f"({arm['latency_ratio']['verdict']})."
        for arm in report["arms"]
        if arm["latency_ratio"] is not None
    ]


def markdown(report: Report, chart: str | None, remark: str = "", level: int = 2) -> str:
    """The whole ablation as Markdown.

    Args:
        report: the value of ablation.json.
        chart: name of the file with the forest plot; None: there is none.
        remark: a line to stand below the plot's place.
        level: of the headings.
    """
    mark = "#" * level
    parts = [f"{mark} Test top-1, %, mean over seeds", table(ACCURACY_HEADS, accuracy_rows(report))]
    if cost_rows(report):
        parts += [f"{mark} What each network costs", table(COST_HEADS, cost_rows(report))]
    for factor in factors(report):
        said = [sentence(row) for row in report["comparisons"] if row["factor"] == factor]
        said += price(report) if factor == "attention" else []
        parts += [
            f"{mark} {HEADINGS[factor]}",
            "\n".join(f"- {line}" for line in said),
            table(COMPARISON_HEADS, comparison_rows(report, factor)),
        ]
    if chart is not None:
        parts.append(f"![Differences with their intervals]({chart})")
    if remark:
        parts.append(remark)
    parts += [f"{mark} How to read it", "\n".join(f"- {note}" for note in notes(report))]
    return "\n\n".join(parts)


def page(report: Report, chart: str | None, remark: str = "") -> str:
    """``ablation.md``."""
    return f"# Ablation of {plain(report['recipe']['name'])}\n\n{markdown(report, chart, remark)}\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\[\]|])", r"\\\1", plain(text))


def reports(folder: Path) -> dict[str, Any]:
    """The ablations of a folder by file name, sorted."""
    return {path.name: artifacts.read_json(path) for path in sorted(folder.glob(PATTERN))}


def block(found: Mapping[str, Report]) -> str:
    """The tables of all ablations of a folder, between their comment lines."""
    parts = [BEGIN]
    for name, report in found.items():
        path = Path("../benchmarks/results") / name
        parts += [f"### `{report['command']}`", f"[Every figure]({path})."]
        parts.append(markdown(report, str(path.with_suffix(".svg")), level=4))
    if not found:
        parts.append("No results are committed yet.")
    return "\n\n".join([*parts, END])


def renew(document: str, found: Mapping[str, Report]) -> str:
    """The document with the block replaced; raises ValueError where it has none."""
    return replace(document, block(found))


def main(arguments: list[str]) -> None:
    """Renew the tables of DOCUMENT from the reports in RESULTS."""
    results, document = map(Path, arguments)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), reports(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
