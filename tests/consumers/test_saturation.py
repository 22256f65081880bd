"""Sums that do not fit 16 bits: what this processor makes of them, and what the committed proof says of others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import saturation
from saturation import EXPECTED, OPS, SETTINGS, Setting

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "saturation.json"


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    saturation.write_layers(folder)
    return folder


@pytest.fixture(scope="module")
def proof() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RESULT.read_text())
    return content


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.runtime}, {setting.name}")
def test_this_processor_does_what_its_features_say(layers: Path, op: str, setting: Setting) -> None:
    exact = setting.careful or saturation.sums_exactly()
    got = saturation.answer(saturation.layer_path(layers, op, setting), setting)
    assert got == (EXPECTED if exact else saturation.saturated(setting.weight))


def test_the_closed_form_of_saturation() -> None:
    assert saturation.saturated(64) == EXPECTED
    assert saturation.saturated(65) < EXPECTED
    assert saturation.saturated(127) == 101  # 8 pairs of 32767 for 8 pairs of 64770: 200 * 0.506


def test_the_committed_proof_is_of_a_processor_without_vnni(proof: dict[str, Any]) -> None:
    features = {name: proof["emulated"][name] for name in saturation.FEATURES}
    assert features == {"avx2": True, "avx512f": False, "avx512_vnni": False, "avx_vnni": False}
    assert proof["emulated"]["cpu"] == saturation.CPU
    assert set(proof["versions"]) == {"onnxruntime", "openvino", "qemu"}
    assert not re.search(r"://|/(home|root|work|tmp|opt|usr|var)/", json.dumps(proof))


def test_the_committed_proof_shows_who_saturates_and_what_helps(proof: dict[str, Any]) -> None:
    expected = [
        {
            "runtime": setting.runtime,
            "setting": setting.name,
            "op": op,
            "expected": EXPECTED,
            "got": EXPECTED if setting.careful else saturation.saturated(setting.weight),
            "right": setting.careful,
        }
        for setting in SETTINGS
        for op in OPS
    ]
    assert proof["rows"] == expected
    assert sorted({(row["runtime"], row["setting"]) for row in proof["rows"] if not row["right"]}) == [
        ("onnxruntime", "8-bit weights"),
        ("openvino", "8-bit weights"),
    ]
