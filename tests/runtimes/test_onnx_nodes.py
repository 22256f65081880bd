"""What ONNX Runtime runs on integers and what it leaves in float: every op that the lists name is run."""

import platform
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam.runtimes import CannotRun, find, onnx_nodes, onnx_runtime
from edgecbam.runtimes.onnx_nodes import Node
from tests.runtimes import qdq_file

X86 = platform.machine().lower() in ("x86_64", "amd64")


def counted(path: Path) -> dict[str, Any]:
    runtime = find("onnxruntime")
    session = runtime.open(path)
    arrays = [np.zeros([max(size, 1) for size in info.shape], info.dtype) for info in session.inputs]
    assert runtime.nodes is not None
    return runtime.nodes(path, 1, arrays)


def reasons(nodes: dict[str, Any]) -> dict[str, str]:
    """Reason of each float node by its name."""
    return {name: entry["reason"] for entry in nodes["in_float"] for name in entry["names"]}


@pytest.mark.parametrize("name", sorted(onnx_nodes.FUSED))
def test_ops_that_fuse_run_on_integers_alone(name: str, tmp_path: Path) -> None:
    nodes = counted(qdq_file.write(tmp_path / "m.onnx", name, qdq_file.FUSED[name]))
    assert nodes["integer"] == nodes["total"] >= 1
    assert (nodes["float"], nodes["other"], nodes["in_float"]) == (0, 0, [])


@pytest.mark.parametrize("name", sorted(onnx_nodes.NOT_FUSED))
def test_ops_that_do_not_fuse_stay_float_and_run_on_integers_given_to_them(name: str, tmp_path: Path) -> None:
    op = qdq_file.NOT_FUSED[name]
    stays = reasons(counted(qdq_file.write(tmp_path / "m.onnx", name, op)))
    assert stays.pop("the_op") == onnx_nodes.NEVER_FUSES
    assert set(stays.values()) == {onnx_nodes.INPUT, onnx_nodes.OUTPUT}
    bare = counted(qdq_file.write(tmp_path / "bare.onnx", name, op, ends="bare"))
    assert (bare["integer"], bare["float"]) == (1, 0)


@pytest.mark.parametrize("name", sorted(qdq_file.FLOAT))
def test_ops_without_an_integer_kernel_say_so(name: str, tmp_path: Path) -> None:
    path = qdq_file.write(tmp_path / "m.onnx", name, qdq_file.FLOAT[name])
    assert reasons(counted(path))["the_op"] == onnx_nodes.NO_KERNEL
    with pytest.raises(Exception, match=r"uint8|NOT_IMPLEMENTED"):
        counted(qdq_file.write(tmp_path / "bare.onnx", name, qdq_file.FLOAT[name], ends="bare"))


def test_every_node_in_float_is_counted_with_its_name_and_reason(tmp_path: Path) -> None:
    path = qdq_file.write(tmp_path / "m.onnx", "SpaceToDepth", qdq_file.NOT_FUSED["SpaceToDepth"], ends="float")
    assert counted(path) == {
        "total": 5,
        "integer": 0,
        "float": 5,
        "other": 0,
        "in_float": [
            {"op": "QuantizeLinear", "count": 1, "reason": onnx_nodes.INPUT, "names": ["start0"]},
            {"op": "DequantizeLinear", "count": 1, "reason": onnx_nodes.INSIDE, "names": ["real0"]},
            {"op": "SpaceToDepth", "count": 1, "reason": onnx_nodes.NEVER_FUSES, "names": ["the_op"]},
            {"op": "QuantizeLinear", "count": 1, "reason": onnx_nodes.INSIDE, "names": ["out0"]},
            {"op": "DequantizeLinear", "count": 1, "reason": onnx_nodes.OUTPUT, "names": ["end0"]},
        ],
    }


def test_an_op_that_could_have_fused_is_told_apart_from_one_without_a_kernel(tmp_path: Path) -> None:
    """Resize fuses when it takes the nearest pixel and not when it interpolates."""
    resize = qdq_file.Op({"mode": "linear"}, constants=qdq_file.FUSED["Resize"].constants)
    assert reasons(counted(qdq_file.write(tmp_path / "m.onnx", "Resize", resize)))["the_op"] == onnx_nodes.DID_NOT_FUSE


def test_a_convolution_of_int8_activations_fuses_on_arm_alone(tmp_path: Path) -> None:
    nodes = counted(qdq_file.write(tmp_path / "m.onnx", "Conv", qdq_file.FUSED["Conv"], activations="int8"))
    stays = {
        "real0": onnx_nodes.INPUT,
        "kernel0": onnx_nodes.CONSTANT,
        "the_op": onnx_nodes.DID_NOT_FUSE,
        "out0": onnx_nodes.OUTPUT,
    }
    assert reasons(nodes) == (stays if X86 else {})


def test_weights_that_are_dequantized_at_every_inference_are_told_apart(tmp_path: Path) -> None:
    op = qdq_file.Op(weights=[(8,), (8,)], shape=(1, 8, 4, 4))  # InstanceNormalization has no integer kernel
    stays = reasons(counted(qdq_file.write(tmp_path / "m.onnx", "InstanceNormalization", op)))
    assert stays == {
        "real0": onnx_nodes.INPUT,
        "kernel0": onnx_nodes.CONSTANT,
        "kernel1": onnx_nodes.CONSTANT,
        "the_op": onnx_nodes.NO_KERNEL,
        "out0": onnx_nodes.OUTPUT,
    }


def test_a_float_model_is_one_line_and_a_free_dimension_no_hindrance(fixtures: Path, tmp_path: Path) -> None:
    nodes = counted(fixtures / "tiny_fp32.onnx")
    assert nodes["integer"] == 0
    assert nodes["in_float"] == [{"op": "every node", "count": nodes["total"], "reason": "a float model", "names": []}]
    free = qdq_file.Op(shape=("batch", 8), weights=[(8, 8)])
    assert counted(qdq_file.write(tmp_path / "m.onnx", "MatMul", free))["in_float"] == []


def test_the_float_ends_of_a_quantized_file_are_conversions(fixtures: Path) -> None:
    stays = reasons(counted(fixtures / "tiny_int8.onnx"))
    assert (stays["quantize_input"], stays["dequantize_output"]) == (onnx_nodes.INPUT, onnx_nodes.OUTPUT)
    entries = counted(fixtures / "tiny_int8.onnx")["in_float"]
    assert sum(entry["count"] for entry in entries) == len(stays) == counted(fixtures / "tiny_int8.onnx")["float"]


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "kind"),
    [
        ("QLinearConv", ["uint8", "float", "uint8", "int8", "float", "int8", "float", "uint8"], ["uint8"], "integer"),
        ("QLinearConcat", ["float", "uint8", "uint8", "float", "uint8"], ["uint8"], "integer"),
        ("Resize", ["int8", "float"], ["int8"], "integer"),
        ("MatMulInteger", ["uint8", "int8"], ["int32"], "integer"),
        ("ArgMax", ["uint8"], ["int64"], "integer"),
        ("ArgMax", ["float"], ["int64"], "float"),
        ("Greater", ["float", "float"], ["bool"], "float"),
        ("MatMulIntegerToFloat", ["uint8", "int8", "float"], ["float"], "float"),
        ("DynamicQuantizeLinear", ["float"], ["uint8", "float", "uint8"], "float"),
        ("Cast", ["int32"], ["float"], "float"),
        ("Cast", ["int32"], ["int64"], "other"),
        ("Shape", ["int64"], ["int64"], "other"),
        ("Relu", ["bfloat16"], ["bfloat16"], "float"),
        ("Relu", ["double"], ["double"], "float"),
    ],
)
def test_data_decide_and_not_scales(op: str, inputs: list[str], outputs: list[str], kind: str) -> None:
    node = Node("n", op, tuple((t, (2,)) for t in inputs), tuple((t, (2,)) for t in outputs), False)
    assert node.kind == kind


def test_the_trace_leaves_nothing_behind_and_its_failure_is_one_line(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    counted(fixtures / "tiny_int8.onnx")
    runtime = find("onnxruntime")
    assert runtime.nodes is not None
    for arrays in ([np.zeros((2, 8, 8, 1), np.float32)], []):
        with pytest.raises(CannotRun, match=r"no readable trace of tiny_fp32\.onnx") as raised:
            runtime.nodes(fixtures / "tiny_fp32.onnx", 1, arrays)
        assert "\n" not in str(raised.value)
    monkeypatch.setattr(onnx_nodes, "_KERNEL", "_no_such_event")  # a later version may name its events otherwise
    with pytest.raises(CannotRun, match="lists no node"):
        runtime.nodes(fixtures / "tiny_fp32.onnx", 1, [np.zeros((1, 8, 8, 1), np.float32)])
    assert list(tmp_path.iterdir()) == []


FLAGS = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_1 avx2 fma{}\nbugs\t\t: none\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", FLAGS.format(""), True),
        ("x86_64", FLAGS.format(" avx512f avx512bw avx512vl"), True),
        ("x86_64", FLAGS.format(" avx512f avx512_vnni"), False),
        ("x86_64", FLAGS.format(" avx_vnni"), False),
        ("AMD64", None, True),
        ("x86_64", "", True),
        ("aarch64", "Features\t: fp asimd asimddp\n", False),
        ("arm64", None, False),
    ],
)
def test_only_x86_without_vnni_saturates(machine: str, cpuinfo: str | None, expected: bool) -> None:
    assert onnx_runtime.saturates(machine, cpuinfo) is expected


@pytest.mark.parametrize(
    ("flag", "shown", "weights"),
    [("", "1", "uint8" if X86 else "int8"), (" avx512_vnni", "not needed", "int8")],
)
def test_a_cpu_that_saturates_gets_weights_that_cannot(
    flag: str, shown: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself is asked what it runs: its trace shows the type of the weights' zero point.

    It changes weights beyond ±64 alone, for two products of smaller ones fit into 16 bits.
    """
    (tmp_path / "cpuinfo").write_text(FLAGS.format(flag))
    monkeypatch.setattr(onnx_runtime, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(onnx_runtime.platform, "machine", lambda: "x86_64")
    path = qdq_file.write(tmp_path / "m.onnx", "MatMul", qdq_file.FUSED["MatMul"])
    assert find("onnxruntime").open(path).placement()["x64quantprecision"] == shown
    seen: list[Node] = []
    count = onnx_nodes.count

    def spy(events: Any, *arrays: Any) -> dict[str, Any]:
        seen.extend(onnx_nodes.executed(events))
        return count(events, *arrays)

    monkeypatch.setattr(onnx_nodes, "count", spy)
    assert counted(path)["in_float"] == []
    assert [(node.op, node.inputs[4][0]) for node in seen] == [("QLinearMatMul", weights)]


def test_reasons_are_short_enough_to_read() -> None:
    texts = [value for key, value in vars(onnx_nodes).items() if re.fullmatch("[A-Z_]+", key) and type(value) is str]
    assert len(texts) >= 10
    assert all(len(text) <= 110 for text in texts)
