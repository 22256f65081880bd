"""Whether a model has become slower: a verdict for continuous integration.

Only times of one session are compared. A report from another day says which model it measured, by its digest; that
model is looked for, and measured again beside the new one. Its old times are not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.errors import InputError

from . import statistics
from .cells import SUFFIXES, digest, model_files
from .measure import REPORT_FILE

BROKEN = ("wrong_output", "crash", "timeout")


@dataclass(frozen=True)
class Baseline:
    """The model that a report names: its file, or why there is none."""

    path: Path | None
    reason: str = ""


def is_report(path: Path) -> bool:
    """Whether ``--baseline`` names a report, or its folder, rather than a model."""
    return path.suffix.lower() == ".json" or (path / REPORT_FILE).is_file()


def find_baseline(report: Path, candidates: Sequence[Path]) -> Baseline:
    """The model file that a report was made of, looked for by its sha256.

    Looked at are the model files beside the report, in the export folder of its run, beside the candidates and in the
    current folder.

    Args:
        report: report.json or the folder that it is in.
        candidates: the models to be judged.

    Raises:
        InputError: no report, or it is of several models and none has the name of the only candidate.
    """
    path = report / REPORT_FILE if report.is_dir() else report
    value = artifacts.read_json(path.resolve())  # the user has typed it, and it may be a link
    models = value.get("models") if isinstance(value, dict) else None
    if not isinstance(models, list) or not models or not all(_is_model(model) for model in models):
        raise InputError(f"{path} is no benchmark report of edgecbam")
    model = _the_model(models, value.get("comparisons"), candidates, path)
    folders = [path.parent, path.parent.parent / "export", *(c.parent for c in candidates), Path()]
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for file in sorted(folder.glob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file() and _is(file, model):
                return Baseline(file)
    return Baseline(None, f"the baseline {model['name']} (sha256 {model['sha256'][:12]}…) was not found beside {path}")


def judge(report: Mapping[str, Any], percent: float, problem: str = "") -> dict[str, Any]:
    """The entry ``gate`` of a report.

    Args:
        report: what was measured.
        percent: how much slower than the baseline a candidate may be.
        problem: why there is nothing to compare with, or "".

    Returns:
        ``verdict``: ``failed`` where a candidate is slower by more than ``percent`` beyond doubt, or crashes, hangs or
        computes something else; ``passed`` where every candidate is beyond doubt not slower; ``inconclusive`` else,
        with the ``reason``: a baseline that did not run, a candidate that was not measured or not checked, a control
        that differs from itself by as much.
    """
    compared = [c for c in report["comparisons"] if c["kind"] == "candidate"]
    rows = [_row(comparison, percent, len(compared)) for comparison in compared]
    unsteady = {_place(c) for c in report["comparisons"] if c["kind"] == "control" and _differs(c, percent)}
    slow = [row for row in rows if row["verdict"] == "slower" and _place(row) not in unsteady]
    candidates = [row for row in report["results"] if row["baseline"] != row["model"]]
    broken = [row for row in candidates if row["status"] in BROKEN and not _proves_nothing(row)]
    faults = [f"computes wrongly or not at all: {_named(broken)}"] if broken else []
    names = ", ".join(f"{row['candidate']} on {row['runtime']}" for row in slow)
    faults += [f"more than {percent:g} % slower than the baseline: {names}"] if slow else []
    if faults:
        verdict, reason = "failed", "; ".join(faults)
    elif not candidates and not problem:
        verdict, reason = "passed", "every model is the baseline itself"
    else:
        doubts = [problem, *_doubts(report, candidates, rows, unsteady)]
        reason = "; ".join(filter(None, doubts))
        verdict = "inconclusive" if reason else "passed"
    return {"threshold_percent": percent, "verdict": verdict, "reason": reason, "rows": rows}


def _doubts(
    report: Mapping[str, Any],
    candidates: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    unsteady: set[tuple[Any, ...]],
) -> list[str]:
    """Why a gate without a fault may still not be passed."""
    judged = {(row["candidate"], *_place(row)) for row in rows}
    unjudged = [row for row in candidates if (row["model"], *_place(row)) not in judged]
    unchecked = [row for row in report["results"] if row["status"] == "ok" and not (row["parity"] or {}).get("checked")]
    open_ = [f"{row['candidate']} on {row['runtime']}" for row in rows if row["verdict"] == "inconclusive"]
    quakes = ", ".join(sorted(f"{runtime} on {device}" for runtime, device, _ in unsteady))
    return [
        f"not compared with the baseline: {_named(unjudged)}" if unjudged else "",
        f"the outputs could not be checked: {_named(unchecked)}" if unchecked else "",
        f"the control differs from itself by as much ({quakes}): measure on a quieter machine" if unsteady else "",
        f"the interval holds the threshold: {', '.join(open_)}; measure longer (--rigorous)" if open_ else "",
    ]


def _named(results: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['model']} on {row['runtime']} ({row['status']})" for row in results)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["runtime"], row["device"], row["threads"]


def _differs(control: Mapping[str, Any], percent: float) -> bool:
    """Whether the control's whole interval lies beyond the threshold, on either side."""
    ratio, threshold = statistics.ratio_of_processes(control["process_ratios"]), 1 + percent / 100
    low, high = ratio["low"], ratio["high"]
    return (low is not None and low > threshold) or (high is not None and high < 1 / threshold)


def _proves_nothing(row: Mapping[str, Any]) -> bool:
    return bool((row["parity"] or {}).get("proves_nothing"))


def _row(comparison: Mapping[str, Any], percent: float, candidates: int) -> dict[str, Any]:
    place = {key: comparison[key] for key in ("candidate", "baseline", "runtime", "device", "threads")}
    ratio = statistics.ratio_of_processes(comparison["process_ratios"], statistics.family_confidence(candidates))
    return {**place, "ratio": ratio, "verdict": statistics.gate_verdict(ratio, percent)}


def _is(file: Path, model: Mapping[str, Any]) -> bool:
    try:
        files = model_files(file)
    except InputError:  # somebody else's damaged file
        return False
    return bool(sum(one.stat().st_size for one in files) == model["bytes"] and digest(files) == model["sha256"])


def _is_model(value: Any) -> bool:
    kinds = {"name": str, "sha256": str, "bytes": int}
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def _the_model(
    models: Sequence[Mapping[str, Any]], comparisons: Any, candidates: Sequence[Path], path: Path
) -> Mapping[str, Any]:
    """Which of a report's models is the baseline: the only one, the candidate's namesake, or the report's own."""
    names = {candidate.name for candidate in candidates}
    namesakes = [model for model in models if Path(model["name"]).name in names]
    told = comparisons if isinstance(comparisons, list) else []
    baselines = {c["baseline"] for c in told if isinstance(c, dict) and isinstance(c.get("baseline"), str)}
    for found in (models, namesakes, [model for model in models if model["name"] in baselines]):
        if len(found) == 1:
            return found[0]
    all_names = ", ".join(model["name"] for model in models)
    raise InputError(
        f"{path} is of several models ({all_names}): give the baseline itself, or one candidate of that name"
    )
