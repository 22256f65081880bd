"""The study of training speed: each kind trains the same small network, and the ratios are those of the rates."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgecbam import recipe, training_speed
from edgecbam.errors import EnvironmentFailure

SMALL = ("data.train_images=96", "data.test_images=20", "model.widths=[16]", "train.batch_size=32")


@pytest.mark.parametrize("kind", training_speed.KINDS)
def test_each_kind_gives_a_rate(kind: str) -> None:
    found = training_speed.child(kind, recipe.load("fashion_cbam", SMALL), epochs=1)
    assert 0 < found["images_per_second"] < 1e7
    assert found["facts"]["train_images"] == 96
    assert found["facts"]["parameters"] > 0
    assert ("precision" in found["facts"]) == (kind == "ours")


def test_the_ratios_are_of_one_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rates = {"ours": [300.0, 600.0], "plain": [150.0, 200.0], "input": [900.0, 900.0], "step": [450.0, 300.0]}
    given = {kind: iter(values) for kind, values in rates.items()}

    def measured(kind: str, *_: Any) -> dict[str, Any]:
        return {"images_per_second": next(given[kind]), "facts": {"parameters": 7}}

    monkeypatch.setattr(training_speed, "_in_process", measured)
    path = tmp_path / "results" / "speed.json"
    training_speed.main([str(path), "--sessions", "2"])
    report = json.loads(path.read_text())
    assert report["images_per_second"] == rates
    assert report["ours_over_plain"]["value"] == pytest.approx((2.0 * 3.0) ** 0.5)
    assert report["input_over_step"]["value"] == pytest.approx((2.0 * 3.0) ** 0.5)
    assert report["ours_over_plain"]["low"] < 2.0 < 3.0 < report["ours_over_plain"]["high"]
    assert report["parameters"] == 7
    assert report["environment"]["logical_cpus"]
    assert {"tensorflow", "tf-keras"} <= set(report["environment"]["versions"])


def test_a_process_that_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="'input' ended with code"):
        training_speed._in_process("input", str(tmp_path / "no.toml"), [], 1)
