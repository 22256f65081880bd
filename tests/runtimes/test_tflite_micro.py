"""tflite-micro computes what the file says, tells its arena, and names what it lacks."""

import os
import platform
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecbam.errors import InputError
from edgecbam.runtimes import CannotRun, find, tflite_micro, to_input

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="tflite-micro has packages for Linux on x86-64"
)

CUMSUM = (128).to_bytes(4, "little")  # BuiltinOperator


@pytest.fixture(scope="module")
def split(fixtures: Path) -> bytes:
    content = (fixtures / "tiny_split.tflite").read_bytes()
    assert content.count(CUMSUM) == 1
    return content


def test_float_files_compute_what_numpy_computes(fixtures: Path, images: np.ndarray, expected: np.ndarray) -> None:
    session = find("tflite_micro").open(fixtures / "tiny_fp32.tflite")
    got = np.concatenate([session.run([image[None]])[0] for image in images])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_int8_files_compute_what_litert_computes_but_for_rounding(fixtures: Path, images: np.ndarray) -> None:
    micro = find("tflite_micro").open(fixtures / "tiny_int8.tflite")
    open_reference = find("litert").reference
    assert open_reference
    reference = open_reference(fixtures / "tiny_int8.tflite")
    assert micro.inputs == reference.inputs
    assert micro.outputs == reference.outputs
    arrays = [to_input(image[None], micro.inputs[0]) for image in images]
    ours = np.concatenate([micro.run([array])[0] for array in arrays]).astype(int)
    theirs = np.concatenate([reference.run([array])[0] for array in arrays]).astype(int)
    assert np.ptp(theirs, axis=0).min() > 20
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(np.all(ours == theirs, axis=1)) > 0.9


def test_prepare_and_outputs_now_share_no_memory(fixtures: Path, images: np.ndarray) -> None:
    session = find("tflite_micro").open(fixtures / "tiny_fp32.tflite")
    array = images[:1].copy()
    session.prepare([array])
    array[:] = 0
    session.invoke()
    first = session.outputs_now()[0]
    kept = first.copy()
    session.prepare([images[1:2]])
    session.invoke()
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, session.run([images[:1]])[0])
    assert not np.array_equal(first, session.run([images[1:2]])[0])


def test_the_arena_has_a_head_and_a_tail_and_grows_with_the_activations(fixtures: Path) -> None:
    by_file = {}
    for name in ("tiny_int8.tflite", "tiny_fp32.tflite"):
        placement = find("tflite_micro").open(fixtures / name).placement()
        assert (placement["device"], placement["threads"]) == ("cpu", 1)
        assert placement["arena_bytes"] == placement["arena_head_bytes"] + placement["arena_tail_bytes"]
        by_file[name] = placement["arena_head_bytes"]
    # the image and the convolution's 8x8x4 map
    assert by_file["tiny_int8.tflite"] >= 8 * 8 * (1 + 4)
    assert by_file["tiny_fp32.tflite"] == 4 * by_file["tiny_int8.tflite"]


def test_its_time_is_called_no_speed() -> None:
    assert "microcontrollers" in find("tflite_micro").functional
    assert find("tflite_micro").devices == ("cpu",)


@pytest.mark.parametrize(
    ("number", "words"), [(131, "it has no op RFFT2D"), (250, "it knows no op of the number 250")], ids=str
)
def test_a_missing_op_is_named(split: bytes, number: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "strange.tflite"
    path.write_bytes(split.replace(CUMSUM, number.to_bytes(4, "little")))
    with pytest.raises(CannotRun, match=rf"strange\.tflite: {words}$"):
        find("tflite_micro").open(path)


def test_an_op_that_refuses_its_inputs_is_named(split: bytes, tmp_path: Path) -> None:
    path = tmp_path / "strange.tflite"
    path.write_bytes(split.replace(CUMSUM, (140).to_bytes(4, "little")))
    with pytest.raises(CannotRun, match="REDUCE_ALL") as raised:
        find("tflite_micro").open(path)
    assert "\n" not in str(raised.value)


def test_an_arena_that_is_too_small_is_replaced_by_a_larger_one_and_then_refused(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_micro, "ARENAS_BYTES", (1000, 1 << 20))
    assert find("tflite_micro").open(fixtures / "tiny_int8.tflite").placement()["arena_bytes"] > 1000
    monkeypatch.setattr(tflite_micro, "ARENAS_BYTES", (900, 1000))
    with pytest.raises(CannotRun, match="an arena of more than 1000 bytes"):
        find("tflite_micro").open(fixtures / "tiny_int8.tflite")


def damaged(content: bytes) -> dict[str, bytes]:
    noise = random.Random(1).randbytes(2000)
    return {
        "empty": b"",
        "half": content[: len(content) // 2],
        "cut": content[:-20],
        "text": b"this is a text file, not a model",
        "noise": noise,
        "noise with the right mark": noise[:4] + b"TFL3" + noise[8:],
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_damaged_files_are_named_on_one_line(damage: str, fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(damaged((fixtures / "tiny_int8.tflite").read_bytes())[damage])
    with pytest.raises(InputError, match="mine") as raised:
        find("tflite_micro").open(path)
    assert "\n" not in str(raised.value)


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
def test_arrays_that_do_not_fit_are_refused(arrays: list[np.ndarray], fixtures: Path) -> None:
    with pytest.raises(InputError, match="takes"):
        find("tflite_micro").open(fixtures / "tiny_fp32.tflite").run(arrays)


def test_more_threads_devices_and_shapes_than_it_has_are_refused(fixtures: Path) -> None:
    path = fixtures / "tiny_fp32.tflite"
    opener = find("tflite_micro").open
    with pytest.raises(CannotRun, match="one thread, not 2"):
        opener(path, threads=2)
    with pytest.raises(CannotRun, match="runs on cpu, not on gpu"):
        opener(path, device="gpu")
    name = opener(path).inputs[0].name
    assert opener(path, shapes={name: (1, 8, 8, 1), "of another model": (3,)}).inputs[0].shape == (1, 8, 8, 1)
    with pytest.raises(InputError, match="does not fit the input"):
        opener(path, shapes={name: (2, 8, 8, 1)})


def test_a_free_dimension_stays_as_the_file_has_it() -> None:
    free = [tflite_micro.TensorInfo("x", (-1, 4), "float32")]
    fixed = [tflite_micro.TensorInfo("x", (1, 4), "float32")]
    tflite_micro._check_shapes(Path("m.tflite"), free, fixed, {"x": (1, 4)})
    with pytest.raises(CannotRun, match=r"cannot change the shape \[1, 4\] of the input x to \[2, 4\]"):
        tflite_micro._check_shapes(Path("m.tflite"), free, fixed, {"x": (2, 4)})


def test_an_inference_that_fails_says_why() -> None:
    class Failing:
        def print_allocations(self) -> None:
            pass

        def invoke(self) -> None:
            os.write(2, b"Node FOO failed to invoke with status 1\n")
            raise RuntimeError("TFLM failed to invoke")

    session = tflite_micro._MicroSession(Failing(), (), ())
    assert session.placement()["arena_bytes"] is None
    with pytest.raises(CannotRun, match="Node FOO failed to invoke with status 1"):
        session.invoke()
