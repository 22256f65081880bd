"""One process at a time on a run folder: the second is told who works there; what the dead left is taken over."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecbam import api, artifacts, recipe, run_lock
from edgecbam.errors import InputError

OWNER = """
import sys, time
from pathlib import Path
from edgecbam import run_lock
with run_lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    artifacts.create_run(tmp_path / "run", recipe.load("fashion_cbam"))
    return tmp_path / "run"


@pytest.fixture
def owner(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run folder."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(run)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_refused_with_the_number_and_the_start_of_the_first(
    run: Path, owner: subprocess.Popen[str]
) -> None:
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
    message = rf"{re.escape(str(run))} is in use by process {owner.pid} since {since}: wait for its end"
    before = sorted(run.iterdir())
    for stage in (api.quantize, api.export, api.bundle, api.verify, api.benchmark, api.report):
        with pytest.raises(InputError, match=message):
            stage(run)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=message):
            api.train(recipe.load("fashion_cbam"), run, **options)
        with pytest.raises(InputError, match=message):
            api.run(recipe.load("fashion_cbam"), run, **options)
    with pytest.raises(InputError, match=message), artifacts.stage_folder(run, "train"):
        pass
    assert sorted(run.iterdir()) == before
    assert owner.poll() is None


def test_what_a_killed_process_left_is_taken_over(run: Path, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert json.loads((run / run_lock.LOCK_FILE).read_text())["pid"] == owner.pid, "it could not tidy up"
    with run_lock.hold(run):
        assert json.loads((run / run_lock.LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (run / run_lock.LOCK_FILE).exists()


def test_a_process_may_hold_it_twice_and_lets_go_at_the_end(run: Path) -> None:
    with run_lock.hold(run):
        with run_lock.hold(run / ".." / run.name):
            assert (run / run_lock.LOCK_FILE).exists()
        assert (run / run_lock.LOCK_FILE).exists(), "the outer one holds on"
        code = f"from pathlib import Path\nfrom edgecbam import run_lock\nwith run_lock.hold(Path({str(run)!r})): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"is in use by process {os.getpid()}" in done.stderr
    assert not (run / run_lock.LOCK_FILE).exists()
    with pytest.raises(KeyError), run_lock.hold(run):
        raise KeyError
    assert not (run / run_lock.LOCK_FILE).exists()


@pytest.mark.parametrize("left", ["", "{}", "[1]", '{"pid": "x", "host": 3}', "\0\xff", "[" * 100_000])
def test_a_lock_file_with_anything_in_it_does_no_harm(run: Path, owner: subprocess.Popen[str], left: str) -> None:
    with (run / run_lock.LOCK_FILE).open("r+") as file:  # the locked file itself
        file.truncate()
        file.write(left)
    with pytest.raises(InputError, match="is in use by another process"), run_lock.hold(run):
        pass


def test_a_folder_that_replaces_a_locked_one_is_locked_anew(run: Path) -> None:
    with run_lock.hold(run):
        artifacts.create_run(run, recipe.load("fashion_cbam"), replace=True)
        assert [path.name for path in run.iterdir()] == [artifacts.RECIPE_FILE]
        with run_lock.hold(run):
            assert (run / run_lock.LOCK_FILE).exists()
        assert not (run / run_lock.LOCK_FILE).exists()


def test_a_folder_that_is_missing_is_left_to_others(tmp_path: Path) -> None:
    with run_lock.hold(tmp_path / "missing"):
        assert not (tmp_path / "missing").exists()


def test_what_a_kill_left_of_a_new_run_is_no_obstacle(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".recipe.toml.partial").write_text("half")
    (run / run_lock.LOCK_FILE).write_text("")
    assert artifacts.is_vacant(run)
    artifacts.create_run(run, recipe.load("fashion_cbam"))
    assert artifacts.load_recipe(run) == recipe.load("fashion_cbam")
    (run / "note").write_text("")
    assert not artifacts.is_vacant(run)
    assert not artifacts.is_vacant(run / "note")
