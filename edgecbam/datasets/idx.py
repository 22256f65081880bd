"""The IDX format of MNIST's family: a magic number with the element type and rank, the sizes, the elements."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from edgecbam.errors import InputError

_UINT8 = 0x08
_REMEDY = "put an intact copy of the original there"


def read(path: Path, axes: int) -> np.ndarray:
    """Read a gzipped IDX file of uint8 with the given number of axes.

    Raises:
        InputError: the file is missing, unreadable or damaged, or holds something else.
    """
    raw = unpack(path)
    try:
        zero, kind, found = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{axes}I", raw, 4)
    except struct.error:
        zero, kind, found, shape = 0, 0, 0, (0,)
    if (zero, kind, found) != (0, _UINT8, axes) or len(raw) != 4 + 4 * axes + math.prod(shape):
        raise InputError(f"{path} is no whole IDX file of uint8 with {axes} axes: {_REMEDY}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def unpack(path: Path) -> bytes:
    """The bytes inside a .gz; raises InputError where the file is missing, unreadable or damaged."""
    try:
        return gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_REMEDY}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or unreadable ({error}): {_REMEDY}") from None
