"""A network that tells values instead of classes, from a folder with a CSV of targets through every stage.

The images are blobs on grey ground. One target is how bright the blob is, told about a large offset (100 ± 2), the
other where its middle lies from left to right: both can be learnt in seconds, and what is right is known.
"""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from no_tensorflow import run_without_tensorflow
from PIL import Image

from edgecbam import api, artifacts, cli, metrics, recipe
from edgecbam.artifacts import Manifest, Samples
from edgecbam.benchmarks import parity, protocol
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import InputError
from edgecbam.events import Event
from edgecbam.export import verify
from edgecbam.recipe import VerifyConfig

SIDE, IMAGES = 16, 240
TARGETS = ("brightness", "left_mm")
STD = {"brightness": 1.15, "left_mm": 3.2}  # roughly, of what draw_blob is given
SETTINGS = (
    "name='blobs'",
    "data.targets=targets.csv",
    "data.validation_fraction=0.1",
    "model.widths=[16,16]",
    "model.blocks=[1,1]",
    "model.reduction_ratio=4",
    "train.epochs=9",
    "train.batch_size=16",
    "train.learning_rate=0.01",
    "train.ema_decay=0.9",
    "train.flip=false",  # either would move the blob and leave the target
    "train.shift_pixels=0",
    "train.label_smoothing=0",  # of the default recipe, and for classes alone
    "quantize.epochs=1",
    "quantize.batch_size=16",
    "quantize.ema_decay=0.9",
    "verify.max_rmse_increase=0.2",  # 48 test images: a bound for so small a network and so few of them
)
Resign = Callable[[Path, str], None]


def draw_blob(brightness: float, left_mm: float, noise: np.random.Generator) -> np.ndarray:
    """[SIDE, SIDE] uint8: a blob whose middle is ``left_mm`` pixels from the left, 40 grey levels for each unit."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blob = np.exp(-((columns - left_mm) ** 2 + (rows - SIDE / 2 + 0.5) ** 2) / 8)
    level = 60 + (130 + 40 * (brightness - 100)) * blob + noise.normal(0, 3, blob.shape)
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)


def make_blobs(folder: Path) -> dict[str, tuple[float, float]]:
    """A folder of grey images with ``targets.csv``; returns the values by file name."""
    random = np.random.default_rng(3)
    folder.mkdir()
    values = {}
    for number in range(IMAGES):
        brightness, left = random.uniform(98, 102), random.uniform(2.5, SIDE - 3.5)
        name = f"{number:03}.png"
        Image.fromarray(draw_blob(brightness, left, random)).save(folder / name)
        values[name] = (round(brightness, 3), round(left, 3))
    with (folder / "targets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", *TARGETS), *((name, *row) for name, row in values.items())])
    return values


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "blobs"
    make_blobs(folder)
    return folder


@pytest.fixture(scope="module")
def shared(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A run of all stages, and what it told. Do not change it: take ``run``."""
    events: list[Event] = []
    brief = Protocol("quick", 2, 2, 2, 1, 1, "a test", timeout_s=60)
    settings = recipe.load("fashion_cbam", (*SETTINGS, f"data.source='{blobs}'"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocol.PROTOCOLS, "quick", brief)
        made = api.run(settings, tmp_path_factory.mktemp("regression") / "run", on_event=events.append)
    return made.run, events


@pytest.fixture
def run(shared: tuple[Path, list[Event]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared[0], tmp_path / "run"))


def test_every_stage_of_a_regression_is_whole_and_every_gate_holds(shared: tuple[Path, list[Event]]) -> None:
    folder, _ = shared
    for stage in artifacts.STAGES:
        artifacts.check_stage(folder, stage)
    verified = json.loads((folder / "verify" / "verify.json").read_text())
    assert verified["passed"]
    assert [gate["name"] for gate in verified["gates"]] == ["digests", *(g.__name__ for g in verify.REGRESSION_GATES)]
    assert "accuracy" not in verified
    names = {*artifacts.load_manifest(folder / "export").files, "keras_float", "keras_qat"}
    for kind in ("rmse", "mae"):
        assert set(verified[kind]) == names
        assert all(set(errors) == set(TARGETS) for errors in verified[kind].values())


def test_the_network_has_learnt_and_int8_keeps_it(shared: tuple[Path, list[Event]]) -> None:
    """In the targets' own units: always saying the mean has an RMSE of the standard deviation."""
    rmse = json.loads((shared[0] / "verify" / "verify.json").read_text())["rmse"]
    for target, spread in STD.items():
        assert rmse["keras_float"][target] < 0.35 * spread
        assert rmse["model_int8.tflite"][target] < 0.35 * spread
        assert rmse["model_fp32.onnx"][target] == pytest.approx(rmse["keras_float"][target], rel=1e-3)
        assert rmse["model_int8.onnx"][target] == pytest.approx(rmse["model_int8.tflite"][target], rel=0.05)


def test_the_figures_of_training_are_in_the_targets_own_units(shared: tuple[Path, list[Event]]) -> None:
    folder, events = shared
    trained = json.loads((folder / "train" / "metrics.json").read_text())
    assert trained["classes"] == list(TARGETS)
    samples = artifacts.load_samples(folder / "export")
    manifest = artifacts.load_manifest(folder / "export")
    real = manifest.real(samples.labels)
    np.testing.assert_allclose(real.mean(axis=0), [100, 7.5], atol=1.0)
    errors = np.sqrt(np.mean((manifest.real(samples.keras_float) - real) ** 2, axis=0))
    for i, target in enumerate(TARGETS):
        assert trained["test_ema_rmse"][target] == pytest.approx(errors[i], rel=1e-4)
        assert trained["test_raw_rmse"][target] != trained["test_ema_rmse"][target]
        assert 0 < trained["test_mae"][target] <= trained["test_ema_rmse"][target]
        assert trained["test_std"][target] == pytest.approx(real[:, i].std(), rel=1e-4)
    told = [event.message for event in events if event.stage == "train"]
    assert any("2 targets; resnet with cbam" in message for message in told)
    assert any(message.startswith("test RMSE brightness ") and "; left_mm " in message for message in told)
    quantized = json.loads((folder / "quantize" / "metrics.json").read_text())
    assert quantized["test_ema_rmse"]["left_mm"] < 0.35 * STD["left_mm"]


def test_the_export_says_what_its_values_mean(shared: tuple[Path, list[Event]]) -> None:
    import onnx

    export = shared[0] / "export"
    assert (export / "labels.txt").read_text() == "brightness\nleft_mm\n"
    manifest = artifacts.load_manifest(export)
    assert (manifest.task, manifest.classes) == ("regression", TARGETS)
    assert manifest.target_mean == pytest.approx((100, 7.5), abs=0.6)
    assert manifest.target_std == pytest.approx(tuple(STD.values()), rel=0.15)
    for name in ("model_fp32.onnx", "model_int8.onnx"):
        said = {entry.key: entry.value for entry in onnx.load(export / name).metadata_props}
        assert (said["task"], json.loads(said["labels"])) == ("regression", list(TARGETS))
        assert json.loads(said["target_mean"]) == list(manifest.target_mean)
        assert json.loads(said["target_std"]) == list(manifest.target_std)
    output = manifest.files["model_int8.tflite"].output
    assert output.scale is not None
    assert output.scale < 0.05, "steps of standardised values: an offset of 100 would have made them 0.4"


def test_a_report_tells_errors_where_a_classifiers_tells_accuracy(shared: tuple[Path, list[Event]]) -> None:
    folder, _ = shared
    report = json.loads((folder / "benchmark" / "report.json").read_text())
    assert {row["status"] for row in report["results"]} == {"ok"}
    verified = json.loads((folder / "verify" / "verify.json").read_text())["rmse"]
    for row in report["results"]:
        assert row["accuracy"] is None
        assert row["agreement"] is None
        assert row["parity"]["distance"] <= 0.25
        if row["runtime"] in ("litert", "onnxruntime"):
            assert row["rmse"] == pytest.approx(verified[row["model"]], rel=0.05)
    markdown = (folder / "report" / "report.md").read_text()
    for told in ("| RMSE brightness |", "RMSE left\\_mm" if "left\\_mm" in markdown else "RMSE left_mm", "2 targets;"):
        assert told in markdown
    assert "Top-1" not in markdown
    page = (folder / "report" / "report.html").read_text()
    assert "RMSE of brightness against latency" in page
    assert "RMSE of left_mm against latency" in page
    assert "Accuracy against latency" not in page
    card = (folder / "report" / "model_card.md").read_text()
    assert "It estimates its targets" in card
    assert f"| `model_int8.tflite` | {verified['model_int8.tflite']['brightness']:.4g} | " in card
    assert "Confusions" not in card


def test_the_terminals_table_has_room_for_errors(shared: tuple[Path, list[Event]]) -> None:
    from edgecbam import tables

    report = json.loads((shared[0] / "benchmark" / "report.json").read_text())
    text = tables.results_table(report)
    assert "RMSE" in text.split("\n")[0]
    assert "RMSE: of brightness/left_mm, each in its own unit" in text
    assert "top-1" not in text
    assert all(len(line) <= 80 for line in text.split("\n"))


@pytest.mark.parametrize("name", ["", "export/model_fp32.onnx", "export/model_uint8.tflite"])
def test_predict_gives_values_in_the_targets_own_units(
    shared: tuple[Path, list[Event]], tmp_path: Path, name: str
) -> None:
    random = np.random.default_rng(8)
    truth = [(98.8, 4.0), (100.9, 11.0), (101.5, 6.5), (99.4, 9.0)]
    files = [tmp_path / f"{number}.png" for number in range(len(truth))]
    for file, values in zip(files, truth, strict=True):
        Image.fromarray(draw_blob(*values, random)).save(file)
    predictions = api.predict(shared[0] / name, files)
    assert [prediction.classes for prediction in predictions] == [TARGETS] * len(truth)
    found = np.array([prediction.values for prediction in predictions])
    errors = np.sqrt(np.mean((found - np.array(truth)) ** 2, axis=0))
    assert errors[0] < 0.5 * STD["brightness"]
    assert errors[1] < 0.5 * STD["left_mm"]


def test_the_command_prints_values_by_target(
    shared: tuple[Path, list[Event]], blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = blobs / "000.png"
    assert cli.main(["predict", str(shared[0]), str(image)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(image)
    (prediction,) = api.predict(shared[0], [image])
    assert [line.split() for line in lines[1:]] == [
        [f"{value:.6g}", name] for name, value in zip(TARGETS, prediction.values, strict=True)
    ]
    assert cli.main(["predict", "--json", str(shared[0]), str(image)]) == 0
    (value,) = json.loads(capsys.readouterr().out)
    assert value == {"image": str(image), "values": dict(zip(TARGETS, prediction.values, strict=True))}


def test_augmentation_that_moves_images_is_told(blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecbam import training

    events: list[Event] = []

    class Enough(Exception):
        pass

    def fit(*_: object, **__: object) -> None:
        raise Enough

    monkeypatch.setattr(training, "fit", fit)
    settings = recipe.load("fashion_cbam", (*SETTINGS, f"data.source='{blobs}'", "train.flip=true"))
    with pytest.raises(Enough):
        api.train(settings, tmp_path / "run", on_event=events.append)
    assert any("leave the targets as they are" in event.message for event in events)


def test_an_unfinished_training_is_not_gone_on_with_on_other_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecbam import training

    class Enough(Exception):
        pass

    def fit(*_: object, **__: object) -> None:
        raise Enough

    monkeypatch.setattr(training, "fit", fit)
    make_blobs(tmp_path / "blobs")
    settings = recipe.load("fashion_cbam", (*SETTINGS, f"data.source='{tmp_path / 'blobs'}'"))
    with pytest.raises(Enough):
        api.train(settings, tmp_path / "run")
    with pytest.raises(Enough):  # nothing has changed
        api.train(settings, tmp_path / "run", resume=True)
    table = tmp_path / "blobs" / "targets.csv"
    rows = list(csv.reader(table.open()))
    changed = [rows[0], [rows[1][0], "99.0", *rows[1][2:]], *rows[2:]]
    csv.writer(table.open("w", newline="")).writerows(changed)
    with pytest.raises(InputError, match=r"have changed since .*run was begun"):
        api.train(settings, tmp_path / "run", resume=True)
    csv.writer(table.open("w", newline="")).writerows([row[:2] for row in rows])
    with pytest.raises(
        InputError, match=r"begun with the classes brightness, left_mm, .* now has brightness: .*--overwrite"
    ):
        api.train(settings, tmp_path / "run", resume=True)


ON_THE_DEVICE = """
from edgecbam import api
from edgecbam.benchmarks import protocol
protocol.PROTOCOLS["quick"] = protocol.Protocol("quick", 2, 2, 2, 1, 1, "a test", timeout_s=60)
run, image = Path(sys.argv[1]), Path(sys.argv[2])
assert api.verify(run).passed
assert api.benchmark(run, runtimes=["litert"])["results"][0]["rmse"]
assert api.report(run).is_file()
assert len(api.predict(run, [image])[0].values) == 2
"""


def test_an_edge_device_needs_no_tensorflow_for_a_regression(run: Path, blobs: Path) -> None:
    run_without_tensorflow(ON_THE_DEVICE, str(run), str(blobs / "000.png"))


CONFIG = VerifyConfig(max_rmse_increase=0.2)


def failed(folder: Path, config: VerifyConfig = CONFIG) -> set[str]:
    return set(verify.check(folder, config).failed())


def change_samples(folder: Path, **arrays: np.ndarray) -> None:
    artifacts.write_samples(folder, dataclasses.replace(artifacts.load_samples(folder), **arrays))


def test_a_reference_that_hardly_moves_is_refused(run: Path) -> None:
    values = artifacts.load_samples(run / "export").keras_qat.copy()
    values[:, 1] = values[:, 1].mean() + 0.01 * values[:, 1]
    change_samples(run / "export", keras_qat=values)
    result = verify.check(run / "export", CONFIG)
    (gate,) = [gate for gate in result.gates if gate.name == "reference_varies"]
    assert not gate.passed
    assert "left_mm of keras_qat" in gate.detail
    assert float(gate.value or 0) < 8


def test_a_reference_with_nan_is_refused_and_the_verdict_can_be_written(run: Path) -> None:
    values = artifacts.load_samples(run / "export").keras_float.copy()
    values[5, 1] = np.nan
    change_samples(run / "export", keras_float=values)
    result = verify.check(run / "export", CONFIG)
    assert {"reference_varies", "float_parity", "fp16_closeness", "rmse_increase"} <= set(result.failed())
    assert "keras_float" not in result.rmse
    artifacts.write_json(run / "verdict.json", result.to_json())


def test_a_file_that_rounds_where_none_should_is_found(run: Path, resign: Resign) -> None:
    """What takes the place of the float file is one of the run itself, whose weights have 8 bits."""
    shutil.copy(run / "export" / "model_dynamic.tflite", run / "export" / "model_fp32.tflite")
    resign(run / "export", "model_fp32.tflite")
    assert failed(run / "export") == {"float_parity"}


def test_fp16_must_be_within_two_steps_of_float(run: Path) -> None:
    samples, lsb = artifacts.load_samples(run / "export"), verify.Evidence(run / "export", CONFIG).lsb()
    for steps, found in ((1.0, {"float_parity"}), (3.0, {"float_parity", "fp16_closeness"})):
        change_samples(run / "export", keras_float=samples.keras_float + np.float32(steps * lsb))
        assert failed(run / "export") - {"rmse_increase"} == found, steps


def test_values_of_other_images_are_found(run: Path) -> None:
    samples = artifacts.load_samples(run / "export")
    change_samples(run / "export", keras_qat=np.roll(samples.keras_qat, 1, axis=0))
    assert failed(run / "export") == {"qat_closeness"}


def test_int8_may_be_two_steps_from_keras_and_one_image_further(run: Path) -> None:
    samples, lsb = artifacts.load_samples(run / "export"), verify.Evidence(run / "export", CONFIG).lsb()
    real = verify.Evidence(run / "export", CONFIG).logits("model_int8.tflite")
    for steps, images, expected in (
        (1.9, slice(None), set()),
        (2.5, slice(0, 1), set()),
        (2.5, slice(0, 2), {"qat_closeness"}),
    ):
        moved = real.copy()
        moved[images, 0] += steps * lsb
        change_samples(run / "export", keras_qat=moved)
        assert failed(run / "export") == expected, steps
    assert samples.keras_qat.shape == real.shape


def test_an_error_that_grows_is_found_by_target(run: Path) -> None:
    """The float model is made to know the second target exactly, so that all that int8 adds is an increase."""
    samples = artifacts.load_samples(run / "export")
    perfect = samples.keras_float.copy()
    perfect[:, 1] = samples.labels[:, 1]
    change_samples(run / "export", keras_float=perfect)
    result = verify.check(run / "export", CONFIG)
    (gate,) = [gate for gate in result.gates if gate.name == "rmse_increase"]
    assert not gate.passed
    assert gate.detail.startswith("left_mm: RMSE 0 float, ")


def test_rounding_to_steps_alone_is_no_increase(run: Path) -> None:
    """Targets that are what int8 says but for the rounding: float is perfect, and int8 as good as 8 bits can be."""
    evidence = verify.Evidence(run / "export", CONFIG)
    random = np.random.default_rng(0)
    exact = evidence.logits("model_int8.tflite") + evidence.lsb() * random.uniform(-0.5, 0.5, (48, 2))
    exact = exact.astype(np.float32)
    change_samples(run / "export", keras_float=exact, labels=exact)
    gates = {gate.name: gate for gate in verify.check(run / "export", VerifyConfig(max_rmse_increase=0.25)).gates}
    assert gates["rmse_increase"].passed
    assert "RMSE 0 float" in gates["rmse_increase"].detail


def test_samples_of_another_task_are_refused(run: Path) -> None:
    export = run / "export"
    manifest = artifacts.load_manifest(export)
    artifacts.write_manifest(
        export, dataclasses.replace(manifest, task="classification", target_mean=(), target_std=())
    )
    with pytest.raises(InputError, match=r"holds 2 targets, manifest\.json tells of none"):
        verify.check(export, CONFIG)


def test_a_manifest_from_before_there_was_a_choice_is_a_classifiers(run: Path) -> None:
    path = run / "export" / artifacts.MANIFEST_FILE
    raw = json.loads(path.read_text())
    for key in ("task", "target_mean", "target_std"):
        del raw[key]
    path.write_text(json.dumps(raw))
    manifest = artifacts.load_manifest(run / "export")
    assert (manifest.task, manifest.target_mean, manifest.target_std) == ("classification", (), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "ranking"},
        {"target_mean": [1.0]},
        {"target_std": [1.0, float("nan")]},
        {"target_std": [1.0, None]},
        {"target_mean": 3},
        {"task": "classification"},
    ],
)
def test_a_manifest_whose_targets_do_not_fit_is_refused(run: Path, changes: dict[str, object]) -> None:
    path = run / "export" / artifacts.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"manifest\.json is (no manifest|not readable JSON)"):
        artifacts.load_manifest(run / "export")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"labels": np.zeros((48, 1), np.float32)}, "one output for each target"),
        ({"labels": np.full((48, 2), np.nan, np.float32)}, "no finite number"),
        ({"labels": np.zeros(48, np.float32)}, "different lengths"),
    ],
)
def test_targets_that_do_not_fit_the_outputs_are_refused(run: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    samples = dataclasses.replace(artifacts.load_samples(run / "export"), **arrays)
    artifacts.write_samples(run / "export", samples)
    with pytest.raises(InputError, match=reason):
        artifacts.load_samples(run / "export")


VALUES = np.random.default_rng(1).normal(0, 1, (64, 2)).astype(np.float32)
FLOAT = parity.REGRESSION_EXPECTATIONS["model_fp32.tflite"]
INT8 = parity.REGRESSION_EXPECTATIONS["model_int8.tflite"]


def test_every_file_that_is_measured_has_something_to_match() -> None:
    assert set(parity.REGRESSION_EXPECTATIONS) == set(parity.EXPECTATIONS)
    for name, expected in parity.REGRESSION_EXPECTATIONS.items():
        assert expected.reference == parity.EXPECTATIONS[name].reference
        assert expected.min_agreement is None
        assert (expected.max_relative_error is None) != (expected.max_distance is None)


@pytest.mark.parametrize(
    ("spoil", "expectation", "reason"),
    [
        (lambda x: x + 0.01, FLOAT, "values differ from keras_float"),
        (lambda x: np.zeros_like(x), INT8, "of the spread of keras_qat away"),
        (lambda x: np.roll(x, 1, axis=0), INT8, "of the spread of keras_qat away"),
        (lambda x: x[:, ::-1], INT8, "of the spread of keras_qat away"),
        (lambda x: np.where([False, True], -x, x), INT8, "of the spread of keras_qat away"),
        (lambda x: np.where(x == x.max(), np.nan, x), INT8, "not finite"),
        (lambda x: x[:, :1], INT8, "shape"),
    ],
)
def test_wrong_values_fail_with_a_reason(
    spoil: Callable[[np.ndarray], np.ndarray], expectation: parity.Expectation, reason: str
) -> None:
    check = parity.compare_values(spoil(VALUES), VALUES, expectation, lsb=0.02)
    assert not check.passed
    assert reason in check.reason


def test_right_values_pass() -> None:
    rounded = np.rint(VALUES / 0.02) * 0.02
    for outputs, expectation in ((VALUES, FLOAT), (rounded.astype(np.float32), INT8)):
        check = parity.compare_values(outputs, VALUES, expectation, lsb=0.02)
        assert (check.passed, check.reason) == (True, "")
        assert check.parity["images"] == 64


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (np.column_stack([VALUES[:, 0], np.ones(64)]), "is constant"),
        (np.column_stack([VALUES[:, 0], 0.01 * VALUES[:, 1]]), "proves nothing"),
        (np.full((64, 2), np.inf), "not finite"),
    ],
)
def test_reference_values_that_prove_nothing_are_refused(reference: np.ndarray, reason: str) -> None:
    check = parity.compare_values(reference, reference, INT8, lsb=0.02)
    assert not check.passed
    assert reason in check.reason


def test_errors_are_those_of_their_definitions() -> None:
    outputs, targets = (
        np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 30.0]]),
        np.array([[0.0, 10.0], [2.0, 26.0], [6.0, 30.0]]),
    )
    np.testing.assert_allclose(metrics.rmse(outputs, targets), [np.sqrt(5 / 3), np.sqrt(12)])
    np.testing.assert_allclose(metrics.mae(outputs, targets), [1.0, 2.0])
    assert metrics.by_target([0.5, 2.0], ("a", "b"), (10.0, 0.1)) == {"a": 5.0, "b": 0.2}
    for function in (metrics.rmse, metrics.mae, metrics.distance):
        with pytest.raises(ValueError, match="must both be"):
            function(outputs, targets[:, :1])


def test_distance_is_a_share_of_the_spread_of_the_worst_output() -> None:
    reference = np.random.default_rng(2).normal(5, [1.0, 100.0], (2000, 2))
    assert metrics.distance(reference, reference) == 0.0
    assert metrics.distance(reference + np.array([0.0, 10.0]), reference) == pytest.approx(0.1, rel=0.05)
    assert metrics.distance(np.broadcast_to(reference.mean(axis=0), reference.shape), reference) == pytest.approx(1.0)
    assert metrics.distance(np.roll(reference, 1, axis=0), reference) == pytest.approx(2**0.5, rel=0.05)
    constant = np.ones((10, 1))
    assert metrics.distance(constant, constant) == 0.0
    assert metrics.distance(constant + 1e-6, constant) == np.inf


def test_real_values_are_outputs_times_std_plus_mean() -> None:
    manifest = Manifest("xnnpack", ("a", "b"), {}, {}, "", {}, "regression", (100.0, -1.0), (2.0, 0.5))
    np.testing.assert_allclose(manifest.real(np.array([[0.0, 2.0], [-1.0, 0.0]])), [[100.0, 0.0], [98.0, -1.0]])


def test_a_regressions_samples_survive_their_file(tmp_path: Path) -> None:
    samples = Samples(np.zeros((64, 4, 4, 1), np.uint8), VALUES, VALUES + 1, VALUES + 2)
    artifacts.write_samples(tmp_path, samples)
    found = artifacts.load_samples(tmp_path)
    np.testing.assert_array_equal(found.labels, VALUES)
    assert found.labels.dtype == np.float32
