"""Arrays out of an .npz file from anybody: no pickle, and no size believed before it is compared with what is there."""

import math
import zipfile
from pathlib import Path

import numpy as np

MAX_BYTES = 4 * 2**30  # of all arrays of a file together, unpacked
MAX_ARRAYS = 10_000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays by name.

    Raises:
        ValueError: the file is damaged, holds Python objects, or its arrays are larger than what is in the file or than
            MAX_BYTES. Other errors are those of the file system.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, OSError):
        raise
    except Exception as error:  # what zipfile, zlib, the parser of headers and NumPy raise for damage is no closed list
        raise ValueError(f"damaged, or no .npz file ({type(error).__name__}: {error})") from None


def _check(archive: zipfile.ZipFile) -> None:
    """Compare every header with the size of its part; nothing is unpacked but headers."""
    parts = archive.infolist()
    if len(parts) > MAX_ARRAYS or sum(part.file_size for part in parts) > MAX_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes or {MAX_ARRAYS:,} arrays")
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
