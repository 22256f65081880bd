"""Arrays out of an .npz file from anybody: no pickle, and no size believed before it is compared with what is there."""

import math
import stat
import zipfile
from pathlib import Path

import numpy as np

from edgecbam.errors import InputError

MAX_BYTES = 4 * 2**30  # of all arrays of a file together, unpacked
MAX_ARRAYS = 10_000
MAX_JSON = 64 * 2**20  # a report of a thousand cells has 2 MiB
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def require_own(path: Path, limit: int = MAX_JSON) -> None:
    """Refuse to read what is no file of its own, or large: a link, a pipe, a device.

    A file that is missing is left to whoever opens it.

    Raises:
        InputError: naming the file.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{path} is a link, and could lead anywhere: put what it leads to in its place")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file: put one there")
    if status.st_size > limit:
        raise InputError(f"{path} has {status.st_size:,} bytes, more than edgecbam reads of such a file")


def load(path: Path, limit: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """All arrays by name, ``limit`` bytes together at most.

    Raises:
        InputError: it is no file of its own.
        ValueError: the file is damaged, holds Python objects, or its arrays are larger than what is in the file or than
            ``limit``. Other errors are those of the file system.
    """
    require_own(path, MAX_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, limit)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, OSError):
        raise
    except Exception as error:  # what zipfile, zlib, the parser of headers and NumPy raise for damage is no closed list
        raise ValueError(f"damaged, or no .npz file ({type(error).__name__}: {error})") from None


def _check(archive: zipfile.ZipFile, limit: int) -> None:
    """Compare every header with the size of its part; nothing is unpacked but headers."""
    parts = archive.infolist()
    if len(parts) > MAX_ARRAYS or sum(part.file_size for part in parts) > limit:
        raise ValueError(f"it unpacks to more than {limit:,} bytes or {MAX_ARRAYS:,} arrays")
    for part in parts:
        with archive.open(part) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"{part.filename} is of an unknown version")
            shape, _, dtype = _HEADERS[version](file, max_header_size=100_000)
            if dtype.hasobject:
                raise ValueError(f"{part.filename} holds Python objects")
            if any(size < 0 for size in shape) or file.tell() + math.prod(shape) * dtype.itemsize != part.file_size:
                raise ValueError(f"{part.filename} says that it is of shape {shape}, which it is not")
