"""Links and devices in folders of strangers: nothing is written through them, and nothing waits for ever."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecbam import api, artifacts, recipe, run_lock
from edgecbam.datasets import scan
from edgecbam.errors import InputError

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
    with pytest.raises(OSError, match="symbolic link"):
        artifacts.create_run(run, recipe.load("fashion_cbam"))
    assert untouched(mine)


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


def test_pipes_and_devices_are_no_images(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / f"{number}.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "cat" / "nothing.png").symlink_to(tmp_path / "nowhere")
    found = scan.scan(tmp_path)
    assert len(found.train) == 6
    assert found.ignored == {".png": 3}
