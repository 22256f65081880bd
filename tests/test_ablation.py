"""The ablation: its statistics against closed forms, its verdicts on planted figures, and a small one for real."""

import hashlib
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import ablation, api, artifacts, cli, recipe, tables
from edgecbam.benchmarks import ablation_comparisons as comparisons
from edgecbam.benchmarks import ablation_table, chart_ablation
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event
from edgecbam.export import verify as verification
from edgecbam.recipe import Recipe

DEFAULT = recipe.load("fashion_cbam")

# Statistics


@pytest.mark.parametrize(
    ("differences", "t"),
    [((0.01, 0.03), 12.706205), ((0.01, 0.02, 0.06), 4.302653), ((0.0, 0.01, 0.02, 0.03, 0.04), 2.776445)],
)
def test_a_mean_difference_has_students_interval(differences: tuple[float, ...], t: float) -> None:
    found = comparisons.mean_difference(differences)
    mean, half = np.mean(differences), t * np.std(differences, ddof=1) / np.sqrt(len(differences))
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([mean, mean - half, mean + half], abs=1e-8)


def test_seeds_that_agree_to_the_image_still_have_an_interval() -> None:
    found = comparisons.mean_difference([0.0005, 0.0005], step=1 / 2000)
    half = 12.706205 * 0.0005 / np.sqrt(12 * 2)
    assert [found["low"], found["high"]] == pytest.approx([0.0005 - half, 0.0005 + half])
    assert comparisons.verdict(found["low"], found["high"]) == "inconclusive"
    wide = comparisons.mean_difference([0.01, 0.03], step=1 / 2000)
    assert wide == comparisons.mean_difference([0.01, 0.03])


def test_one_seed_has_no_interval_and_no_verdict() -> None:
    found = comparisons.mean_difference([0.4])
    assert found == {"value": 0.4, "low": None, "high": None}
    assert comparisons.verdict(found["low"], found["high"]) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.02, "better"),
        (-0.02, -0.001, "worse"),
        (-0.001, 0.02, "inconclusive"),
        (0.0, 0.02, "inconclusive"),
        (0.0, 0.0, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low: float, high: float, expected: str) -> None:
    assert comparisons.verdict(low, high) == expected


def right(pairs: str) -> np.ndarray:
    return np.array([letter == "1" for letter in pairs])


def test_a_difference_over_images_counts_those_of_which_one_alone_is_right() -> None:
    candidate, baseline = (
        right("1" * 50 + "1" * 10 + "0" * 4 + "0" * 36),
        right("1" * 50 + "0" * 10 + "1" * 4 + "0" * 36),
    )
    found = comparisons.image_difference(candidate, baseline)
    assert (found["n"], found["only_candidate"], found["only_baseline"]) == (100, 10, 4)
    assert found["value"] == pytest.approx(0.06)
    half = 1.959964 * np.sqrt(15 - 6**2 / 102) / 102
    assert [found["low"], found["high"]] == pytest.approx([6 / 102 - half, 6 / 102 + half])
    turned = comparisons.image_difference(baseline, candidate)
    assert turned["low"] == pytest.approx(-found["high"])
    with pytest.raises(ValueError, match="as many images"):
        comparisons.image_difference(candidate, baseline[1:])


def test_the_interval_over_images_holds_the_truth_as_often_as_it_says() -> None:
    random, truth, held = np.random.default_rng(5), 0.02, 0
    for _ in range(1500):
        cell = random.choice(4, size=500, p=[0.85, 0.05, 0.03, 0.07])  # both, candidate alone, baseline alone, none
        found = comparisons.image_difference((cell == 0) | (cell == 1), (cell == 0) | (cell == 2))
        held += found["low"] <= truth <= found["high"]
    assert 0.93 <= held / 1500 <= 0.97


# Planted figures


def planted_run(arm: str, seed: int, test: dict[str, float], **changes: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "test": test,
        "validation": {weights: value + 0.01 for weights, value in test.items()},
        "failed_gates": [],
        "data_digest": "00",
        "train_images": 5820,
        "validation_images": 180,
        "test_images": 2000,
        "precision": "float32",
        "parameters": 80_203 if arm != "none" else 78_000,
        "macs": 9_449_450,
        "seconds": 60.0,
        "versions": {"tensorflow": "2.21.0"},
        "stages": {},
        **changes,
    }


def planted(seeds: Sequence[int] = (1, 2, 3)) -> list[dict[str, Any]]:
    """cbam 1.0 points worse than none, give or take 0.1; open a little better with noise; QAT 0.2 below float."""
    noise = {1: 0.001, 2: -0.001, 3: 0.0}
    runs = []
    for seed in seeds:
        luck = 0.004 * (seed - 2)
        for arm, gap in (("none", 0.0), ("cbam:open", 0.001 + 6 * noise[seed]), ("cbam", -0.01 + noise[seed])):
            ema = 0.90 + luck + gap
            test = {"raw": ema - 0.02 - noise[seed], "ema": ema, "ptq_int8": ema - 0.015 + 8 * noise[seed]}
            runs.append(planted_run(arm, seed, {**test, "qat_int8": ema - 0.002 + noise[seed] / 5}))
        constant = {"raw": 0.85 + luck, "ema": 0.893 + luck + 4 * noise[seed]}
        runs.append(planted_run("cbam-constant", seed, constant))
    return runs


def report(runs: Sequence[dict[str, Any]], correct: Any = None, latency: bool = True, **changes: Any) -> dict[str, Any]:
    """An ablation.json of planted runs, through the code that answers for real."""
    plan = ablation.plan(DEFAULT, attention=("none", "cbam:open", "cbam"), words="fashion_cbam")
    arms = []
    for arm in plan.arms:
        ratio = {"none": None, "cbam": {"value": 1.38, "low": 1.35, "high": 1.41, "verdict": "slower"}}.get(arm.name)
        arms.append(
            {
                **vars(arm),
                "parameters": 80_203 if arm.attention != "none" else 78_000,
                "macs": 9_449_450,
                "p50_ms": 0.12 if latency and arm.name in ("none", "cbam") else None,
                "latency_ratio": ratio if latency else None,
            }
        )
    asked = comparisons.questions(arms, plan.factors, plan.base.name)
    answers = [comparisons.compare(question, runs, correct or {}) for question in asked]
    keys = ("train_images", "validation_images", "test_images", "data_digest", "precision")
    return {
        "schema_version": 1,
        "command": plan.command,
        "recipe": {"name": "fashion_cbam"},
        "factors": list(plan.factors),
        "seeds": sorted({run["seed"] for run in runs}),
        "data": {"source": "builtin", **{key: runs[0][key] for key in keys}, "epochs": 20, "quantize_epochs": 1},
        "environment": {"cpu": "A CPU", "logical_cpus": 2, "os": "An OS", "versions": {"tensorflow": "2.21.0"}},
        "planned_runs": len(runs),
        "arms": arms,
        "runs": list(runs),
        "summary": comparisons.summary(runs, [arm["name"] for arm in arms]),
        "comparisons": [answer for answer in answers if answer is not None],
        "benchmark": {"protocol": "quick", "seed": 1, "n": 500, "processes": 5} if latency else None,
        **changes,
    }


def answer(value: dict[str, Any], text: str) -> dict[str, Any]:
    (found,) = [row for row in value["comparisons"] if ablation_table.compared(row) == text]
    return found


def test_planted_differences_get_the_verdict_that_they_deserve() -> None:
    value = report(planted())
    verdicts = {ablation_table.compared(row): row["verdict"] for row in value["comparisons"]}
    assert verdicts == {
        "cbam:open against none, EMA": "inconclusive",
        "cbam against none, EMA": "worse",
        "cbam:open against none, QAT int8": "inconclusive",
        "cbam against none, QAT int8": "worse",
        "none: EMA against raw": "better",
        "cbam:open: EMA against raw": "better",
        "cbam: EMA against raw": "better",
        "cbam-constant: EMA against raw": "better",
        "cbam against cbam-constant, raw": "better",
        "cbam against cbam-constant, EMA": "inconclusive",
        "none: PTQ int8 against EMA": "inconclusive",
        "cbam:open: PTQ int8 against EMA": "inconclusive",
        "cbam: PTQ int8 against EMA": "inconclusive",
        "none: QAT int8 against EMA": "worse",
        "cbam:open: QAT int8 against EMA": "worse",
        "cbam: QAT int8 against EMA": "worse",
        "none: QAT int8 against PTQ int8": "inconclusive",
        "cbam:open: QAT int8 against PTQ int8": "inconclusive",
        "cbam: QAT int8 against PTQ int8": "inconclusive",
    }


def test_pairs_are_made_by_seed_whatever_the_order_and_however_lucky_a_seed() -> None:
    runs = planted()
    row = answer(report(runs), "cbam against none, EMA")
    assert row["seeds"] == [1, 2, 3]
    assert row["test"]["differences"] == pytest.approx([-0.009, -0.011, -0.01])
    half = 4.302653 * 0.001 / np.sqrt(3)
    assert (row["test"]["low"], row["test"]["high"]) == pytest.approx((-0.01 - half, -0.01 + half))
    assert row["validation"]["value"] == pytest.approx(-0.01)
    assert answer(report(runs[::-1]), "cbam against none, EMA") == row


def test_a_failed_run_takes_its_pair_out_and_is_named() -> None:
    runs = planted()
    runs[2] |= {"status": "failed", "reason": "the loss became nan", "test": {}, "validation": {}}  # cbam, seed 1
    value = report(runs)
    assert answer(value, "cbam against none, EMA")["seeds"] == [2, 3]
    assert answer(value, "none: EMA against raw")["seeds"] == [1, 2, 3]
    assert any(
        "cbam, seed 1, failed and is left out: the loss became nan" in note for note in ablation_table.notes(value)
    )
    summary = next(row for row in value["summary"] if (row["arm"], row["weights"]) == ("cbam", "ema"))
    assert summary["test"]["n"] == 2


def test_images_tell_of_two_networks_where_they_are_at_hand_and_never_decide() -> None:
    random = np.random.default_rng(1)
    correct = {(arm, 1): {"test_ema": random.random(2000) < p} for arm, p in (("none", 0.95), ("cbam", 0.5))}
    value = report(planted((1,)), correct)
    row = answer(value, "cbam against none, EMA")
    assert row["images"][0]["high"] < -0.3
    assert row["verdict"] == "inconclusive"
    assert "one seed, which has no interval" in ablation_table.sentence(row)
    assert "other images would give" in ablation_table.sentence(row)
    assert answer(value, "cbam: EMA against raw")["images"] == [None]
    assert "With one seed there is no interval over trainings" in " ".join(ablation_table.notes(value))


def test_sentences_say_what_the_figures_say() -> None:
    value = report(planted())
    told = {ablation_table.compared(row): ablation_table.sentence(row) for row in value["comparisons"]}
    assert told["cbam against none, EMA"] == "cbam against none, EMA: worse by 1.00 points (−1.25 to −0.75)."
    assert told["cbam:open against none, EMA"] == (
        "cbam:open against none, EMA: no difference shown: +0.10 points, and −1.39 to +1.59 are all possible."
    )
    assert ablation_table.price(value) == ["cbam takes 1.38 times as long as none in int8 (slower)."]


def test_the_page_has_every_comparison_arm_and_seed_and_the_machine() -> None:
    value = report(planted())
    page = ablation_table.page(value, "ablation.svg")
    for row in value["comparisons"]:
        assert f"| {ablation_table.compared(row)} |" in page
    assert "| none | 88.00 | 90.00 | 88.50 | 89.80 | 91.00 |" in page
    assert "| cbam | 80,203 | 9.45 | 0.12 | 1.38 \\[1.35, 1.41\\] | slower |" in page
    assert "| cbam-constant | 85.00 | 89.30 | – | – | 90.30 |" in page
    assert "3 seeds (1, 2, 3)" in page
    assert "A CPU, 2 CPUs, An OS; TensorFlow 2.21.0." in page
    assert "n = 500 in 5 processes" in page
    assert "](ablation.svg)" in page


def test_the_terminal_shows_it_within_80_columns() -> None:
    text = tables.ablation_text(report(planted()))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert re.search(r"^cbam against none, EMA +−1\.00 −1\.25 to −0\.75 worse$", text, re.MULTILINE)
    assert re.search(r"^none +78,000 +9\.45 +0\.12 1 +baseline$", text, re.MULTILINE)


def shapes(svg: str, style: str) -> list[list[float]]:
    """The x of the points of every path whose style has these words."""
    paths = [element for element in ET.fromstring(svg).iter() if element.tag.endswith("path")]
    return [
        [float(x) for x in re.findall(r"[ML]([\d.-]+) ", path.get("d", ""))]
        for path in paths
        if style in path.get("style", "")
    ]


def test_the_plot_shows_every_difference_where_it_stands() -> None:
    value = report(planted())
    value["comparisons"] = [answer(value, "cbam against none, EMA"), answer(value, "cbam:open against none, EMA")]
    chart = chart_ablation.differences(value)
    assert chart is not None
    assert "cbam against none, EMA: −1.00 points [−1.25 to −0.75], worse." in chart.svg
    (zero,) = shapes(chart.svg, "stroke: var(--text); stroke-width: 1.5")
    (worse,) = shapes(chart.svg, "stroke: var(--bad); stroke-width: 2")
    (unclear,) = shapes(chart.svg, "stroke: var(--soft); stroke-width: 2")
    unit = (zero[0] - worse[0]) / 1.25  # a percentage point
    assert (zero[0] - worse[1]) / unit == pytest.approx(0.75, abs=0.01)
    assert [(x - zero[0]) / unit for x in unclear] == pytest.approx([-1.39, 1.59], abs=0.02)
    ticks = shapes(chart.svg, "stroke: var(--text); stroke-width: 1;") or shapes(chart.svg, "stroke: var(--text)")
    assert sum(len(set(x)) == 1 for x in ticks) >= 6, "a tick for each seed"


def test_an_interval_that_dwarfs_all_differences_is_cut_with_an_arrow() -> None:
    value = report(planted((1, 2)))  # Student's factor is 12.7 here
    row = answer(value, "cbam: PTQ int8 against EMA")
    value["comparisons"] = [answer(value, "cbam against none, EMA"), row]
    assert row["test"]["high"] > 0.08
    chart = chart_ablation.differences(value)
    assert chart is not None
    assert "An arrow" in chart.caption
    assert len([x for x in shapes(chart.svg, "fill: var(--soft)") if len(x) == 3]) == 1
    assert all(-5 <= x <= 365 for xs in shapes(chart.svg, "stroke") for x in xs)


def test_a_plot_of_nothing_and_of_equal_figures() -> None:
    value = report(planted())
    assert chart_ablation.differences({**value, "comparisons": []}) is None
    equal = [planted_run(arm, seed, {"raw": 0.5, "ema": 0.5}) for seed in (1, 2) for arm in ("none", "cbam")]
    assert chart_ablation.differences(report(equal)) is not None


def test_the_file_of_the_plot_stands_alone_and_comes_out_the_same_twice() -> None:
    value = report(planted())
    first, second = (chart_ablation.differences(value) for _ in range(2))
    assert first is not None
    assert second is not None
    drawn = chart_ablation.standalone(first, "Differences <of> test top-1")
    assert drawn == chart_ablation.standalone(second, "Differences <of> test top-1")
    root = ET.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for variable in set(re.findall(r"var\((--\w+)\)", drawn)):
        assert f"{variable}: #" in drawn, "every colour is defined in the file"


# What is asked


def test_arms_are_the_attentions_and_the_constant_rate_each_once() -> None:
    plan = ablation.plan(DEFAULT, seeds=2, attention=("none", "cbam", "cbam:open+stage", "cbam:paper"))
    assert [arm.name for arm in plan.arms] == ["none", "cbam", "cbam:open+stage", "cbam-constant"]
    assert [arm.folder for arm in plan.arms][2] == "cbam-open-stage"
    assert plan.all_seeds == (1, 2)
    changed = ablation.arm_recipe(DEFAULT, plan.arms[2], 7)
    assert (changed.model.attention_init, changed.model.attention_placement) == ("open", "stage")
    assert changed.train.seed == 7
    assert changed.data == DEFAULT.data
    constant = ablation.arm_recipe(DEFAULT, plan.arms[3], 7)
    assert (constant.train.decay_rate, constant.train.schedule) == (1.0, "exponential")
    assert constant.model == DEFAULT.model


def test_the_recipes_own_arm_is_added_where_a_factor_needs_it() -> None:
    chosen = recipe.override(DEFAULT, ("model.attention=spatial", "model.attention_init=open"))
    plan = ablation.plan(chosen, attention=("none", "cbam"))
    assert [arm.name for arm in plan.arms] == ["none", "cbam", "spatial", "spatial-constant"]
    assert {arm.attention_init for arm in plan.arms} == {"open"}, "what is not said is as in the recipe"
    alone = ablation.plan(chosen, factors=("ema",), benchmark=False)
    assert [(arm.name, alone.stages(arm)) for arm in alone.arms] == [("spatial", ("train",))]
    whole = ablation.plan(chosen, factors=("quantization",), benchmark=False)
    assert whole.stages(whole.arms[0]) == ("train", "quantize", "export", "verify")


def test_the_command_says_what_differs_from_the_usual() -> None:
    assert ablation.plan(DEFAULT, words="fashion_cbam").command == "edgecbam ablate fashion_cbam --seeds 3"
    plan = ablation.plan(DEFAULT, seeds=2, factors=("attention",), attention=("none", "cbam"), benchmark=False)
    assert plan.command == "edgecbam ablate --seeds 2 --factors attention --attention none,cbam --no-benchmark"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seeds", "0"], "--seeds must be a whole number from 1"),
        (["--seeds", "2.5"], "--seeds"),
        (["--factors", "atention"], "did you mean attention"),
        (["--factors", ","], "--factors is empty"),
        (["--attention", "cbm"], "did you mean cbam"),
        (["--attention", "cbam"], "--attention needs two different kinds"),
        (["--attention", "none,cbam:opn"], "did you mean open"),
        (["--attention", "none,none:open"], "no attention that could be open"),
        (["--attention", "none,cbam:open,stage"], "joined by +: cbam:open+stage"),
        (["fashion_cbm"], "did you mean fashion_cbam"),
        (["--set", "train.decay_rate=1.0"], "constant learning rate, which this recipe has already"),
        (["--set", "data.targets=ages.csv"], "ablate compares classifiers"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "nowhere"], "nowhere is no ablation"),
        (["--resume", "--out", "taken"], "taken is no ablation"),
        (["--out", "taken"], "taken exists already"),
        (["--data", "nowhere"], "'nowhere' is neither a known name nor an existing folder"),
        (["--set", "model.widths=[2,2,2,2,2,2,2,2]"], "too small"),
    ],
)
def test_bad_words_exit_2_with_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "holiday.jpg").write_text("precious")
    assert cli.main(["ablate", *words]) == 2
    text = capsys.readouterr().err
    assert line in text
    assert len([entry for entry in text.splitlines() if entry.startswith("edgecbam: error")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["holiday.jpg"]


# For real, and small

SMALL = (
    "name='tiny'",
    "data.train_images=300",
    "data.test_images=100",
    "data.validation_fraction=0.02",
    "model.attention=none",
    "model.widths=[4]",
    "model.blocks=[1]",
    "model.reduction_ratio=2",
    "train.epochs=1",
    "train.batch_size=30",
    "train.ema_decay=0.8",
    "train.precision=float32",
    "quantize.epochs=0",
    "quantize.calibration_images=64",
    "export.samples_images=20",
)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of the run folders and their records."""
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of two seeds with and without CBAM, made by the command, int8 added later. Do not change it."""
    out = tmp_path_factory.mktemp("ablation") / "here"
    words = [word for setting in SMALL for word in ("--set", setting)]
    options = ["--seeds", "2", "--attention", "none,cbam", "--no-benchmark", "--out", str(out)]
    assert cli.main(["ablate", "fashion_cbam", "--factors", "attention,ema,decay", *options, *words]) == 0
    return out


@pytest.fixture(scope="module")
def with_int8(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, asked afterwards what int8 costs the recipe's own network, which has no attention."""
    out = Path(shutil.copytree(finished, tmp_path_factory.mktemp("ablation") / "int8"))
    assert cli.main(["ablate", "--resume", "--out", str(out), "--factors", "quantization"]) == 0
    return out


def test_a_real_ablation_answers_every_factor(finished: Path, with_int8: Path) -> None:
    value = artifacts.read_json(finished / "ablation.json")
    assert [(run["arm"], run["seed"]) for run in value["runs"]] == [
        (arm, seed) for seed in (1, 2) for arm in ("none", "cbam", "none-constant")
    ]
    assert all(run["status"] == "ok" for run in value["runs"])
    assert {row["factor"] for row in value["comparisons"]} == {"attention", "ema", "decay"}
    assert value["data"] == {**value["data"], "source": "builtin", "test_images": 100, "validation_images": 120}
    assert value["planned_runs"] == 6
    none, cbam, _ = value["arms"]
    assert none["parameters"] < cbam["parameters"]
    assert value["environment"]["versions"]["tensorflow"]
    later = artifacts.read_json(with_int8 / "ablation.json")
    assert {row["factor"] for row in later["comparisons"]} == {"quantization"}
    for row in (*value["comparisons"], *later["comparisons"]):
        assert row["seeds"] == [1, 2]
        assert row["validation"] is not None
        assert (row["images"][0] is None) == ("raw" in (row["candidate_weights"], row["baseline_weights"]))
    page = (finished / "ablation.md").read_text()
    assert page.startswith("# Ablation of tiny\n")
    ET.fromstring((finished / "ablation.svg").read_text())


def test_figures_are_those_of_the_runs_own_files(with_int8: Path) -> None:
    """Averaged weights as metrics.json has them, int8 as verify found it on the samples."""
    value = artifacts.read_json(with_int8 / "ablation.json")
    assert len(value["runs"]) == 2
    for run in value["runs"]:
        folder = with_int8 / "runs" / run["arm"] / f"seed-{run['seed']}"
        trained = artifacts.read_json(folder / "train" / "metrics.json")
        verified = artifacts.read_json(folder / "verify" / "verify.json")
        assert run["test"]["ema"] == pytest.approx(trained["test_ema_accuracy"])
        assert run["test"]["raw"] == trained["test_raw_accuracy"]
        assert run["failed_gates"] == [gate["name"] for gate in verified["gates"] if not gate["passed"]]
        assert artifacts.load_recipe(folder).train.seed == run["seed"]
        with np.load(folder.with_suffix(".npz")) as arrays:
            correct = dict(arrays)
        for weights in ("ema", "ptq_int8", "qat_int8"):
            assert np.mean(correct[f"test_{weights}"]) == run["test"][weights]
        assert np.mean(correct["test_qat_int8"][:20]) == pytest.approx(verified["accuracy"]["model_int8.tflite"])
        assert np.mean(correct["test_ptq_int8"][:20]) == pytest.approx(verified["accuracy"]["model_ptq_int8.tflite"])
    row = answer(value, "none: QAT int8 against EMA")
    assert [entry["value"] for entry in row["images"]] == pytest.approx(row["test"]["differences"])


def test_arms_of_one_seed_differ_in_what_they_are_to_differ_in_alone(finished: Path) -> None:
    none, cbam, constant = (
        artifacts.load_recipe(finished / "runs" / arm / "seed-1") for arm in ("none", "cbam", "none-constant")
    )
    assert none.data == cbam.data == constant.data
    assert none.train == cbam.train
    assert none.model == constant.model
    assert (none.model.attention, cbam.model.attention) == ("none", "cbam")
    assert not list(finished.glob("runs/*/*/quantize")), "int8 files would answer no question here"
    splits = [artifacts.read_json(path)["data_digest"] for path in finished.glob("runs/*/seed-*/train/metrics.json")]
    assert len(splits) == 6
    assert len(set(splits)) == 1


def test_a_question_asked_later_trains_nothing_again(finished: Path, with_int8: Path) -> None:
    before, after = digests(finished), digests(with_int8)
    records = {f"runs/none/seed-{seed}{ending}" for seed in (1, 2) for ending in (".json", ".npz")}
    assert {name for name in before if after[name] != before[name]} == records


def test_resume_of_a_finished_ablation_trains_nothing_and_says_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before, answers = digests(out), (out / "ablation.json").read_text()
    (out / "ablation.json").unlink()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(api, "train", refuse)
    assert cli.main(["ablate", "--resume", "--out", str(out)]) == 0
    assert digests(out) == before
    renewed, old = json.loads((out / "ablation.json").read_text()), json.loads(answers)
    assert {**renewed, "environment": 0} == {**old, "environment": 0}  # which tells of the repository's state, too
    assert "6 of 6 trainings are kept" in capsys.readouterr().err


def test_resume_makes_what_is_missing_or_altered_and_keeps_the_rest(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = digests(out)
    shutil.rmtree(out / "runs" / "none-constant" / "seed-2")
    (out / "runs" / "none" / "seed-1" / "train" / "history.csv").write_text("altered")
    assert cli.main(["ablate", "--resume", "--out", str(out), "--factors", "ema,decay"]) == 0
    after = digests(out)
    renewed = ("runs/none-constant/seed-2", "runs/none/seed-1")
    for name in before:
        if not name.startswith(renewed):
            assert after[name] == before[name]
        elif name.endswith(("metrics.json", "history.csv", ".npz")):
            assert after[name] == before[name], "the same training gives the same figures"


def test_another_recipe_is_refused_in_a_folder_that_was_begun(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(finished)
    assert cli.main(["ablate", "--resume", "--out", str(finished), "--set", "train.epochs=9"]) == 2
    assert "was begun with another recipe" in capsys.readouterr().err
    assert cli.main(["ablate", "--out", str(finished)]) == 2
    assert "exists already: add --resume" in capsys.readouterr().err
    assert digests(finished) == before


def test_other_images_are_refused_before_anything_is_trained(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgecbam import datasets

    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = digests(out)
    monkeypatch.setattr(datasets, "digest", lambda dataset: "other")
    assert cli.main(["ablate", "--resume", "--out", str(out), "--seeds", "3"]) == 2
    assert "are not those of the trainings that are kept: put them back" in capsys.readouterr().err
    assert digests(out) == before


# With stages that do nothing


def figures(seed: int, **changes: Any) -> dict[str, Any]:
    """What an evaluation adds to the record of a run."""
    run = planted_run("", seed, {"raw": 0.5, "ema": 0.6}, **changes)
    return {key: run[key] for key in run if key not in ("arm", "seed", "status", "reason", "failed_gates")}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces training and evaluation; the list tells which runs were trained."""
    made: list[str] = []

    def train(settings: Recipe, run: Path, **options: Any) -> Path:
        made.append(f"{run.parent.name} {run.name}")
        options["on_event"](Event("train", message="an epoch"))
        if settings.train.decay_rate == 1.0 and settings.train.seed == 2:
            raise EnvironmentFailure("the loss became nan in epoch 1 at step 3")
        artifacts.create_run(run, settings)
        with artifacts.stage_folder(run, "train") as folder:
            artifacts.write_json(folder / "metrics.json", {})
        return run

    def evaluate(run: Path, *arguments: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        seed = artifacts.load_recipe(run).train.seed
        return figures(seed), {"test_ema": right("11010")}

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(ablation, "_evaluate", evaluate)
    monkeypatch.setattr(ablation, "_check_networks", lambda *arguments: None)
    return made


def ask(seeds: int = 2) -> ablation.Plan:
    return ablation.plan(DEFAULT, seeds=seeds, factors=("ema", "decay"), benchmark=False)


def test_a_training_that_fails_is_recorded_and_the_others_go_on(stages: list[str], tmp_path: Path) -> None:
    events: list[Event] = []
    value = ablation.run(ask(), tmp_path / "out", on_event=events.append)
    assert stages == [f"{arm} seed-{seed}" for seed in (1, 2) for arm in ("cbam", "cbam-constant")]
    assert [run["status"] for run in value["runs"]] == ["ok", "ok", "ok", "failed"]
    assert answer(value, "cbam against cbam-constant, EMA")["seeds"] == [1]
    assert {event.stage for event in events} >= {"ablate", "cbam seed 1 train", "cbam-constant seed 2 train"}
    said = [event.message for event in events if event.stage == "ablate"]
    assert said[0] == "1 of 4 trainings: cbam seed 1: test top-1 raw 50.00%, EMA 60.00%; less than a minute left"
    assert said[3].startswith("4 of 4 trainings: cbam-constant seed 2 failed: the loss became nan")
    stages.clear()
    ablation.run(ask(), tmp_path / "out", resume=True)
    assert stages == ["cbam-constant seed-2"], "what failed is tried again"


def test_more_seeds_can_be_asked_of_a_folder_that_was_begun(stages: list[str], tmp_path: Path) -> None:
    ablation.run(ask(1), tmp_path / "out")
    stages.clear()
    assert ablation.load_plan(tmp_path / "out") == ask(1)
    value = ablation.run(ask(3), tmp_path / "out", resume=True)
    assert stages == [f"{arm} seed-{seed}" for seed in (2, 3) for arm in ("cbam", "cbam-constant")]
    assert value["seeds"] == [1, 2, 3]
    assert ablation.load_plan(tmp_path / "out") == ask(3)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = api.train

    def interrupted(settings: Recipe, run: Path, **options: Any) -> Path:
        if settings.train.seed == 2:
            raise KeyboardInterrupt
        return train(settings, run, **options)

    monkeypatch.setattr(api, "train", interrupted)
    words = ["--factors", "ema,decay", "--no-benchmark"]
    assert cli.main(["ablate", "--out", "my out", *words]) == 130
    assert "go on with: edgecbam ablate --resume --out 'my out'" in capsys.readouterr().err
    early = artifacts.read_json(Path("my out", "ablation.json"))
    assert early["seeds"] == [1]
    assert "4 of 6 trainings are still missing" in Path("my out", "ablation.md").read_text()
    stages.clear()
    monkeypatch.setattr(api, "train", train)
    assert cli.main(["ablate", "--out", "my out", "--resume"]) == 0
    assert stages == [f"{arm} seed-{seed}" for seed in (2, 3) for arm in ("cbam", "cbam-constant")]


def test_latency_is_measured_side_by_side_once_and_stands_beside_its_arm(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[list[str], str]] = []

    def stage(name: str) -> Any:
        def make(run: Path, **options: Any) -> None:
            with artifacts.stage_folder(run, name) as folder:
                (folder / "model_int8.tflite").write_text(f"{run}")

        return make

    def verify(run: Path, **options: Any) -> Any:
        stage("verify")(run)
        return verification.Verification((verification.Gate("parity", False, 0.1, 0.2, "", ""),), 1, {})

    def benchmark(models: list[Path], *, baseline: Path, out: Path, **options: Any) -> dict[str, Any]:
        measured.append(([path.name for path in models], baseline.name))
        value = {
            "models": [{"name": path.name, "sha256": artifacts.sha256_file(path)} for path in models],
            "results": [
                {"model": path.name, "latency_ms": {"p50": 0.1 * (number + 1)}} for number, path in enumerate(models)
            ],
            "comparisons": [
                {"kind": kind, "candidate": path.name, "ratio": {"value": 2.0, "low": 1.9, "high": 2.1}}
                | {"verdict": "slower"}
                for kind, path in (("control", models[0]), ("candidate", models[1]))
            ],
            "protocol": {"name": options["protocol"], "processes": 5, "rounds": 20, "block": 5},
        }
        out.mkdir()
        artifacts.write_json(out / "report.json", value)
        return value

    for name in ("quantize", "export"):
        monkeypatch.setattr(api, name, stage(name))
    monkeypatch.setattr(api, "verify", verify)
    monkeypatch.setattr(api, "benchmark_models", benchmark)
    plan = ablation.plan(DEFAULT, seeds=2, factors=("attention", "quantization"), attention=("cbam:open", "none"))
    value = ablation.run(plan, tmp_path / "out")
    assert measured == [(["cbam-open_int8.tflite", "none_int8.tflite"], "none_int8.tflite")]
    assert [arm["p50_ms"] for arm in value["arms"]] == [0.1, 0.2]
    assert value["benchmark"] == {"protocol": "quick", "seed": 1, "n": 500, "processes": 5}
    assert (tmp_path / "out" / "models" / "none_int8.tflite").read_text().endswith("none/seed-1")
    assert "gates of verify that failed: parity" in (tmp_path / "out" / "ablation.md").read_text()
    ablation.run(plan, tmp_path / "out", resume=True)
    assert len(measured) == 1, "the same files are not measured again"


def test_where_every_training_fails_so_does_the_command(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise EnvironmentFailure("the loss became nan")

    monkeypatch.setattr(api, "train", fail)
    with pytest.raises(EnvironmentFailure, match="every training failed, the first with: the loss became nan"):
        ablation.run(ask(1), tmp_path / "out")


def test_images_that_changed_between_two_runs_are_refused(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(run: Path, *arguments: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        seed = artifacts.load_recipe(run).train.seed
        return figures(seed, data_digest=str(seed)), {}

    monkeypatch.setattr(ablation, "_evaluate", evaluate)
    with pytest.raises(InputError, match="the images have changed between the trainings"):
        ablation.run(ask(2), tmp_path / "out")


# The document


def test_the_documents_table_is_renewed_from_the_folder_of_results(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "ablation_fashion.json", report(planted()))
    artifacts.write_json(tmp_path / "lowering.json", {})
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{ablation_table.BEGIN}\nold\n{ablation_table.END}\nafter\n")
    ablation_table.main([str(tmp_path), str(document)])
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "`edgecbam ablate fashion_cbam --seeds 3 --attention none,cbam:open,cbam`" in text
    assert text == ablation_table.renew(text, ablation_table.reports(tmp_path))
    with pytest.raises(ValueError, match="lacks the lines"):
        ablation_table.renew("nothing", ablation_table.reports(tmp_path))


def test_the_plot_can_be_seen(tmp_path: Path) -> None:
    """A browser draws the file, light, with ink of every verdict's colour."""
    from PIL import Image

    chart = chart_ablation.differences(report(planted()))
    assert chart is not None
    (tmp_path / "plot.svg").write_text(chart_ablation.standalone(chart, chart.title))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=640,1300"]
    command += [f"--screenshot={tmp_path / 'plot.png'}", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run([*command, f"file://{tmp_path / 'plot.svg'}"], check=True, timeout=120, capture_output=True)
    with Image.open(tmp_path / "plot.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(10**7) or []}
    assert {(10, 122, 61), (179, 38, 30), (92, 99, 112), (255, 255, 255)} <= colours
