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
from .cells import SUFFIXES
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
    value = artifacts.read_json(path)
    models = value.get("models") if isinstance(value, dict) else None
    if not isinstance(models, list) or not models or not all(_is_model(model) for model in models):
        raise InputError(f"{path} is no benchmark report of edgecbam")
    model = _the_model(models, value.get("comparisons", []), candidates, path)
    folders = [path.parent, path.parent.parent / "export", *(c.parent for c in candidates), Path()]
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for file in sorted(folder.glob("*")):
            same_size = file.suffix.lower() in SUFFIXES and file.is_file() and file.stat().st_size == model["bytes"]
            if same_size and artifacts.sha256_file(file) == model["sha256"]:
                return Baseline(file)
    return Baseline(None, f"the baseline {model['name']} (sha256 {model['sha256'][:12]}…) was not found beside {path}")


def judge(report: Mapping[str, Any], percent: float, problem: str = "") -> dict[str, Any]:
    """The entry ``gate`` of a report.

    Args:
        report: what was measured.
        percent: how much slower than the baseline a candidate may be.
        problem: why there is nothing to compare with, or "".

    Returns:
        ``verdict``: ``failed`` where a candidate is slower by more than ``percent`` beyond doubt, or computes wrongly
        or not at all; ``passed`` where every one is beyond doubt not; ``inconclusive`` else, with the ``reason``.
    """
    candidates = [c for c in report["comparisons"] if c["kind"] == "candidate"]
    rows = [_row(comparison, percent, len(candidates)) for comparison in candidates]
    broken = [row for row in report["results"] if row["status"] in BROKEN]
    slow = [row for row in rows if row["verdict"] == "slower"]
    open_ = [row for row in rows if row["verdict"] == "inconclusive"]
    verdict, reason = "passed", ""
    if broken:
        names = ", ".join(f"{row['model']} on {row['runtime']} ({row['status']})" for row in broken)
        verdict, reason = "failed", f"cannot judge {names}"
    elif slow:
        names = ", ".join(f"{row['candidate']} on {row['runtime']}" for row in slow)
        verdict, reason = "failed", f"more than {percent:g} % slower than the baseline: {names}"
    elif problem or not rows:
        verdict, reason = (
            "inconclusive",
            problem or "nothing was compared: no candidate and baseline were both measured",
        )
    elif open_:
        names = ", ".join(f"{row['candidate']} on {row['runtime']}" for row in open_)
        verdict, reason = "inconclusive", f"the interval holds the threshold: {names}; measure longer (--rigorous)"
    return {"threshold_percent": percent, "verdict": verdict, "reason": reason, "rows": rows}


def _row(comparison: Mapping[str, Any], percent: float, candidates: int) -> dict[str, Any]:
    place = {key: comparison[key] for key in ("candidate", "baseline", "runtime", "device", "threads")}
    ratio = statistics.ratio_of_processes(comparison["process_ratios"], statistics.family_confidence(candidates))
    return {**place, "ratio": ratio, "verdict": statistics.gate_verdict(ratio, percent)}


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and all(key in value for key in ("name", "sha256", "bytes"))


def _the_model(
    models: Sequence[Mapping[str, Any]], comparisons: Any, candidates: Sequence[Path], path: Path
) -> Mapping[str, Any]:
    """Which of a report's models is the baseline: the only one, the candidate's namesake, or the report's own."""
    names = {candidate.name for candidate in candidates}
    namesakes = [model for model in models if Path(model["name"]).name in names]
    baselines = {c["baseline"] for c in comparisons if isinstance(c, dict) and "baseline" in c}
    for found in (models, namesakes, [model for model in models if model["name"] in baselines]):
        if len(found) == 1:
            return found[0]
    told = ", ".join(model["name"] for model in models)
    raise InputError(f"{path} is of several models ({told}): give the baseline itself, or one candidate of that name")
