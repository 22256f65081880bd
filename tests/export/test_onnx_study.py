"""The files that `make bench-onnx` measures: what the index says of them, and that a wrong one is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecbam.benchmarks import onnx_files
from edgecbam.errors import GateFailed
from edgecbam.export import onnx_alternatives, onnx_study
from edgecbam.export.lowering_study import Network

TINY = Network("tiny 8 at 16x16", 16, 16, (8,), (1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of one tiny network."""
    out = tmp_path_factory.mktemp("study")
    onnx_study.study([TINY], out)
    return out


@pytest.fixture(scope="module")
def entry(folder: Path) -> dict[str, Any]:
    (only,) = json.loads((folder / "index.json").read_text())["networks"]
    return only


def test_the_index_lists_what_lies_in_the_folder(folder: Path, entry: dict[str, Any]) -> None:
    named = {name for files in entry["files"].values() for name in files.values()}
    assert {path.name for path in folder.iterdir()} == named | {"index.json"}
    assert set(entry["files"]["none"]) == set(onnx_study.VARIANTS)
    both = set(onnx_study.VARIANTS) | set(onnx_study.WITH_ATTENTION)
    assert set(entry["files"]["cbam"]) | set(entry["left_out"]["cbam"]) == both


def test_what_was_checked_is_told(entry: dict[str, Any]) -> None:
    for attention in ("none", "cbam"):
        checked = entry["check"][attention]
        assert checked["images"] == 1000
        assert checked["classes"] > 2
        assert checked["int8"]["lsb"] <= 1
        assert checked["int8"]["as_litert"] >= 0.999
        assert checked["fp32"]["relative_error"] <= 1e-4


def test_the_benchmark_reads_the_index(folder: Path) -> None:
    (network,) = onnx_files.read_index(folder)
    measured = onnx_files.cells(network)
    assert {row.runtime for row in measured} == set(onnx_files.RUNTIMES)
    assert all(cell.path.is_file() for cell in measured.values() if not cell.status)


def test_another_file_in_the_place_of_ours_is_refused(
    folder: Path, entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_study, "CHECKED", 100)
    files = entry["files"]["cbam"]
    copied = shutil.copytree(folder, tmp_path / "study")
    onnx_study.check(TINY, "tiny", copied, files)
    shutil.copy(folder / entry["files"]["none"]["int8"], copied / files["int8"])
    with pytest.raises(GateFailed, match=r"tiny: int8 differs from LiteRT by \d+ LSB"):
        onnx_study.check(TINY, "tiny", copied, files)
    shutil.copy(folder / entry["files"]["none"]["fp32"], copied / files["fp32"])
    with pytest.raises(GateFailed, match="tiny: fp32 differs"):
        onnx_study.check(TINY, "tiny", copied, {k: files[k] for k in ("int8_tflite", "fp32_tf2onnx", "fp32")})


def test_a_network_that_is_known_to_differ_is_told_and_not_refused(
    folder: Path, entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_study, "CHECKED", 100)
    monkeypatch.setattr(onnx_study, "DIFFERS", (TINY.name,))
    copied = shutil.copytree(folder, tmp_path / "study")
    files = entry["files"]["cbam"]
    shutil.copy(folder / entry["files"]["none"]["int8"], copied / files["int8"])
    found = onnx_study.check(TINY, "tiny", copied, files)
    assert found["int8"]["lsb"] > 1
    assert found["int8"]["beyond"] > 0


def test_weights_of_seven_bits_stand_for_the_same_numbers(folder: Path, entry: dict[str, Any]) -> None:
    def weights(name: str) -> list[np.ndarray]:
        model = onnx.load(folder / entry["files"]["cbam"][name])
        values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        found = []
        for node in model.graph.node:
            integers = values.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if integers is not None and integers.dtype == np.int8:
                assert name == "int8" or np.abs(integers.astype(int)).max() <= 64
                scale = values[node.input[1]]
                shape = (-1,) + (1,) * (integers.ndim - 1) if scale.ndim and node.attribute[0].i == 0 else scale.shape
                found.append((integers * scale.reshape(shape), scale.max()))
        return found

    whole, reduced = weights("int8"), weights("int8_reduced")
    assert len(whole) == len(reduced) > 5
    for (before, step), (after, _) in zip(whole, reduced, strict=True):
        assert np.abs(before - after).max() <= 1.01 * 2 * step
    assert any(not np.array_equal(before, after) for (before, _), (after, _) in zip(whole, reduced, strict=True))


def test_a_later_opset_is_what_was_asked_for(folder: Path, entry: dict[str, Any]) -> None:
    content = (folder / entry["files"]["cbam"]["int8"]).read_bytes()
    made = onnx.load_from_string(onnx_alternatives.at_opset(content, 21))
    assert made.opset_import[0].version == 21
