"""The stages as a program calls them: on the user's own images, again and again, and without TensorFlow."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from no_tensorflow import run_without_tensorflow
from PIL import Image

from edgecbam import api, artifacts, recipe
from edgecbam.errors import EnvironmentFailure, GateFailed, InputError, MissingPackage
from edgecbam.events import Event


def make_photos(folder: Path, per_class: int = 24) -> Path:
    """Three classes of RGB images of different sizes and modes that even a tiny network tells apart."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            size = (int(rng.integers(30, 60)), int(rng.integers(30, 60)))
            pixels = rng.integers(0, 90, (size[1], size[0], 3))
            pixels[..., 2 - index] += 150
            image = Image.fromarray(pixels.astype(np.uint8))
            if number % 5 == 0:
                image.convert("RGBA").save(folder / name / f"{number}.png")
            else:
                image.save(folder / name / f"{number}.jpg")
    return folder


PHOTO_RECIPE = (
    "name='photos'",
    "data.height=32",
    "data.width=32",
    "model.widths=[8,8]",
    "model.blocks=[1,1]",
    "model.reduction_ratio=4",
    "train.epochs=8",
    "train.batch_size=8",
    "train.learning_rate=0.01",
    "train.ema_decay=0.9",
    "quantize.epochs=1",
    "quantize.batch_size=8",
    "quantize.ema_decay=0.9",
)


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos = make_photos(folder / "photos")
    settings = recipe.load("fashion_cbam", (*PHOTO_RECIPE, f"data.source='{photos}'"))
    return api.run(settings, folder / "run").run


def test_a_run_on_the_users_own_images_passes_every_stage(photo_run: Path) -> None:
    for stage in artifacts.STAGES:
        artifacts.check_stage(photo_run, stage)
    assert json.loads((photo_run / "verify" / "verify.json").read_text())["passed"]
    report = json.loads((photo_run / "benchmark" / "report.json").read_text())
    assert {row["status"] for row in report["results"]} == {"ok"}
    compared = {(c["candidate"], c["runtime"]) for c in report["comparisons"] if c["kind"] == "candidate"}
    assert {("model_int8.tflite", "litert"), ("model_int8.onnx", "onnxruntime")} <= compared
    for name in ("report.md", "report.html"):
        text = (photo_run / "report" / name).read_text()
        for told in ("model_int8.tflite", "photos, sha256", "3 classes; 32x32x3", "multiply-accumulates", "EMA"):
            assert told in text
    card = (photo_run / "report" / "model_card.md").read_text()
    for told in ("# Model card: ", "## Confusions, int8", "3 classes", "`photos`: "):
        assert told in card


def test_a_run_on_photos_learns_and_int8_keeps_it(photo_run: Path) -> None:
    accuracy = json.loads((photo_run / "verify" / "verify.json").read_text())["accuracy"]
    assert accuracy["keras_float"] > 0.9
    assert accuracy["model_int8.tflite"] > 0.9


def test_predict_reads_any_image_file(photo_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "tall.png"
    Image.new("RGBA", (40, 90), (230, 20, 20, 255)).save(path)
    for model in (photo_run, photo_run / "export" / "model_fp32.onnx", photo_run / "export" / "model_uint8.tflite"):
        (prediction,) = api.predict(model, [path], top=2)
        assert prediction.classes[0] == "red"
        assert len(prediction.classes) == 2
        assert 1.0 >= prediction.probabilities[0] >= prediction.probabilities[1] > 0.0


def test_predict_runs_an_integer_file_in_a_runtime_that_knows_no_scales(photo_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.new("RGB", (40, 40), (20, 230, 20)).save(path)
    (prediction,) = api.predict(photo_run, [path], runtime="openvino")
    assert prediction.classes[0] == "green"


def test_predict_refuses_what_it_cannot_trust(photo_run: Path, small_run: Path, tmp_path: Path) -> None:
    image = tmp_path / "grey.png"
    Image.new("L", (28, 28)).save(image)
    with pytest.raises(InputError, match="no model"):
        api.predict(tmp_path / "model.tflite", [image])
    path = small_run / "export" / "model_int8.tflite"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="altered"):
        api.predict(path, [image])


def test_history_shows_raw_and_averaged_accuracy(trained_run: Path) -> None:
    rows = list(csv.DictReader((trained_run / "train" / "history.csv").open()))
    assert len(rows) == 10
    assert any(row["raw_accuracy"] != row["ema_accuracy"] for row in rows)


def test_the_saved_model_holds_the_average_in_float32(trained_run: Path) -> None:
    model = api.load_float(trained_run)
    assert {weight.dtype.name for weight in model.weights} == {"float32", "int64"}  # the count of dropout's masks
    figures = json.loads((trained_run / "train" / "metrics.json").read_text())
    samples = artifacts.load_samples(trained_run / "export")
    accuracy = float(np.mean(np.argmax(samples.keras_float, 1) == samples.labels))
    assert accuracy == pytest.approx(figures["test_ema_accuracy"])
    assert figures["test_raw_accuracy"] != figures["test_ema_accuracy"]


def test_an_existing_folder_is_refused_and_nothing_is_lost(trained_run: Path, tmp_path: Path) -> None:
    settings = recipe.load("fashion_cbam")
    with pytest.raises(InputError, match=r"exists already: add --resume.*--overwrite"):
        api.train(settings, trained_run)
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("all of it")
    with pytest.raises(InputError, match="is no run folder, so --overwrite does not touch it"):
        api.train(settings, precious, overwrite=True)
    assert (precious / "chapter1.txt").read_text() == "all of it"


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, options: dict[str, bool]) -> None:
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "sub" / "thesis.txt").write_text("all of it")
    for call in (api.train, api.run):
        with pytest.raises(InputError, match="is no run folder, so --"):
            call(recipe.load("fashion_cbam"), precious, **options)
    assert [path.name for path in precious.rglob("*")] == ["sub", "thesis.txt"]


def test_frozen_epochs_without_weights_to_keep_are_refused(tmp_path: Path) -> None:
    asked = recipe.load("fashion_cbam", ("train.freeze_epochs=1",))
    with pytest.raises(InputError, match=r"train\.freeze_epochs .* model\.weights gives none: leave it out"):
        api.train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["builtin", "mnist", "tfds:mnist"])
def test_a_folder_named_like_a_data_set_is_not_taken_for_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / source).mkdir()
    monkeypatch.chdir(tmp_path)
    assert api._anchored(recipe.DataConfig(source=source)).source == source
    (tmp_path / "photos").mkdir()
    assert api._anchored(recipe.DataConfig(source="photos")).source == str((tmp_path / "photos").resolve())


def test_a_run_that_lost_its_recipe_is_not_begun_anew(small_run: Path) -> None:
    (small_run / "recipe.toml").unlink()
    with pytest.raises(InputError, match="is no run folder, so --resume does not touch it"):
        api.run(recipe.load("fashion_cbam"), small_run, resume=True)
    assert (small_run / "train" / "model.keras").is_file()


@pytest.mark.parametrize("text", ["", "name = 'small'\n"])
def test_an_incomplete_recipe_in_a_run_is_refused(small_run: Path, text: str) -> None:
    (small_run / "recipe.toml").write_text(text)
    with pytest.raises(InputError, match="is not complete"):
        api.quantize(small_run)


@pytest.mark.parametrize("name", ["train", "quantize", "export"])
def test_a_machine_without_tensorflow_says_what_is_missing(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    absent = lambda module, *rest: None if module == "tensorflow" else found(module, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    call = {
        "train": lambda: api.train(recipe.load("fashion_cbam"), small_run.parent / "new"),
        "quantize": lambda: api.quantize(small_run),
        "export": lambda: api.export(small_run),
    }[name]
    with pytest.raises(MissingPackage, match=r"needs the package tensorflow: pip install 'edgecbam\[train\]'"):
        call()
    assert not (small_run.parent / "new").exists()


def test_a_runtime_that_nobody_knows_is_refused_before_training(tmp_path: Path) -> None:
    settings = recipe.load("fashion_cbam", ("benchmark.runtimes=['litertt']",))
    with pytest.raises(InputError, match="did you mean litert"):
        api.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_benchmark_without_a_figure_replaces_nothing(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecbam.benchmarks import measure

    api.benchmark(small_run, runtimes=["onnxruntime"])
    before = (small_run / "benchmark" / "report.json").read_bytes()
    row = {"model": "model_int8.onnx", "runtime": "onnxruntime", "status": "unsupported", "reason": "not installed"}
    monkeypatch.setattr(measure, "benchmark_run", lambda *_, **__: {"results": [row]})
    monkeypatch.setattr(measure, "benchmark_models", lambda *_, **__: {"results": [row]})
    with pytest.raises(EnvironmentFailure, match=r"nothing could be measured: model_int8\.onnx .* not installed"):
        api.benchmark(small_run)
    assert (small_run / "benchmark" / "report.json").read_bytes() == before
    with pytest.raises(EnvironmentFailure, match="nothing could be measured"):
        api.benchmark_models([], runtimes=["litert"], threads=[1], protocol="quick", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_data_replaces_nothing(small_run: Path, tmp_path: Path) -> None:
    settings = recipe.load("fashion_cbam", (f"data.source='{tmp_path / 'nowhere'}'",))
    before = artifacts.check_stage(small_run, "export")
    with pytest.raises(InputError, match="nowhere"):
        api.train(settings, small_run, overwrite=True)
    assert artifacts.check_stage(small_run, "export") == before


def test_resume_keeps_what_is_whole(small_run: Path) -> None:
    before = (small_run / "train" / "stage.json").read_bytes()
    messages: list[Event] = []
    api.train(artifacts.load_recipe(small_run), small_run, resume=True, on_event=messages.append)
    assert (small_run / "train" / "stage.json").read_bytes() == before
    assert messages == []


def test_resume_with_another_recipe_is_refused(small_run: Path) -> None:
    changed = recipe.override(artifacts.load_recipe(small_run), ("train.epochs=11",))
    with pytest.raises(InputError, match="begun with another recipe"):
        api.train(changed, small_run, resume=True)
    other = recipe.override(artifacts.load_recipe(small_run), ("data.source='fashion_mnist'",))
    with pytest.raises(InputError):
        api.train(other, small_run, resume=True)
    assert artifacts.is_fresh(small_run, "verify")


def test_changed_images_are_noticed(photo_run: Path, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(photo_run, tmp_path / "run"))
    settings = artifacts.load_recipe(run)
    extra = Path(settings.data.source) / "red" / "extra.png"
    Image.new("RGB", (32, 32)).save(extra)
    try:
        with pytest.raises(InputError, match="have changed since"):
            api.quantize(run)
    finally:
        extra.unlink()


def test_a_stale_stage_is_refused(small_run: Path) -> None:
    api.quantize(small_run)
    with pytest.raises(InputError, match=r"export is stale.*edgecbam export"):
        api.benchmark(small_run, runtimes=["litert"])


@pytest.mark.parametrize("name", ["model_int8.tflite", "samples.npz", "labels.txt", "manifest.json"])
def test_an_altered_export_fails_verification_by_name(small_run: Path, name: str) -> None:
    path = small_run / "export" / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(GateFailed, match=f"{name} was altered"):
        api.verify(small_run)
    path.unlink()
    with pytest.raises(GateFailed, match=f"{name} is missing"):
        api.verify(small_run)


class Decoded:
    """Images that are decoded when they are asked for; notes what was."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels, self.asked = pixels, [np.zeros(0, np.int64)]
        self.shape, self.dtype, self.nbytes = pixels.shape, pixels.dtype, pixels.nbytes

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, key: np.ndarray) -> np.ndarray:
        self.asked.append(key)
        return np.asarray(self._pixels[key])

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("all images at once may be more than memory holds")


def test_calibration_decodes_what_it_needs_and_no_more() -> None:
    from edgecbam.datasets import Dataset
    from edgecbam.preprocessing import describe, normalize

    pixels = np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1), np.uint8)
    labels = np.zeros(500, np.int64)
    images, rest = Decoded(pixels), Decoded(pixels[:7])
    dataset = Dataset(("a", "b"), images, labels, rest, labels[:7], rest, labels[:7])
    settings = recipe.load("fashion_cbam", ("quantize.calibration_images=150", "data.height=8", "data.width=8"))
    described = describe(recipe.override(settings, ("data.channels=1",)).data)
    batches = api.calibration_batches(settings, dataset, described)
    assert (batches.images, [len(batch) for batch in batches]) == (150, [75, 75])
    _, asked = images.asked
    assert len(set(asked.tolist())) == 150
    assert (np.diff(asked) > 0).all(), "in the order in which they lie"
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(batches)), normalize(pixels[asked], described))
    assert len(images.asked) == 2
    assert api._sample_count(settings, dataset) == 7
    assert len(rest.asked) == 1, "the size of an image is known without decoding one"


def test_default_out_counts_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = recipe.load("fashion_cbam")
    assert api.default_out(settings) == Path("runs/fashion_cbam-1")
    Path("runs/fashion_cbam-1").mkdir(parents=True)
    assert api.default_out(settings) == Path("runs/fashion_cbam-2")


ON_THE_DEVICE = """
from edgecbam import api
run, image = Path(sys.argv[1]), Path(sys.argv[2])
assert api.verify(run).passed
assert api.benchmark(run)["results"]
assert api.report(run).is_file()
assert len(api.predict(run, [image])[0].classes) == 5
"""


def test_an_edge_device_needs_no_tensorflow(small_run: Path, tmp_path: Path) -> None:
    image = tmp_path / "shirt.png"
    Image.fromarray(artifacts.load_samples(small_run / "export").images[0, :, :, 0]).save(image)
    run_without_tensorflow(ON_THE_DEVICE, str(small_run), str(image))
