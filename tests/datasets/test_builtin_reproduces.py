"""The committed script makes the committed file, byte for byte."""

import hashlib

import numpy as np
import pytest

from edgecbam import artifacts
from edgecbam.datasets import fashion, idx, make_builtin
from edgecbam.errors import InputError


def test_the_script_reproduces_the_built_in_file(tmp_path):
    missing = [name for name in fashion.IDX_FILES if not (fashion.DEBIAN_FOLDER / name).is_file()]
    assert not missing, f"{fashion.DEBIAN_FOLDER} lacks {missing}: apt install {fashion.DEBIAN_PACKAGE}"
    made = make_builtin.make(fashion.DEBIAN_FOLDER, tmp_path)
    assert made.read_bytes() == (make_builtin.BUILTIN / fashion.BUILTIN_FILE).read_bytes()
    committed = make_builtin.BUILTIN / make_builtin.SOURCE_FILE
    assert (tmp_path / make_builtin.SOURCE_FILE).read_bytes() == committed.read_bytes()


def test_from_small_files_it_takes_a_stratified_sample_and_says_where_from(tmp_path, make_idx_folder):
    source = make_idx_folder(tmp_path / "source", train=100, test=40)
    out = tmp_path / "out"
    out.mkdir()
    first = make_builtin.make(source, out, train_images=30, test_images=20).read_bytes()
    assert make_builtin.make(source, out, train_images=30, test_images=20).read_bytes() == first
    with np.load(out / fashion.BUILTIN_FILE) as sample:
        for part, original, each in (("train", "train", 3), ("test", "t10k", 2)):
            images, labels, positions = (sample[f"{part}_{what}"] for what in ("images", "labels", "positions"))
            assert np.bincount(labels).tolist() == [each] * 10
            np.testing.assert_array_equal(idx.read(source / f"{original}-images-idx3-ubyte.gz", 3)[positions], images)
            np.testing.assert_array_equal(idx.read(source / f"{original}-labels-idx1-ubyte.gz", 1)[positions], labels)
    record = artifacts.read_json(out / make_builtin.SOURCE_FILE)
    assert record["files"][fashion.BUILTIN_FILE] == {"bytes": len(first), "sha256": hashlib.sha256(first).hexdigest()}
    unpacked = idx.unpack(source / "t10k-labels-idx1-ubyte.gz")
    digests = record["originals_unpacked_sha256"]
    assert digests["t10k-labels-idx1-ubyte"] == hashlib.sha256(unpacked).hexdigest()
    assert len(digests) == 4


def test_it_refuses_what_it_cannot_make(tmp_path, make_idx_folder, capsys):
    source = make_idx_folder(tmp_path / "source")
    with pytest.raises(InputError, match="train_images = 6000, but there are only 100"):
        make_builtin.make(source, tmp_path)
    (source / "t10k-images-idx3-ubyte.gz").unlink()
    assert make_builtin.main([str(source)]) == 2
    assert "t10k-images-idx3-ubyte.gz is missing" in capsys.readouterr().err
