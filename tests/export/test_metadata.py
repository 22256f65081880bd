"""Metadata of .tflite files: written, read again, read where others wrote it, and never trusted."""

import io
import random
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecbam import runtimes
from edgecbam.errors import InputError
from edgecbam.export import metadata, metadata_schema, tflite_file

LABELS = ("Rock, paper", 'the "quoted"', "猫 🐈", "c'est ça")
MODEL = {
    "name": "a name",
    "description": "ünïcode",
    "version": "3",
    "author": "somebody",
    "license": "Apache-2.0",
    "min_parser_version": "1.0.0",
    "subgraph_metadata": [
        {
            "input_tensor_metadata": [
                {
                    "name": "image",
                    "dimension_names": ["batch", "height"],
                    "content": {
                        "content_properties": {
                            "ImageProperties": {"color_space": 1, "default_size": {"width": 8, "height": 4_000_000_000}}
                        },
                        "range": {"min": -1, "max": 7},
                    },
                    "process_units": [{"options": {"NormalizationOptions": {"mean": [1.5, 2.0], "std": [0.5]}}}],
                    "stats": {"max": [1.0], "min": [-1.0]},
                }
            ],
            "output_tensor_metadata": [{"associated_files": [{"name": "labels.txt", "type": 2}]}],
        }
    ],
}


@pytest.fixture(scope="module")
def plain(fixtures: Path) -> bytes:
    return (fixtures / "tiny_int8.tflite").read_bytes()


@pytest.fixture(scope="module")
def fixtures() -> Path:
    return Path(__file__).parent.parent / "fixtures"


def described(labels: tuple[str, ...] = LABELS) -> dict:
    return metadata.image_classifier("n", "d", "1", "a", "l", [128.0], [64.0], -2.0, 1.984375, labels)


def with_labels(plain: bytes, labels: tuple[str, ...] = LABELS) -> bytes:
    return metadata.embed(plain, described(labels), {"labels.txt": "".join(f"{n}\n" for n in labels).encode()}, "it")


def test_tables_come_back_as_they_were() -> None:
    assert metadata_schema.unpack(metadata_schema.pack(MODEL)) == MODEL


def test_a_field_that_no_table_has_is_refused() -> None:
    with pytest.raises(KeyError, match="ModelMetadata has no field licence"):
        metadata_schema.pack({"licence": "MIT"})


def test_labels_and_normalization_are_found_again(plain: bytes) -> None:
    found = metadata.read(with_labels(plain), "it")
    assert found is not None
    assert found.labels() == LABELS
    assert found.normalization() == ((128.0,), (64.0,))
    assert found.model == described()


def test_equal_content_gives_equal_bytes(plain: bytes) -> None:
    assert with_labels(plain) == with_labels(plain)


def test_the_model_computes_what_it_did_and_keeps_its_other_metadata(plain: bytes, tmp_path: Path) -> None:
    parsed = tflite_file.parse(plain, "it")
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = b"of somebody else", len(parsed.buffers), np.arange(5, dtype=np.uint8)
    parsed.metadata, parsed.buffers = [*(parsed.metadata or []), entry], [*parsed.buffers, buffer]
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    before = bytes(builder.Output())
    after = with_labels(before)
    found = metadata.read(after, "it")
    assert found is not None
    assert "of somebody else" in found.others
    outputs = []
    for name, content in (("before", before), ("after", after)):
        (tmp_path / f"{name}.tflite").write_bytes(content)
        session = runtimes.find("litert").open(tmp_path / f"{name}.tflite", threads=1)
        tensor = session.inputs[0]
        image = np.random.default_rng(0).integers(-128, 128, tensor.shape).astype(tensor.dtype)
        outputs.append(session.run([image])[0])
    np.testing.assert_array_equal(*outputs)
    kept = tflite_file.parse(after, "it")
    assert bytes(kept.buffers[kept.metadata[-2].buffer].data) == bytes(range(5))


def test_metadata_that_is_there_is_not_overwritten(plain: bytes) -> None:
    with pytest.raises(InputError, match="it has metadata already, which is left as it is"):
        with_labels(with_labels(plain))


def test_a_file_without_metadata_has_none(plain: bytes) -> None:
    assert metadata.read(plain, "it") is None


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        (("a", ""), "class name '' cannot be a line"),
        (("a\nb", "c"), "cannot be a line"),
        (("a\u2028b", "c"), "cannot be a line"),
        ((" a", "c"), "cannot be a line"),
        (("a", "b", "a"), "two classes have the name 'a'"),
    ],
)
def test_names_that_labels_cannot_hold(labels: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        metadata.check_labels(labels)


def test_names_that_it_can_hold() -> None:
    metadata.check_labels(LABELS)


def archive(plain: bytes, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file with metadata and any archive behind it."""
    stream = io.BytesIO(metadata.embed(plain, described(), {}, "it"))
    with zipfile.ZipFile(stream, "a", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def test_a_decompression_bomb_is_refused(plain: bytes) -> None:
    bomb = archive(plain, {"labels.txt": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    with pytest.raises(InputError, match=r"metadata of it is damaged .*labels\.txt is larger than 4 MiB"):
        metadata.read(bomb, "it")


def test_too_many_files_are_refused(plain: bytes) -> None:
    with pytest.raises(InputError, match="100 files are packed behind it, more than 64"):
        metadata.read(archive(plain, {f"f{i}": b"" for i in range(100)}), "it")


def test_nothing_is_unpacked_to_the_disk(plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = metadata.read(archive(plain, {"../escaped": b"x", "/absolute": b"y"}), "it")
    assert found is not None
    assert set(found.files) == {"../escaped", "/absolute"}
    assert not list(tmp_path.parent.glob("escaped"))
    assert not list(tmp_path.iterdir())


def test_missing_labels_and_those_of_other_types(plain: bytes) -> None:
    assert metadata.read(archive(plain, {}), "it").labels() is None
    other = described()
    other["subgraph_metadata"][0]["output_tensor_metadata"][0]["associated_files"][0]["type"] = 1
    assert metadata.read(metadata.embed(plain, other, {"labels.txt": b"a\n"}, "it"), "it").labels() is None


def test_damaged_tables_are_errors_and_never_anything_else() -> None:
    """Cut anywhere, and with wrong bytes in any place: a result or a ValueError, quickly."""
    whole = metadata_schema.pack(MODEL)
    random_numbers = random.Random(5)
    refused = 0
    for size in range(len(whole)):
        refused += not reads(whole[:size])
    assert refused > len(whole) // 2
    for _ in range(3000):
        broken = bytearray(whole)
        for _ in range(random_numbers.randint(1, 4)):
            broken[random_numbers.randrange(8, len(broken))] = random_numbers.choice((0, 1, 127, 128, 255))
        refused += not reads(bytes(broken))
    assert refused > len(whole)


def reads(data: bytes) -> bool:
    try:
        metadata_schema.unpack(data)
    except ValueError:
        return False
    return True


def test_a_list_that_repeats_itself_ends(plain: bytes) -> None:
    """A vector of a million offsets to one table would take long to read: the reader gives up."""
    builder = flatbuffers.Builder(1024)
    builder.StartObject(7)
    tensor = builder.EndObject()
    builder.StartVector(4, 200_000, 4)
    for _ in range(200_000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    graphs = []
    for _ in range(50):
        builder.StartObject(7)
        builder.PrependUOffsetTRelativeSlot(2, tensors, 0)
        graphs.append(builder.EndObject())
    builder.StartVector(4, len(graphs), 4)
    for graph in graphs:
        builder.PrependUOffsetTRelative(graph)
    vector = builder.EndVector()
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(3, vector, 0)
    builder.Finish(builder.EndObject(), b"M001")
    with pytest.raises(ValueError, match="holds less than it seems to"):
        metadata_schema.unpack(bytes(builder.Output()))
