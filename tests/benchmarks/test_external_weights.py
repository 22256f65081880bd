"""Weights of an .onnx file that lie outside of its folder are neither read nor sent to a device."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecbam import runtimes
from edgecbam.benchmarks import cells
from edgecbam.errors import InputError
from edgecbam.export import inspection


def elsewhere(location: str) -> TensorProto:
    """Four numbers that lie in a file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    return weight


def model(location: str) -> bytes:
    """x + w, with w in a file."""
    weight = elsewhere(location)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    inside = tmp_path / "models"
    inside.mkdir()
    os.symlink("../secret.bin", inside / "link.bin")
    (inside / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    return inside


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin", "absolute", "sub/../../secret.bin"])
def test_weights_outside_of_the_folder_are_refused(folder: Path, location: str) -> None:
    path = folder / "m.onnx"
    path.write_bytes(model(str(folder.parent / "secret.bin") if location == "absolute" else location))
    with pytest.raises(InputError, match="outside of its folder, where nothing is read"):
        cells.model_files(path)
    with pytest.raises(runtimes.CannotRun, match="ONNX Runtime cannot run"):
        runtimes.find("onnxruntime").open(path, 1)
    assert inspection.inspect(path)["unopened"].startswith("ONNX Runtime cannot run")


def test_weights_beside_the_model_are_read(folder: Path) -> None:
    path = folder / "m.onnx"
    path.write_bytes(model("weights.bin"))
    assert cells.model_files(path) == [path, folder / "weights.bin"]
    session = runtimes.find("onnxruntime").open(path, 1)
    np.testing.assert_array_equal(session.run([np.zeros(4, np.float32)])[0], np.ones(4))
    session.close()


def hidden(place: str) -> bytes:
    """Weights of ../secret.bin named where a hasty reader does not look."""
    weight = elsewhere("../secret.bin")
    made = onnx.load_model_from_string(model("weights.bin"))
    if place == "key twice":  # protocol buffers take the last of several
        entry = weight.external_data[0].SerializeToString()
        del weight.external_data[0]
        # the field external_data, of which the key stands twice, in the bytes of the message
        body = b"\x0a\x01x" + entry
        del made.graph.initializer[:]
        whole = made.SerializeToString()
        tensor = weight.SerializeToString() + b"\x6a" + bytes([len(body)]) + body
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        return whole + b"\x3a" + bytes([len(graph)]) + graph
    if place == "constant":
        made.graph.node.append(helper.make_node("Constant", [], ["c"], value=weight))
    elif place == "branch":
        inside = helper.make_graph([], "inside", [], [], [weight])
        made.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inside, else_branch=inside))
    elif place == "sparse":
        sparse = onnx.SparseTensorProto(dims=[4])
        sparse.values.CopyFrom(weight)
        made.graph.sparse_initializer.append(sparse)
    elif place == "function":
        node = helper.make_node("Constant", [], ["c"], value=weight)
        made.functions.append(helper.make_function("odd", "f", [], ["c"], [node], [helper.make_opsetid("", 17)]))
    else:
        made.training_info.add().algorithm.initializer.append(weight)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("place", ["key twice", "constant", "branch", "sparse", "function", "training"])
def test_hidden_weights_outside_of_the_folder_are_refused(folder: Path, place: str) -> None:
    path = folder / "m.onnx"
    path.write_bytes(hidden(place))
    onnx.load(path, load_external_data=False)  # a whole file
    with pytest.raises(InputError, match="outside of its folder, where nothing is read"):
        cells.model_files(path)
