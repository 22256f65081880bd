"""A user's folder of images: its layouts, its splits, and everything that can be wrong with it."""

import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgecbam import preprocessing
from edgecbam.datasets import decode, load, memory
from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

PARTS = ("train", "validation", "test")


def config(root, **changes):
    return replace(DataConfig(source=str(root), validation_fraction=0.25, test_fraction=0.25), **changes)


def levels(images):
    """The grey level of each of make_folder's images, which tells them apart."""
    return images[:, 0, 0, 0].tolist()


def refuse(root, message, **changes):
    with pytest.raises(InputError, match=message) as caught:
        load(config(root, **changes))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# ---- layouts and splits ----------------------------------------------------------------------------------------------


def test_class_folders_are_split_by_class_without_overlap(make_folder, events):
    root = make_folder({"cat": 8, "dog": 12})
    dataset, data = load(config(root), events)
    assert dataset.classes == ("cat", "dog")
    assert (data.height, data.width, data.channels) == (24, 24, 3)
    seen = []
    for part, counts in zip(PARTS, ([4, 7], [2, 2], [2, 3]), strict=True):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        assert images.shape == (sum(counts), 24, 24, 3)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert np.bincount(labels).tolist() == counts
        assert [level // 100 for level in levels(images)] == labels.tolist()
        seen += levels(images)
    assert sorted(seen) == [*range(8), *range(100, 112)]
    assert [(event.step, event.total, event.unit) for event in events][-1] == (20, 20, "image")
    assert {event.stage for event in events} == {"data"}


def test_the_seed_decides_split_and_order_whatever_the_threads(make_folder, monkeypatch):
    root = make_folder({"cat": 30, "dog": 30})
    first, _ = load(config(root))
    monkeypatch.setattr(decode.os, "cpu_count", lambda: 1)
    again, _ = load(config(root))
    other, _ = load(config(root, seed=2))
    for part in PARTS:
        np.testing.assert_array_equal(getattr(first, f"{part}_images"), getattr(again, f"{part}_images"))
        np.testing.assert_array_equal(getattr(first, f"{part}_labels"), getattr(again, f"{part}_labels"))
        assert levels(getattr(first, f"{part}_images")) != levels(getattr(other, f"{part}_images"))
    assert 0 < first.train_labels[:12].sum() < 12, "the first images are of one class only"


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_given_train_validation_and_test_folders_are_taken_as_they_are(make_folder, validation):
    make_folder({"cat": 5, "dog": 6}, below="train")
    make_folder({"cat": 3, "dog": 2}, below="test")
    root = make_folder({"cat": 1, "dog": 1}, below=validation)
    dataset, _ = load(config(root))
    assert sorted(levels(dataset.train_images)) == [*range(5), *range(100, 106)]
    assert sorted(levels(dataset.test_images)) == [0, 1, 2, 100, 101]
    assert sorted(levels(dataset.validation_images)) == [0, 100]


def test_what_is_not_given_is_split_off_from_train(make_folder):
    root = make_folder({"cat": 8, "dog": 8}, below="train")
    dataset, _ = load(config(root))
    assert [len(getattr(dataset, f"{part}_images")) for part in PARTS] == [9, 3, 4]
    make_folder({"cat": 3, "dog": 2}, below="test")
    dataset, _ = load(config(root))
    assert [len(getattr(dataset, f"{part}_images")) for part in PARTS] == [12, 4, 5]


def test_a_class_may_be_called_train(make_folder):
    dataset, _ = load(config(make_folder({"car": 4, "test": 4, "train": 4})))
    assert dataset.classes == ("car", "test", "train")


def test_subsets_are_stratified(make_folder):
    dataset, _ = load(config(make_folder({"cat": 20, "dog": 20}), train_images=6, test_images=4))
    assert np.bincount(dataset.train_labels).tolist() == [3, 3]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]
    assert len(dataset.validation_labels) == 8


def test_hidden_files_are_passed_over_and_other_files_are_counted(make_folder, events):
    root = make_folder({"cat": 4, "dog": 4})
    (root / ".cache").mkdir()
    (root / "cat" / "album.png").mkdir()
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "notes.TXT").write_text("x")
    (root / "dog" / "notes.txt").write_text("x")
    (root / "dog" / "README").write_text("x")
    (root / "labels.csv").write_text("x")
    dataset, _ = load(config(root), events)
    assert dataset.classes == ("cat", "dog")
    assert events.messages == [
        f"passed over 3 files in {root} that are no images by their name: (none) 1, .txt 2",
    ]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "bmp", "gif", "tif", "ppm"])
def test_the_usual_formats_are_found_by_their_suffix(make_folder, suffix):
    dataset, _ = load(config(make_folder({"cat": 3, "dog": 3}, suffix=suffix)))
    total = sum(len(getattr(dataset, f"{part}_images")) for part in PARTS)
    assert total == 6
    np.testing.assert_allclose(np.array(levels(dataset.test_images)) // 100, dataset.test_labels)


# ---- the size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side"), [((5, 9), 16), ((35, 90), 32), ((90, 36), 40), ((100, 100), 104), ((500, 700), 224)]
)
def test_an_open_size_is_the_median_shorter_side(make_folder, size, side):
    _, data = load(config(make_folder({"cat": 2, "dog": 2}, size=size)))
    assert (data.height, data.width) == (side, side)


def test_an_open_width_takes_the_height_and_a_given_shape_stays(make_folder):
    root = make_folder({"cat": 2, "dog": 2})
    dataset, data = load(config(root, height=12))
    assert (data.height, data.width, data.channels) == (12, 12, 3)
    dataset, data = load(config(root, height=12, width=10, channels=1))
    assert dataset.test_images.shape == (2, 12, 10, 1)


def test_channels_are_1_only_if_all_images_are_grey(make_folder):
    root = make_folder({"cat": 4, "dog": 4})
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert load(config(root))[1].channels == 1
    one = root / "cat" / "00.png"
    deep = np.asarray(Image.open(one)).astype(np.uint16) * 257
    Image.fromarray(deep).save(one)
    assert load(config(root))[1].channels == 1
    Image.open(root / "cat" / "01.png").convert("RGB").save(root / "cat" / "01.png")
    Image.open(root / "cat" / "02.png").convert("RGB").save(root / "cat" / "02.png")
    assert load(config(root))[1].channels == 3


def test_mixed_sizes_and_modes_become_one_array_as_load_image_gives_it(make_folder):
    root = make_folder({"cat": 3, "dog": 3})
    Image.new("CMYK", (50, 10), (0, 0, 0, 100)).save(root / "cat" / "03.jpg")
    Image.new("RGBA", (10, 50), (0, 200, 0, 128)).save(root / "cat" / "04.png")
    Image.new("LA", (3, 3), (50, 128)).save(root / "dog" / "03.png")
    Image.fromarray(np.full((40, 41), 50 * 257, np.uint16)).save(root / "dog" / "04.png")
    dataset, data = load(config(root))
    wanted = preprocessing.describe(data)
    single = [preprocessing.load_image(path, wanted).tobytes() for path in root.rglob("*.*")]
    whole = [image.tobytes() for part in PARTS for image in getattr(dataset, f"{part}_images")]
    assert sorted(whole) == sorted(single)


# ---- what is wrong with it -------------------------------------------------------------------------------------------


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    refuse(
        tmp_path / "missing",
        r"the folder .*missing does not exist: use builtin, fashion_mnist, .*tfds:NAME, or a folder",
    )
    refuse("~nobody_of_that_name/x", "cannot be looked up")
    refuse("x" * 5000, "cannot be looked up")
    refuse("", "names no data")
    refuse("a\0b", "names no data")
    refuse("fashion_mnits", "is neither a known name nor an existing folder: did you mean fashion_mnist?")
    refuse("penguins", "is neither a known name nor an existing folder: use builtin, .* or a folder")
    refuse("cifar1000", "neither a known name nor an existing folder: did you mean cifar100?")
    (tmp_path / "one.png").write_bytes(b"x")
    refuse(tmp_path / "one.png", r"one\.png is no folder")


def test_folders_without_two_filled_classes_are_refused(tmp_path, make_folder):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(b"x")
    refuse(tmp_path / "flat", r"flat holds no class folders: put the images into one folder for each class")
    root = make_folder({"cat": 4})
    refuse(root, "images holds one class only, cat: a classifier needs two")
    (root / "dog").mkdir()
    refuse(root, "the class folder .*/dog holds no images")
    (root / "dog" / "notes.txt").write_text("x")
    (root / "dog" / "puppies").mkdir()
    refuse(root, r"the class folder .*/dog holds no images \(folders inside it are not searched\)")


def test_a_class_that_is_too_small_to_split_is_named(make_folder):
    root = make_folder({"cat": 4, "dog": 1})
    refuse(root, "class dog of .* has 1 image: a class needs at least 2")
    shutil.copy(root / "dog" / "00.png", root / "dog" / "01.png")
    dataset, _ = load(config(root))
    assert set(dataset.train_labels) == set(dataset.test_labels) == {0, 1}


def test_classes_that_differ_between_train_and_test_are_named(make_folder):
    make_folder({"cat": 2, "dog": 2}, below="train")
    root = make_folder({"cat": 2, "emu": 2}, below="test")
    refuse(root, "the classes of train and test in .* differ: test lacks dog, train lacks emu: give both")


def test_unclear_layouts_are_refused(make_folder):
    root = make_folder({"cat": 2, "dog": 2}, below="test")
    refuse(root, "has test but no class folders in train")
    make_folder({"cat": 2, "dog": 2}, below="train")
    (root / "annotations").mkdir()
    refuse(root, "holds annotations beside train, so it is unclear what the classes are")
    (root / "annotations").rmdir()
    make_folder({"cat": 2, "dog": 2}, below="val")
    make_folder({"cat": 2, "dog": 2}, below="validation")
    refuse(root, "has both val and validation: keep one of them")


def test_class_names_that_would_be_mistaken_for_each_other_are_refused(make_folder):
    refuse(make_folder({"Cat": 2, "cat": 2, "dog": 2}), "the class folders Cat and cat in .* differ only in case")


def test_class_names_that_differ_in_the_encoding_of_an_accent_are_refused(make_folder):
    refuse(make_folder({"re\u0301": 2, "r\u00e9": 2}), "differ only in case or in the encoding of accents")


def test_class_names_that_labels_txt_cannot_hold_are_refused(make_folder):
    refuse(make_folder({"cat": 2, "dog\n": 2}), r"dog\\n has a name that labels\.txt cannot hold: rename it")


def test_unreadable_images_are_named_and_counted(make_folder):
    root = make_folder({"cat": 10, "dog": 10})
    (root / "cat" / "00.png").write_bytes(b"")
    (root / "cat" / "01.png").write_text("not a picture")
    whole = (root / "dog" / "03.png").read_bytes()
    (root / "dog" / "03.png").write_bytes(whole[: len(whole) // 2])
    os.symlink("nowhere", root / "dog" / "gone.png")
    os.mkfifo(root / "dog" / "pipe.png")
    refuse(
        root,
        r"^5 of 22 images in .* cannot be read: cat/00\.png is empty \(0 bytes\); cat/01\.png is no image in a known "
        r"format; dog/03\.png is damaged or truncated .*; and 2 more: .* go on without them with --skip-bad$",
    )


def test_skip_bad_goes_on_without_them_and_lists_them(make_folder, events):
    root = make_folder({"cat": 10, "dog": 10})
    clean, _ = load(config(root))
    (root / "cat" / "00.png").write_bytes(b"")
    (root / "dog" / "01.png").write_text("not a picture")
    dataset, _ = load(config(root, skip_bad=True), events)
    assert dataset.bad_files == ("cat/00.png", "dog/01.png")
    assert "left out 2 unreadable of 20 images" in events.messages
    for part in PARTS:
        kept = [level for level in levels(getattr(clean, f"{part}_images")) if level not in (0, 101)]
        assert levels(getattr(dataset, f"{part}_images")) == kept
        assert [level // 100 for level in kept] == getattr(dataset, f"{part}_labels").tolist()


def test_skip_bad_still_refuses_a_class_that_ends_up_empty(make_folder):
    root = make_folder({"cat": 4, "dog": 4})
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    refuse(root, "class dog of .* has no readable image left to train on: add intact images", skip_bad=True)
    refuse(root, "4 of 8 images")


def test_a_data_set_larger_than_half_the_memory_is_refused_before_decoding(make_folder, monkeypatch):
    root = make_folder({"cat": 4, "dog": 4})

    class Memory:
        available = 2 * 8 * 1000 * 1000 * 3 - 2

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)
    monkeypatch.setattr(decode.preprocessing, "load_image", lambda *_: pytest.fail("an image was decoded"))
    refuse(
        root,
        r"8 images of 1000x1000x3 need 0\.02 GiB, more than half of the 0\.04 GiB .* data\.cache=disk or none, a "
        r"smaller data\.height and data\.width, or fewer data\.train_images",
        height=1000,
        cache="memory",
    )


def test_links_in_circles_do_no_harm(make_folder):
    root = make_folder({"cat": 4, "dog": 4})
    os.symlink(root, root / "cat" / "up")
    os.symlink("itself", root / "dog" / "itself")
    os.symlink("itself.png", root / "dog" / "itself.png")
    os.symlink("loop", root / "loop")
    dataset, _ = load(config(root, skip_bad=True))
    assert dataset.classes == ("cat", "dog")
    assert dataset.bad_files == ("dog/itself.png",)
    os.symlink(root, root / "eel")
    refuse(root, "the class folder .*/eel holds no images")


def test_an_interruption_is_not_held_up_by_files_still_to_come(make_folder, monkeypatch):
    root = make_folder({"cat": 50, "dog": 50})
    monkeypatch.setattr(decode.os, "cpu_count", lambda: 1)
    decoded = []
    waiting = threading.Event()

    def slow(path, wanted):
        decoded.append(path)
        if len(decoded) == 2:
            signal.raise_signal(signal.SIGINT)
        waiting.wait(0.01)
        return np.zeros((24, 24, 3), np.uint8)

    monkeypatch.setattr(decode.preprocessing, "load_image", slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            load(config(root))
    finally:
        signal.signal(signal.SIGINT, before)
    assert 2 <= len(decoded) < 20
