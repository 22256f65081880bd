"""What an ablation allows one to say: accuracies of trainings with equal seeds, taken in pairs.

Two trainings of a pair share seed, images and split, and so part of their luck; their difference varies less than
either accuracy. The unit of evidence is the **seed**: the interval of a mean difference is Student's over the seeds,
and says where that mean would lie if the same recipes were trained with many other seeds and tested on these same
images.

Beside it stands, for each seed, the interval of the two networks' difference over **images**: what other test images
of the same kind would say of these two very networks. It counts only images of which just one of the two is right
(Agresti and Min, Simple improved confidence intervals for comparing matched proportions, 2005), and says nothing about
another training: it decides no verdict.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import statistics

FACTORS = ("attention", "ema", "decay", "quantization")
PARTS = ("test", "validation")
WEIGHTS = {  # what of a training is evaluated, in this order
    "raw": "weights of the last step",
    "ema": "averaged weights",
    "ptq_int8": "int8 after post-training quantization",
    "qat_int8": "int8 after quantization-aware training",
}
CONSTANT = "constant"  # the arm whose learning rate does not decay, and how the names of such arms end

Run = Mapping[str, Any]
Correct = NDArray[np.bool_]


def verdict(low: float | None, high: float | None) -> str:
    """``better``, ``worse`` or ``inconclusive``, from the interval of candidate - baseline accuracy."""
    if low is None or high is None:
        return "inconclusive"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


def mean_difference(differences: Sequence[float], step: float = 0.0) -> dict[str, float | None]:
    """``value``, the mean, with ``low`` and ``high`` of its interval over seeds, which are None with one seed.

    Args:
        differences: one for each seed.
        step: what accuracies are multiples of, 1/n with n images. The spread of the differences is taken to be at
            least that of rounding to it, step / sqrt(12): seeds that agree to the image do not agree exactly.
    """
    value, count = float(np.mean(differences)), len(differences)
    if count < 2:
        return {"value": value, "low": None, "high": None}
    rounding = statistics.student_t(statistics.CONFIDENCE, count - 1) * step / math.sqrt(12 * count)
    half = max(float(statistics.t_half_width(differences)), float(rounding))
    return {"value": value, "low": value - half, "high": value + half}


def image_difference(candidate: Correct, baseline: Correct) -> dict[str, float | int]:
    """The difference of two networks' accuracies on the same images, with its interval over images.

    Args:
        candidate: [n] whether it is right.
        baseline: likewise, of the same images in the same order.

    Returns:
        ``n``; ``only_candidate`` and ``only_baseline``, the images of which just one is right; ``value``; ``low`` and
        ``high``: Wald's interval for matched proportions after half an image is added to each of the four cells.
    """
    if len(candidate) != len(baseline) or not len(candidate):
        raise ValueError(f"need as many images of both, and at least one, got {len(candidate)} and {len(baseline)}")
    n = len(candidate)
    gained, lost = int(np.sum(candidate & ~baseline)), int(np.sum(baseline & ~candidate))
    b, c, total = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / total
    error = math.sqrt(b + c - (b - c) ** 2 / total) / total
    half = NormalDist().inv_cdf((1 + statistics.CONFIDENCE) / 2) * error
    return {
        "n": n,
        "only_candidate": gained,
        "only_baseline": lost,
        "value": (gained - lost) / n,
        "low": centre - half,
        "high": centre + half,
    }


def questions(arms: Sequence[Mapping[str, Any]], factors: Sequence[str], base: str) -> list[dict[str, str]]:
    """What is compared with what: ``factor``, ``candidate``, ``candidate_weights``, ``baseline``, ``baseline_weights``.

    Args:
        arms: with ``name`` and ``attention``; see edgecbam.ablation.
        factors: some of FACTORS.
        base: the arm of the recipe itself.
    """
    names = [arm["name"] for arm in arms if not is_constant(arm["name"])]
    found: list[dict[str, str]] = []

    def ask(factor: str, candidate: tuple[str, str], baseline: tuple[str, str]) -> None:
        if factor in factors:
            words = ("factor", "candidate", "candidate_weights", "baseline", "baseline_weights")
            found.append(dict(zip(words, (factor, *candidate, *baseline), strict=True)))

    baseline = attention_baseline(arms)
    for weights in ("ema", "qat_int8"):
        for name in names:
            if name != baseline:
                ask("attention", (name, weights), (baseline, weights))
    for arm in arms:
        ask("ema", (arm["name"], "ema"), (arm["name"], "raw"))
    for weights in ("raw", "ema"):
        ask("decay", (base, weights), (constant(base), weights))
    for candidate, other in (("ptq_int8", "ema"), ("qat_int8", "ema"), ("qat_int8", "ptq_int8")):
        for name in names:
            ask("quantization", (name, candidate), (name, other))
    return found


def attention_baseline(arms: Sequence[Mapping[str, Any]]) -> str:
    """The arm that attention is compared with: the one without any, else the first."""
    return next((str(arm["name"]) for arm in arms if arm["attention"] == "none"), str(arms[0]["name"]))


def constant(name: str) -> str:
    """The name of an arm whose learning rate does not decay: ``cbam-constant``."""
    return f"{name}-{CONSTANT}"


def is_constant(name: str) -> bool:
    return name.endswith(f"-{CONSTANT}")


def compare(
    question: Mapping[str, str], runs: Sequence[Run], correct: Mapping[tuple[str, int], Mapping[str, Correct]]
) -> dict[str, Any] | None:
    """Answer one question; None where no seed has figures for both sides.

    Args:
        question: see ``questions``.
        runs: records of runs, see edgecbam.ablation; those that failed have no figures and are passed over.
        correct: by arm and seed, by ``PART_WEIGHTS`` such as ``test_ema``: which images are right; may lack any.

    Returns:
        The question; ``seeds`` that have both sides; for each of PARTS a mean_difference with ``differences``, one for
        each seed, or None without such images; ``images``, for each seed an image_difference on the test images or
        None; ``verdict`` on the test images.
    """
    sides = [(question[side], question[f"{side}_weights"]) for side in ("candidate", "baseline")]
    found = [{run["seed"]: run for run in runs if run["arm"] == arm and _has(run, weights)} for arm, weights in sides]
    seeds = sorted(found[0].keys() & found[1].keys())
    if not seeds:
        return None
    answer: dict[str, Any] = {**question, "seeds": seeds}
    for part in PARTS:
        pairs = [
            [runs_by_seed[seed][part].get(weights) for runs_by_seed, (_, weights) in zip(found, sides, strict=True)]
            for seed in seeds
        ]
        whole = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        differences = [ours - theirs for ours, theirs in whole]
        complete = len(differences) == len(seeds)
        step = max((1 / run[f"{part}_images"] for run in found[0].values() if run.get(f"{part}_images")), default=0.0)
        answer[part] = {**mean_difference(differences, step), "differences": differences} if complete else None
    answer["images"] = []
    for seed in seeds:
        ours, theirs = (correct.get((arm, seed), {}).get(f"test_{weights}") for arm, weights in sides)
        answer["images"].append(None if ours is None or theirs is None else image_difference(ours, theirs))
    answer["verdict"] = verdict(answer["test"]["low"], answer["test"]["high"])
    return answer


def _has(run: Run, weights: str) -> bool:
    return run["status"] == "ok" and run["test"].get(weights) is not None


def summary(runs: Sequence[Run], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of each arm and WEIGHTS over its seeds: ``n``, ``mean``, ``lowest`` and ``highest`` for each of PARTS.

    A part without images, and weights that no run has, are left out.
    """
    rows = []
    for arm in arms:
        here = [run for run in runs if run["arm"] == arm and run["status"] == "ok"]
        for weights in WEIGHTS:
            row: dict[str, Any] = {"arm": arm, "weights": weights}
            for part in PARTS:
                values = [run[part][weights] for run in here if run[part].get(weights) is not None]
                if values:
                    row[part] = {
                        "n": len(values),
                        "mean": float(np.mean(values)),
                        "lowest": min(values),
                        "highest": max(values),
                    }
            if len(row) > 2:
                rows.append(row)
    return rows
