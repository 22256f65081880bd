"""Refuse a data set that does not fit, before hours of decoding and a killed process."""

import psutil  # type: ignore[import-untyped,unused-ignore]

from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig


def check(images: int, data: DataConfig) -> None:
    """Refuse decoded images that need more than half of the memory available now.

    Half, because training holds batches, weights and the runtime beside them.

    Args:
        images: how many will be decoded.
        data: with height, width and channels known.

    Raises:
        InputError: with both figures and the remedy.
    """
    needed = images * data.height * data.width * data.channels
    available = int(psutil.virtual_memory().available)
    if needed > available // 2:
        raise InputError(
            f"{images} images of {data.height}x{data.width}x{data.channels} need {needed / 2**30:.2f} GiB, more than "
            f"half of the {available / 2**30:.2f} GiB of memory available: "
            "give a smaller data.height and data.width, or fewer data.train_images"
        )
