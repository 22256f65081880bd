"""What the outputs of a bare file should be, and that free dimensions and damaged files are noticed first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam.benchmarks import parity, references
from edgecbam.errors import InputError
from edgecbam.runtimes import RUNTIMES, find, onnx_file


@pytest.mark.parametrize(
    ("file", "runtime", "precision", "maker"),
    [
        ("tiny_fp32.tflite", "litert", "float32", "litert, reference kernels"),
        ("tiny_int8.tflite", "litert", "int8", "litert, reference kernels"),
        ("tiny_fp32.onnx", "onnxruntime", "float32", "onnxruntime, graph as it stands"),
        ("tiny_int8_io.onnx", "onnxruntime", "int8", "onnxruntime, graph as it stands"),
    ],
)
def test_a_reference_is_what_the_runtime_computes(
    file: str, runtime: str, precision: str, maker: str, fixtures: Path, tmp_path: Path
) -> None:
    made = references.make(fixtures / file, tmp_path / "r.npz", 1, {})
    assert (made.path, made.reason, made.precision) == (tmp_path / "r.npz", "", precision)
    reference = parity.load_reference(tmp_path / "r.npz")
    assert (reference.maker, reference.precision, len(reference.inputs)) == (maker, precision, 8)
    session = find(runtime).open(fixtures / file)
    assert parity.check_against(session, reference).passed
    wrong = parity.Reference(reference.inputs, reference.outputs[::-1], maker, precision, reference.scales)
    assert not parity.check_against(session, wrong).passed


def test_without_its_runtime_there_is_no_reference_and_a_reason(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(RUNTIMES["litert"]), "installed", lambda runtime: runtime.name != "litert")
    made = references.make(fixtures / "tiny_fp32.tflite", tmp_path / "r.npz", 1, {})
    assert made == references.Made(None, "litert, whose outputs would be the reference, is not installed")


def test_a_file_that_cannot_be_run_has_no_reference(fixtures: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.onnx"
    strange.write_bytes((fixtures / "tiny_fp32.onnx").read_bytes().replace(b"Relu", b"Rely"))
    made = references.make(strange, tmp_path / "r.npz", 1, {})
    assert made.path is None
    assert "Rely" in made.reason


@pytest.mark.parametrize("file", ["tiny_fp32.tflite", "tiny_fp32.onnx"])
def test_a_damaged_file_is_wrong_input(file: str, fixtures: Path, tmp_path: Path) -> None:
    bad = tmp_path / f"bad{Path(file).suffix}"
    bad.write_bytes((fixtures / file).read_bytes()[:500])
    with pytest.raises(InputError, match="bad"):
        references.make(bad, tmp_path / "r.npz", 1, {})


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "inputs.npz"
    np.savez(path, **arrays)
    return path


def test_real_inputs_are_taken_by_name(fixtures: Path, tmp_path: Path) -> None:
    (info,) = find("onnxruntime").open(fixtures / "tiny_fp32.onnx").inputs
    images = np.random.default_rng(3).normal(size=(3, *info.shape)).astype("float32")
    references.make(fixtures / "tiny_fp32.onnx", tmp_path / "r.npz", 1, {}, npz(tmp_path, **{info.name: images}))
    reference = parity.load_reference(tmp_path / "r.npz")
    np.testing.assert_array_equal(np.stack([one for (one,) in reference.inputs]), images)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"other": np.zeros((2, 1))}, "has no array .*: it holds other"),
        ({"NAME": np.zeros((0, 1))}, "counts the sets"),
        ({"NAME": np.zeros((1, 1))}, "2 or more"),
        ({"NAME": np.float32(3)}, "counts the sets"),
        ({"NAME": np.zeros((2, 3), "float32")}, r"takes float32 .*, got float32 \[3\]"),
        ({"NAME": np.array([{}], object)}, "cannot read the inputs|no array"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arrays: dict[str, Any], match: str, fixtures: Path, tmp_path: Path) -> None:
    (info,) = find("onnxruntime").open(fixtures / "tiny_fp32.onnx").inputs
    path = npz(tmp_path, **{info.name if name == "NAME" else name: array for name, array in arrays.items()})
    with pytest.raises(InputError, match=match):
        references.make(fixtures / "tiny_fp32.onnx", tmp_path / "r.npz", 1, {}, path)


def test_a_file_that_is_no_npz_is_refused(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="cannot read the inputs"):
        references.make(fixtures / "tiny_fp32.onnx", tmp_path / "r.npz", 1, {}, tmp_path / "x.npz")


def test_onnx_files_are_read_without_onnx(fixtures: Path, tmp_path: Path) -> None:
    content = onnx_file.read(fixtures / "tiny_int8_io.onnx")
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= content.ops
    assert content.precision == "int8"
    content = onnx_file.read(fixtures / "tiny_fp32.onnx")
    assert (content.precision, content.weight_types & {1}) == ("float32", {1})
    assert onnx_file.OnnxContent(frozenset({"Conv"}), frozenset({1, 10})).precision == "float16"
    data = (fixtures / "tiny_fp32.onnx").read_bytes()
    for size in (1, 7, 100, len(data) - 1):
        (tmp_path / "cut.onnx").write_bytes(data[:size])
        with pytest.raises(InputError, match="damaged"):
            onnx_file.read(tmp_path / "cut.onnx")
