"""What the runtimes' own profilers say of known files: each op, where it ran, and what of the model it computes."""

import datetime
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import two_inputs_file

from edgecbam.errors import InputError
from edgecbam.runtimes import CannotRun, find, litert_profile, onnx_profile, openvino_profile, xnnpack_ops
from edgecbam.runtimes.litert_profile import Ran
from edgecbam.runtimes.openvino_profile import Made

RUNS = 3


def profile(runtime: str, path: Path, *arrays: np.ndarray, runs: int = RUNS) -> dict[str, Any]:
    profiler = find(runtime).profile
    assert profiler is not None
    return profiler(path, 1, "cpu", arrays, runs)


def computed(raw: dict[str, Any]) -> list[list[str]]:
    """Names of the model's ops that each op may compute."""
    return [[raw["graph"][node]["name"] for node in op["nodes"]] for op in raw["ops"]]


def kernel(
    name: str, index: int, us: float, op: str = "Conv", provider: str = "CPUExecutionProvider"
) -> dict[str, Any]:
    """An event of ONNX Runtime's trace."""
    arguments = {"op_name": op, "node_index": str(index), "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": arguments}


def test_litert_tells_ops_inside_and_outside_of_xnnpack(fixtures: Path) -> None:
    raw = profile("litert", fixtures / "tiny_split.tflite", np.ones((1, 4), np.float32))
    assert [op["op"] for op in raw["ops"]] == ["Multiply (ND)", "CUMSUM", "Multiply (ND)"]
    assert [op["where"] for op in raw["ops"]] == ["xnnpack", "cpu", "xnnpack"]
    assert [op["name"] for op in raw["ops"]] == ["mul", "Cumsum", "Identity"]
    assert computed(raw) == [["mul"], ["Cumsum"], ["Identity"]]
    assert (raw["delegate"], raw["resolution_us"], raw["runs"]) == ("xnnpack", 1, RUNS)
    assert [(node["op"], len(node["inputs"])) for node in raw["graph"]] == [("MUL", 1), ("CUMSUM", 1), ("MUL", 1)]


@pytest.mark.parametrize("file", ["tiny_fp32.tflite", "tiny_int8.tflite"])
def test_litert_ops_are_those_of_the_model(fixtures: Path, file: str) -> None:
    image = np.zeros((1, 8, 8, 1), np.int8 if "int8" in file else np.float32)
    raw = profile("litert", fixtures / file, image, runs=1)
    kinds = [[raw["graph"][node]["op"] for node in op["nodes"]] for op in raw["ops"]]
    # the reshape may belong to either of its neighbours
    assert kinds == [["CONV_2D"], ["MEAN"], ["MEAN", "FULLY_CONNECTED"], ["FULLY_CONNECTED"]]
    assert raw["graph_reason"] is None


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
@pytest.mark.parametrize("free", [False, True])
def test_litert_takes_several_inputs_of_any_type_and_shape(tmp_path: Path, dtype: str, free: bool) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(two_inputs_file.tflite(dtype, free))
    rows = 3 if free else two_inputs_file.ROWS
    arrays = [np.full((rows, two_inputs_file.COLUMNS), value, dtype) for value in (1, 2)]
    raw = profile("litert", path, *arrays)
    assert computed(raw) == [["total"], ["product"]]
    inside = {"float32": "xnnpack", "int64": "cpu"}  # XNNPACK may or may not take int32
    assert all(op["where"] == inside.get(dtype, op["where"]) for op in raw["ops"])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("free", [False, True])
def test_the_others_do_so_too(tmp_path: Path, runtime: str, dtype: str, free: bool) -> None:
    path = tmp_path / "two.onnx"
    path.write_bytes(two_inputs_file.onnx(dtype, free))
    rows = 3 if free else two_inputs_file.ROWS
    arrays = [np.full((rows, two_inputs_file.COLUMNS), value, dtype) for value in (1, 2)]
    raw = profile(runtime, path, *arrays)
    told = {name for names in computed(raw) for name in ";".join(names).split(";")}
    assert told <= {"total", "product", "y"}
    assert [node["inputs"] == [] for node in raw["graph"]] == [False, False]
    if runtime == "onnxruntime":
        assert [(op["name"], op["op"], op["where"]) for op in raw["ops"]] == [
            ("total", "Add", "cpu"),
            ("product", "Mul", "cpu"),
        ]


@pytest.mark.parametrize("dtype", ["INT8", "FLOAT32"])
def test_every_op_of_an_attention_is_found_in_its_place(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "attention.tflite"
    writer = _attention_file()
    path.write_bytes(writer.write(writer.Attention(12, 10, 8, dtype)))
    numpy_type = np.int8 if dtype == "INT8" else np.float32
    raw = profile("litert", path, np.zeros((1, 12, 10, 8), numpy_type), runs=1)
    kinds = [{raw["graph"][node]["op"] for node in op["nodes"]} for op in raw["ops"]]
    expected = ["ADD", "ADD", "CONCATENATION", *["CONV_2D"] * 5, "LOGISTIC", "LOGISTIC", "MEAN", "MEAN", "MUL", "MUL"]
    expected += ["REDUCE_MAX", "REDUCE_MAX"]
    listed = [node["op"] for node in raw["graph"]]
    assert sorted(listed) == expected
    assert {*range(len(listed))} == {node for op in raw["ops"] for node in op["nodes"]}
    products = {"Convolution", "Fully Connected"}
    names = {"CONV_2D": products, "MUL": {"Multiply"}, "LOGISTIC": {"Sigmoid"}, "REDUCE_MAX": {"Reduce Max"}}
    for op, of in zip(raw["ops"], kinds, strict=True):
        for kind in of & {*names}:
            assert op["op"].split(" (")[0] in names[kind]


def test_another_version_is_refused_and_not_misread(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert_profile, "VERSION", "9.9")
    with pytest.raises(CannotRun, match=r"read from ai-edge-litert 9\.9, and 2\.\d+\.\d+ is installed"):
        profile("litert", fixtures / "tiny_fp32.tflite", np.zeros((1, 8, 8, 1), np.float32))


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_gpu_is_refused(fixtures: Path, runtime: str) -> None:
    path = fixtures / ("tiny_fp32.tflite" if runtime == "litert" else "tiny_fp32.onnx")
    profiler = find(runtime).profile
    assert profiler is not None
    with pytest.raises(CannotRun, match="GPU"):
        profiler(path, 1, "gpu", [np.zeros((1, 8, 8, 1), np.float32)], RUNS)


@pytest.mark.parametrize("name", ["damaged.tflite", "damaged.onnx"])
def test_a_damaged_file_is_the_users_to_mend(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    for runtime in ("litert", "openvino") if name.endswith("tflite") else ("onnxruntime", "openvino"):
        with pytest.raises(InputError, match="damaged"):
            profile(runtime, path, np.zeros((1, 4), np.float32))


def test_wrong_inputs_are_named(fixtures: Path) -> None:
    with pytest.raises(InputError, match="takes 1 inputs, got 2"):
        profile("litert", fixtures / "tiny_split.tflite", *[np.zeros((1, 4), np.float32)] * 2)
    with pytest.raises(CannotRun, match=r"tiny_split\.tflite"):
        profile("litert", fixtures / "tiny_split.tflite", np.zeros((1, 4), np.int8))


@pytest.mark.parametrize(
    ("ran", "partitions", "reason"),
    [
        ([Ran("A", 0, True), Ran("CUMSUM", 1, False)], [[0]], "delegated other ops"),
        ([Ran("Multiply (ND)", 1, True), Ran("CUMSUM", 1, False)], [[0], [2]], "did not number"),
        ([Ran("Multiply (ND)", 0, True), Ran("CUMSUM", 1, False)], [[0], [2]], "ran 1 partitions where .* has 2"),
        ([Ran("Add (ND)", 0, True), Ran("CUMSUM", 1, False), Ran("Add (ND)", 0, True)], [[0], [2]], "do not follow"),
    ],
)
def test_what_does_not_fit_the_model_is_not_told(
    ran: Sequence[Ran], partitions: Sequence[Sequence[int]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        litert_profile.origins(ran, [(0, "MUL"), (1, "CUMSUM"), (2, "MUL")], partitions)


def test_partitions_are_told_apart_by_their_numbers() -> None:
    ran = [Ran("Multiply (ND)", 0, True), Ran("Sigmoid (NC)", 1, True), Ran("Multiply (ND)", 0, True)]
    kinds = [(0, "MUL"), (1, "MUL"), (2, "LOGISTIC")]
    assert litert_profile.origins(ran, kinds, [[0, 2], [1]]) == [[0], [2], [1]]


@pytest.mark.parametrize(
    ("model", "xnnpack", "expected"),
    [
        (["CONV_2D", "CONV_2D"], ["Convolution (NHWC, F32) IGEMM", "Fully Connected (NC, F32)"], [[0], [1]]),
        (["CONV_2D"], ["Convert (NC, F32, QDU8)", "Convolution (NHWC, QDU8, F32, QC8W)"], [[0], [0]]),
        (["ADD", "LOGISTIC"], ["Add (ND)", "Clamp (NC)", "Sigmoid (NC)"], [[0], [0], [1]]),
        (["DEQUANTIZE", "RESHAPE", "MUL"], ["Multiply (ND)"], [[2]]),
        (["RESHAPE", "RESHAPE"], ["Static Reshape (NC)"], [[0, 1]]),  # one of two was merged away: which?
        (["RESHAPE", "RESHAPE"], ["Static Reshape (NC)"] * 2, [[0], [1]]),
        (["CONCATENATION", "MUL"], ["Copy (NC, X8)"] * 3 + ["Multiply (ND)"], [[0], [0], [0], [1]]),
        (["CONCATENATION", "CONCATENATION"], ["Copy (NC, X8)"] * 2, [[0, 1], [0, 1]]),
        ([], [], []),
    ],
)
def test_xnnpacks_ops_are_read_beside_the_models(
    model: list[str], xnnpack: list[str], expected: list[list[int]]
) -> None:
    assert xnnpack_ops.origins(model, xnnpack) == expected


@pytest.mark.parametrize(
    ("model", "xnnpack", "reason"),
    [
        (["MUL", "ADD"], ["Add (ND)", "Multiply (ND)"], r"its op 1, Add, cannot be explained"),
        (["MUL", "ADD"], ["Multiply (ND)", "Multiply (ND)"], r"its op 2, Multiply, cannot be explained"),
        (["MUL", "ADD"], ["Multiply (ND)"], "that it ends where it does cannot be explained"),
        (["MUL"], ["Multiply (ND)", "Add (ND)"], r"its op 2, Add, cannot be explained"),
        (["MUL", "FFT"], ["Multiply (ND)"], "what XNNPACK makes of FFT is not known"),
    ],
)
def test_what_does_not_follow_is_refused(model: list[str], xnnpack: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        xnnpack_ops.origins(model, xnnpack)


def test_many_ops_are_read_in_little_time() -> None:
    block = ["RESHAPE", "CONV_2D", "CONCATENATION", "ADD", "RESHAPE", "RESHAPE"]
    made = ["Static Reshape (NC)", "Convolution (NHWC)", "Copy (NC)", "Copy (NC)", "Add (ND)", "Static Reshape (NC)"]
    began = time.process_time()
    found = xnnpack_ops.origins(block * 400, made * 400)
    assert found[1::6] == [[6 * index + 1] for index in range(400)]
    assert time.process_time() - began < 30  # a reading of every way through would never end


def test_onnx_runtimes_trace_is_averaged_after_the_warm_up() -> None:
    events = [{"cat": "Session", "name": "model_run", "dur": 9}]
    for us in (1000, 10, 20):
        events += [kernel("a", 0, us), kernel("b", 1, us / 10, "Add", "CUDAExecutionProvider")]
    events.append({"cat": "Node", "name": "a_fence_before", "dur": 5})
    assert onnx_profile.read(events, 1, 2) == [
        {"name": "a", "op": "Conv", "us": 15.0, "where": "cpu"},
        {"name": "b", "op": "Add", "us": 1.5, "where": "cuda"},
    ]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "lists no node"),
        ([kernel("a", 0, 1)] * 2, "the node a ran 2 times in 3 inferences"),
        ([{"cat": "Node", "name": "a_kernel_time", "dur": 1}], "KeyError"),
        ([{"cat": "Node", "name": "a_kernel_time", "dur": 1, "args": []}], "TypeError"),
        ([{**kernel("a", 0, 1), "dur": "x"}], "could not convert"),
        ([{**kernel("a", 0, 1), "name": None}], "AttributeError"),
    ],
)
def test_a_damaged_trace_is_no_profile(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]], reason: str
) -> None:
    monkeypatch.setattr(onnx_profile, "_trace", lambda *_: (events, [], None))
    monkeypatch.setattr(onnx_profile, "WARM_UP", 0)
    with pytest.raises(CannotRun, match=r"able trace of tiny_fp32\.onnx: .*" + reason):
        profile("onnxruntime", fixtures / "tiny_fp32.onnx", np.zeros((1, 8, 8, 1), np.float32))


def test_nodes_without_names_of_their_own_cannot_be_told(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_profile, "_trace", lambda *_: ([kernel("a", 0, 1), kernel("", 1, 1)], [], None))
    monkeypatch.setattr(onnx_profile, "WARM_UP", 0)
    raw = profile("onnxruntime", fixtures / "tiny_fp32.onnx", np.zeros((1, 8, 8, 1), np.float32), runs=1)
    assert raw["graph_reason"] == "not every node of tiny_fp32.onnx has a name of its own"
    assert [op["nodes"] for op in raw["ops"]] == [[], []]


def test_a_loop_is_refused_because_its_nodes_would_count_twice(tmp_path: Path) -> None:
    import onnx

    helper, kind = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["doubled"], name="inside"),
            helper.make_node("Identity", ["go"], ["go_on"], name="go_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []),
            helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("x", kind.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", kind.BOOL, []),
            helper.make_tensor_value_info("doubled", kind.FLOAT, [1, 4]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "image"], ["y"], name="loop", body=body)],
        "main",
        [
            helper.make_tensor_value_info("times", kind.INT64, []),
            helper.make_tensor_value_info("image", kind.FLOAT, [1, 4]),
        ],
        [helper.make_tensor_value_info("y", kind.FLOAT, [1, 4])],
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(CannotRun, match=r"usable trace of loop\.onnx: it has Loop"):
        profile("onnxruntime", path, np.array(3, np.int64), np.ones((1, 4), np.float32))


def test_openvino_tells_what_it_made_its_ops_of(fixtures: Path) -> None:
    raw = profile("openvino", fixtures / "tiny_fp32.onnx", np.zeros((1, 8, 8, 1), np.float32), runs=5)
    assert raw["ops"]
    assert {op["where"] for op in raw["ops"]} == {"cpu"}
    assert (raw["delegate"], raw["graph_reason"]) == (None, None)
    assert raw["resolution_us"] == pytest.approx(15 / 5)
    kinds = [{raw["graph"][node]["op"] for node in op["nodes"]} for op in raw["ops"]]
    convolutions = [of for op, of in zip(raw["ops"], kinds, strict=True) if op["op"].startswith("Convolution (")]
    assert convolutions
    assert all({"Convolution", "Relu"} <= of for of in convolutions)  # the activation was merged into it
    assert not {"Parameter", "Constant", "Result"} & {node["op"] for node in raw["graph"]}


def test_openvinos_own_ops_stand_where_their_neighbours_do() -> None:
    made = {
        "input": Made(("input",), ()),
        "weights": Made(("weights",), (), constant=True),
        "conv": Made(("conv", "relu"), ("input", "weights")),
        "conv_to_planes": Made((), ("conv",)),
        "planes_to_bytes": Made((), ("conv_to_planes",)),
        "pool": Made(("pool",), ("planes_to_bytes",)),
        "scaled": Made(("pool/DequantizationMultiply",), ("pool",)),
        "sum": Made(("pool/DequantizationSubtract", "sum"), ("scaled", "conv")),
    }
    read = ["conv", "relu", "pool", "sum"]
    ran = ["conv", "conv_to_planes", "planes_to_bytes", "pool", "scaled", "sum", "elsewhere"]
    assert openvino_profile.origins(ran, made, read) == [[0, 1], [0, 1, 2], [0, 1, 2], [2], [2], [3], []]


def test_openvinos_means_are_those_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _Request(slow_us=100.0, us=10.0)
    monkeypatch.setattr(openvino_profile, "WARM_UP", 2)
    ops = openvino_profile._timed(request, [], 8)
    assert ops == [("conv", "Convolution (jit)", pytest.approx(10.0)), ("small", "Add (ref)", 0.0)]
    assert request.inferences == 10


class _Request:
    """Tells means since the beginning, as OpenVINO does: ``slow_us`` for the first two inferences, then ``us``."""

    def __init__(self, slow_us: float, us: float) -> None:
        self._slow_us, self._us, self.inferences = slow_us, us, 0

    def infer(self, arrays: Sequence[np.ndarray]) -> None:
        self.inferences += 1

    def get_profiling_info(self) -> list[Any]:
        slow = min(self.inferences, 2)
        mean = (slow * self._slow_us + (self.inferences - slow) * self._us) / self.inferences
        first = self.inferences == 1
        return [
            _Info("conv", "Convolution", "jit", mean, True),
            _Info("small", "Add", "ref", 1.0 if first else 0.0, first),
            _Info("merged", "Relu", "undef", 0.0, False),
        ]


class _Info:
    def __init__(self, name: str, kind: str, kernel: str, us: float, ran: bool) -> None:
        self.node_name, self.node_type, self.exec_type = name, kind, kernel
        self.real_time = datetime.timedelta(microseconds=us)
        self.status = SimpleNamespace(name="EXECUTED" if ran else "NOT_RUN")


def _attention_file() -> Any:
    path = Path(__file__).parents[1] / "export" / "attention_file.py"
    spec = importlib.util.spec_from_file_location("attention_file_of_profiles", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module
