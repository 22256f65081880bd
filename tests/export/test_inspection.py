"""``edgecbam inspect``: what a file says of itself, in words and as JSON, with nothing that it could steer."""

import json
import shutil
from pathlib import Path

import pytest

from edgecbam import artifacts, cli, runtimes, tables
from edgecbam.errors import InputError
from edgecbam.export import inspection, metadata

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_a_file_of_the_app_in_words(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(trained_run / "app" / "model_uint8.tflite")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if str(trained_run) not in line)
    text = "\n".join(lines)
    for wanted in (
        "input     image: uint8 [1, 28, 28, 3], scale 0.0078125, zero 128",
        "output    probabilities: uint8 [1, 10], scale 0.00390625, zero 0",
        "floats    no tensors of a floating-point type",
        "1 XNNPACK partition on this machine; outside: QUANTIZE, QUANTIZE,",
        "needs     ai-edge-litert 1.3",
        "metadata  small, version 1",
        "pixels as (pixel - 128) / 128 where the input is float",
        "10 labels: T-shirt/top, Trouser,",
    ):
        assert wanted in text, wanted


def test_a_file_of_the_export_as_json(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained_run / "export" / "model_int8.tflite"
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    entry = artifacts.load_manifest(trained_run / "export").files["model_int8.tflite"]
    assert (found["sha256"], found["bytes"], found["format"]) == (entry.sha256, entry.bytes, "tflite")
    assert (found["inputs"][0]["scale"], found["inputs"][0]["zero_point"]) == (
        entry.input.scale,
        entry.input.zero_point,
    )
    assert found["placement"]["xnnpack_partitions"] == entry.partitions
    assert found["minimum_runtime"] == entry.minimum_runtime
    assert found["metadata"] is None
    assert found["float_tensors"] == 0
    assert found["ops"]["CONV_2D"] > 5


def test_an_onnx_file(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained_run / "export" / "model_int8.onnx"
    found = inspection.inspect(path)
    assert found["minimum_runtime"] == "ONNX opset 17"
    assert json.loads(found["metadata"]["labels"])[:2] == ["T-shirt/top", "Trouser"]
    assert found["ops"]["QuantizeLinear"] > 1
    assert found["outputs"][0]["shape"] == (1, 10)
    assert cli.main(["inspect", str(path)]) == 0
    assert "needs     ONNX opset 17" in capsys.readouterr().out


def test_a_manifest_of_another_file_is_not_believed(trained_run: Path, tmp_path: Path) -> None:
    """The converter's own word stands in, and is said to be the converter's."""
    shutil.copy(trained_run / "export" / "manifest.json", tmp_path)
    shutil.copy(trained_run / "export" / "model_fp32.tflite", tmp_path / "model_int8.tflite")
    assert inspection.inspect(tmp_path / "model_int8.tflite")["minimum_runtime"].endswith("says its converter")
    (tmp_path / "manifest.json").write_text('{"files": 7}')
    assert inspection.inspect(tmp_path / "model_int8.tflite")["minimum_runtime"].endswith("says its converter")


def test_without_the_runtime_the_rest_is_told(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(runtimes.find("onnxruntime")), "installed", lambda self: False)
    found = inspection.inspect(trained_run / "export" / "model_fp32.onnx")
    assert (found["inputs"], found["unopened"]) == (None, "onnxruntime is not installed")
    assert "runs      onnxruntime is not installed" in tables.inspection_text(found)


def test_what_a_file_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    plain = (FIXTURES / "tiny_int8.tflite").read_bytes()
    evil = metadata.image_classifier("a\x1b[31m\nb", "d", "1", "x\x07", "l", [0.0], [1.0], 0.0, 255.0, ("one", "two"))
    path = tmp_path / "evil.tflite"
    path.write_bytes(metadata.embed(plain, evil, {"labels.txt": b"one\x1b[2J\ntwo\n"}, "it"))
    text = tables.inspection_text(inspection.inspect(path))
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("model.bin", b"x", "is of another format: expected .tflite or .onnx"),
        ("model.tflite", b"", "model.tflite"),
        ("model.tflite", b"TFL3TFL3" * 9, "damaged|no .tflite"),
        ("model.onnx", b"\xff" * 100, "damaged or no .onnx model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes, wrong: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=wrong):
        inspection.inspect(tmp_path / name)
    with pytest.raises(InputError, match="no model file"):
        inspection.inspect(tmp_path / f"missing-{name}.onnx")


def laughs(count: int) -> bytes:
    """A .tflite file whose graphs are all the same one, with tensors that are all the same one: count ** 2 parts."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    name = builder.CreateString("t")

    def part(fields: int, **slots: int) -> int:
        builder.StartObject(fields)
        for slot, offset in slots.items():
            builder.PrependUOffsetTRelativeSlot(int(slot[1:]), offset, 0)
        return int(builder.EndObject())

    def again(offset: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    graphs = again(part(6, _0=again(part(11, _3=name))))
    builder.StartObject(8)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("count", [1_500, 20_000])
def test_parts_that_lead_to_the_same_over_and_over_are_refused(count: int, tmp_path: Path) -> None:
    """Reading all 400,000,000 of them would never end."""
    from flatbuffers import table

    before = table.Table.VectorLen
    path = tmp_path / "laughs.tflite"
    path.write_bytes(laughs(count))
    with pytest.raises(
        InputError, match=r"laughs\.tflite is damaged \(its parts lead to the same ones over and over\)"
    ):
        inspection.inspect(path)
    assert table.Table.VectorLen is before
