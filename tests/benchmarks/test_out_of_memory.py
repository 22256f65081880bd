"""A network that memory is too short for ends in one line and exit code 3; all else is measured and kept."""

import functools
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from edgecbam import cli
from edgecbam.benchmarks import child, devices, protocol

SHAPE = (2**17, 2**16)  # 32 GiB of float32
LIMIT = 8 * 2**30  # of addresses; TensorFlow and its threads take some of them unused


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of a few hundred bytes with a tensor of 32 GiB inside."""
    folder = tmp_path_factory.mktemp("large")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
        helper.make_node("Expand", ["sum", "shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["x", "most"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array(SHAPE, np.int64), "shape")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [shape])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), folder / "large.onnx"
    )

    @tf.function(input_signature=[tf.TensorSpec([1, 4])])  # type: ignore[untyped-decorator]
    def network(x: Any) -> Any:
        return x * tf.reduce_max(tf.exp(tf.broadcast_to(tf.reduce_sum(x), SHAPE)))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    (folder / "large.tflite").write_bytes(converter.convert())
    return folder


def test_too_large_a_network_is_one_line_and_the_others_are_measured(
    large: Path, fixtures: Path, tmp_path: Path
) -> None:
    models = [large / "large.onnx", large / "large.tflite", fixtures / "tiny_fp32.onnx", fixtures / "tiny_fp32.tflite"]
    command = [sys.executable, "-m", "edgecbam", "benchmark", *models, "--quick", "--out", tmp_path / "out"]
    done = subprocess.run(
        [*map(str, command), "--runtime", "onnxruntime,openvino,litert"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )
    assert done.returncode == 3, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "edgecbam: error: out of memory while measuring large.onnx on onnxruntime, large.onnx on ope"
    )
    assert line.endswith("else is in the report: close other programs, or take a machine with more memory")
    assert "Traceback" not in done.stderr
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    told = {(row["model"], row["runtime"]): row for row in rows}
    for place in (("large.onnx", "onnxruntime"), ("large.onnx", "openvino"), ("large.tflite", "litert")):
        assert told[place]["status"] == "crash"
        assert told[place]["reason"].startswith("out of memory")
        assert told[place]["latency_ms"] is None
    assert told["tiny_fp32.onnx", "onnxruntime"]["status"] == "ok"
    assert told["tiny_fp32.tflite", "litert"]["status"] == "ok"


def _digests(run: Path, *stages: str) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in stages
        for path in (run / stage).rglob("*")
        if path.is_file()
    }


def test_a_measurement_that_the_kernel_ends_leaves_the_run_whole(
    small_run: Path,
    tiny_protocol: protocol.Protocol,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the kernel does when memory runs out: SIGKILL, and one more in /proc/vmstat."""
    monkeypatch.setitem(protocol.PROTOCOLS, "quick", tiny_protocol)
    kills = 0

    class Ended(child.Child):
        def __init__(self, task: dict[str, Any]) -> None:
            super().__init__(task)
            if Path(task["model"]).name == "model_fp32.onnx":
                nonlocal kills
                os.kill(self.pid, signal.SIGKILL)
                kills += 1

    monkeypatch.setattr(devices, "Child", Ended)
    monkeypatch.setattr(child, "_killed_for_memory", lambda: kills)
    before = _digests(small_run, "train", "quantize", "export", "verify")
    code = cli.main(["benchmark", str(small_run), "--quick", "--runtime", "onnxruntime"])
    told = capsys.readouterr()
    assert code == 3
    assert kills
    assert "edgecbam: error: out of memory while measuring model_fp32.onnx on onnxruntime; all else" in told.err
    rows = json.loads((small_run / "benchmark" / "report.json").read_text())["results"]
    assert [row["status"] for row in rows] == ["crash", "ok"]
    assert _digests(small_run, "train", "quantize", "export", "verify") == before


def test_a_killed_worker_alone_is_no_want_of_memory(planted: Any, tmp_path: Path) -> None:
    path = tmp_path / "fine_1000.tflite"
    path.write_bytes(b"")
    task = {"model": str(path), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with planted(None, task) as worker:
        worker.hear(20)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(child.ChildFailed, match=r"^died starting \(SIGKILL\)$"):
            worker.hear(20)
