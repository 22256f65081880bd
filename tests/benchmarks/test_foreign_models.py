"""Model files that edgecbam did not make: several inputs of every dtype, free dimensions, ops that are missing."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecbam.benchmarks import measure, protocol
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import InputError


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tiny_protocol: Protocol) -> None:
    monkeypatch.setitem(protocol.PROTOCOLS, "quick", dataclasses.replace(tiny_protocol, processes=1))


def run(models: list[Path], *runtimes: str, **options: Any) -> list[dict[str, Any]]:
    report = measure.benchmark_models(models, measure.Request(runtimes, protocol="quick", **options))
    return list(report["results"])


SHAPES = (("input_1", (1, 4)),)


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)], ir_version=9
        ),
        path,
    )
    return path


@pytest.fixture
def many_inputs(tmp_path: Path) -> Path:
    """x + embedding of ids + float(pixels), and half-precision numbers; free dimensions in x alone."""
    table = numpy_helper.from_array(np.random.default_rng(1).normal(size=(2, 4)).astype("float32"), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0, 1], keepdims=0),
        helper.make_node("Add", ["embedded", "real"], ["sum"]),
        helper.make_node("Add", ["sum", "mean"], ["y"]),
        helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["wide"], ["z"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 4]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, [3]),
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, [3, 4]),
        helper.make_tensor_value_info("half", TensorProto.FLOAT16, [2]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]),
    ]
    return save(tmp_path / "many inputs.onnx", nodes, inputs, outputs, [table])


def test_several_inputs_of_every_dtype_are_measured_and_checked(many_inputs: Path) -> None:
    rows = run([many_inputs], "onnxruntime", "openvino", shapes=(("x", (2, 5, 4)),))
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", ""), row["runtime"]
        assert row["parity"]["checked"]
        assert row["parity"]["relative_error"] < 1e-3
        assert row["latency_ms"]["n"] == 6


def test_free_dimensions_are_asked_for(many_inputs: Path) -> None:
    match = r"many inputs\.onnx: free dimensions in x \[\?, \?, 4\]: say what to measure with --shape x=N,N,4"
    with pytest.raises(InputError, match=match):
        run([many_inputs], "onnxruntime")
    with pytest.raises(InputError, match=r"the shape \[2, 5\] does not fit the input x \[-1, -1, 4\]"):
        run([many_inputs], "onnxruntime", shapes=(("x", (2, 5)),))


def test_free_dimensions_of_a_file_without_reference_are_asked_for_too(
    many_inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecbam.benchmarks import references

    monkeypatch.setattr(references, "make", lambda *_: references.Made(None, "none"))
    with pytest.raises(InputError, match="free dimensions in x"):
        run([many_inputs], "onnxruntime")


def test_real_inputs_replace_random_ones(tmp_path: Path) -> None:
    """log(x - 3) is no number for inputs below 3."""
    nodes = [
        helper.make_node("Sub", ["x", "three"], ["d"]),
        helper.make_node("Log", ["d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    three = numpy_helper.from_array(np.float32(3).reshape(1), "three")
    path = save(tmp_path / "log.onnx", nodes, ends[:1], ends[1:], [three])
    (row,) = run([path], "onnxruntime")
    assert row["status"] == "wrong_output"
    assert "its outputs are no numbers (NaN); give real inputs with --inputs" in row["reason"]
    np.savez(tmp_path / "in.npz", x=np.arange(4, 12, dtype="float32").reshape(2, 4))
    (row,) = run([path], "onnxruntime", inputs=tmp_path / "in.npz")
    assert (row["status"], row["parity"]["inputs"]) == ("ok", 2)


def test_a_constant_model_is_refused(tmp_path: Path) -> None:
    """Anything agrees with a model that always says the same."""
    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    zero = numpy_helper.from_array(np.float32(0).reshape(1), "zero")
    (row,) = run([save(tmp_path / "zero.onnx", nodes, ends[:1], ends[1:], [zero])], "onnxruntime")
    assert row["status"] == "wrong_output"
    assert row["latency_ms"] is None


def test_a_missing_op_is_a_row_and_the_others_go_on(tmp_path: Path, fixtures: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    path = save(tmp_path / "odd.onnx", [helper.make_node("Whiten", ["x"], ["y"], domain="odd")], ends[:1], ends[1:])
    rows = run([path, fixtures / "tiny_fp32.onnx"], "onnxruntime", "openvino")
    assert [(row["model"], row["status"]) for row in rows] == [
        *[("odd.onnx", "unsupported")] * 2,
        *[("tiny_fp32.onnx", "ok")] * 2,
    ]
    assert all("Whiten" in row["reason"] for row in rows[:2])


@pytest.fixture(scope="module")
def lite_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two .tflite files by TensorFlow's own converter: several inputs, one free; and an op that LiteRT lacks."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("lite")

    class Several(tf.Module):  # type: ignore[misc]
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 4], tf.float32, name="x"),
                tf.TensorSpec([4], tf.int64, name="ids"),
            ]
        )
        def both(self, x: Any, ids: Any) -> Any:
            return {"sum": tf.nn.relu(x) + tf.cast(ids, tf.float32), "twice": 2 * ids}

    class Odd(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([4], tf.float32, name="x")])
        def odd(self, x: Any) -> Any:
            return tf.math.digamma(x)

    for module, name in ((Several().both, "several"), (Odd().odd, "odd")):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.get_concrete_function()])
        converter.allow_custom_ops = True
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    return folder


def test_litert_files_with_several_inputs_and_free_dimensions(lite_files: Path) -> None:
    path = lite_files / "several.tflite"
    with pytest.raises(InputError, match=r"several\.tflite: free dimensions in (\S+) .*--shape \1=N,4") as refused:
        run([path], "litert")
    name = str(refused.value).rpartition("--shape ")[2].rpartition("=")[0]
    (row,) = run([path], "litert", shapes=((name, (6, 4)),))
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["parity"]["checked"]


def test_litert_files_with_ops_that_are_missing(lite_files: Path) -> None:
    (row,) = run([lite_files / "odd.tflite"], "litert")
    assert row["status"] == "unsupported"
    assert "Digamma" in row["reason"]


def test_shapes_and_inputs_that_fit_nothing_are_refused(many_inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="--shape nonsense: no model has such an input; there are half, ids, pixels, x"
    ):
        run([many_inputs], "onnxruntime", shapes=(("x", (2, 5, 4)), ("nonsense", (1,))))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04garbage")
    with pytest.raises(InputError, match=r"cannot read the inputs .*bad\.npz"):
        run([many_inputs], "onnxruntime", inputs=tmp_path / "bad.npz")


def test_scalars_empty_and_data_dependent_outputs(tmp_path: Path) -> None:
    scalar = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "xy"]
    (row,) = run(
        [save(tmp_path / "s.onnx", [helper.make_node("Exp", ["x"], ["y"])], scalar[:1], scalar[1:])], "openvino"
    )
    assert (row["status"], row["reason"]) == ("ok", "")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"])
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    (row,) = run([save(tmp_path / "n.onnx", nodes, [x], [y])], "onnxruntime")
    assert row["status"] == "ok", row["reason"]


def test_a_keras_file_brings_in_the_runtime_that_reads_it(tmp_path: Path) -> None:
    import tf_keras as keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(tmp_path / "m.keras")
    report = measure.benchmark_models([tmp_path / "m.keras"], measure.Request(protocol="quick", shapes=SHAPES))
    (row,) = report["results"]
    assert (row["runtime"], row["status"], row["reason"]) == ("keras", "ok", "")
    assert row["parity"]["checked"]


def test_weights_beside_a_file_are_part_of_it(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy")
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=1)

    def entry() -> dict[str, Any]:
        report = measure.benchmark_models([path], measure.Request(("onnxruntime",), protocol="quick"))
        assert report["results"][0]["status"] == "ok"
        return dict(report["models"][0])

    before = entry()
    assert before["bytes"] == path.stat().st_size + weights.nbytes
    (tmp_path / "m.data").write_bytes((weights / 2).tobytes())
    assert entry()["sha256"] != before["sha256"]
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match=r"keeps weights in m\.data, which is not beside it"):
        entry()
