"""Whether decoded images fit into memory: asked before hours of decoding and a killed process."""

import psutil  # type: ignore[import-untyped,unused-ignore]

from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig


def needed(images: int, data: DataConfig) -> int:
    """Bytes of so many decoded images; height, width and channels of ``data`` must be known."""
    return images * data.height * data.width * data.channels


def fits(images: int, data: DataConfig) -> bool:
    """Whether decoded images take at most half of the memory available now.

    Half, because training holds batches, weights and the runtime beside them.
    """
    return needed(images, data) <= int(psutil.virtual_memory().available) // 2


def check(images: int, data: DataConfig) -> None:
    """Refuse decoded images that need more than half of the memory available now.

    Args:
        images: how many will be decoded.
        data: with height, width and channels known.

    Raises:
        InputError: with both figures and the remedy.
    """
    if not fits(images, data):
        available = int(psutil.virtual_memory().available)
        raise InputError(
            f"{images} images of {data.height}x{data.width}x{data.channels} need "
            f"{needed(images, data) / 2**30:.2f} GiB, more than half of the {available / 2**30:.2f} GiB of memory "
            "available: give data.cache=disk or none, a smaller data.height and data.width, or fewer data.train_images"
        )
