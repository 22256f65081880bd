"""What a file names is not run: a recipe's loss, a .keras file's classes; unless the user says --trust."""

import json
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecbam import api, artifacts, cli, recipe
from edgecbam.errors import InputError

EVIL = 'from pathlib import Path\nPath("ran").touch()\ndef loss(targets, outputs):\n    raise ValueError("it ran")\n'
SMALL = (
    "data.train_images=64",
    "data.test_images=20",
    "model.widths=[4]",
    "model.blocks=[1]",
    "model.reduction_ratio=2",
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe from a stranger, and the code that it would have run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    (tmp_path / "evil.py").write_text(EVIL)
    settings = recipe.load("fashion_cbam", (*SMALL, "train.loss=evil:loss"))
    (tmp_path / "evil.toml").write_text(recipe.to_toml(settings))
    artifacts.create_run(tmp_path / "theirs", settings)
    return tmp_path


COMMANDS = [
    ["run", "evil.toml"],
    ["train", "evil.toml", "--out", "mine"],
    ["train", "evil.toml", "--set", "train.epochs=1"],
    ["run", "--resume", "--out", "theirs"],
    ["train", "--resume", "--out", "theirs"],
    ["quantize", "theirs"],
    ["ablate", "evil.toml", "--seeds", "2"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_code_that_a_recipe_file_names_is_not_run(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert "would run code, train.loss = 'evil:loss': if you know it, add --trust" in told
    assert len(told.splitlines()) == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["train", "evil.toml", "--trust"],
        ["train", "--set", "train.loss=evil:loss", *(w for s in SMALL for w in ("--set", s))],
    ],
    ids=["trusted", "typed"],
)
def test_what_the_user_asks_for_is_run(place: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(words) == 2
    assert "fails on four images" in capsys.readouterr().err
    assert (place / "ran").exists()


def test_the_functions_ask_as_well(place: Path) -> None:
    for stage in (lambda: api.train(None, place / "theirs", resume=True), lambda: api.quantize(place / "theirs")):
        with pytest.raises(InputError, match="if you know it, add --trust"):
            stage()
    assert not (place / "ran").exists()


def test_a_run_folder_whose_model_names_other_code_is_refused(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, resign_stage: Callable[[Path, str], None]
) -> None:
    monkeypatch.chdir(small_run)
    (small_run / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(small_run))
    path = small_run / "train" / "model.keras"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] |= {"module": "evil", "class_name": "Layer"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, content)
    shutil.rmtree(small_run / "quantize")
    resign_stage(small_run / "train", "model.keras")
    with pytest.raises(InputError, match=r"names code \(evil\.Layer\).*the run folder is not to be trusted"):
        api.quantize(small_run)
    assert not (small_run / "ran").exists()


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_a_keras_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, depth: int) -> None:
    from edgecbam.runtimes import keras_file

    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.0"}')
        archive.writestr("config.json", "[" * depth)
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(InputError, match=r"damaged or no \.keras model"):
        keras_file.read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(keras_file.MAX_CONFIG + 1))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"unpacks to 67,108,865 bytes in 1 parts, more than edgecbam reads"):
        keras_file.read(path)


def with_layer(source: Path, target: Path, name: str, config: dict[str, object], node: list[object]) -> None:
    """A .keras file with one more layer, which is called with constants when the file is opened."""
    layer = {
        "module": "keras.layers",
        "class_name": name,
        "config": {"name": "extra", "trainable": True, "dtype": "float32", **config},
        "registered_name": name,
        "name": "extra",
        "build_config": {"input_shape": None},
        "inbound_nodes": [node],
    }
    with zipfile.ZipFile(source) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    told = json.loads(parts["config.json"])
    told["config"]["layers"].insert(1, layer)
    parts["config.json"] = json.dumps(told).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def test_a_keras_file_that_would_write_a_file_is_refused_everywhere(
    small_run: Path, tmp_path: Path, resign_stage: Callable[[Path, str], None]
) -> None:
    """TFOpLambda calls any function of TensorFlow; Keras' safe mode lets it."""
    import tf_keras as keras

    from edgecbam import ablation
    from edgecbam.runtimes import CannotRun, find

    path, written = small_run / "train" / "model.keras", tmp_path / "written"
    node = ["_CONSTANT_VALUE", -1, str(written), {"contents": "x"}]
    with_layer(path, tmp_path / "evil.keras", "TFOpLambda", {"function": "io.write_file"}, node)
    with pytest.raises(AttributeError, match="_keras_history"):  # afterwards
        keras.models.load_model(tmp_path / "evil.keras", compile=False, safe_mode=True)
    assert written.read_text() == "x", "or this would prove nothing"
    written.unlink()
    with pytest.raises(CannotRun, match=r"needs keras\.layers\.TFOpLambda of io\.write_file"):
        find("keras").open(tmp_path / "evil.keras")
    shutil.copy(tmp_path / "evil.keras", path)
    resign_stage(small_run / "train", "model.keras")
    cache = ablation._Images()
    for work in (api.load_float, api.quantize, lambda run: ablation._evaluate(run, ("train",), cache)):
        with pytest.raises(InputError, match=r"names code \(keras\.layers\.TFOpLambda of io\.write_file\)|stale"):
            work(small_run)
    assert not written.exists()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("TFOpLambda", {"function": "load_op_library"}),
        ("TFOpLambda", {"function": ["math.add"]}),
        ("TFOpLambda", {}),
        ("SlicingOpLambda", {"function": "io.gfile.rmtree"}),
        ("StringLookup", {"vocabulary": "/etc/passwd"}),
        ("TextVectorization", {"vocabulary": "/etc/passwd"}),
        ("Dense", {"activation": {"class_name": "function", "module": "builtins", "config": "input"}}),
        ("Dense", {"activation": {"class_name": "__typespec__", "module": "this", "spec_name": "x"}}),
        ("Dense", {"activation": {"class_name": ["Dense"], "module": "this"}}),
        ("get_file", {}),
    ],
)
def test_layers_that_do_more_than_compute_are_named(
    trained_run: Path, tmp_path: Path, name: str, config: dict[str, object]
) -> None:
    from edgecbam.runtimes import keras_file

    with_layer(trained_run / "train" / "model.keras", tmp_path / "it.keras", name, config, [])
    assert keras_file.read(tmp_path / "it.keras").foreign


def test_arithmetic_of_layers_is_allowed(tmp_path: Path) -> None:
    """As ``2 * image[:, 1:] + 3`` in Python gives it."""
    import tf_keras as keras

    from edgecbam.runtimes import keras_file

    image = keras.Input((8, 8, 1), name="image")
    keras.Model(image, keras.layers.Flatten()(2 * image[:, 1:] + 3)).save(tmp_path / "it.keras")
    told = keras_file.read(tmp_path / "it.keras")
    assert told.foreign == ()
    assert not told.code


def test_parts_of_the_same_name_are_counted_each(tmp_path: Path) -> None:
    from edgecbam.runtimes import keras_file

    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the names
        for _ in range(3):
            archive.writestr("config.json", bytes(keras_file.MAX_CONFIG // 2))
    with pytest.raises(InputError, match=r"unpacks to 100,663,296 bytes in 3 parts"):
        keras_file.read(path)
