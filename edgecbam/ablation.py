"""What attention, averaging, decay and quantization are worth: the same training with one thing changed, seed by seed.

    plan = ablation.plan(recipe.load("fashion_cbam"), seeds=3, factors=("attention", "ema"), attention=("none", "cbam"))
    value = ablation.run(plan, Path("runs/ablation"))

An **arm** is a recipe: the given one with another attention or with a constant learning rate. Each arm is trained once
for each seed, in a run folder of its own, and answers several questions: averaged weights against those of the last
step, and int8 against float, cost no training. Everything except ``train.seed`` and what the arm changes is equal, the
split of the data too.

    OUT/plan.json                     the recipe and what was asked: --resume goes on with it
    OUT/runs/ARM/seed-K/              an ordinary run folder; ARM such as none, cbam-open-stage, cbam-constant
    OUT/runs/ARM/seed-K.json, .npz    its figures, and which images each of its networks gets right
    OUT/models/ARM_int8.tflite        the files whose latency is compared; the report is in OUT/benchmark/
    OUT/ablation.json, .md, .svg      the answer, renewed whenever a seed is through

``ablation.json`` holds ``schema_version`` (1), ``command``, ``recipe`` (whole), ``factors``, ``seeds``, ``data``
(source, numbers of images and epochs), ``environment``, ``planned_runs``, and

- ``arms``: ``name``, ``attention``, ``attention_init``, ``attention_placement``, ``decay`` (``recipe`` or
  ``constant``), ``parameters``, ``macs``, ``p50_ms`` and ``latency_ratio`` (``value``, ``low``, ``high``,
  ``verdict``), None where they are not known;
- ``runs``: ``arm``, ``seed``, ``status`` (``ok`` or ``failed``), ``reason``, ``test`` and ``validation`` (top-1, 0…1,
  by weights: ``raw``, ``ema``, ``ptq_int8``, ``qat_int8``), ``failed_gates``, ``seconds`` and more;
- ``summary``: see ablation_comparisons.summary; ``comparisons``: see ablation_comparisons.compare;
- ``benchmark``: ``protocol``, ``seed``, ``n`` and ``processes`` of the latencies, or None.
"""

import dataclasses
import functools
import importlib.metadata
import io
import shutil
import time
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgecbam import api, array_file, artifacts
from edgecbam import recipe as recipes
from edgecbam.benchmarks import ablation_comparisons as comparisons
from edgecbam.benchmarks import ablation_table, environment
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import Attention, Recipe

if TYPE_CHECKING:
    from edgecbam.datasets import Dataset

FACTORS = comparisons.FACTORS
ATTENTIONS = ("none", "channel", "spatial", "cbam")  # those compared unless others are named
Start = Literal["paper", "open"]
Placement = Literal["block", "stage"]
STARTS, PLACEMENTS = typing.get_args(Start), typing.get_args(Placement)
FILES = {"ptq_int8": "model_ptq_int8.tflite", "qat_int8": "model_int8.tflite"}
MADE_WITH = ("tensorflow", "tf-keras", "tensorflow-model-optimization")
PLAN_FILE, REPORT_FILE, PAGE_FILE, CHART_FILE = "plan.json", "ablation.json", "ablation.md", "ablation.svg"
BENCHMARK, MODELS, RUNS = "benchmark", "models", "runs"
GIVEN = ("seeds", "factors", "attention", "benchmark", "words")  # of a plan, besides its recipe
EVALUATION_BATCH = 250
MOST_SEEDS = 1000
NO_CHART = "The plot needs matplotlib, which is not installed: pip install 'edgecbam[report]', then --resume."


@dataclass(frozen=True)
class Arm:
    """One recipe of an ablation: the given one with another attention, or with a constant learning rate."""

    name: str
    attention: Attention
    attention_init: Start
    attention_placement: Placement
    decay: str

    @property
    def folder(self) -> str:
        """The name as that of a folder: ``cbam-open-stage``."""
        return self.name.replace(":", "-").replace("+", "-")


@dataclass(frozen=True)
class Plan:
    """What an ablation is to answer.

    Attributes:
        recipe: what every arm has in common; its own attention is that of the base arm.
        seeds: how many; they are ``recipe.train.seed`` and those that follow it.
        factors: some of FACTORS.
        attention: arms to compare, such as ``none`` or ``cbam:open+stage``.
        benchmark: whether to measure the latency of the int8 files.
        words: what stands for the recipe on the command line, with its changes: ``fashion_cbam --set train.epochs=5``.
    """

    recipe: Recipe
    seeds: int
    factors: tuple[str, ...]
    attention: tuple[str, ...]
    benchmark: bool
    words: str

    @property
    def command(self) -> str:
        """What asks for the same on the command line."""
        told = ["edgecbam ablate", *([self.words] if self.words else []), f"--seeds {self.seeds}"]
        if self.factors != FACTORS:
            told.append(f"--factors {','.join(self.factors)}")
        if self.attention != ATTENTIONS:
            told.append(f"--attention {','.join(self.attention)}")
        return " ".join([*told, *([] if self.benchmark else ["--no-benchmark"])])

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.recipe.train.seed, self.recipe.train.seed + self.seeds))

    @property
    def base(self) -> Arm:
        """The arm of the recipe itself."""
        return _arm(self.recipe, self.recipe.model.attention)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Each arm once: attentions, the recipe's own where a factor needs it, then the constant learning rate."""
        chosen = [_arm(self.recipe, text) for text in self.attention] if "attention" in self.factors else []
        if "decay" in self.factors or not chosen:
            chosen.append(self.base)
        if "decay" in self.factors:
            constant = comparisons.constant(self.base.name)
            chosen.append(dataclasses.replace(self.base, decay=comparisons.CONSTANT, name=constant))
        return tuple(dict.fromkeys(chosen))

    def stages(self, arm: Arm) -> tuple[str, ...]:
        """Which stages a run of an arm needs: the int8 files only where a factor or the benchmark asks for them."""
        wants_int8 = self.benchmark or "quantization" in self.factors
        if arm.decay == comparisons.CONSTANT or not wants_int8:
            return ("train",)
        return ("train", "quantize", "export", "verify")


def plan(
    recipe: Recipe,
    *,
    seeds: int = 3,
    factors: Sequence[str] = FACTORS,
    attention: Sequence[str] = ATTENTIONS,
    benchmark: bool = True,
    words: str = "",
) -> Plan:
    """Check what an ablation is asked; raises InputError for an unknown name, or a factor that compares nothing."""
    if recipe.task != "classification":
        raise InputError("ablate compares classifiers: give a recipe without data.targets")
    if not 1 <= seeds <= MOST_SEEDS or recipe.train.seed + seeds - 1 > 2**31 - 1:
        raise InputError(f"--seeds must be a whole number from 1 to {MOST_SEEDS}, got {seeds}")
    for factor in factors:
        if factor not in FACTORS:
            raise InputError(f"--factors: {factor!r} is not known: {_nearest(factor, FACTORS)}")
    made = Plan(recipe, seeds, tuple(dict.fromkeys(factors)), tuple(dict.fromkeys(attention)), benchmark, words)
    names = [arm.name for arm in made.arms]
    if "attention" in factors and len({_arm(recipe, text) for text in attention}) < 2:
        raise InputError(f"--attention needs two different kinds to compare, got {', '.join(attention) or 'none'}")
    if len({arm.folder for arm in made.arms}) < len(names):
        raise InputError(f"--attention names the same kind twice: {', '.join(names)}")
    if "decay" in factors and recipe.train.schedule == "exponential" and recipe.train.decay_rate == 1.0:
        raise InputError("--factors decay compares with a constant learning rate, which this recipe has already")
    if set(factors) == {"ema"} and recipe.train.ema_decay == 0.0:
        raise InputError("--factors ema compares nothing where train.ema_decay is 0")
    return made


def _arm(recipe: Recipe, text: str) -> Arm:
    """``cbam``, ``cbam:open``, ``cbam:open+stage``; what is not said is as in the recipe, and not in the name."""
    attention, separator, words = text.partition(":")
    known = typing.get_args(Attention)
    if attention in STARTS + PLACEMENTS:
        raise InputError(f"--attention: {attention!r} goes behind a kind of attention, joined by +: cbam:open+stage")
    if attention not in known:
        raise InputError(f"--attention: {attention!r} is not known: {_nearest(attention, known)}")
    start, placement = own = (recipe.model.attention_init, recipe.model.attention_placement)
    for word in words.split("+") if separator else ():
        if word not in STARTS + PLACEMENTS:
            raise InputError(f"--attention {text}: {word!r} is not known: {_nearest(word, STARTS + PLACEMENTS)}")
        if attention == "none":
            raise InputError(f"--attention {text}: there is no attention that could be {word}")
        start = typing.cast(Start, word) if word in STARTS else start
        placement = typing.cast(Placement, word) if word in PLACEMENTS else placement
    other = [word for word, usual in zip((start, placement), own, strict=True) if word != usual]
    name = f"{attention}:{'+'.join(other)}" if other else attention
    return Arm(name, typing.cast(Attention, attention), start, placement, "recipe")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}" if close else f"known are {', '.join(known)}"


def arm_recipe(recipe: Recipe, arm: Arm, seed: int) -> Recipe:
    """The recipe of one run."""
    model = dataclasses.replace(
        recipe.model,
        attention=arm.attention,
        attention_init=arm.attention_init,
        attention_placement=arm.attention_placement,
    )
    train = dataclasses.replace(recipe.train, seed=seed)
    if arm.decay == comparisons.CONSTANT:
        train = dataclasses.replace(train, schedule="exponential", decay_rate=1.0)
    return dataclasses.replace(recipe, model=model, train=train)


def default_out(recipe: Recipe) -> Path:
    """The first of runs/NAME-ablation-1, runs/NAME-ablation-2, … that does not exist."""
    number = 1
    while (path := Path("runs") / f"{recipe.name}-ablation-{number}").exists():
        number += 1
    return path


def load_plan(out: Path) -> Plan:
    """The plan of an ablation that was begun; raises InputError where the folder is none."""
    path = out / PLAN_FILE
    if not path.is_file():
        raise InputError(f"{out} is no ablation: it has no {PLAN_FILE}; leave out --resume to begin one")
    raw = artifacts.read_json(path)
    try:
        given = {key: raw[key] for key in GIVEN}
        texts = (*given["factors"], *given["attention"], given["words"])
        if type(given["seeds"]) is not int or type(given["benchmark"]) is not bool:
            raise TypeError("seeds or benchmark")
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise TypeError("a name that is no text")
        return plan(recipes.from_table(raw["recipe"], str(path)), **given)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no plan of an ablation ({error!r}): begin anew with another --out") from None


def run(plan: Plan, out: Path, *, resume: bool = False, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Train what the plan needs, compare, and write ``ablation.json``, ``.md`` and ``.svg``; returns the JSON value.

    A training that fails, as one whose loss is no longer finite, is recorded and left out of the comparisons; so are
    failed gates of verify, which leave the figures in.

    Args:
        plan: what to answer.
        out: the folder.
        resume: go on in a folder that was begun with the same recipe. Whole runs are kept; the plan may ask for more
            seeds, arms and factors than before.
        on_event: listener; the names of stages begin with arm and seed.

    Raises:
        InputError: ``out`` exists and ``resume`` is not given, it was begun with another recipe, the network of an arm
            cannot be built, or the images have changed between two runs.
        EnvironmentFailure: every training failed.
    """
    _check_folder(plan, out, resume)
    todo = [(arm, seed) for seed in plan.all_seeds for arm in plan.arms]
    records: dict[tuple[Arm, int], dict[str, Any]] = {}
    for arm, seed in todo:
        kept = _kept(plan, out, arm, seed)
        if kept is not None:
            records[arm, seed] = kept
    if records:
        on_event(Event("ablate", message=f"{len(records)} of {len(todo)} trainings are kept"))
    if len(records) < len(todo):
        _check_networks(plan, records.values(), on_event)
    _write_plan(plan, out)  # only now, when everything that the user gave has proven good
    seconds: dict[Arm, float] = {}
    cache = _Images()
    for arm, seed in todo:
        if (arm, seed) in records:
            continue
        started = time.monotonic()
        records[arm, seed] = _make(plan, out, arm, seed, cache, on_event)
        seconds[arm] = time.monotonic() - started
        left = [other for other in todo if other not in records]
        on_event(
            Event("ablate", message=_progress(records[arm, seed], len(todo) - len(left), len(todo), left, seconds))
        )
        if left and left[0][1] != seed:  # a seed is through: what it says so far, should nothing follow
            _write(plan, out, _report(plan, out, records, None))
    if all(record["status"] != "ok" for record in records.values()):
        raise EnvironmentFailure(f"every training failed, the first with: {next(iter(records.values()))['reason']}")
    value = _report(plan, out, records, None)
    _write(plan, out, value)  # also should nothing come of the benchmark
    if not plan.benchmark:
        return value
    measured = _benchmark(plan, out, records, on_event)
    value = _report(plan, out, records, measured)
    _write(plan, out, value)
    return value


def _check_folder(plan: Plan, out: Path, resume: bool) -> None:
    """Refuse a folder that is in the way, or that was begun with another recipe."""
    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: add --resume to go on in it, or give another --out")
    if resume and load_plan(out).recipe != plan.recipe:
        raise InputError(f"{out} was begun with another recipe: leave out RECIPE and --set, or give another --out")


def _write_plan(plan: Plan, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(recipes.to_toml(plan.recipe))
    given = {key: getattr(plan, key) for key in GIVEN}
    artifacts.write_json(out / PLAN_FILE, {"schema_version": 1, "recipe": recipe, **given})


def _run_folder(out: Path, arm: Arm, seed: int) -> Path:
    return out / RUNS / arm.folder / f"seed-{seed}"


def _record_file(out: Path, arm: Arm, seed: int) -> Path:
    return _run_folder(out, arm, seed).with_name(f"seed-{seed}.json")


def _kept(plan: Plan, out: Path, arm: Arm, seed: int) -> dict[str, Any] | None:
    """The record of a run that is whole and still what its record was made from; None: it has to be made."""
    path, run = _record_file(out, arm, seed), _run_folder(out, arm, seed)
    if not path.is_file() or not path.with_suffix(".npz").is_file():
        return None
    record = artifacts.read_object(path)
    if not isinstance(record.get("stages"), dict) or not {*record["stages"]} <= {*artifacts.STAGES}:
        return None
    needed = plan.stages(arm)
    fresh = all(artifacts.is_fresh(run, stage) for stage in needed)
    return (
        record
        if fresh and record["stages"] == _digests(run, record["stages"]) and not (set(needed) - set(record["stages"]))
        else None
    )


def _digests(run: Path, stages: typing.Iterable[str]) -> dict[str, str]:
    """sha256 of the ``stage.json`` of stages that are there."""
    paths = {stage: run / stage / artifacts.STAGE_FILE for stage in stages}
    return {stage: artifacts.sha256_file(path) for stage, path in paths.items() if path.is_file()}


def _check_networks(plan: Plan, kept: typing.Iterable[Mapping[str, Any]], on_event: OnEvent) -> None:
    """Build every network once: one that cannot be built is refused now and not after hours; so are other images."""
    api._require_tensorflow("training")
    from edgecbam import datasets, models, training

    dataset, data = datasets.load(plan.recipe.data, on_event)
    digest = datasets.digest(dataset)
    if any(record["status"] == "ok" and record["data_digest"] != digest for record in kept):
        raise InputError(
            f"the images of {data.source} are not those of the trainings that are kept: put them back, or begin anew "
            "with another --out"
        )
    shape = (data.height, data.width, data.channels)
    for arm in plan.arms:
        training.begin(plan.recipe.train.seed)
        models.build(arm_recipe(plan.recipe, arm, plan.recipe.train.seed).model, shape, len(dataset.classes))
    training.begin(plan.recipe.train.seed)


def _make(plan: Plan, out: Path, arm: Arm, seed: int, cache: "_Images", on_event: OnEvent) -> dict[str, Any]:
    """Bring one run through its stages, evaluate it, and write its record; what is whole of it already is kept."""
    run, path = _run_folder(out, arm, seed), _record_file(out, arm, seed)
    run.parent.mkdir(parents=True, exist_ok=True)

    def named(event: Event) -> None:
        on_event(dataclasses.replace(event, stage=f"{arm.name} seed {seed} {event.stage}"))

    record: dict[str, Any] = {"arm": arm.name, "seed": seed, "status": "ok", "reason": "", "failed_gates": []}
    started = time.monotonic()
    try:
        api.train(arm_recipe(plan.recipe, arm, seed), run, resume=True, on_event=named)
        for stage, make in (("quantize", functools.partial(api.quantize, trust=True)), ("export", api.export)):
            if stage in plan.stages(arm) and not artifacts.is_fresh(run, stage):
                make(run, on_event=named)
        if "verify" in plan.stages(arm):
            record["failed_gates"] = list(api.verify(run, on_event=named).failed())
    except EnvironmentFailure as error:
        if type(error) is not EnvironmentFailure:
            raise  # a package is missing: no training would get further
        # Nothing is kept: a record without .npz has the run tried again by --resume.
        return {**record, "status": "failed", "reason": str(error), "test": {}, "validation": {}, "stages": {}}
    figures, correct = _evaluate(run, plan.stages(arm), cache)
    record.update(figures, seconds=round(time.monotonic() - started, 1), stages=_digests(run, plan.stages(arm)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **correct)
    artifacts.write_whole(path.with_suffix(".npz"), buffer.getvalue())
    artifacts.write_json(path, record)
    return record


class _Images:
    """The images of an ablation, loaded once; all its runs have the same."""

    def __init__(self) -> None:
        self._loaded: tuple[Any, Dataset] | None = None

    def of(self, data: recipes.DataConfig) -> "Dataset":
        from edgecbam import datasets

        if self._loaded is None or self._loaded[0] != data:
            self._loaded = None  # so that no two sets are held at once
            self._loaded = (data, datasets.load(data)[0])
        return self._loaded[1]


def _evaluate(run: Path, stages: Sequence[str], cache: _Images) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The figures of a run, and by ``PART_WEIGHTS`` which images are classified rightly: [n] bool."""
    from edgecbam import models, preprocessing, training

    recipe = artifacts.load_recipe(run)
    dataset, described = cache.of(recipe.data), preprocessing.describe(recipe.data)
    trained = artifacts.read_json(run / "train" / "metrics.json")
    training.begin(recipe.train.seed)
    model = api.load_float(run)
    cost = models.Cost.of(model)
    parts = {
        "test": (dataset.test_images, dataset.test_labels),
        "validation": (dataset.validation_images, dataset.validation_labels),
    }
    correct: dict[str, np.ndarray] = {}
    for part, (images, labels) in parts.items():
        if not len(images):
            continue
        correct[f"{part}_ema"] = np.argmax(training.predict(model, images, described), axis=1) == labels
        for weights, name in FILES.items() if "export" in stages else ():
            logits = _logits(run / "export" / name, images, described)
            correct[f"{part}_{weights}"] = np.argmax(logits, axis=1) == labels
    figures: dict[str, Any] = {
        part: {
            weights: float(np.mean(correct[f"{part}_{weights}"]))
            for weights in comparisons.WEIGHTS
            if f"{part}_{weights}" in correct
        }
        for part in parts
    }
    for part in parts:
        if f"{part}_raw_accuracy" in trained:
            figures[part]["raw"] = trained[f"{part}_raw_accuracy"]
    counts = {f"{part}_images": len(labels) for part, (_, labels) in parts.items()}
    return (
        {
            **figures,
            **counts,
            "train_images": trained["train_images"],
            "data_digest": trained["data_digest"],
            "precision": trained["precision"],
            "versions": {name: importlib.metadata.version(name) for name in MADE_WITH},
            "parameters": cost.parameters,
            "macs": cost.macs,
        },
        correct,
    )


def _logits(path: Path, images: Any, described: Mapping[str, Any]) -> np.ndarray:
    """Outputs of an exported .tflite file in LiteRT, one image at a time as an app runs it."""
    from edgecbam import preprocessing, runtimes

    entry = artifacts.load_manifest(path.parent).files[path.name]
    session = runtimes.find("litert").open(path, threads=1)
    try:
        source = runtimes.described(session.inputs[0], entry.input)
        outputs = []
        for start in range(0, len(images), EVALUATION_BATCH):
            inputs = preprocessing.normalize(images[start : start + EVALUATION_BATCH], described)
            tensors = (runtimes.to_input(inputs[index : index + 1], source) for index in range(len(inputs)))
            outputs += [session.run([tensor])[0] for tensor in tensors]
    finally:
        session.close()
    return np.concatenate(outputs)


def _progress(
    record: Mapping[str, Any], done: int, total: int, left: Sequence[tuple[Arm, int]], seconds: Mapping[Arm, float]
) -> str:
    """How one training came out and how long the rest will take, by what those of the same arm took."""
    name = f"{done} of {total} trainings: {record['arm']} seed {record['seed']}"
    if record["status"] == "ok":
        shown = ", ".join(f"{ablation_table.SHORT[key]} {value:.2%}" for key, value in _ordered(record["test"]))
        result = f"{name}: test top-1 {shown}"
    else:
        result = f"{name} failed: {record['reason']}"
    if not left:
        return result
    usual = sum(seconds.values()) / len(seconds)
    minutes = sum(seconds.get(arm, usual) for arm, _ in left) / 60
    return f"{result}; about {minutes:.0f} min left" if minutes >= 1 else f"{result}; less than a minute left"


def _ordered(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(weights, figures[weights]) for weights in comparisons.WEIGHTS if weights in figures]


def _benchmark(
    plan: Plan, out: Path, records: Mapping[tuple[Arm, int], Mapping[str, Any]], on_event: OnEvent
) -> dict[str, Any] | None:
    """Measure the int8 file of each arm side by side, of the first seed that all arms have; None without two files."""
    arms = [arm for arm in plan.arms if "export" in plan.stages(arm)]
    whole = [s for s in plan.all_seeds if all(records[arm, s]["status"] == "ok" for arm in arms)]
    if len(arms) < 2 or not whole:
        return None
    seed = whole[0]
    (out / MODELS).mkdir(exist_ok=True)
    copies = {}
    for arm in arms:
        copies[arm.name] = out / MODELS / f"{arm.folder}_int8.tflite"
        model = _run_folder(out, arm, seed) / "export" / FILES["qat_int8"]
        artifacts.write_whole(copies[arm.name], model.read_bytes())
    baseline = comparisons.attention_baseline([dataclasses.asdict(arm) for arm in arms])
    names = {name: path.name for name, path in copies.items()}
    earlier = out / BENCHMARK / "report.json"
    if earlier.is_file():
        report = artifacts.read_json(earlier)
        measured = {Path(model["name"]).name: model["sha256"] for model in report["models"]}
        if measured == {path.name: artifacts.sha256_file(path) for path in copies.values()}:
            return {"report": report, "seed": seed, "files": names}
        shutil.rmtree(out / BENCHMARK)  # of other files
    report = api.benchmark_models(
        list(copies.values()),
        runtimes=("litert",),
        protocol=plan.recipe.benchmark.protocol,
        baseline=copies[baseline],
        out=out / BENCHMARK,
        on_event=on_event,
    )
    return {"report": report, "seed": seed, "files": names}


def _report(
    plan: Plan,
    out: Path,
    records: Mapping[tuple[Arm, int], Mapping[str, Any]],
    measured: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The value of ablation.json."""
    runs = [dict(records[arm, seed]) for seed in plan.all_seeds for arm in plan.arms if (arm, seed) in records]
    good = [run for run in runs if run["status"] == "ok"]
    if len({run["data_digest"] for run in good}) > 1:
        raise InputError(f"the images have changed between the trainings of {out}: begin anew with another --out")
    arms = [_described(arm, good, measured) for arm in plan.arms]
    correct = {}
    for arm, seed in records:
        path = _record_file(out, arm, seed).with_suffix(".npz")
        if records[arm, seed]["status"] == "ok":
            correct[arm.name, seed] = array_file.load(path)
    asked = comparisons.questions(arms, plan.factors, plan.base.name)
    answers = [comparisons.compare(question, runs, correct) for question in asked]
    images = ("train_images", "validation_images", "test_images", "data_digest", "precision")
    about = environment.describe(("litert",))
    about["versions"] |= good[-1]["versions"] if good else {}
    recipe = tomllib.loads(recipes.to_toml(plan.recipe))
    recipe["data"]["source"] = source = Path(plan.recipe.data.source).name  # no path of this machine
    return {
        "schema_version": 1,
        "command": plan.command,
        "recipe": recipe,
        "factors": list(plan.factors),
        "seeds": sorted({run["seed"] for run in runs}),
        "data": {
            "source": source,
            **({key: good[0][key] for key in images} if good else dict.fromkeys(images)),
            "epochs": plan.recipe.train.epochs,
            "quantize_epochs": plan.recipe.quantize.epochs,
        },
        "environment": about,
        "planned_runs": len(plan.arms) * plan.seeds,
        "arms": arms,
        "runs": runs,
        "summary": comparisons.summary(runs, [arm.name for arm in plan.arms]),
        "comparisons": [answer for answer in answers if answer is not None],
        "benchmark": None if measured is None else _protocol(measured),
    }


def _described(arm: Arm, runs: Sequence[Mapping[str, Any]], measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """An arm with its size and, where it was measured, its latency."""
    made: Mapping[str, Any] = next((run for run in runs if run["arm"] == arm.name), {})
    value: dict[str, Any] = dataclasses.asdict(arm)
    value |= {"parameters": made.get("parameters"), "macs": made.get("macs"), "p50_ms": None, "latency_ratio": None}
    file = None if measured is None else measured["files"].get(arm.name)
    if measured is None or file is None:
        return value
    for row in measured["report"]["results"]:
        if Path(row["model"]).name == file and row["latency_ms"] is not None:
            value["p50_ms"] = row["latency_ms"]["p50"]
    for row in measured["report"]["comparisons"]:
        if Path(row["candidate"]).name == file and row["kind"] == "candidate":
            value["latency_ratio"] = {**row["ratio"], "verdict": row["verdict"]}
    return value


def _protocol(measured: Mapping[str, Any]) -> dict[str, Any]:
    protocol = measured["report"]["protocol"]
    return {
        "protocol": protocol["name"],
        "seed": measured["seed"],
        "n": protocol["processes"] * protocol["rounds"] * protocol["block"],
        "processes": protocol["processes"],
    }


def _write(plan: Plan, out: Path, value: dict[str, Any]) -> None:
    """Write the answer: JSON, Markdown, and the plot where matplotlib is there to draw it."""
    from edgecbam.benchmarks import chart_ablation, svg

    able = svg.available()
    chart = chart_ablation.differences(value) if able else None
    artifacts.write_json(out / REPORT_FILE, value)
    if chart is None:
        (out / CHART_FILE).unlink(missing_ok=True)
    else:
        drawn = chart_ablation.standalone(chart, f"{chart.title}, {plan.recipe.name}")
        artifacts.write_whole(out / CHART_FILE, drawn)
    page = ablation_table.page(value, None if chart is None else CHART_FILE, "" if able else NO_CHART)
    artifacts.write_whole(out / PAGE_FILE, page)
