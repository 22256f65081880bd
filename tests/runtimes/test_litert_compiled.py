"""LiteRT's CompiledModel computes what the file says, on the device that was asked for, and is done when it returns.

On a GPU always in a child process, on an emulated one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import altered_tflite
import emulated_gpu
import numpy as np
import pytest
import two_inputs_file

from edgecbam.errors import InputError
from edgecbam.runtimes import CannotRun, find, to_input
from edgecbam.runtimes.litert_compiled import Adapter, differs, selected_adapter, why_not

LARGE = 768  # rows and columns of an image that keeps an emulated GPU busy
LOADED = "INFO: [gpu_registry.cc:138] Dynamically loaded GPU accelerator(libLiteRtWebGpuAccelerator.so) registered.\n"
SELECTED = (
    "I0000 00:00:1795596550.006846   19194 environment.cc:532] Selected adapter: NVIDIA H100 80GB HBM3, arch=hopper, "
    "vendor=nvidia, backend=Vulkan, adapterType=Discrete GPU\n"
)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return emulated_gpu.environment(tmp_path_factory.mktemp("icd"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> str:
    path = tmp_path_factory.mktemp("arrays") / "images.npz"
    np.savez(path, image=images[:6])
    return str(path)


def task(runtime: str, device: str, models: list[Path], **more: Any) -> dict[str, Any]:
    return {"runtime": runtime, "device": device, "models": [str(model) for model in models], **more}


def check_outputs(answers: list[dict[str, Any]], fixtures: Path, images: np.ndarray, expected: np.ndarray) -> None:
    """The answers for tiny_fp32.tflite and tiny_int8.tflite to the first six images."""
    float_answer, int8_answer = answers
    np.testing.assert_allclose(np.asarray(float_answer["outputs"]), expected[:6], atol=1e-4)
    reference = find("litert").open(fixtures / "tiny_int8.tflite")
    ours = [reference.run([to_input(image[None], reference.inputs[0])])[0] for image in images[:6]]
    assert np.abs(np.asarray(int8_answer["outputs"]) - np.concatenate(ours).astype(int)).max() <= 1
    assert np.ptp(int8_answer["outputs"]) > 8
    assert int8_answer["inputs"][0][3] == pytest.approx(2 / 255)  # the scale, which CompiledModel itself does not tell
    assert float_answer["again"]
    assert int8_answer["again"]


def test_on_the_cpu_it_computes_what_the_interpreter_computes(
    fixtures: Path, images: np.ndarray, expected: np.ndarray, arrays: str
) -> None:
    models = [fixtures / "tiny_fp32.tflite", fixtures / "tiny_int8.tflite"]
    split = fixtures / "tiny_split.tflite"
    answers = emulated_gpu.ask(task("litert_compiled", "cpu", models, arrays=arrays), emulated_gpu.without_gpu())[
        "answers"
    ]
    check_outputs(answers, fixtures, images, expected)
    assert answers[0]["placement"] == {"device": "cpu", "threads": 1, "fully_delegated": True}
    (answer,) = emulated_gpu.ask(task("litert_compiled", "cpu", [split]), emulated_gpu.without_gpu())["answers"]
    assert answer["placement"]["fully_delegated"] is False


def test_on_a_gpu_float_and_int8_are_right_and_the_adapter_is_named(
    fixtures: Path, images: np.ndarray, expected: np.ndarray, arrays: str, gpu: dict[str, str]
) -> None:
    models = [fixtures / "tiny_fp32.tflite", fixtures / "tiny_int8.tflite"]
    answers = emulated_gpu.ask(task("litert_compiled", "gpu", models, arrays=arrays), gpu)["answers"]
    check_outputs(answers, fixtures, images, expected)
    for answer in answers:
        placement = answer["placement"]
        assert (placement["device"], placement["adapter"]) == ("gpu", emulated_gpu.NAME)
        assert (placement["software"], placement["precision"], placement["ops_outside"]) == (True, "f32", [])


def test_an_inference_is_done_when_invoke_returns(fixtures: Path, tmp_path: Path, gpu: dict[str, str]) -> None:
    large = altered_tflite.enlarged(fixtures / "tiny_fp32.tflite", tmp_path / "large.tflite", LARGE)
    (answer,) = emulated_gpu.ask(task("litert_compiled", "gpu", [large], busy=True), gpu)["answers"]
    assert answer["busy"] < 0.2


def test_the_test_above_sees_an_inference_that_goes_on(fixtures: Path, tmp_path: Path, gpu: dict[str, str]) -> None:
    """LiteRT's default is to return at once; were it not, nothing above would have been tested."""
    large = altered_tflite.enlarged(fixtures / "tiny_fp32.tflite", tmp_path / "large.tflite", LARGE)
    program = (
        "import sys, gpu_session\n"
        "from ai_edge_litert import compiled_model as litert\n"
        "options = litert.Options(litert.HardwareAccelerator.GPU, gpu_options=litert.GpuOptions(enforce_f32=True))\n"
        "model = litert.CompiledModel.from_file(sys.argv[1], options=options)\n"
        "ends = model.create_input_buffers(0), model.create_output_buffers(0)\n"
        "print(gpu_session.busy_afterwards(lambda: model.run_by_index(0, *ends)))\n"
    )
    env = gpu | {"PYTHONPATH": f"{emulated_gpu.ROOT}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", program, str(large)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=240)
    assert float(ran.stdout.splitlines()[-1]) > 0.5


def test_a_gpu_that_does_not_confirm_to_wait_is_refused(fixtures: Path, gpu: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgecbam.runtimes import CannotRun, litert_compiled\n"
        "litert = litert_compiled.LITERT_COMPILED.load()\n"
        "try:\n"
        "    litert_compiled.compile_model(litert, Path(sys.argv[1]), 1, 'gpu', litert.GpuOptions(enforce_f32=True))\n"
        "except CannotRun as error:\n"
        "    print(error)\n"
    )
    env = gpu | {"PYTHONPATH": str(emulated_gpu.ROOT)}
    command = [sys.executable, "-c", program, str(fixtures / "tiny_fp32.tflite")]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=240)
    assert "did not confirm its benchmark mode" in ran.stdout


def test_a_file_with_an_op_that_would_stay_on_the_cpu_is_refused(
    fixtures: Path, tmp_path: Path, gpu: dict[str, str]
) -> None:
    strange = altered_tflite.other_last_op(fixtures / "tiny_split.tflite", tmp_path / "strange.tflite", "BITWISE_XOR")
    answers = emulated_gpu.ask(task("litert_compiled", "gpu", [strange, fixtures / "tiny_split.tflite"]), gpu)[
        "answers"
    ]
    assert answers[0]["error"] == (
        "CannotRun: LiteRT's GPU delegate leaves 1 of 3 ops of strange.tflite to the CPU: no BITWISE_XOR"
    )
    assert "outputs" in answers[1]  # the same with the op that it was before


def test_16_bit_floats_are_not_claimed_where_the_gpu_has_none(fixtures: Path, gpu: dict[str, str]) -> None:
    (answer,) = emulated_gpu.ask(task("litert_compiled_fp16", "gpu", [fixtures / "tiny_fp32.tflite"]), gpu)["answers"]
    assert answer["error"] == (
        f"CannotRun: {emulated_gpu.NAME} computes tiny_fp32.tflite in float32 although 16-bit floats are allowed"
    )


@pytest.mark.parametrize("runtime", ["litert_compiled", "litert_compiled_fp16"])
def test_without_a_gpu_the_reason_is_told(runtime: str, fixtures: Path) -> None:
    (answer,) = emulated_gpu.ask(task(runtime, "gpu", [fixtures / "tiny_fp32.tflite"]), emulated_gpu.without_gpu())[
        "answers"
    ]
    assert answer["error"] == ("CannotRun: LiteRT finds no GPU that it can use: the Vulkan loader finds no driver")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_several_inputs_and_free_dimensions(device: str, tmp_path: Path, gpu: dict[str, str]) -> None:
    fixed, free = tmp_path / "fixed.tflite", tmp_path / "free.tflite"
    fixed.write_bytes(two_inputs_file.tflite("float32"))
    free.write_bytes(two_inputs_file.tflite("float32", free=True))
    shapes = {"a": [3, 4], "b": [3, 4]}
    (first,) = emulated_gpu.ask(task("litert_compiled", device, [fixed]), gpu)["answers"]
    (second,) = emulated_gpu.ask(task("litert_compiled", device, [free], shapes=shapes), gpu)["answers"]
    for answer, rows in ((first, 1), (second, 3)):
        assert [name for name, *_ in answer["inputs"]] == ["b", "a"]
        drawn = [np.random.default_rng(seed).uniform(-1, 1, (rows, 4)).astype(np.float32) for seed in (0, 1)]
        np.testing.assert_allclose(answer["outputs"], np.concatenate([2 * x * x for x in drawn]), rtol=1e-5)


def test_shapes_and_types_that_do_not_fit_are_refused(tmp_path: Path, fixtures: Path) -> None:
    free, wide = tmp_path / "free.tflite", tmp_path / "wide.tflite"
    free.write_bytes(two_inputs_file.tflite("float32", free=True))
    session = find("litert_compiled").open(free, 1, "cpu", {"a": (2, 4), "b": (2, 4)})
    with pytest.raises(InputError, match=r"input b was opened for \[2, 4\], got \[3, 4\]"):
        session.run([np.zeros((3, 4), np.float32)] * 2)
    wide.write_bytes(two_inputs_file.tflite("int64"))
    with pytest.raises(CannotRun, match="cannot be given int64"):
        find("litert_compiled").open(wide)
    with pytest.raises(CannotRun, match="litert_compiled_fp16 runs on gpu, not on cpu"):
        find("litert_compiled_fp16").open(fixtures / "tiny_fp32.tflite")
    (tmp_path / "cut.tflite").write_bytes((fixtures / "tiny_fp32.tflite").read_bytes()[:300])
    with pytest.raises(InputError, match=r"cut\.tflite is damaged"):
        find("litert_compiled").open(tmp_path / "cut.tflite")


def test_the_adapter_is_read_from_the_log() -> None:
    assert selected_adapter(LOADED + SELECTED) == Adapter("NVIDIA H100 80GB HBM3", "vulkan", False)
    emulated = SELECTED.replace("Discrete GPU", "CPU / Software")
    assert selected_adapter(emulated) == Adapter("NVIDIA H100 80GB HBM3", "vulkan", True)
    assert selected_adapter(LOADED) is None


def test_reasons_are_told_apart() -> None:
    assert why_not("", "m.tflite", "boom") == "this build of ai-edge-litert has no GPU accelerator"
    assert why_not(LOADED + SELECTED, "m.tflite", "boom") == "LiteRT cannot run m.tflite on the GPU: boom"
    left = (
        "ERROR: Following operations are not supported by GPU delegate:\n"
        "CUMSUM: Not supported op CUMSUM\nTOPK_V2: Not supported op TOPK_V2\n"
        "17 operations will run on the GPU, and the remaining 3 operations will run on the CPU.\n"
    )
    assert why_not(LOADED + SELECTED + left, "m.tflite", "boom") == (
        "LiteRT's GPU delegate leaves 3 of 20 ops of m.tflite to the CPU: no CUMSUM, TOPK_V2"
    )


def test_16_bit_floats_show_in_the_outputs() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(4, 10)).astype(np.float32)
    noisy = exact * (1 + rng.uniform(-1, 1, exact.shape).astype(np.float32) * 2.0**-21)
    assert differs([exact.astype(np.float16)], [exact])
    assert not differs([exact], [exact])
    assert not differs([noisy], [exact])  # another order of additions
    assert not differs([np.asarray([], np.float32)], [np.asarray([], np.float32)])


def test_a_benchmark_shows_an_emulated_gpu_without_a_time(fixtures: Path, tmp_path: Path, gpu: dict[str, str]) -> None:
    """Float, weights in float16 and int8 against float on the same GPU: all of them right, none of them timed."""
    half = altered_tflite.half_weights(fixtures / "tiny_fp32.tflite", tmp_path / "tiny_fp16.tflite")
    models = [fixtures / "tiny_fp32.tflite", half, fixtures / "tiny_int8.tflite"]
    report = emulated_gpu.benchmark(models, "litert_compiled", tmp_path / "out", gpu)
    assert [row["model"] for row in report["results"]] == [model.name for model in models]
    assert [row["parity"]["precision"] for row in report["results"]] == ["float32", "float16", "int8"]
    for row in report["results"]:
        assert (row["status"], row["device"], row["latency_ms"]) == ("functional_only", "gpu", None), json.dumps(row)
        assert row["parity"]["checked"]
        assert row["parity"]["relative_error"] < 0.02
        assert row["placement"]["adapter"] == emulated_gpu.NAME
        assert emulated_gpu.NAME in row["reason"]
    assert report["comparisons"] == []
