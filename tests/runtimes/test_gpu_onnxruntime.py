"""ONNX Runtime's GPU providers run what they claim to run. WebGPU on an emulated GPU, in an environment of its own.

CUDA and TensorRT are untested here: what is tested of them is what happens where they are missing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import altered_onnx
import emulated_gpu
import numpy as np
import pytest

from edgecbam import runtimes
from edgecbam.errors import MissingPackage
from edgecbam.runtimes import CannotRun, find, gpus, onnx_runtime_gpu
from edgecbam.runtimes.gpus import Gpu, Listing
from edgecbam.runtimes.onnx_runtime_gpu import CPU, WEBGPU, count_nodes, only_one, refusal, why_not

LARGE = 224  # rows and columns of an image that keeps an emulated GPU busy
HARD = Gpu("NVIDIA H100", "vulkan", "discrete", None, False)
SOFT = Gpu("llvmpipe", "vulkan", "cpu", None, True)
# What onnxruntime-gpu writes where CUDA is missing.
NO_CUDA = (
    "[E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] Failed to load library /x/"
    "libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file or "
    "directory\n[W:onnxruntime:Default] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*. "
    "Please install all dependencies as mentioned in the GPU requirements page\n"
)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return emulated_gpu.environment(tmp_path_factory.mktemp("icd"))


@pytest.fixture(scope="module")
def python() -> str:
    return emulated_gpu.webgpu_python()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> str:
    path = tmp_path_factory.mktemp("arrays") / "images.npz"
    np.savez(path, image=images[:6])
    return str(path)


def task(models: list[Path], **more: Any) -> dict[str, Any]:
    return {"runtime": "onnxruntime_webgpu", "device": "gpu", "models": [str(model) for model in models], **more}


def test_float_and_int8_are_right_and_every_node_has_its_place(
    fixtures: Path, images: np.ndarray, expected: np.ndarray, arrays: str, gpu: dict[str, str], python: str
) -> None:
    models = [fixtures / "tiny_fp32.onnx", fixtures / "tiny_int8.onnx"]
    whole, mixed = emulated_gpu.ask(task(models, arrays=arrays), gpu, python)["answers"]
    np.testing.assert_allclose(np.asarray(whole["outputs"]), expected[:6], atol=1e-4)
    reference = find("onnxruntime").open(fixtures / "tiny_int8.onnx")
    ours = np.concatenate([reference.run([image[None]])[0] for image in images[:6]])
    np.testing.assert_allclose(np.asarray(mixed["outputs"]), ours, atol=0.06)  # two steps of the last scale
    for answer in (whole, mixed):
        placement = answer["placement"]
        assert (placement["device"], placement["adapter"]) == ("gpu", emulated_gpu.NAME)
        assert placement["software"] is True
        assert placement["providers"][0] == WEBGPU
        assert answer["again"]
    assert set(whole["placement"]["nodes"]) == {WEBGPU}
    assert (whole["placement"]["on_cpu"], whole["placement"]["copies"]) == ({}, 0)
    assert whole["placement"]["precision"] == "f32"
    placed = mixed["placement"]
    assert placed["nodes"][CPU] == sum(placed["on_cpu"].values())
    assert "QuantizeLinear" in placed["on_cpu"]  # no kernel for it in this version
    assert not any("Conv" in kind for kind in placed["on_cpu"])
    assert placed["copies"] > 0


def test_an_inference_is_done_when_invoke_returns(
    fixtures: Path, tmp_path: Path, gpu: dict[str, str], python: str
) -> None:
    large = altered_onnx.enlarged(fixtures / "tiny_fp32.onnx", tmp_path / "large.onnx", LARGE)
    (answer,) = emulated_gpu.ask(task([large], busy=True), gpu, python)["answers"]
    assert answer["busy"] < 0.2


def test_outputs_left_on_the_device_are_not_there_yet(
    fixtures: Path, tmp_path: Path, gpu: dict[str, str], python: str
) -> None:
    """Why outputs are bound to host memory; and a proof that the test above could fail."""
    large = altered_onnx.enlarged(fixtures / "tiny_fp32.onnx", tmp_path / "large.onnx", LARGE)
    program = (
        "import os, sys, gpu_session, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['WebGpuExecutionProvider'])\n"
        "entrance, exit_ = session.get_inputs()[0], session.get_outputs()[0]\n"
        "value = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.ones(entrance.shape, numpy.float32))\n"
        "binding = session.io_binding()\n"
        "binding.bind_ortvalue_input(entrance.name, value)\n"
        "binding.bind_output(exit_.name, 'webgpu', 0)\n"
        "def invoke():\n"
        "    session.run_with_iobinding(binding)\n"
        "    binding.synchronize_outputs()\n"
        "print(gpu_session.busy_afterwards(invoke), flush=True)\n"
        "os._exit(0)\n"  # tearing a session down while its work goes on may crash
    )
    env = gpu | {"PYTHONPATH": f"{emulated_gpu.ROOT}:{Path(__file__).parent}"}
    command = [python, "-c", program, str(large)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=240)
    assert float(ran.stdout.splitlines()[-1]) > 0.5


def test_a_model_whose_convolution_stays_on_the_cpu_is_refused(
    tmp_path: Path, gpu: dict[str, str], python: str
) -> None:
    model = altered_onnx.integer_convolution(tmp_path / "integer.onnx")
    (answer,) = emulated_gpu.ask(task([model]), gpu, python)["answers"]
    assert answer["error"].startswith("CannotRun: ONNX Runtime keeps ")
    assert "on the CPU, among them 1 ConvInteger, of integer.onnx" in answer["error"]


def test_16_bit_floats_are_refused_and_not_run_on_the_cpu(
    fixtures: Path, tmp_path: Path, gpu: dict[str, str], python: str
) -> None:
    half = altered_onnx.halved(fixtures / "tiny_fp32.onnx", tmp_path / "half.onnx")
    (answer,) = emulated_gpu.ask(task([half]), gpu, python)["answers"]
    assert answer["error"].endswith("requires f16 but the device does not support it.")


def test_without_a_gpu_it_does_not_fall_back_to_the_cpu(fixtures: Path, python: str) -> None:
    models = [fixtures / "tiny_fp32.onnx"]
    (answer,) = emulated_gpu.ask(task(models), emulated_gpu.without_gpu(), python)["answers"]
    assert answer["error"] == (f"CannotRun: {WEBGPU} finds no GPU that it can use: the Vulkan loader finds no driver")


def test_a_benchmark_shows_an_emulated_gpu_without_a_time(
    fixtures: Path, tmp_path: Path, gpu: dict[str, str], python: str
) -> None:
    half = altered_onnx.halved(fixtures / "tiny_fp32.onnx", tmp_path / "half.onnx")
    models = [fixtures / "tiny_fp32.onnx", fixtures / "tiny_int8.onnx", half]
    report = emulated_gpu.benchmark(models, "onnxruntime_webgpu", tmp_path / "out", gpu, python)
    rows = {row["model"]: row for row in report["results"]}
    assert rows["half.onnx"]["status"] == "unsupported"
    assert "f16" in rows["half.onnx"]["reason"]
    for name in ("tiny_fp32.onnx", "tiny_int8.onnx"):
        row = rows[name]
        assert (row["status"], row["device"], row["latency_ms"]) == ("functional_only", "gpu", None), json.dumps(row)
        assert row["parity"]["checked"]
        assert row["placement"]["nodes"][WEBGPU] > 0
    assert report["comparisons"] == []


def test_which_build_is_there_is_told_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    (folder / "build_and_package_info.py").write_text("package_name = 'onnxruntime-gpu'\n__version__ = '1.31.1'\n")
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom edgecbam.runtimes import find, onnx_runtime_gpu\n"
        "names = ('onnxruntime_cuda', 'onnxruntime_tensorrt', 'onnxruntime_webgpu')\n"
        "print(onnx_runtime_gpu.build(), *(find(name).installed() for name in names), 'onnxruntime' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["onnxruntime-gpu", "True", "True", "False", "False"]
    assert onnx_runtime_gpu.build() == "onnxruntime"  # the build of the environment of these tests


@pytest.mark.parametrize("name", ["onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime_webgpu"])
def test_another_build_is_named_and_none_is_missing(name: str, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = find(name)
    assert runtime not in runtimes.available()
    with pytest.raises(CannotRun, match=f"{runtime.package} is not installed: .* is that of onnxruntime, and only one"):
        runtime.open(fixtures / "tiny_fp32.onnx", 1, "gpu")
    with pytest.raises(CannotRun, match=f"{name} runs on gpu, not on cpu"):
        runtime.open(fixtures / "tiny_fp32.onnx", 1, "cpu")
    monkeypatch.setattr(onnx_runtime_gpu, "build", lambda: None)
    with pytest.raises(MissingPackage, match=rf"pip install 'edgecbam\[{runtime.package}\]'"):
        runtime.load()


def test_an_overwritten_build_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime_gpu.ProviderRuntime, "version", lambda self: "1.27.0")
    with pytest.raises(
        CannotRun, match=r"onnxruntime-webgpu was installed here but overwritten: .*that of onnxruntime"
    ):
        find("onnxruntime_webgpu").load()


def event(op: str, provider: str, name: str = "n_kernel_time", category: str = "Node") -> dict[str, Any]:
    return {"cat": category, "name": name, "args": {"op_name": op, "provider": provider}}


def test_nodes_are_counted_by_provider_and_copies_apart() -> None:
    events = [
        event("Conv", WEBGPU),
        event("MemcpyToHost", WEBGPU),
        event("QuantizeLinear", CPU),
        event("QuantizeLinear", CPU),
        event("Conv", WEBGPU, name="n_fence_before"),
        event("Conv&Conv2dMM", "", category="Api"),
        {"cat": "Session", "name": "model_run"},
    ]
    counted = count_nodes(events)
    assert counted == {"nodes": {CPU: 2, WEBGPU: 1}, "on_cpu": {"QuantizeLinear": 2}, "copies": 1}
    assert refusal(counted, WEBGPU) == ""


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], f"gave {WEBGPU} none of the 0 nodes"),
        ([event("Shape", CPU), event("Gather", CPU)], f"gave {WEBGPU} none of the 2 nodes"),
        (
            [event("Relu", WEBGPU), event("QLinearConv", CPU), event("Shape", CPU)],
            "keeps 2 of the 3 nodes on the CPU, among them 1 QLinearConv,",
        ),
        (
            [event("Relu", WEBGPU), event("FusedMatMul", CPU)],
            "keeps 1 of the 2 nodes on the CPU, among them 1 FusedMatMul,",
        ),
    ],
)
def test_a_cpu_is_not_passed_off_as_a_gpu(events: list[dict[str, Any]], reason: str) -> None:
    assert refusal(count_nodes(events), WEBGPU) == reason


def test_missing_libraries_and_missing_gpus_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, webgpu = find("onnxruntime_cuda"), find("onnxruntime_webgpu")
    assert why_not(cuda, NO_CUDA, "ONNX Runtime fell back to the CPU") == (
        "CUDAExecutionProvider does not start: no library libcublasLt.so.13; it needs cuDNN 9.* and CUDA 13.*"
    )
    monkeypatch.setattr(gpus, "vulkan", lambda: Listing("vulkan", (SOFT,), ""))
    error = "webgpu_context.cc:65 Failed to get a WebGPU adapter: No supported adapters"
    assert why_not(webgpu, "", error) == f"{WEBGPU} finds no GPU that it can use: Vulkan lists llvmpipe"
    assert why_not(webgpu, "", "x" * 300 + " the end").endswith("x the end")
    assert "untested" in onnx_runtime_gpu.UNTESTED
    assert (cuda.untested, webgpu.untested) == (onnx_runtime_gpu.UNTESTED, "")


def test_an_adapter_is_named_only_where_there_is_one() -> None:
    assert only_one([HARD]) == ("NVIDIA H100", False)
    assert only_one([HARD, HARD]) == ("NVIDIA H100", False)
    assert only_one([SOFT]) == ("llvmpipe", True)
    assert only_one([HARD, SOFT]) == (None, None)
    assert only_one([]) == (None, None)


def test_an_emulation_beside_a_gpu_is_hidden_or_the_run_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_LOADER_DRIVERS_DISABLE", "to be restored")
    monkeypatch.delenv("VK_LOADER_DRIVERS_DISABLE")
    lists = iter([(HARD, SOFT), (HARD,)])
    monkeypatch.setattr(gpus, "vulkan", lambda: Listing("vulkan", next(lists), ""))
    onnx_runtime_gpu._leave_out_emulations()
    assert "lvp" in os.environ["VK_LOADER_DRIVERS_DISABLE"]
    monkeypatch.setattr(gpus, "vulkan", lambda: Listing("vulkan", (HARD, SOFT), ""))  # a loader that does not know it
    with pytest.raises(CannotRun, match="VK_ICD_FILENAMES"):
        onnx_runtime_gpu._leave_out_emulations()
    monkeypatch.delenv("VK_LOADER_DRIVERS_DISABLE")
    monkeypatch.setattr(gpus, "vulkan", lambda: Listing("vulkan", (SOFT,), ""))
    onnx_runtime_gpu._leave_out_emulations()
    assert "VK_LOADER_DRIVERS_DISABLE" not in os.environ
