"""Every adapter computes what the file says, places it where it says, and names what is wrong with a file."""

import importlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecbam import runtimes
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.runtimes import CannotRun, Runtime, Session, find, to_input, to_real
from edgecbam.runtimes.session import import_runtime

FLOAT = [
    ("litert", "tiny_fp32.tflite"),
    ("onnxruntime", "tiny_fp32.onnx"),
    ("openvino", "tiny_fp32.onnx"),
    ("openvino", "tiny_fp32.tflite"),
]


def logits(session: Session, images: np.ndarray) -> np.ndarray:
    return np.concatenate([session.run([image[None]])[0] for image in images])


@pytest.mark.parametrize(("runtime", "file"), FLOAT)
def test_float_files_compute_what_numpy_computes(
    runtime: str, file: str, fixtures: Path, images: np.ndarray, expected: np.ndarray
) -> None:
    session = find(runtime).open(fixtures / file, threads=1)
    assert [(info.shape, info.dtype, info.scale) for info in session.inputs] == [((1, 8, 8, 1), "float32", None)]
    assert [(info.shape, info.dtype, info.scale) for info in session.outputs] == [((1, 3), "float32", None)]
    np.testing.assert_allclose(logits(session, images), expected, atol=1e-4)
    session.close()


def test_litert_knows_the_scales_of_an_int8_file(fixtures: Path, images: np.ndarray, expected: np.ndarray) -> None:
    session = find("litert").open(fixtures / "tiny_int8.tflite", threads=1)
    (entrance,), (exit_,) = session.inputs, session.outputs
    assert (entrance.dtype, exit_.dtype) == ("int8", "int8")
    assert entrance.scale == pytest.approx(2 / 255)
    real = np.concatenate([to_real(session.run([to_input(image[None], entrance)])[0], exit_) for image in images])
    clipped = np.clip(expected, exit_.scale * (-128 - exit_.zero_point), exit_.scale * (127 - exit_.zero_point))
    assert np.abs(real - clipped).max() < 8 * exit_.scale
    assert np.ptp(real, axis=0).min() > 8 * exit_.scale


def test_int8_files_of_both_formats_agree_within_one_lsb(fixtures: Path, images: np.ndarray) -> None:
    lite = find("litert").open(fixtures / "tiny_int8.tflite", threads=1)
    onnx = find("onnxruntime").open(fixtures / "tiny_int8_io.onnx", threads=1)
    assert onnx.inputs[0].dtype == "int8"
    assert onnx.inputs[0].scale is None
    for image in images:
        array = to_input(image[None], lite.inputs[0])
        difference = lite.run([array])[0].astype(int) - onnx.run([array])[0].astype(int)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("runtime", "file"), FLOAT)
def test_prepare_and_outputs_now_share_no_memory(runtime: str, file: str, fixtures: Path, images: np.ndarray) -> None:
    session = find(runtime).open(fixtures / file, threads=1)
    array = images[:1].copy()
    session.prepare([array])
    array[:] = 0  # what the caller does afterwards is no business of the session
    session.invoke()
    first = session.outputs_now()[0]
    kept = first.copy()
    session.prepare([images[1:2]])
    session.invoke()
    second = session.outputs_now()[0]
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, session.run([images[:1]])[0])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("runtime", "file"), FLOAT)
@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [np.zeros((1, 8, 8, 1), np.uint8)],
        [np.zeros((2, 8, 8, 1), np.float32)],
        [np.zeros((8, 8, 1), np.float32)],
    ],
    ids=["none", "dtype", "batch", "rank"],
)
def test_arrays_that_do_not_fit_are_refused(runtime: str, file: str, arrays: list[np.ndarray], fixtures: Path) -> None:
    session = find(runtime).open(fixtures / file, threads=1)
    with pytest.raises(InputError, match="takes"):
        session.run(arrays)


def test_litert_counts_partitions_and_names_what_stays_outside(fixtures: Path) -> None:
    whole = find("litert").open(fixtures / "tiny_int8.tflite", threads=2).placement()
    assert (whole["xnnpack_partitions"], whole["ops_outside"], whole["threads"]) == (1, [], 2)
    split = find("litert").open(fixtures / "tiny_split.tflite", threads=1)
    assert (split.placement()["xnnpack_partitions"], split.placement()["ops_outside"]) == (2, ["CUMSUM"])
    np.testing.assert_allclose(split.run([np.asarray([[1, 2, 3, 4]], np.float32)])[0], [[6, 18, 36, 60]])


def test_placement_of_the_others_says_what_really_runs(fixtures: Path) -> None:
    onnx = find("onnxruntime").open(fixtures / "tiny_fp32.onnx", threads=2).placement()
    assert onnx.pop("x64quantprecision") in ("1", "not needed")  # by the CPU: see test_onnx_nodes.py
    assert onnx == {"device": "cpu", "providers": ["CPUExecutionProvider"], "threads": 2}
    vino = find("openvino").open(fixtures / "tiny_fp32.onnx", threads=1).placement()
    assert vino == {
        "device": "cpu",
        "inference_precision_hint": "f32",
        "precision": "f32",
        "streams": 1,
        "threads": 1,
    }


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "cut": content[:-20],
        "text": b"this is a text file, not a model",
        "noise": random.Random(1).randbytes(2000),
    }


@pytest.mark.parametrize(("runtime", "file"), FLOAT)
@pytest.mark.parametrize("damage", damaged(b""))
def test_damaged_files_are_named_on_one_line(
    runtime: str, file: str, damage: str, fixtures: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"mine{Path(file).suffix}"
    path.write_bytes(damaged((fixtures / file).read_bytes())[damage])
    with pytest.raises(InputError, match="mine") as raised:
        find(runtime).open(path, threads=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_missing_files_wrong_endings_and_no_threads_are_refused(name: str, fixtures: Path, tmp_path: Path) -> None:
    runtime = find(name)
    with pytest.raises(InputError, match="no model file"):
        runtime.open(tmp_path / f"absent{runtime.formats[0]}", threads=1)
    (tmp_path / "model.pb").write_bytes(b"x")
    with pytest.raises(InputError, match="another format"):
        runtime.open(tmp_path / "model.pb", threads=1)
    with pytest.raises(InputError, match="threads"):
        runtime.open(fixtures / f"tiny_fp32{runtime.formats[0]}", threads=0)


def test_a_sound_file_with_an_unknown_op_is_no_damaged_file(fixtures: Path, tmp_path: Path) -> None:
    onnx = tmp_path / "strange.onnx"
    onnx.write_bytes((fixtures / "tiny_fp32.onnx").read_bytes().replace(b"Relu", b"Rely"))
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(CannotRun, match=r"strange\.onnx"):
            find(name).open(onnx, threads=1)
    lite = tmp_path / "strange.tflite"
    cumsum = (128).to_bytes(4, "little")
    content = (fixtures / "tiny_split.tflite").read_bytes()
    assert content.count(cumsum) == 1
    lite.write_bytes(content.replace(cumsum, (250).to_bytes(4, "little")))
    with pytest.raises(CannotRun, match=r"strange\.tflite"):
        find("litert").open(lite, threads=1)


def test_unknown_names_get_the_nearest() -> None:
    assert find("litert").name == "litert"
    with pytest.raises(InputError, match="did you mean onnxruntime"):
        find("onnx-runtime")
    with pytest.raises(InputError, match="known are litert, onnxruntime, openvino"):
        find("quux")


def test_registry_knows_formats_versions_and_what_is_installed() -> None:
    readers = [runtime.name for runtime in runtimes.readers(".ONNX")]
    assert readers[:3] == ["onnxruntime", "openvino", "openvino_bf16"]
    assert set(readers[3:]) == {"onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime_webgpu"}
    assert {"litert", "onnxruntime"} <= {runtime.name for runtime in runtimes.available()}
    assert find("litert").version().startswith("2.")
    absent = Runtime("x", "no-such-package", "no_such_module", "litert", (".x",), find("litert").open)
    assert absent.version() is None
    assert not absent.installed()
    with pytest.raises(MissingPackage, match=r"pip install 'edgecbam\[litert\]'"):
        absent.load()


def test_a_broken_package_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import surely_absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFailure, match="surely_absent_dependency") as raised:
        import_runtime("half_installed", "half-installed", "litert")
    assert not isinstance(raised.value, MissingPackage)


def test_importing_the_registry_loads_no_runtime() -> None:
    script = (
        "import sys, edgecbam.runtimes\n"
        "heavy = {'tensorflow', 'ai_edge_litert', 'onnxruntime', 'openvino', 'tf_keras', 'onnx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_importing_openvino_reports_to_nobody() -> None:
    script = (
        "import importlib.util, psutil, sys\n"
        "from edgecbam.runtimes import find\n"
        "assert find('openvino').load().Core\n"
        "import openvino.tools.ovc.telemetry_utils as utils\n"
        "print('openvino_telemetry' in sys.modules, utils.tm.__name__, len(psutil.Process().children()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "openvino.tools.ovc.telemetry_stub", "0"]


def test_what_is_withheld_during_an_import_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nosy_runtime.py").write_text(
        "try:\n    import reporter_module\nexcept ImportError:\n    reporter_module = None\n"
    )
    (tmp_path / "reporter_module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    opener = find("litert").open
    runtime = Runtime("x", "x", "nosy_runtime", "x", (".x",), opener, withheld=("reporter_module",))
    assert runtime.load().reporter_module is None
    assert importlib.import_module("reporter_module").__file__ == str(tmp_path / "reporter_module.py")


def test_bfloat16_is_run_or_refused_and_never_pretended(fixtures: Path) -> None:
    capabilities = find("openvino").load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capabilities:
        session = find("openvino_bf16").open(fixtures / "tiny_fp32.onnx", threads=1)
        assert session.placement()["inference_precision_hint"] == "bf16"
    else:
        with pytest.raises(runtimes.CannotRun, match="this CPU has no bfloat16"):
            find("openvino_bf16").open(fixtures / "tiny_fp32.onnx", threads=1)
