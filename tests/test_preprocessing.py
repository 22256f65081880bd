"""Images made here, with known pixels, through edgecbam.preprocessing."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecbam import preprocessing
from edgecbam.errors import InputError
from edgecbam.preprocessing import UnreadableImage, check, describe, load_image, normalize
from edgecbam.recipe import DataConfig

ORIENTATION = 0x0112


def spec(height=8, width=8, channels=3, resize="crop", mean=(128.0,), std=(128.0,)):
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "resize": resize,
        "mean": list(mean),
        "std": list(std),
    }


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(image, path, **options):
    image.save(path, **options)
    return path


# ---- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_an_image_of_the_input_size_keeps_its_pixels(tmp_path, resize):
    grey, colour = noise(8, 6), noise(8, 6, 3)
    grey_file = save(Image.fromarray(grey), tmp_path / "grey.png")
    colour_file = save(Image.fromarray(colour), tmp_path / "colour.png")
    np.testing.assert_array_equal(load_image(grey_file, spec(8, 6, 1, resize))[..., 0], grey)
    np.testing.assert_array_equal(load_image(colour_file, spec(8, 6, 3, resize)), colour)
    repeated = load_image(grey_file, spec(8, 6, 3, resize))
    np.testing.assert_array_equal(repeated, np.repeat(grey[..., np.newaxis], 3, axis=2))
    luma = load_image(colour_file, spec(8, 6, 1, resize))[..., 0]
    np.testing.assert_allclose(luma, colour @ [0.299, 0.587, 0.114], atol=0.6)


def palette(transparent=None):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


HALF = round(128 / 255 * 0 + 127 / 255 * 255)  # black at alpha 128 on white


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("one_bit.png", Image.new("1", (8, 8), 1), (255, 255, 255)),
        ("grey.png", Image.new("L", (8, 8), 77), (77, 77, 77)),
        ("grey_alpha.png", Image.new("LA", (8, 8), (0, 128)), (HALF, HALF, HALF)),
        ("grey_clear.png", Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        ("palette.png", palette(), (200, 100, 50)),
        ("palette.gif", palette(), (200, 100, 50)),
        ("palette_clear.png", palette(transparent=1), (255, 255, 255)),
        ("palette_clear.gif", palette(transparent=1), (255, 255, 255)),
        ("colour.bmp", Image.new("RGB", (8, 8), (200, 100, 50)), (200, 100, 50)),
        ("colour.webp", Image.new("RGB", (8, 8), (200, 100, 50)), (200, 100, 50)),
        ("alpha.png", Image.new("RGBA", (8, 8), (200, 100, 50, 255)), (200, 100, 50)),
        ("alpha_half.png", Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (HALF, HALF, HALF)),
        ("alpha_clear.png", Image.new("RGBA", (8, 8), (9, 9, 9, 0)), (255, 255, 255)),
        ("cmyk.tif", Image.new("CMYK", (8, 8), (55, 155, 205, 0)), (200, 100, 50)),
        ("cmyk.jpg", Image.new("CMYK", (8, 8), (55, 155, 205, 0)), (200, 100, 50)),
        ("ycbcr.tif", Image.new("RGB", (8, 8), (200, 100, 50)).convert("YCbCr"), (200, 100, 50)),
        ("lab.tif", Image.new("LAB", (8, 8), (255, 128, 128)), (255, 255, 255)),
        ("grey.jpg", Image.new("L", (8, 8), 77), (77, 77, 77)),
    ],
)
def test_every_mode_becomes_colour_and_grey(tmp_path, name, image, expected):
    path = save(image, tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    colour = load_image(path, spec(8, 8, 3))
    assert colour.shape == (8, 8, 3)
    assert colour.dtype == np.uint8
    np.testing.assert_allclose(colour, np.broadcast_to(expected, (8, 8, 3)), atol=2)
    grey = load_image(path, spec(8, 8, 1))
    np.testing.assert_allclose(grey, np.dot(expected, [0.299, 0.587, 0.114]), atol=2)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bit_grey_is_divided_by_257(tmp_path, name):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = save(Image.fromarray(levels * 257), tmp_path / name)
    np.testing.assert_array_equal(load_image(path, spec(16, 16, 1))[..., 0], levels)
    dark = save(Image.fromarray(levels), tmp_path / f"dark_{name}")  # 16 bits stay 16 bits, however dark
    np.testing.assert_array_equal(load_image(dark, spec(16, 16, 1))[..., 0], np.rint(levels / 257))


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        (np.arange(256, dtype=np.int32), 1),
        (np.arange(256, dtype=np.int32) * 250, 1 / 257),
        (np.arange(256, dtype=np.float32), 1),
        (np.arange(256, dtype=np.float32) * 250, 1 / 257),
        (np.arange(256, dtype=np.float32) / 255, 255),
    ],
)
def test_grey_of_unstated_range_takes_the_smallest_usual_one(tmp_path, values, factor):
    path = save(Image.fromarray(values.reshape(16, 16)), tmp_path / "wide.tif")
    np.testing.assert_array_equal(load_image(path, spec(16, 16, 1)).ravel(), np.rint(values * factor))


@pytest.mark.parametrize("value", [-1.0, 65536.0, np.nan, np.inf])
def test_grey_levels_beyond_16_bits_are_refused(tmp_path, value):
    path = save(Image.fromarray(np.array([[0.0, value]], np.float32)), tmp_path / "odd.tif")
    with pytest.raises(UnreadableImage, match=r"odd\.tif has grey levels from"):
        load_image(path, spec())


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    path = save(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(path, spec(channels=1)), 10)


# ---- orientation -----------------------------------------------------------------------------------------------------

UPRIGHT = {  # by the EXIF standard: from the stored pixels to the picture
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = noise(5, 7, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(Image.fromarray(stored), tmp_path / f"turned.{suffix}", exif=exif, **options)
    upright = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(load_image(path, spec(*upright.shape)), upright)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_jpeg_cmyk_and_16_bit(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8] = 255  # one white corner
    upright = UPRIGHT[orientation](stored)
    wanted = spec(*upright.shape, 1)
    colour = save(Image.fromarray(stored).convert("RGB"), tmp_path / "a.jpg", exif=exif, quality=100)
    cmyk = save(Image.fromarray(stored).convert("RGB").convert("CMYK"), tmp_path / "b.jpg", exif=exif, quality=100)
    deep = save(Image.fromarray(stored.astype(np.uint16) * 257), tmp_path / "c.png", exif=exif)
    for path in (colour, cmyk, deep):
        np.testing.assert_allclose(load_image(path, wanted)[..., 0].astype(int), upright, atol=3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_a_broken_exif_block_leaves_the_picture_as_stored(tmp_path, exif):
    path = save(Image.new("L", (8, 8), 77), tmp_path / "odd.jpg", exif=exif)
    np.testing.assert_array_equal(load_image(path, spec(channels=1)), 77)


# ---- size ------------------------------------------------------------------------------------------------------------


def test_crop_takes_the_middle_and_stretch_takes_all(tmp_path):
    bands = np.zeros((20, 60), np.uint8)
    bands[:, 20:40] = 200
    for turned in (bands, bands.T):
        path = save(Image.fromarray(turned), tmp_path / "bands.png")
        cropped = load_image(path, spec(10, 10, 1, "crop"))
        np.testing.assert_array_equal(cropped[1:-1, 1:-1], 200)  # the outermost averages over its neighbour as well
        assert cropped.min() > 150
        stretched = load_image(path, spec(10, 10, 1, "stretch"))[..., 0]
        stretched = stretched if turned is bands else stretched.T
        assert (stretched[:, [0, 1, 8, 9]] == 0).all()
        assert (stretched[:, 4:6] == 200).all()


def test_shrinking_averages_instead_of_skipping(tmp_path):
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    path = save(Image.fromarray(board), tmp_path / "board.png")
    for resize in ("crop", "stretch"):
        np.testing.assert_allclose(load_image(path, spec(16, 16, 1, resize)), 127.5, atol=2)


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    channels=st.sampled_from([1, 3]),
    mode=st.sampled_from(["L", "RGB", "RGBA", "P", "CMYK", "I;16"]),
    resize=st.sampled_from(["crop", "stretch"]),
)
def test_any_size_and_mode_gives_the_asked_shape_and_keeps_an_even_colour(
    tmp_path_factory, source, target, channels, mode, resize
):
    even = np.full(source, 102, np.uint8)  # 102 is in the palette that Pillow gives an image of mode P
    deep = Image.fromarray(even.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(even).convert("RGB").convert(mode)
    path = tmp_path_factory.mktemp("any") / ("even.tif" if mode == "CMYK" else "even.png")
    pixels = load_image(save(image, path), spec(*target, channels, resize))
    assert pixels.shape == (*target, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, 102)


def test_a_thin_strip_does_not_become_a_giant_image(tmp_path):
    path = save(Image.new("L", (30_000, 1), 90), tmp_path / "strip.png")
    np.testing.assert_array_equal(load_image(path, spec(4096, 4096, 1)), 90)  # scaled whole it would be 500 gigapixels


# ---- what is no image ------------------------------------------------------------------------------------------------


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.jpg", b"", r"is empty \(0 bytes\)"),
        ("text.jpg", b"this is a shopping list, not a picture\n" * 9, "is no image in a known format"),
        ("cut.jpg", encoded("JPEG")[:900], "is damaged or truncated"),
        ("cut.png", encoded("PNG")[:900], "is damaged or truncated"),
        ("cut.gif", encoded("GIF")[:900], "is damaged or truncated"),
        ("cut.webp", encoded("WEBP")[:900], "is damaged or truncated|cannot be opened"),
        ("cut.tif", encoded("TIFF")[:900], "is damaged or truncated|is no image|cannot be opened"),
        ("head.jpg", encoded("JPEG")[:20], "is damaged or truncated|is no image"),
        ("head.png", encoded("PNG")[:20], "is damaged or truncated|is no image|cannot be opened"),
        ("altered.png", encoded("PNG").replace(b"IDAT", b"IDAT!"), "is damaged or truncated|cannot be opened"),
    ],
)
def test_a_file_that_cannot_be_decoded_is_named_with_its_remedy(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        load_image(path, spec())
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith("give an intact image file such as JPEG or PNG")
    assert "\n" not in message
    assert isinstance(caught.value, InputError)


def test_folders_missing_files_and_pipes_are_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="is a folder"):
        load_image(tmp_path, spec())
    with pytest.raises(UnreadableImage, match=r"missing\.png does not exist"):
        load_image(tmp_path / "missing.png", spec())
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="is no regular file"):
        load_image(tmp_path / "pipe.png", spec())


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    assert path.stat().st_size < 100_000
    with pytest.raises(UnreadableImage, match=r"has more than 89,478,485 pixels"):
        load_image(path, spec())
    large = save(Image.new("1", (10_000, 10_000)), tmp_path / "large.png")  # here Pillow itself only warns
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(UnreadableImage, match="has 10000 x 10000 pixels"):
        load_image(large, spec())
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 99)
    small = save(Image.new("L", (10, 10)), tmp_path / "small.png")
    with pytest.raises(UnreadableImage, match="has 10 x 10 pixels, more than 99"):
        load_image(small, spec())
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 100)
    assert load_image(small, spec()).shape == (8, 8, 3)


def test_a_message_stays_one_line_whatever_the_file_is_called(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\n\xff name.jpg"))
    path.write_bytes(b"x")
    with pytest.raises(UnreadableImage) as caught:
        load_image(path, spec())
    str(caught.value).encode("utf-8")
    assert r"bad\n\xff name.jpg is no image" in str(caught.value)


# ---- normalize and the mapping ---------------------------------------------------------------------------------------


def test_the_default_mean_and_std_make_the_int8_input_exact():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    normal = normalize(pixels, spec(16, 16, 1))
    assert normal.dtype == np.float32
    np.testing.assert_array_equal(normal * np.float32(128), pixels.astype(np.float32) - 128)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    per_channel=st.booleans(),
    mean=st.lists(st.floats(0, 255), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 1000), min_size=3, max_size=3),
)
def test_normalize_is_pixel_minus_mean_over_std(shape, per_channel, mean, std):
    count = shape[3] if per_channel else 1
    pixels = noise(*shape)
    normal = normalize(pixels, spec(*shape[1:], mean=mean[:count], std=std[:count]))
    assert normal.shape == shape
    assert normal.dtype == np.float32
    expected = (pixels - np.float64(mean[:count])) / np.float64(std[:count])
    np.testing.assert_allclose(normal, expected, rtol=1e-6, atol=3e-5 / min(std))


@pytest.mark.parametrize(
    "images",
    [noise(8, 8, 3), noise(2, 8, 8, 1), noise(2, 9, 8, 3), noise(2, 8, 8, 3).astype(np.float32)],
)
def test_normalize_refuses_images_that_are_not_the_models(images):
    with pytest.raises(InputError, match=r"images must be \[n, 8, 8, 3\] uint8, got"):
        normalize(images, spec())


def test_describe_gives_what_check_accepts_also_through_json():
    data = DataConfig(height=32, width=24, channels=3, resize="stretch", mean=(1.0, 2.0, 3.0), std=(4.0,))
    described = describe(data)
    assert described == spec(32, 24, 3, "stretch", [1.0, 2.0, 3.0], [4.0])
    check(json.loads(json.dumps(described)))
    with pytest.raises(InputError, match="height must be a whole number of pixels from 1 to 4096, got 0"):
        describe(replace(data, height=0))
    with pytest.raises(InputError, match="mean must be a list of 1 number, got"):
        describe(replace(data, channels=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height must be"),
        ({"width": 4097}, "width must be"),
        ({"height": 8.0}, "height must be"),
        ({"width": True}, "width must be"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"channels": "3"}, "channels must be"),
        ({"resize": "pad"}, "resize must be 'crop' or 'stretch', got 'pad'"),
        ({"mean": [1.0, 2.0]}, "mean must be a list of 1 or 3 numbers"),
        ({"mean": 128.0}, "mean must be a list"),
        ({"mean": []}, "mean must be a list"),
        ({"mean": ["128"]}, "mean must be a list"),
        ({"mean": [float("nan")]}, "mean must be a list"),
        ({"std": [0.0]}, "std must be above 0"),
        ({"std": [1.0, 1.0, -1.0]}, "std must be above 0"),
        ({"std": None}, "std must be a list"),
        ({"layout": "NCHW"}, "has the unknown key layout"),
    ],
)
def test_bad_values_of_a_manifest_are_refused(tmp_path, change, message):
    path = save(Image.new("L", (8, 8)), tmp_path / "fine.png")
    with pytest.raises(InputError, match=message):
        check({**spec(), **change})
    with pytest.raises(InputError, match=message):
        load_image(path, {**spec(), **change})


@pytest.mark.parametrize("key", preprocessing.KEYS)
def test_a_missing_key_is_named(key):
    with pytest.raises(InputError, match=f"lacks {key}"):
        check({k: v for k, v in spec().items() if k != key})
