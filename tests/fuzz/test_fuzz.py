"""The seeds and what fuzzing has found are read again, and half a minute is spent on looking for more."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import seeds
import targets

HERE = Path(__file__).parent
SECONDS = 30
SEEDS = seeds.make()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_and_earlier_findings_get_an_answer(name: str) -> None:
    kept = sorted((HERE / "corpus" / name).glob("*"))
    for data in [*SEEDS[name], *(path.read_bytes() for path in kept)]:
        targets.TARGETS[name](data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_cut_short_or_with_a_byte_changed_get_an_answer(name: str) -> None:
    draw = random.Random(1)
    for data in SEEDS[name]:
        for _ in range(150):
            changed = bytearray(data)
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            targets.TARGETS[name](bytes(changed))
            targets.TARGETS[name](data[: draw.randrange(len(data))])


def test_a_fault_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecbam.export import metadata

    monkeypatch.setattr(metadata, "check_labels", lambda labels: labels[99])
    with pytest.raises(IndexError):
        targets.TARGETS["labels"](b"a\nb")


def test_half_a_minute_of_looking_for_more(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "fuzz.py", "all", str(SECONDS / 2), tmp_path]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    told = json.loads((tmp_path / "fuzz.json").read_text())
    assert set(told) == set(targets.TARGETS)
    assert all(one["inputs"] > 100 for one in told.values()), told
    assert list((tmp_path / "found").iterdir()) == []


def test_a_wrong_acceptance_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecbam.runtimes import onnx_file

    whole = onnx_file.read
    monkeypatch.setattr(onnx_file, "read", lambda path: dataclasses.replace(whole(path), ops=frozenset({"Relu"})))
    with pytest.raises(targets.WrongAcceptance, match="other ops"):
        targets.TARGETS["onnx"](SEEDS["onnx"][0])


def test_damaged_models_in_the_runtimes(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "native.py", tmp_path / "native.json", str(SECONDS / 2)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    told = json.loads((tmp_path / "native.json").read_text())
    assert told["inputs"] > 50
    assert told["faults"] == 0
    assert any("result" in kind for kind in told["kinds"]), "or all changes would be too coarse"
    assert any("clean error" in kind for kind in told["kinds"])


def test_damaged_run_folders(trained_run: Path, tmp_path: Path) -> None:
    """Of a run without a report: what reads one ends in a clean error."""
    command = [sys.executable, HERE / "folders.py", tmp_path / "folders.json", str(SECONDS / 2), trained_run]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    told = json.loads((tmp_path / "folders.json").read_text())
    assert told["inputs"] > 20
    assert told["faults"] == told["wrong_acceptances"] == 0
    for kind in ("verify: clean error", "predict: result"):
        assert told["kinds"][kind], "or all changes would be too coarse or too fine"
