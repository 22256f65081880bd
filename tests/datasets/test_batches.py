"""Training batches against a NumPy reference and against the list of all allowed flips and shifts."""

import hashlib
import threading

import numpy as np
import pytest

from edgecbam.datasets import augment, pipeline
from edgecbam.errors import InputError
from edgecbam.preprocessing import normalize
from edgecbam.recipe import TrainConfig


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
EVERYTHING = {
    "brightness": 0.4,
    "contrast": 0.3,
    "saturation": 0.5,
    "random_erasing": 0.5,
    "mixup": 0.4,
    "label_smoothing": 0.1,
    "balance_classes": True,
}


def stream_of(images=IMAGES, labels=LABELS, classes=37, epoch=0, preprocessing=None, start_batch=0, shard=(0, 1), **s):
    config = TrainConfig(**({"batch_size": 10, "seed": 1, "flip": True, "shift_pixels": 2} | s))
    return pipeline.batches(
        images,
        labels,
        classes=classes,
        config=config,
        epoch=epoch,
        preprocessing=preprocessing or spec(*images.shape[1:]),
        start_batch=start_batch,
        shard=shard,
    )


def whole(stream):
    return [tuple(tensor.numpy() for tensor in batch) for batch in stream]


def epoch_of(*args, **changes):
    """Images and labels of each batch; a label is where its one-hot target is highest."""
    return [(images, targets.argmax(axis=1)) for images, targets, _ in whole(stream_of(*args, **changes))]


def joined(batches):
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def equal(first, second):
    return all(
        np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_without_augmentation_an_epoch_is_the_permuted_normalized_set():
    batches = whole(stream_of(seed=5, epoch=3, flip=False, shift_pixels=0))
    assert [x.shape for x, _, _ in batches] == [(10, 8, 6, 3)] * 3 + [(7, 8, 6, 3)]
    images, targets, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == targets.dtype == weights.dtype == np.float32
    order = np.random.default_rng([5, 3]).permutation(37)
    np.testing.assert_array_equal(targets, np.eye(37, dtype=np.float32)[LABELS[order]])
    np.testing.assert_array_equal(images, normalize(IMAGES[order], PREPROCESSING))
    np.testing.assert_array_equal(weights, np.ones(37))


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
    for x, y in epoch_of(images, labels, classes=4, flip=flip, shift_pixels=shift):
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


def test_batches_differ_in_their_augmentation_also_from_the_order():
    same = np.tile(IMAGES[:1], (20, 1, 1, 1))
    first, second = (x for x, _ in epoch_of(same, np.zeros(20, np.int64), classes=1))
    assert not np.array_equal(first, second)
    assert pipeline.batch_random(1, 2, 0).random() != np.random.default_rng([1, 2]).random()


def test_two_passes_over_one_dataset_are_equal_and_its_length_is_known():
    dataset = stream_of(**EVERYTHING)
    assert len(dataset) == 4
    assert [each.shape.as_list() for each in dataset.element_spec] == [[None, 8, 6, 3], [None, 37], [None]]
    assert equal(whole(dataset), whole(dataset))


def test_an_epoch_begun_in_its_midst_goes_on_as_it_would_have():
    assert equal(whole(stream_of(start_batch=2, **EVERYTHING)), whole(stream_of(**EVERYTHING))[2:])
    assert len(stream_of(start_batch=4)) == 0


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_the_shares_of_all_workers_are_the_batch_of_one(workers):
    together = whole(stream_of(**EVERYTHING))
    shares = [whole(stream_of(shard=(index, workers), **EVERYTHING)) for index in range(workers)]
    for number, batch in enumerate(together):
        parts = [share[number] for share in shares]
        lengths = [len(weights) for _, _, weights in parts]
        assert max(lengths) - min(lengths) <= 1
        for place in range(3):
            present = [part[place][part[2] > 0] for part in parts]
            np.testing.assert_array_equal(np.concatenate(present), batch[place])
    # 7 images for 8 workers: one of them gets an image that does not count
    assert sum(bool((share[-1][2] == 0).all()) for share in shares) == (1 if workers == 8 else 0)


def test_an_augmented_epoch_is_written_down():
    """Flip and shift must give what they gave before other augmentation came: trained models depend on it."""
    images = np.random.RandomState(0).randint(0, 256, (37, 8, 6, 3)).astype(np.uint8)
    digests = []
    for number, (flip, shift) in enumerate([(True, 2), (True, 0), (False, 1)]):
        random = pipeline.batch_random(3, 2, number)
        draws = augment.draw(random, 37, (8, 6), TrainConfig(flip=flip, shift_pixels=shift))
        digests.append(hashlib.sha256(augment.apply(images, draws, np.arange(37)).tobytes()).hexdigest()[:16])
    assert digests == ["49af6f747a7d3631", "df3b96426fda900f", "02bc43988b8bfe70"]


def test_targets_are_smoothed():
    targets = whole(stream_of(label_smoothing=0.2, classes=40))[0][1]
    order = np.random.default_rng([1, 0]).permutation(37)[:10]
    np.testing.assert_allclose(targets, 0.8 * np.eye(40)[order] + 0.2 / 40, rtol=1e-6)


def test_mixup_mixes_images_targets_and_weights_alike():
    plain, mixed = (
        whole(stream_of(mixup=value, flip=False, shift_pixels=0, class_weights=(1.0,) * 36 + (3.0,)))
        for value in (0.0, 0.5)
    )
    shares = []
    for (images, targets, weights), (images2, targets2, weights2) in zip(plain, mixed, strict=True):
        for row in range(len(images)):
            first, second = targets[row].argmax(), np.flatnonzero(targets2[row])
            partner = int(second[second != first][0]) if len(second) == 2 else first
            share = targets2[row, first] if partner != first else 1.0
            other = int(np.flatnonzero(targets[:, partner])[0])
            shares.append(float(share))
            np.testing.assert_allclose(targets2[row].sum(), 1, rtol=1e-6)
            np.testing.assert_allclose(images2[row], share * images[row] + (1 - share) * images[other], atol=1e-5)
            np.testing.assert_allclose(weights2[row], share * weights[row] + (1 - share) * weights[other], rtol=1e-5)
    assert min(shares) < 0.99


def test_a_regression_gets_its_values_mixed_and_no_classes():
    values = np.random.default_rng(1).normal(size=(37, 2)).astype(np.float32)
    order = np.random.default_rng([1, 0]).permutation(37)
    targets = np.concatenate([targets for _, targets, _ in whole(stream_of(labels=values, classes=None))])
    np.testing.assert_array_equal(targets, values[order])
    images, mixed, weights = whole(stream_of(labels=values, classes=None, mixup=0.5, flip=False, shift_pixels=0))[0]
    (plain, _, _), batch = whole(stream_of(flip=False, shift_pixels=0))[0], order[:10]
    draws = augment.draw(pipeline.batch_random(1, 0, 0), 10, (8, 6), TrainConfig(mixup=0.5, flip=False, shift_pixels=0))
    expected = draws.share * values[batch] + (1 - draws.share) * values[batch][draws.partner]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(images, draws.share * plain + (1 - draws.share) * plain[draws.partner], atol=1e-5)
    np.testing.assert_array_equal(weights, np.ones(10))


def test_class_weights_are_given_or_balance_the_classes():
    labels = np.array([0, 0, 0, 1, 1, 2])
    balanced = pipeline.class_weights(labels, 3, TrainConfig(balance_classes=True))
    np.testing.assert_allclose(balanced, [6 / 9, 6 / 6, 6 / 3])
    assert np.bincount(labels, balanced[labels]).tolist() == pytest.approx([2, 2, 2])
    given = pipeline.class_weights(labels, 3, TrainConfig(class_weights=(1.0, 0.0, 2.5)))
    np.testing.assert_array_equal(given, np.array([1, 0, 2.5], np.float32))
    assert pipeline.class_weights(labels, 3, TrainConfig()) is None
    _, targets, weights = whole(stream_of(class_weights=tuple(range(37))))[0]
    np.testing.assert_array_equal(weights, targets.argmax(axis=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, r"train\.class_weights has 2 weights for 37 classes: give one for each class"),
        ({"class_weights": (0.0,) * 37}, r"train\.class_weights gives every training image the weight 0"),
        ({"class_weights": (1.0,) * 37, "balance_classes": True}, "exclude each other: give one of them"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        stream_of(**settings)


@pytest.mark.parametrize("settings", [{"class_weights": (1.0,)}, {"balance_classes": True}, {"label_smoothing": 0.1}])
def test_settings_for_classes_are_refused_in_a_regression(settings):
    with pytest.raises(InputError, match=r"are for classes, but data\.targets asks for a regression: leave them out"):
        stream_of(labels=np.zeros((37, 1), np.float32), classes=None, **settings)


def test_a_shift_out_of_view_and_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"train\.shift_pixels = 6 would push whole images of 8x6 out of view: .* 6"):
        epoch_of(shift_pixels=6)
    assert len(epoch_of(shift_pixels=5)) == 4
    with pytest.raises(InputError, match=r"images must be \[n, 9, 6, 3\] uint8"):
        epoch_of(preprocessing=spec(9, 6, 3))


def test_batches_are_made_ahead_and_beside_each_other_also_where_ops_are_deterministic(monkeypatch):
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: 2)
    met, apply = threading.Barrier(2), augment.apply

    def both_at_once(*arguments):
        met.wait(20)  # raises where no second batch is begun before this one is done
        return apply(*arguments)

    monkeypatch.setattr(augment, "apply", both_at_once)
    assert len(list(stream_of())) == 4
