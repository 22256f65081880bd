"""Training batches against a NumPy reference and against the list of all allowed flips and shifts."""

import numpy as np
import pytest

from edgecbam.datasets import pipeline
from edgecbam.errors import InputError
from edgecbam.preprocessing import normalize


def spec(height, width, channels):
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "resize": "crop",
        "mean": [100.0],
        "std": [50.0],
    }


IMAGES = np.random.default_rng(0).integers(1, 256, (37, 8, 6, 3), dtype=np.uint8)  # no 0: the edge is told apart
LABELS = np.arange(37, dtype=np.int64)
PREPROCESSING = spec(8, 6, 3)


def epoch_of(images=IMAGES, labels=LABELS, **changes):
    asked = {"batch_size": 10, "seed": 1, "epoch": 0, "flip": True, "shift_pixels": 2, "shuffle": True}
    asked |= {"preprocessing": spec(*images.shape[1:])} | changes
    return [(x.numpy(), y.numpy()) for x, y in pipeline.batches(images, labels, **asked)]


def joined(batches):
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def equal(first, second):
    return all(
        np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_without_augmentation_an_epoch_is_the_permuted_normalized_set():
    batches = epoch_of(seed=5, epoch=3, flip=False, shift_pixels=0)
    assert [x.shape for x, _ in batches] == [(10, 8, 6, 3)] * 3 + [(7, 8, 6, 3)]
    images, labels = joined(batches)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    order = np.random.default_rng([5, 3]).permutation(37)
    np.testing.assert_array_equal(labels, LABELS[order])
    np.testing.assert_array_equal(images, normalize(IMAGES[order], PREPROCESSING))


def test_without_shuffle_the_order_is_kept():
    images, labels = joined(epoch_of(flip=False, shift_pixels=0, shuffle=False))
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(images, normalize(IMAGES, PREPROCESSING))


def allowed(image, flip, shift):
    """Every (flipped, down, right) and what it makes of an image, pixel by pixel."""
    height, width, _ = image.shape
    for flipped in (False, True) if flip else (False,):
        source = image[:, ::-1] if flipped else image
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                moved = np.zeros_like(image)
                for y in range(height):
                    for x in range(width):
                        if 0 <= y - down < height and 0 <= x - right < width:
                            moved[y, x] = source[y - down, x - right]
                yield (flipped, down, right), moved


@pytest.mark.parametrize(("flip", "shift"), [(True, 2), (True, 0), (False, 1)])
def test_each_augmented_image_is_an_allowed_view_of_its_source(flip, shift):
    images = np.tile(IMAGES[:4], (50, 1, 1, 1))
    labels = np.arange(200) % 4
    views = {(label, moved.tobytes()): how for label in range(4) for how, moved in allowed(images[label], flip, shift)}
    seen = []
    for x, y in epoch_of(images, labels, flip=flip, shift_pixels=shift):
        pixels = np.rint(x * 50 + 100).astype(np.uint8)
        seen += [views[label, image.tobytes()] for label, image in zip(y.tolist(), pixels, strict=True)]
    assert len(seen) == 200
    assert {how[0] for how in seen} == ({False, True} if flip else {False})
    assert 0.35 < np.mean([how[0] for how in seen]) < 0.65 or not flip
    for axis in (1, 2):
        counts = [sum(how[axis] == step for how in seen) for step in range(-shift, shift + 1)]
        assert min(counts) > 200 / len(counts) / 2, counts


def test_augmentation_leaves_the_data_set_as_it_was():
    before = IMAGES.copy()
    epoch_of(flip=True, shift_pixels=2)
    epoch_of(flip=False, shift_pixels=0)
    np.testing.assert_array_equal(IMAGES, before)


def test_seed_and_epoch_decide_everything():
    first = epoch_of(epoch=4)
    for epoch in (0, 1, 2):
        epoch_of(epoch=epoch)  # what ran before makes no difference, so a resumed run sees the same
    assert equal(first, epoch_of(epoch=4))
    assert not equal(first, epoch_of(epoch=5))
    assert not equal(first, epoch_of(epoch=4, seed=2))
    unmoved = epoch_of(epoch=5, shuffle=False)
    assert not equal(epoch_of(epoch=4, shuffle=False), unmoved)


def test_batches_differ_in_their_augmentation_also_from_the_order():
    same = np.tile(IMAGES[:1], (20, 1, 1, 1))
    first, second = (x for x, _ in epoch_of(same, np.zeros(20, np.int64)))
    assert not np.array_equal(first, second)
    assert pipeline.batch_random(1, 2, 0).random() != np.random.default_rng([1, 2]).random()


def test_two_passes_over_one_dataset_are_equal_and_its_length_is_known():
    dataset = pipeline.batches(
        IMAGES,
        LABELS,
        batch_size=10,
        seed=1,
        epoch=0,
        flip=True,
        shift_pixels=2,
        preprocessing=PREPROCESSING,
        shuffle=True,
    )
    assert len(dataset) == 4
    assert dataset.element_spec[0].shape.as_list() == [None, 8, 6, 3]
    assert dataset.element_spec[1].shape.as_list() == [None]
    first, second = ([(x.numpy(), y.numpy()) for x, y in dataset] for _ in range(2))
    assert equal(first, second)


def test_a_shift_out_of_view_and_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"train\.shift_pixels = 6 would push whole images of 8x6 out of view: .* 6"):
        epoch_of(shift_pixels=6)
    assert len(epoch_of(shift_pixels=5)) == 4
    with pytest.raises(InputError, match=r"images must be \[n, 9, 6, 3\] uint8"):
        epoch_of(preprocessing=spec(9, 6, 3))
