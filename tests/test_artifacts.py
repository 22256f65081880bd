"""A stage appears whole or not at all; a run folder that does not hold together is refused, with the way to mend it."""

import dataclasses
import errno
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import artifacts
from edgecbam.artifacts import Manifest, ModelFile, Samples, Tensor
from edgecbam.errors import InputError
from edgecbam.recipe import Recipe, to_toml


def make_stage(run: Path, stage: str, content: str = "figures") -> Path:
    with artifacts.stage_folder(run, stage) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file.txt").write_text(content)
    return run / stage


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my run"
    artifacts.create_run(folder, Recipe())
    return folder


def change_recipe(run: Path, section: str, **values: object) -> None:
    old = artifacts.load_recipe(run)
    new = dataclasses.replace(old, **{section: dataclasses.replace(getattr(old, section), **values)})
    (run / artifacts.RECIPE_FILE).write_text(to_toml(new))


def test_a_run_folder_holds_its_recipe_whole(run: Path) -> None:
    assert artifacts.load_recipe(run) == Recipe()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: None, "no run folder"),
        (lambda run: run.mkdir(), "has no recipe.toml"),
        (lambda run: (run.mkdir(), (run / "recipe.toml").write_bytes(b"\xff")), "cannot read"),
        (lambda run: (run.mkdir(), (run / "recipe.toml").write_text("[trian]")), "did you mean train"),
    ],
)
def test_what_is_no_run_folder_is_refused(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "run"
    prepare(folder)
    with pytest.raises(InputError) as refused:
        artifacts.load_recipe(folder)
    assert message in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_stage_appears_whole_and_only_at_the_end(run: Path) -> None:
    with artifacts.stage_folder(run, "train") as folder:
        (folder / "file.txt").write_text("figures")
        assert not (run / "train").exists()
    record = artifacts.load_stage(run, "train")
    assert record.files == {"file.txt": artifacts.sha256_file(run / "train" / "file.txt")}
    assert record.parents == {}
    assert artifacts.check_stage(run, "train") == artifacts.sha256_file(run / "train" / "stage.json")
    assert sorted(p.name for p in run.iterdir()) == ["recipe.toml", "train"]


def test_a_stage_made_again_replaces_the_old_one_whole(run: Path) -> None:
    make_stage(run, "train")
    with artifacts.stage_folder(run, "train") as folder:
        (folder / "other.txt").write_text("new")
        assert (run / "train" / "deep" / "file.txt").exists()
    assert sorted(p.name for p in (run / "train").iterdir()) == ["other.txt", "stage.json"]
    assert sorted(p.name for p in run.iterdir()) == ["recipe.toml", "train"]


def fail_in_stage(run: Path, error: type[BaseException], keep: bool) -> None:
    with artifacts.stage_folder(run, "train", keep=keep) as folder:
        (folder / "checkpoint").write_text("epoch 3")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_failed_stage_leaves_nothing_and_keeps_the_old_one(run: Path, error: type[BaseException]) -> None:
    make_stage(run, "train", "old")
    with pytest.raises(error):
        fail_in_stage(run, error, keep=False)
    assert sorted(p.name for p in run.iterdir()) == ["recipe.toml", "train"]
    assert (run / "train" / "deep" / "file.txt").read_text() == "old"
    assert artifacts.is_fresh(run, "train")


def interrupt_training(run: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_in_stage(run, KeyboardInterrupt, keep=True)


def test_unfinished_work_that_is_to_be_kept_is_gone_on_in(run: Path) -> None:
    interrupt_training(run)
    assert not (run / "train").exists()
    with artifacts.stage_folder(run, "train", keep=True) as folder:
        assert (folder / "checkpoint").read_text() == "epoch 3"
    assert list(artifacts.load_stage(run, "train").files) == ["checkpoint"]


def test_unfinished_work_is_not_gone_on_in_unasked_or_under_another_recipe(run: Path) -> None:
    interrupt_training(run)
    change_recipe(run, "train", epochs=3)
    with artifacts.stage_folder(run, "train", keep=True) as folder:
        assert not (folder / "checkpoint").exists()
    interrupt_training(run)
    with artifacts.stage_folder(run, "train", keep=False) as folder:
        assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("stage", [stage for stage, parents in artifacts.PARENTS.items() if parents])
def test_a_stage_without_its_parents_is_refused_with_the_command_that_makes_them(run: Path, stage: str) -> None:
    parent = artifacts.PARENTS[stage][0]
    with pytest.raises(InputError, match=f"no finished stage {parent}: run `edgecbam {parent} "):
        make_stage(run, stage)
    assert [p.name for p in run.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("altered"), "was altered after it was made"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_an_altered_or_missing_file_is_refused_with_the_command_that_mends_it(
    run: Path, damage: Callable[[Path], object], message: str
) -> None:
    make_stage(run, "train")
    make_stage(run, "quantize")
    damage(run / "quantize" / "deep" / "file.txt")
    assert not artifacts.is_fresh(run, "quantize")
    with pytest.raises(InputError) as refused:
        make_stage(run, "export")
    assert message in str(refused.value)
    assert "file.txt" in str(refused.value)
    assert f"run `edgecbam quantize {run}` again" in str(refused.value)


def test_a_stage_is_stale_once_its_parent_was_made_again(run: Path) -> None:
    for stage in ("train", "quantize", "export"):
        make_stage(run, stage)
    assert artifacts.is_fresh(run, "export")
    make_stage(run, "train", "trained again")
    assert not artifacts.is_fresh(run, "quantize")
    with pytest.raises(InputError, match="quantize is stale, train was made again since: run `edgecbam quantize"):
        make_stage(run, "export")
    make_stage(run, "quantize")
    with pytest.raises(InputError, match="export is stale"):
        make_stage(run, "verify")


def test_a_parent_made_again_with_equal_content_leaves_its_children_fresh(run: Path) -> None:
    make_stage(run, "train")
    make_stage(run, "quantize")
    make_stage(run, "train")
    assert artifacts.is_fresh(run, "quantize")


def test_a_changed_recipe_makes_stale_what_its_section_decides_and_nothing_before_it(run: Path) -> None:
    for stage in ("train", "quantize", "export", "verify"):
        make_stage(run, stage)
    change_recipe(run, "verify", max_onnx_lsb=2)
    assert artifacts.is_fresh(run, "export")
    with pytest.raises(InputError, match=r"recipe\.toml was changed after .*verify was made"):
        artifacts.check_stage(run, "verify")
    change_recipe(run, "train", epochs=3)
    assert not artifacts.is_fresh(run, "train")
    assert not artifacts.is_fresh(run, "export")


def test_a_recipe_edited_during_a_stage_does_not_pass_for_the_one_it_was_made_from(run: Path) -> None:
    with artifacts.stage_folder(run, "train"):
        change_recipe(run, "train", epochs=3)
    assert not artifacts.is_fresh(run, "train")


@pytest.mark.parametrize("name", ["../recipe.toml", "/etc/hostname", "deep/../../recipe.toml"])
def test_a_record_that_names_files_outside_its_folder_is_refused(run: Path, name: str) -> None:
    path = make_stage(run, "train") / "stage.json"
    raw = json.loads(path.read_text())
    raw["files"][name] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="outside its folder"):
        artifacts.load_stage(run, "train")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": "train", "files": 3}', "[" * 100_000, "\x00"])
def test_a_broken_record_is_refused(run: Path, text: str) -> None:
    (make_stage(run, "train") / "stage.json").write_text(text)
    with pytest.raises(InputError, match=r"stage\.json"):
        artifacts.check_stage(run, "train")


def test_write_whole_leaves_the_old_file_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    artifacts.write_whole(path, "old")

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        artifacts.write_whole(path, "new")
    assert path.read_text() == "old"


def test_json_refuses_what_is_no_json_and_writes_equal_bytes_for_equal_values(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "a", {"x": 1, "y": [0.1]})
    artifacts.write_json(tmp_path / "b", {"y": [0.1], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert artifacts.read_json(tmp_path / "a") == {"x": 1, "y": [0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "c", float("nan"))
    with pytest.raises(InputError, match="is missing"):
        artifacts.read_json(tmp_path / "c")


MANIFEST = Manifest(
    profile="xnnpack",
    classes=("bag", "boot"),
    preprocessing={"height": 4, "width": 5, "channels": 1, "resize": "crop", "mean": [128.0], "std": [128.0]},
    files={
        "model_int8.tflite": ModelFile(
            sha256="0" * 64,
            bytes=1234,
            format="tflite",
            precision="int8",
            input=Tensor("images", (1, 4, 5, 1), "int8", 1 / 128, 0),
            output=Tensor("logits", (1, 2), "int8", 0.1234567890123, -3),
            macs=10,
            parameters=20,
            partitions=1,
            rewrites={"convolve_blocks": 3},
            minimum_runtime="ai-edge-litert 1.3",
        ),
        "model_fp32.onnx": ModelFile(
            sha256="1" * 64,
            bytes=4321,
            format="onnx",
            precision="fp32",
            input=Tensor("images", (1, 4, 5, 1), "float32", None, None),
            output=Tensor("logits", (1, 2), "float32", None, None),
            macs=10,
            parameters=20,
            partitions=None,
            rewrites={},
            minimum_runtime="ONNX opset 17",
        ),
    },
    recipe_digest="2" * 64,
    versions={"onnx": "1.23.2"},
)


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    artifacts.write_manifest(tmp_path, MANIFEST)
    assert artifacts.load_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": [], "files": {"a": 3}}', "null"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        artifacts.load_manifest(tmp_path)


def samples(count: int = 3) -> Samples:
    generator = np.random.default_rng(1)
    return Samples(
        images=generator.integers(0, 256, (count, 4, 5, 1), np.uint8),
        labels=generator.integers(0, 2, count),
        keras_float=generator.normal(size=(count, 2)).astype(np.float32),
        keras_qat=generator.normal(size=(count, 2)).astype(np.float32),
    )


def test_samples_survive_their_file(tmp_path: Path) -> None:
    artifacts.write_samples(tmp_path, samples())
    loaded = artifacts.load_samples(tmp_path)
    for field in dataclasses.fields(Samples):
        expected, found = getattr(samples(), field.name), getattr(loaded, field.name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_equal_samples_give_equal_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.write_samples(tmp_path, samples())
    first = (tmp_path / "samples.npz").read_bytes()
    a_year_later = time.time() + 365 * 86400
    monkeypatch.setattr("time.time", lambda: a_year_later)
    artifacts.write_samples(tmp_path, samples())
    assert (tmp_path / "samples.npz").read_bytes() == first


def save_raw(path: Path, **changes: object) -> None:
    arrays: dict[str, object] = {f.name: getattr(samples(), f.name) for f in dataclasses.fields(Samples)}
    arrays.update(changes)
    np.savez_compressed(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]


class Bomb:
    """Whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_samples_is_refused_and_not_run(tmp_path: Path) -> None:
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    save_raw(tmp_path / "samples.npz", labels=bomb)
    with pytest.raises(InputError, match=r"samples\.npz is not readable"):
        artifacts.load_samples(tmp_path)
    (tmp_path / "samples.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(InputError, match=r"samples\.npz is not readable"):
        artifacts.load_samples(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": None},
        {"labels": np.zeros(2, np.int64)},
        {"labels": np.int64(3)},
        {"images": np.zeros((3, 4, 5, 1), np.float32)},
        {"images": np.zeros((3, 4, 5), np.uint8)},
        {"images": np.uint8(3)},
        {"images": np.zeros((0, 4, 5, 1), np.uint8)},
    ],
)
def test_samples_of_the_wrong_form_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    save_raw(tmp_path / "samples.npz", **changes)
    with pytest.raises(InputError, match=r"samples\.npz"):
        artifacts.load_samples(tmp_path)


def test_truncated_samples_are_refused_at_every_length(tmp_path: Path) -> None:
    artifacts.write_samples(tmp_path, samples())
    whole = (tmp_path / "samples.npz").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        (tmp_path / "samples.npz").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"samples\.npz"):
            artifacts.load_samples(tmp_path)


def test_a_flipped_byte_in_the_samples_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    artifacts.write_samples(tmp_path, samples())
    path = tmp_path / "samples.npz"
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            loaded = artifacts.load_samples(tmp_path)
        except InputError:
            refused += 1
        else:
            for field in dataclasses.fields(Samples):
                np.testing.assert_array_equal(getattr(loaded, field.name), getattr(samples(), field.name))
    assert refused > len(whole) // 3 // 3  # the rest are dates and other fields of the zip that nobody reads


def test_a_full_disk_at_the_very_end_leaves_work_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    artifacts.create_run(run, Recipe())
    write = artifacts.write_json

    def full(path: Path, value: Any) -> None:
        if path.name == artifacts.STAGE_FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value)

    monkeypatch.setattr(artifacts, "write_json", full)
    with pytest.raises(OSError, match="No space"), artifacts.stage_folder(run, "train", keep=True) as folder:
        (folder / "checkpoint").write_text("hours of work")
    monkeypatch.setattr(artifacts, "write_json", write)
    with artifacts.stage_folder(run, "train", keep=True) as folder:
        assert (folder / "checkpoint").read_text() == "hours of work"
    assert artifacts.is_fresh(run, "train")
    assert sorted(path.name for path in (run / "train").iterdir()) == ["checkpoint", "stage.json"]


def test_a_power_cut_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    artifacts.create_run(run, Recipe())
    with artifacts.stage_folder(run, "train") as folder:
        (folder / "model").write_text("weights")
    (run / "train").rename(run / ".train.old")
    assert artifacts.is_fresh(run, "train")
    assert (run / "train" / "model").read_text() == "weights"
