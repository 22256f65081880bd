"""Make the built-in images from the four original files of Fashion-MNIST.

    python -m edgecbam.datasets.make_builtin [SOURCE_DIR]

SOURCE_DIR holds the four ``*-ubyte.gz``; without it, where Debian's dataset-fashion-mnist installs them. The choice is
stratified and seeded, and the bytes written are the same on every machine: the random stream is NumPy's frozen one,
and bzip2's output, unlike zlib's, does not differ from one implementation to the next.
"""

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from edgecbam.artifacts import sha256_file, write_json, write_whole
from edgecbam.datasets import fashion, idx, sampling
from edgecbam.errors import EdgeCbamError

BUILTIN = Path(__file__).parent / "builtin"
SOURCE_FILE = "SOURCE.json"
SEED = 1
TRAIN_IMAGES = 6000
TEST_IMAGES = 2000


def make(source: Path, out: Path, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Path:
    """Write the sample and ``SOURCE.json``, which says where it comes from, into the folder ``out``.

    The digests of the originals are of the unpacked files, because Debian packs them anew.

    Returns:
        The path of the sample, a NumPy .npz: images [n, 28, 28] uint8, labels [n] uint8, and for each the position
        [n] int32 in the original file.

    Raises:
        InputError: an original is missing or damaged, or holds fewer images than are wanted.
    """
    files = fashion.read_folder(source)
    train = sampling.subset(files.train_labels, train_images, SEED, sampling.TRAIN_SUBSET, "train_images")
    test = sampling.subset(files.test_labels, test_images, SEED, sampling.TEST_SUBSET, "test_images")
    path = out / fashion.BUILTIN_FILE
    write_whole(
        path,
        _npz(
            {
                "train_images": files.train_images[train],
                "train_labels": files.train_labels[train],
                "train_positions": train.astype(np.int32),
                "test_images": files.test_images[test],
                "test_labels": files.test_labels[test],
                "test_positions": test.astype(np.int32),
            }
        ),
    )
    write_json(
        out / SOURCE_FILE,
        {
            "made_by": "python -m edgecbam.datasets.make_builtin",
            "source": "https://github.com/zalandoresearch/fashion-mnist",
            "license": "MIT, see LICENSE-fashion-mnist",
            "seed": SEED,
            "originals_unpacked_sha256": {
                name.removesuffix(".gz"): hashlib.sha256(idx.unpack(source / name)).hexdigest()
                for name in fashion.IDX_FILES
            },
            "files": {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}},
        },
    )
    return path


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """A .npz packed by bzip2, which ``numpy.load`` reads as any other."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_BZIP2, compresslevel=9) as archive:
        for name, array in arrays.items():
            plain = io.BytesIO()
            np.save(plain, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_BZIP2
            member.create_system = 3  # else the bytes would say on which system they were made
            archive.writestr(member, plain.getvalue())
    return packed.getvalue()


def main(arguments: list[str]) -> int:
    """Run as a program; returns the exit code."""
    source = Path(arguments[0]) if arguments else fashion.DEBIAN_FOLDER
    try:
        path = make(source, BUILTIN)
    except EdgeCbamError as error:
        print(f"{error} (Debian: apt install {fashion.DEBIAN_PACKAGE})", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps({"wrote": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
