"""Links and devices in folders of strangers: nothing is written through them, and nothing waits for ever."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecbam import api, artifacts, recipe, run_lock
from edgecbam.datasets import folder
from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

Stage = Callable[[Path], object]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's that no run folder has to do with."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    return folder


def untouched(mine: Path) -> bool:
    return [(path.name, path.read_text()) for path in mine.iterdir()] == [("diary.txt", "dear diary")]


@pytest.mark.parametrize("name", ["train", "export", ".export.partial", ".export.old", "explain"])
@pytest.mark.parametrize("stage", [api.export, api.verify, api.layer_costs], ids=["export", "verify", "layers"])
def test_a_link_to_a_folder_is_refused(small_run: Path, mine: Path, name: str, stage: Stage) -> None:
    if (small_run / name).exists():
        shutil.rmtree(small_run / name)
    (small_run / name).symlink_to(mine)
    with pytest.raises(InputError, match=r"is a link, and could lead anywhere: put what it leads to in its place"):
        stage(small_run)
    assert untouched(mine)


def test_the_lock_is_not_written_through_a_link(small_run: Path, mine: Path) -> None:
    (small_run / run_lock.LOCK_FILE).symlink_to(mine / "diary.txt")
    with pytest.raises(InputError, match=r"\.lock is a link: the run folder is not to be trusted"):
        api.export(small_run)
    assert untouched(mine)


def test_a_half_written_file_that_is_a_link_is_not_written_through(tmp_path: Path, mine: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".recipe.toml.partial").symlink_to(mine / "diary.txt")
    artifacts.create_run(run, recipe.load("fashion_cbam"))
    assert untouched(mine)


def test_nothing_is_written_into_another_name_of_a_file(small_run: Path, mine: Path) -> None:
    (small_run / "explain").mkdir()
    os.link(mine / "diary.txt", small_run / "explain" / ".explain.json.partial")
    artifacts.write_json(small_run / "explain" / "explain.json", {})
    assert untouched(mine)
    os.link(mine / "diary.txt", small_run / run_lock.LOCK_FILE)
    with pytest.raises(InputError, match=r"\.lock is another file too"):
        api.export(small_run)
    assert untouched(mine)


@pytest.mark.parametrize("kind", ["pipe", "device", "link", "large"])
def test_what_is_no_file_of_its_own_is_not_read(small_run: Path, mine: Path, kind: str) -> None:
    path = small_run / "export" / artifacts.MANIFEST_FILE
    path.rename(mine / "manifest.json")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(3 * 2**30)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else mine / "manifest.json")
    image = next((small_run / "app" / "web" / "samples").glob("*.png"))
    with pytest.raises(InputError, match=r"is a link, and could|is no regular file|has 3,221,225,472 bytes, more than"):
        api.predict(small_run, [image])


def test_what_lies_beside_a_report_is_copied_as_it_is(tmp_path: Path, mine: Path) -> None:
    """A link stays one: what it leads to is not copied into the new folder."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "folder").symlink_to(mine)
    (tmp_path / "old" / "file").symlink_to(mine / "diary.txt")
    api._keep_others(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / "folder").is_symlink()
    assert (tmp_path / "new" / "file").is_symlink()


@pytest.mark.parametrize("stage", ["train", "quantize"])
def test_links_in_unfinished_work_are_refused(small_run: Path, mine: Path, stage: str) -> None:
    """Checkpoints that a killed process left are swept away: those in other folders are not."""
    partial = artifacts.partial_folder(small_run, stage)
    shutil.copytree(small_run / stage, partial)
    shutil.rmtree(partial / "checkpoints", ignore_errors=True)
    (partial / "checkpoints").symlink_to(mine)
    shutil.rmtree(small_run / stage)
    with pytest.raises(InputError, match=r"checkpoints is a link, and could lead anywhere"):
        (api.train if stage == "train" else api.quantize)(
            *((None, small_run) if stage == "train" else (small_run,)), **({"resume": True} if stage == "train" else {})
        )
    assert untouched(mine)


def test_a_list_of_checkpoints_that_names_others_is_not_believed(small_run: Path, mine: Path) -> None:
    partial = artifacts.partial_folder(small_run, "quantize")
    shutil.copytree(small_run / "quantize", partial)
    shutil.rmtree(small_run / "quantize")
    (partial / "checkpoints").mkdir(exist_ok=True)
    for end in ("index", "data-00000-of-00001"):
        (mine / f"best.{end}").write_text("mine")
    (partial / "checkpoints" / "checkpoint").write_text(
        f'model_checkpoint_path: "{mine}/best"\nall_model_checkpoint_paths: "{mine}/best"\n'
        "all_model_checkpoint_timestamps: 1.0\nlast_preserved_timestamp: 1.0\n"
    )
    with pytest.raises(InputError, match=r"checkpoint names files outside of its folder"):
        api.quantize(small_run)
    assert {path.name for path in mine.iterdir()} == {"diary.txt", "best.index", "best.data-00000-of-00001"}


def test_a_file_of_a_stage_that_lies_elsewhere_is_refused(small_run: Path, mine: Path) -> None:
    """Also where it is the very file that was listed."""
    path = small_run / "train" / "model.keras"
    shutil.move(path, mine / "model.keras")
    path.symlink_to(mine / "model.keras")
    with pytest.raises(InputError, match=r"model\.keras is or lies behind a link"):
        api.quantize(small_run)


def test_a_run_folder_behind_a_link_is_worked_in(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(small_run)
    assert artifacts.check_stage(tmp_path / "link", "export")


def test_pipes_and_devices_are_named_and_not_waited_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / f"{number}.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "cat" / "nothing.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"3 of 9 images .* cat/nothing\.png does not exist; cat/pipe\.png is no regular"
    ):
        folder.load(tmp_path, DataConfig(cache="memory"), lambda event: None)
