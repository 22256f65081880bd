"""Each augmentation against its closed form, or against what its source says of it."""

import numpy as np
import pytest
from PIL import Image

from edgecbam.datasets import augment
from edgecbam.recipe import TrainConfig

OFF = {"flip": False, "shift_pixels": 0}
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 12, 10, 3), dtype=np.uint8)
ONES = np.ones((50, 3), np.float32)


def draws_of(seed=0, count=50, size=(12, 10), **settings):
    return augment.draw(np.random.default_rng(seed), count, size, TrainConfig(**(OFF | settings)))


def factors(brightness=1.0, contrast=1.0, saturation=1.0):
    return np.tile(np.array([brightness, contrast, saturation], np.float32), (50, 1))


def luma(images):
    return images.astype(np.float64) @ [0.299, 0.587, 0.114]


def test_with_all_switched_off_the_images_are_the_same():
    np.testing.assert_array_equal(augment.apply(IMAGES, draws_of(), np.arange(50)), IMAGES)


def test_brightness_multiplies_and_clips():
    brighter = augment.color(IMAGES, factors(brightness=1.5))
    np.testing.assert_array_equal(brighter, np.minimum(np.rint(IMAGES * 1.5), 255).astype(np.uint8))
    np.testing.assert_array_equal(augment.color(IMAGES, factors(brightness=0)), np.zeros_like(IMAGES))


def test_contrast_keeps_the_mean_grey_and_scales_the_distance_from_it():
    softer = augment.color(IMAGES, factors(contrast=0.5)).astype(np.float64)
    mean = luma(IMAGES).mean(axis=(1, 2))[:, np.newaxis, np.newaxis, np.newaxis]
    np.testing.assert_allclose(softer, mean + 0.5 * (IMAGES - mean), atol=0.51)
    flat = augment.color(IMAGES, factors(contrast=0))
    np.testing.assert_allclose(flat, np.broadcast_to(mean, IMAGES.shape), atol=0.51)


def test_saturation_of_0_is_pillows_grey_and_keeps_the_luma():
    grey = augment.color(IMAGES, factors(saturation=0))
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in IMAGES]).astype(np.int64)
    assert np.abs(grey.astype(np.int64) - pillow[..., np.newaxis]).max() <= 1
    paler = augment.color(IMAGES, factors(saturation=0.5))
    np.testing.assert_allclose(luma(paler), luma(IMAGES), atol=0.51)


def test_grey_images_have_brightness_and_contrast_only():
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(augment.color(grey, factors(saturation=0.3)), grey)
    np.testing.assert_array_equal(
        augment.color(grey, factors(brightness=0.5)), np.rint(grey.astype(np.float32) * 0.5).astype(np.uint8)
    )


def test_factors_are_drawn_evenly_around_1_for_each_image():
    drawn = draws_of(count=4000, brightness=0.4, contrast=0.2).factors
    for column, spread in enumerate((0.4, 0.2, 0.0)):
        values = drawn[:, column]
        assert np.abs(values - 1).max() <= spread + 1e-6
        assert values.std() == pytest.approx(spread / np.sqrt(3), rel=0.05, abs=1e-7)
        assert values.mean() == pytest.approx(1, abs=0.02)


def test_erasing_overwrites_one_rectangle_of_the_stated_size_by_noise():
    size = (40, 40)
    images = np.full((400, *size, 3), 7, np.uint8)
    draws = draws_of(count=400, size=size, random_erasing=1.0)
    erased = augment.apply(images, draws, np.arange(400))
    assert (images == 7).all(), "the originals were altered"
    areas, ratios = [], []
    for image, (top, left, height, width) in zip(erased, draws.erased.tolist(), strict=True):
        changed = (image != 7).any(axis=-1)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (
            top,
            top + height,
            left,
            left + width,
        )
        areas.append(height * width / 1600)
        ratios.append(height / width)
    assert 0.015 < min(areas) < 0.04
    assert 0.29 < max(areas) < 0.36
    assert 0.2 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4.5
    assert 0.4 < np.mean(np.array(ratios) > 1) < 0.6
    assert len(np.unique(erased)) > 200


def test_the_probability_of_erasing_is_kept_and_all_places_are_reached():
    draws = draws_of(count=4000, size=(16, 16), random_erasing=0.25)
    assert np.mean(draws.erased[:, 2] > 0) == pytest.approx(0.25, abs=0.03)
    chosen = draws.erased[draws.erased[:, 2] > 0]
    assert (chosen[:, 0] + chosen[:, 2]).max() == 16
    assert (chosen[:, 1] + chosen[:, 3]).max() == 16
    assert chosen[:, :2].min() == 0


def test_an_image_too_small_for_a_rectangle_stays_whole():
    draws = draws_of(count=100, size=(1, 1), random_erasing=1.0)
    images = IMAGES[:1, :1, :1].repeat(100, axis=0)
    np.testing.assert_array_equal(augment.apply(images, draws, np.arange(100)), images)


def test_mixup_draws_one_share_from_a_beta_distribution_and_a_permutation():
    shares = np.array([draws_of(seed, mixup=0.4).share for seed in range(2000)])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * 1.8), rel=0.05)
    assert sorted(draws_of(mixup=0.4).partner) == list(range(50))
    assert draws_of().share == 1
    assert draws_of().partner.tolist() == list(range(50))


def test_mixing_is_a_weighted_sum_in_float32():
    first, second = np.float32([[1, 2]]), np.float32([[3, 6]])
    mixed = augment.mix(first, second, 0.25)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, [[2.5, 5.0]])


@pytest.mark.parametrize("setting", ["brightness", "contrast", "saturation", "random_erasing", "mixup"])
def test_one_setting_does_not_change_what_another_draws(setting):
    plain = draws_of(flip=True, shift_pixels=2)
    other = draws_of(flip=True, shift_pixels=2, **{setting: 0.5})
    np.testing.assert_array_equal(plain.flipped, other.flipped)
    np.testing.assert_array_equal(plain.moves, other.moves)
    np.testing.assert_array_equal(plain.noise, other.noise)


def test_a_part_of_a_batch_is_changed_as_in_the_whole():
    settings = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "random_erasing": 0.7}
    draws = draws_of(flip=True, shift_pixels=3, **settings)
    everything = augment.apply(IMAGES, draws, np.arange(50))
    some = np.array([3, 4, 17, 49])
    np.testing.assert_array_equal(augment.apply(IMAGES[some], draws, some), everything[some])
