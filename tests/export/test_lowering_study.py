"""The files that `make bench-lowering` measures: what the index says of them, and that a wrong one is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import lowering as benchmark
from edgecbam.errors import GateFailed
from edgecbam.export import lowering_study, tflite_file
from edgecbam.export.lowering_study import Network

TINY = Network("tiny 8 at 16x16", 16, 16, (8,), (1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of one tiny network."""
    out = tmp_path_factory.mktemp("study")
    lowering_study.study([TINY], out)
    return out


@pytest.fixture(scope="module")
def entry(folder: Path) -> dict[str, Any]:
    (only,) = json.loads((folder / "index.json").read_text())["networks"]
    return only


def outputs(path: Path, integers: np.ndarray) -> np.ndarray:
    """[n, classes], by an interpreter of our own."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    found = []
    for image in integers:
        dtype = interpreter.get_input_details()[0]["dtype"]
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"],
            image[None] if dtype == np.int8 else (image[None] / 128).astype(dtype),
        )
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.array(found)


def test_the_index_lists_what_lies_in_the_folder(folder: Path, entry: dict[str, Any]) -> None:
    named = {name for forms in entry["files"].values() for name in forms.values()}
    assert {path.name for path in folder.iterdir()} == named | {"index.json"}
    assert set(entry["files"]) == {"int8", "float32"}
    assert (entry["name"], entry["kind"], entry["height"], entry["width"]) == (TINY.name, "network", 16, 16)
    assert entry["maps"] == [[16, 16, 8]]
    assert entry["check"]["images"] == 16
    assert entry["check"]["int8"] == "equal"
    assert 0 <= entry["check"]["float32_relative_error"] <= 1e-5


def test_the_benchmark_reads_the_index(folder: Path) -> None:
    (network,) = benchmark.read_index(folder)
    assert (network.name, network.whole, network.maps) == (TINY.name, True, ((16, 16, 8),))
    assert all(path.is_file() for files in network.files.values() for path in files.values())


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_each_form_has_its_ops(folder: Path, entry: dict[str, Any], dtype: str) -> None:
    ops = {
        form: tflite_file.read((folder / name).read_bytes(), name).ops for form, name in entry["files"][dtype].items()
    }
    assert "LOGISTIC" not in ops["none"]
    assert ops["plain"]["LOGISTIC"] == ops["lowered"]["LOGISTIC"] == 2
    assert "SPACE_TO_DEPTH" not in ops["plain"]
    assert ops["lowered"] != ops["plain"]
    assert entry["rewrites"][dtype]["convolve_blocks"] == 1


def test_lowered_and_plain_agree_on_images_that_the_study_did_not_see(folder: Path, entry: dict[str, Any]) -> None:
    integers = np.random.default_rng(7).integers(-128, 128, (20, 16, 16, 3), np.int8)
    plain, lowered = (outputs(folder / entry["files"]["int8"][form], integers) for form in ("plain", "lowered"))
    assert np.array_equal(plain, lowered)
    assert len(np.unique(plain, axis=0)) > 10, "a constant network would agree with anything"
    plain, lowered = (outputs(folder / entry["files"]["float32"][form], integers) for form in ("plain", "lowered"))
    np.testing.assert_allclose(lowered, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_file_that_computes_something_else_is_refused(folder: Path, entry: dict[str, Any], dtype: str) -> None:
    files = {kind: dict(forms) for kind, forms in entry["files"].items()}
    files[dtype]["lowered"] = files[dtype]["none"]
    with pytest.raises(GateFailed, match=f"{TINY.name}: {dtype}, lowered, differs"):
        lowering_study.check(TINY, folder, files)


def test_a_refused_study_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.write_json(tmp_path / "index.json", {"networks": []})

    def refuse(network: Network, out: Path) -> None:
        raise GateFailed("differs")

    monkeypatch.setattr(lowering_study, "_study_one", refuse)
    with pytest.raises(GateFailed):
        lowering_study.study([TINY], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_is_built_the_same_every_time_and_its_gates_vary() -> None:
    network = Network("map 6x6x4", 6, 6, (4,))
    first, second = (lowering_study.build(network, "cbam") for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert abs(float(first.get_layer("attention_spatial_bn").gamma[0])) >= 0.5
    renamed = lowering_study.build(dataclasses.replace(network, name="another"), "cbam")
    assert not np.array_equal(renamed.get_layer("stem_conv").kernel, first.get_layer("stem_conv").kernel)


def test_images_are_inputs_of_the_right_shape_and_range() -> None:
    network = Network("map 30x40x24", 30, 40, (24,))
    batch = lowering_study.images(np.random.default_rng(0), 3, network)
    assert (batch.shape, batch.dtype) == ((3, 30, 40, 3), np.float32)
    assert -1 <= batch.min() < -0.5
    assert 0.5 < batch.max() <= 127 / 128
    neighbours, apart = np.diff(batch, axis=2).std(), (batch[:, :, 20:] - batch[:, :, :20]).std()
    assert neighbours < 0.7 * apart, "smooth: neighbours are more alike than pixels far apart"


def test_every_target_is_of_a_network_that_is_studied() -> None:
    names = [network.name for network in lowering_study.NETWORKS]
    assert len(set(names)) == len(names) == 15
    whole = {network.name for network in lowering_study.NETWORKS if network.blocks}
    targets = [*benchmark.TARGETS.values(), benchmark.SPEEDUP_TARGETS]
    assert all(set(target) <= whole for target in targets)
    assert tuple(lowering_study.FORMS) == benchmark.FORMS


def test_an_unknown_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        lowering_study.main([str(tmp_path), "--only", "map 1x1x17"])
    assert stopped.value.code == 2
    assert "map 1x1x16" in capsys.readouterr().err
