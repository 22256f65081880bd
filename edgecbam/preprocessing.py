"""Image file -> model input, the same in training, predict, verify and benchmark: what the manifest states.

    file --load_image--> [height, width, channels] uint8 --normalize--> (pixel - mean) / std, float32

A ``preprocessing`` is a mapping with exactly these keys, as ``manifest.json`` holds it:

    height, width   the model's input in pixels
    channels        1 (grey, ITU-R 601 luma) or 3 (RGB)
    resize          "crop": the largest centred rectangle of the input's aspect ratio, scaled to the input;
                    "stretch": the whole image, scaled to the input. Both with Pillow's BILINEAR, which averages
                    over all source pixels when it shrinks, first across, then down, rounding to 8 bits after each.
                    An image of the input's size is left as it is.
    mean, std       in pixel units (0…255), one number or one per channel
"""

import dataclasses
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

KEYS = ("height", "width", "channels", "resize", "mean", "std")
MAX_PIXELS = 89_478_485  # of one image file: where Pillow too begins to suspect a decompression bomb
LARGEST, SMALLEST_STD = 1e6, 1e-6  # of mean and std, in the unit of pixels
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not EPS: Pillow runs Ghostscript on it
GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # Pillow's, besides the I;16 family

_ORIENTATION = 0x0112  # the EXIF tag; its values say how to turn the stored pixels upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(InputError):
    """One image file cannot be used. ``reason`` says why without naming the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(path)} {reason}: give an intact image file such as JPEG or PNG")
        self.path = path
        self.reason = reason


def describe(data: DataConfig) -> dict[str, Any]:
    """The preprocessing of a data section whose height, width and channels are known, for the manifest.

    Raises:
        InputError: a value is not usable, such as two means for three channels or a height that is still 0.
    """
    known = dataclasses.asdict(data)
    preprocessing = {key: known[key] for key in KEYS} | {"mean": list(data.mean), "std": list(data.std)}
    check(preprocessing)
    return preprocessing


def check(preprocessing: Mapping[str, Any]) -> None:
    """Check a preprocessing, such as a manifest's.

    Raises:
        InputError: a key is missing or unknown, or a value is not usable.
    """
    missing = [key for key in KEYS if key not in preprocessing]
    unknown = [str(key) for key in preprocessing if key not in KEYS]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {', '.join(unknown)}"
        raise InputError(f"the preprocessing {wrong}: its keys are {', '.join(KEYS)}")
    for key in ("height", "width"):
        value = preprocessing[key]
        if type(value) is not int or not 1 <= value <= 4096:
            raise InputError(f"preprocessing: {key} must be a whole number of pixels from 1 to 4096, got {value!r}")
    channels = preprocessing["channels"]
    if type(channels) is not int or channels not in (1, 3):
        raise InputError(f"preprocessing: channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    if preprocessing["resize"] not in ("crop", "stretch"):
        raise InputError(f"preprocessing: resize must be 'crop' or 'stretch', got {preprocessing['resize']!r}")
    for key in ("mean", "std"):
        _check_statistic(key, preprocessing[key], channels)


def _check_statistic(key: str, values: Any, channels: int) -> None:
    numbers = isinstance(values, (list, tuple)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST for value in values
    )
    if not numbers or len(values) not in (1, channels):
        allowed = "1 number" if channels == 1 else f"1 or {channels} numbers"
        raise InputError(f"preprocessing: {key} must be a list of {allowed}, got {values!r}")
    if key == "std" and min(values) < SMALLEST_STD:
        raise InputError(f"preprocessing: std must be above 0, at least {SMALLEST_STD:g}, got {values!r}")


def normalize(images: np.ndarray, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Pixels as the model takes them: ``(pixel - mean) / std``, computed in float32.

    Args:
        images: [n, height, width, channels] uint8.
        preprocessing: see the module.

    Returns:
        [n, height, width, channels] float32.

    Raises:
        InputError: the images have another shape or dtype, or the preprocessing is not usable.
    """
    check(preprocessing)
    shape = tuple(preprocessing[key] for key in ("height", "width", "channels"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"images must be [n, {wanted}] uint8, got {list(images.shape)} {images.dtype}")
    normal = images.astype(np.float32)
    normal -= np.asarray(preprocessing["mean"], np.float32)
    normal /= np.asarray(preprocessing["std"], np.float32)
    return normal


def load_image(path: Path, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Read one image file, turn it upright, and fit it to the model's input.

    The EXIF orientation is applied. Transparent pixels are laid on white. 16-bit grey is divided by 257, so that
    65535 becomes 255 (of 16-bit colour Pillow keeps the upper 8 bits). Of an animation the first frame is taken.

    Args:
        path: a file of any format that Pillow reads.
        preprocessing: see the module.

    Returns:
        [height, width, channels] uint8.

    Raises:
        UnreadableImage: (an InputError) the file is missing, empty, truncated, no image, too large, or holds values
            that cannot be understood as grey levels.
        InputError: the preprocessing is not usable.
    """
    return load_encoded(path, path, preprocessing)


def load_encoded(source: Path | bytes, name: Path, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """As load_image, of a file or of the bytes of one; ``name`` stands in messages."""
    check(preprocessing)
    with _open(source, name) as opened:
        image = _decode(opened, name)
    return fit(image, preprocessing)


def peek(source: Path | bytes, name: Path) -> tuple[int, bool]:
    """The shorter side in pixels and whether the image is grey, read from the file's header only.

    A palette image counts as colour. Arguments as for load_encoded.

    Raises:
        UnreadableImage: as load_image, as far as the header tells.
    """
    with _open(source, name) as image:
        return min(image.size), image.mode in GREY_MODES or image.mode.startswith("I;16")


def fit(image: Image.Image, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Bring an L or RGB image to the model's channels and size; returns [height, width, channels] uint8."""
    mode = "L" if preprocessing["channels"] == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    width, height = preprocessing["width"], preprocessing["height"]
    if image.size != (width, height):
        left, top, right, bottom = _part(*image.size, preprocessing)
        # In one call, Pillow 13 chooses which direction comes first and earlier versions do not: a grey level apart.
        bilinear = Image.Resampling.BILINEAR
        image = image.resize((width, image.height), bilinear, (left, 0, right, image.height))
        image = image.resize((width, height), bilinear, (0, top, width, bottom))
    return np.array(image, np.uint8).reshape(preprocessing["height"], preprocessing["width"], preprocessing["channels"])


def _part(width: int, height: int, preprocessing: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is seen of an image, to the subpixel."""
    if preprocessing["resize"] != "crop":
        return 0, 0, width, height
    wanted = preprocessing["width"] / preprocessing["height"]
    across, down = min(width, wanted * height), min(height, width / wanted)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def printable(path: Path | str) -> str:
    """A path or name as one line of text, whatever bytes or control characters a file system put into it."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _open(source: Path | bytes, path: Path) -> Image.Image:
    """Open an image file up to its header."""
    try:
        if isinstance(source, Path):
            _check_file(source)
        elif not source:
            raise UnreadableImage(path, "is empty (0 bytes)")
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)
    except UnreadableImage:
        raise
    except PermissionError:
        raise UnreadableImage(path, "may not be read (no permission)") from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, "is no image in a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, f"has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # what Pillow's decoders raise for hostile bytes is no closed list
        raise UnreadableImage(path, f"cannot be opened ({_one_line(error)})") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnreadableImage(path, f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    return image


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UnreadableImage(path, "is a folder")
    if not path.exists():
        raise UnreadableImage(path, "does not exist")
    if not path.is_file():  # opening a named pipe would wait for ever
        raise UnreadableImage(path, "is no regular file")
    if path.stat().st_size == 0:
        raise UnreadableImage(path, "is empty (0 bytes)")


def _decode(opened: Image.Image, path: Path) -> Image.Image:
    """Decode an opened file into an upright L or RGB image."""
    try:
        opened.load()
        turn = _UPRIGHT.get(_orientation(opened))
        image = _to_8_bit(opened, path)
        return image if turn is None else image.transpose(turn)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # as in _open
        raise UnreadableImage(path, f"is damaged or truncated ({_one_line(error)})") from None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block beside sound pixels: every viewer shows them as stored
        return 1


def _to_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """Any of Pillow's modes as L or RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey_levels(image, path))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(mode)
    return image.convert(mode)


def _grey_levels(image: Image.Image, path: Path) -> np.ndarray:
    """16-bit, 32-bit and float grey as [h, w] uint8.

    A 16-bit file is divided by 257. A 32-bit or float file does not state its range, so the smallest usual one that
    holds its largest value is taken: 0…1 (float only), 0…255 or 0…65535.
    """
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 65535:
        raise UnreadableImage(path, f"has grey levels from {low:g} to {high:g}, which fit neither 8 nor 16 bits")
    # Pillow 11 opens a 16-bit PNG or PGM as 32-bit, later ones as I;16
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")) or high > 255:
        values /= 257
    elif image.mode == "F" and high <= 1:
        values *= 255
    return np.rint(values).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split())) or type(error).__name__
