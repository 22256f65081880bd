"""The runtime keras computes what the network says, on the threads asked for, and refuses files that want more."""

import io
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam.errors import InputError
from edgecbam.runtimes import CannotRun, find, keras_file

HERE = Path(__file__).parent


def python(script: str, *arguments: str) -> str:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> dict[str, Any]:
    """What keras_session.py finds in the files of keras_models.py."""
    folder = tmp_path_factory.mktemp("keras")
    python("keras_models.py", str(folder))
    np.save(folder / "images.npy", images)
    told: dict[str, Any] = json.loads(
        python("keras_session.py", str(folder), str(folder / "images.npy")).splitlines()[-1]
    )
    return told


def test_it_computes_what_numpy_computes_as_a_graph_and_op_by_op(found: dict[str, Any], expected: np.ndarray) -> None:
    assert found["tensors"] == [["image", [-1, 8, 8, 1], "float32", None], ["logits", [-1, 3], "float32", None]]
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(found["reference"], expected, atol=1e-4)


def test_a_batch_gets_a_graph_of_its_own(found: dict[str, Any], expected: np.ndarray) -> None:
    np.testing.assert_allclose(found["batch"], expected[:3], atol=1e-4)
    assert found["graphs"] == 2


def test_placement_says_threads_precision_and_where_the_outputs_lie(found: dict[str, Any]) -> None:
    placement = found["placement"]
    assert placement.pop("tensorflow").startswith("2.")
    assert placement == {
        "device": "cpu",
        "placed_on": ["cpu"],
        "threads": 2,
        "inter_op_threads": 1,
        "precision": "f32",
        "file_precision": "float32",
        "kernels": "a TensorFlow graph",
    }
    assert "without a graph" in found["reference_placement"]["kernels"]
    assert found["half"]["precision"] == "f16"
    assert found["half"]["file_precision"] == "float32"


def test_prepare_and_outputs_now_share_no_memory(found: dict[str, Any]) -> None:
    assert found["shares_no_memory"]


def test_arrays_that_do_not_fit_are_refused(found: dict[str, Any]) -> None:
    assert [kind for kind, _ in found["wrong_arrays"]] == ["InputError"] * 4
    assert all("takes" in message for _, message in found["wrong_arrays"])


def test_several_inputs_and_outputs_keep_their_names_types_and_order(found: dict[str, Any]) -> None:
    names = [name for name, _, _ in found["several_tensors"]]
    assert found["several_tensors"][:2] == [["a", [1, 3], "float32"], ["b", [1, 3], "int32"]]
    by_name = dict(zip(names[2:], found["several"], strict=True))
    assert by_name == {"total": [[9.0, 12.0, 15.0]], "same": [[4, 5, 6]]}
    assert [dtype for _, _, dtype in found["several_tensors"][2:]] == [
        {"total": "float32", "same": "int32"}[name] for name in names[2:]
    ]


def test_the_layers_of_edgecbam_are_loaded_for_the_files_that_name_them_alone(found: dict[str, Any]) -> None:
    assert not found["loaded_ours"]
    assert found["ours"]
    assert found["loaded_ours_now"]


def test_free_dimensions_take_the_shapes_that_are_given(found: dict[str, Any]) -> None:
    signature, output, ones, misfit, too_small = found["free"]
    assert signature == [-1, -1, -1, 1]
    assert output == [1, 3, 2, 2]
    assert ones == [[[[9.0, 9.0]]]]
    assert misfit[0] == "InputError"
    assert "does not fit the input image" in misfit[1]
    assert too_small[0] == "CannotRun"
    assert "\n" not in too_small[1]


def test_threads_and_gpus_that_are_not_to_be_had_are_refused(found: dict[str, Any]) -> None:
    kind, message = found["gpu"]
    assert kind == "CannotRun"
    assert "TensorFlow finds no GPU here" in message
    kind, message = found["other_threads"]
    assert kind == "EnvironmentFailure"
    assert "fresh process" in message


def test_weights_that_are_none_are_called_damaged(found: dict[str, Any]) -> None:
    kind, message = found["weights"]
    assert kind == "InputError"
    assert "weights.keras is damaged" in message
    assert "\n" not in message


def packed(config: Any, version: str = "2.21.0") -> bytes:
    """A .keras file without Keras."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", b"weights")
    return stream.getvalue()


def layers(*named: tuple[str | None, str]) -> dict[str, Any]:
    entries = [{"module": module, "class_name": name, "config": {}} for module, name in named]
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": entries}}


SOUND = packed(layers(("keras.layers", "Dense")))


def without(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SOUND)) as source, zipfile.ZipFile(stream, "w") as target:
        for entry in source.namelist():
            if entry != name:
                target.writestr(entry, source.read(entry))
    return stream.getvalue()


DAMAGED = {
    "empty": b"",
    "half": SOUND[: len(SOUND) // 2],
    "cut": SOUND[:-20],
    "text": b"this is a text file, not a model",
    "noise": random.Random(1).randbytes(2000),
    "a wrong checksum": SOUND.replace(b"weights", b"weighty", 1),
    "no metadata": without("metadata.json"),
    "no config": without("config.json"),
    "no weights": without("model.weights.h5"),
    "no JSON": SOUND.replace(b'"Dense"', b'"Dense,'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_named_on_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(InputError, match="mine") as raised:
        find("keras").open(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(layers(("keras.layers", "Lambda"))), "has a Lambda layer"),
        (packed(layers(("keras.layers", "Dense"), (None, "__lambda__"))), "has a Lambda layer"),
        (
            packed(layers(("os", "system"), ("mypackage.layers", "Swish"))),
            "needs mypackage.layers.Swish, os.system: of a file",
        ),
        (packed(layers(("kerasish", "Dense"))), "needs kerasish.Dense"),
        (packed(layers(("keras.layers", "Dense")), "3.15.1"), "was written by Keras 3.15.1"),
    ],
    ids=["lambda", "function", "foreign", "nearly keras", "keras 3"],
)
def test_what_a_file_may_not_ask_for_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(content)
    with pytest.raises(CannotRun, match=words):
        find("keras").open(path)


def test_a_file_tells_whose_layers_it_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(packed(layers(("keras.layers", "Dense"), ("tf_keras.src.engine.functional", "Functional"))))
    assert keras_file.read(path) == keras_file.KerasContent("2.21.0", (), ours=False, code=False)
    path.write_bytes(packed(layers(("edgecbam.attention", "ChannelMean"))))
    assert keras_file.read(path).ours
