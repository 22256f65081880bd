"""Decoded images in memory, on disk or decoded anew: the same pixels, and memory that stays within bounds."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from edgecbam.datasets import cache, decode, digest, fashion, lazy, load, memory, pipeline
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.preprocessing import UnreadableImage, describe
from edgecbam.recipe import DataConfig, TrainConfig

PARTS = ("train", "validation", "test")
CACHES = ("memory", "disk", "none")


def config(root, **changes):
    return replace(DataConfig(source=str(root), validation_fraction=0.25, test_fraction=0.25), **changes)


@pytest.fixture
def photos(make_folder):
    """12 images of noise in two classes, of 40x30 pixels."""
    root = make_folder({"cat": 6, "dog": 6})
    random = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def little_memory(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)


@pytest.fixture
def full_disk(monkeypatch):
    class Usage:
        free = 2**30

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage)


def test_all_caches_hold_the_same_pixels_and_have_the_same_digest(photos):
    datasets = [load(config(photos, cache=name))[0] for name in (*CACHES, "disk")]  # the last one from the file
    assert len({digest(dataset) for dataset in datasets}) == 1
    for dataset in datasets[1:]:
        assert dataset.split == datasets[0].split
        for part in PARTS:
            held, images = getattr(datasets[0], f"{part}_images"), getattr(dataset, f"{part}_images")
            assert isinstance(images, lazy.OnDemand)
            assert (images.shape, images.dtype, images.nbytes, len(images)) == (
                held.shape,
                held.dtype,
                held.nbytes,
                len(held),
            )
            np.testing.assert_array_equal(images[:], held)
            np.testing.assert_array_equal(getattr(dataset, f"{part}_labels"), getattr(datasets[0], f"{part}_labels"))


@pytest.mark.parametrize("name", ["disk", "none"])
def test_they_are_indexed_like_an_array(photos, name):
    held = load(config(photos, cache="memory"))[0].train_images
    images = load(config(photos, cache=name))[0].train_images
    for key in (
        0,
        -1,
        np.int64(2),
        slice(1, 5),
        slice(None, None, -2),
        slice(3, 3),
        np.array([4, 0, 0, 1, 2]),
        np.array([], np.int64),
        np.arange(len(held)) % 2 == 0,
    ):
        np.testing.assert_array_equal(images[key], held[key])
        assert images[key].dtype == np.uint8
    np.testing.assert_array_equal(images.take(np.array([3, 1]))[:], held[[3, 1]])
    with pytest.raises(IndexError):
        images[len(held)]


def test_a_digest_tells_pixels_labels_and_names_apart(photos):
    dataset, _ = load(config(photos))
    changed = dataset.train_images.copy()
    changed[2, 3, 4, 1] ^= 1
    others = [
        replace(dataset, train_images=changed),
        replace(dataset, train_labels=1 - dataset.train_labels),
        replace(dataset, classes=("cat", "cow")),
        replace(dataset, target_mean=(0.0,), target_std=(1.0,)),
    ]
    assert len({digest(each) for each in (dataset, *others)}) == 5
    assert digest(replace(dataset, split={})) == digest(dataset)


def test_a_file_on_disk_is_found_again_by_other_seeds_and_not_by_other_images(photos, image_cache, monkeypatch, events):
    first, _ = load(config(photos, cache="disk"), events)
    assert any("decoded images are kept in" in message for message in events.messages)
    (folder,) = image_cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [cache.BAD, cache.PIXELS]
    with monkeypatch.context() as context:
        context.setattr(decode.preprocessing, "load_image", lambda *_: pytest.fail("an image was decoded again"))
        events.clear()
        other, _ = load(config(photos, cache="disk", seed=2, mean=(5.0,)), events)
        assert f"decoded images are read from {folder}" in events.messages
    assert other.split["train"] != first.split["train"]
    np.testing.assert_array_equal(
        other.train_images[:], load(config(photos, cache="memory", seed=2, mean=(5.0,)))[0].train_images
    )
    load(config(photos, cache="disk", height=20))
    assert len(list(image_cache.iterdir())) == 2
    path = photos / "cat" / "00.png"
    Image.new("RGB", (40, 30), "red").save(path)
    changed, _ = load(config(photos, cache="disk"))
    assert len(list(image_cache.iterdir())) == 3
    assert digest(changed) == digest(load(config(photos, cache="memory"))[0])


def test_a_file_cut_short_is_made_anew(photos, image_cache):
    before = digest(load(config(photos, cache="disk"))[0])
    (pixels,) = image_cache.rglob(cache.PIXELS)
    os.truncate(pixels, 1000)
    assert digest(load(config(photos, cache="disk"))[0]) == before
    dataset, _ = load(config(photos, cache="disk"))
    os.truncate(pixels, 1000)
    with pytest.raises(EnvironmentFailure, match="has become shorter: delete its folder"):
        dataset.test_images[:]


def test_clearing_the_cache_does_not_disturb_who_reads_it(photos, image_cache):
    dataset, _ = load(config(photos, cache="disk"))
    (pixels,) = image_cache.rglob(cache.PIXELS)
    pixels.unlink()
    np.testing.assert_array_equal(dataset.train_images[:], load(config(photos, cache="memory"))[0].train_images)


def test_an_interrupted_cache_leaves_nothing_and_that_of_a_dead_process_is_cleared(photos, image_cache, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(decode.preprocessing, "load_image", stop)
        with pytest.raises(KeyboardInterrupt):
            load(config(photos, cache="disk"))
    assert list(image_cache.iterdir()) == []
    load(config(photos, cache="disk"))
    (folder,) = image_cache.iterdir()
    left = folder.with_name(f"{folder.name}.partial-another-container-7-abcd")
    lock = left.with_name(f"{left.name}.lock")
    folder.rename(left)
    with lock.open("wb") as held:
        assert cache._locked(held)  # as a process does that still writes
        load(config(photos, cache="disk"))
        assert {path.name for path in image_cache.iterdir()} == {folder.name, left.name, lock.name}
    shutil.rmtree(folder)
    load(config(photos, cache="disk"))
    assert [path.name for path in image_cache.iterdir()] == [folder.name]


def test_a_cache_that_another_process_finished_first_stays(photos, image_cache, monkeypatch):
    whole, began = cache._reserve, []

    def reserve(descriptor, size):
        whole(descriptor, size)
        if not began:
            began.append(True)
            load(config(photos, cache="disk"))
            began.extend(path for path in image_cache.rglob(cache.PIXELS) if ".partial" not in path.parent.name)
            began.append(began[1].stat().st_ino)

    monkeypatch.setattr(cache, "_reserve", reserve)
    load(config(photos, cache="disk"))
    assert list(image_cache.rglob(cache.PIXELS)) == [began[1]]
    assert began[1].stat().st_ino == began[2]


def test_what_could_not_be_read_is_tried_again(photos, image_cache, monkeypatch):
    denied = sorted(photos.rglob("*.png"))[2]
    real = decode.preprocessing.load_image

    def load_image(path, *rest):
        if path == denied:
            raise UnreadableImage(path, "may not be read (no permission)")
        return real(path, *rest)

    with monkeypatch.context() as context:
        context.setattr(decode.preprocessing, "load_image", load_image)
        dataset, _ = load(config(photos, cache="disk", skip_bad=True))
        assert len(dataset.bad_files) == 1
    dataset, _ = load(config(photos, cache="disk"))
    assert dataset.bad_files == ()
    assert digest(dataset) == digest(load(config(photos, cache="memory"))[0])
    monkeypatch.setattr(decode.preprocessing, "load_image", load_image)
    assert load(config(photos, cache="disk"))[0].bad_files == ()  # it is in the file now


def test_auto_takes_memory_then_disk_then_nothing(photos, events, monkeypatch):
    assert isinstance(load(config(photos))[0].train_images, np.ndarray)

    class Memory:
        available = 1000

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)
    dataset, _ = load(config(photos), events)
    assert isinstance(dataset.train_images, lazy.DecodedOnDisk)
    assert any(
        "kept in" in message and "decoded they take 0.00 GiB, more than half of the memory available" in message
        for message in events.messages
    )


def test_auto_decodes_anew_where_the_disk_is_full(photos, little_memory, full_disk, events):
    dataset, _ = load(config(photos), events)
    assert isinstance(dataset.train_images, lazy.DecodedOnDemand)
    assert any("decoded anew in every epoch: " in message and "1.00 GiB free" in message for message in events.messages)


def test_a_full_disk_is_refused_before_decoding_with_the_figures(photos, full_disk, image_cache, monkeypatch):
    monkeypatch.setattr(decode.preprocessing, "load_image", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(
        EnvironmentFailure, match=r"image-cache has 1\.00 GiB free, but the decoded images take 0\.00 GiB .* EDGECBAM_"
    ):
        load(config(photos, cache="disk"))
    assert list(image_cache.iterdir()) == []


def test_a_disk_that_fails_in_the_midst_is_named(photos, image_cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "pwrite", full)
    with pytest.raises(EnvironmentFailure, match=r"\(No space left on device\): set EDGECBAM_CACHE to a folder with"):
        load(config(photos, cache="disk"))
    assert list(image_cache.iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_named(photos, image_cache):
    image_cache.write_text("x")
    with pytest.raises(EnvironmentFailure, match=r"cannot be kept in .*image-cache \(.*\): set EDGECBAM_CACHE"):
        load(config(photos, cache="disk"))


def test_the_cache_lies_in_the_users_cache_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGECBAM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.home() == tmp_path / ".cache" / "edgecbam"


@pytest.mark.parametrize("name", CACHES)
def test_unreadable_images_are_left_out_whatever_the_cache(photos, name, image_cache):
    (photos / "cat" / "00.png").write_bytes(b"")
    (photos / "dog" / "01.png").write_text("no picture")
    with pytest.raises(InputError, match=r"^2 of 12 images in .*; dog/01.png is no image in a known format: mend or"):
        load(config(photos, cache=name))
    for _ in range(2):  # the second time from the file
        dataset, _ = load(config(photos, cache=name, skip_bad=True))
        assert dataset.bad_files == ("cat/00.png", "dog/01.png")
        named = [file for part in PARTS for file in dataset.split[part]]
        assert len(named) == 10
        assert not {"cat/00.png", "dog/01.png"} & set(named)
        assert sum(len(getattr(dataset, f"{part}_images")[:]) for part in PARTS) == 10
    if name == "disk":
        (listed,) = image_cache.rglob(cache.BAD)
        assert sorted(json.loads(listed.read_text()).values()) == [
            "is empty (0 bytes)",
            "is no image in a known format",
        ]


def test_a_file_that_vanishes_while_training_is_named(photos):
    dataset, _ = load(config(photos, cache="none"))
    (photos / dataset.split["train"][2]).unlink()
    with pytest.raises(InputError, match=r"\.png does not exist"):
        dataset.train_images[:]


def test_so_it_is_in_the_midst_of_an_epoch(photos):
    dataset, data = load(config(photos, cache="none"))
    (photos / dataset.split["train"][2]).unlink()
    stream = pipeline.batches(
        dataset.train_images,
        dataset.train_labels,
        classes=2,
        config=TrainConfig(batch_size=2),
        epoch=0,
        preprocessing=describe(data),
    )
    with pytest.raises(InputError, match=r"^/\S+\.png does not exist: give an intact image file such as JPEG or PNG$"):
        consume(stream)


def consume(stream):
    with pipeline.own_errors():
        for _ in stream:
            pass


def test_other_errors_of_tensorflow_pass_through():
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError), pipeline.own_errors():
        tf.reshape(tf.zeros(3), (2, 2))


def test_the_split_names_the_files_of_each_image(photos):
    dataset, _ = load(config(photos))
    assert dataset.split["seed"] == 1
    for part in PARTS:
        names = dataset.split[part]
        assert [dataset.classes.index(name.split("/")[0]) for name in names] == getattr(
            dataset, f"{part}_labels"
        ).tolist()
    assert sorted(name for part in PARTS for name in dataset.split[part]) == sorted(
        str(path.relative_to(photos)) for path in photos.rglob("*.png")
    )
    json.dumps(dataset.split)


@pytest.mark.parametrize("name", CACHES)
def test_arrays_of_another_size_are_kept_alike(name):
    held, data = load(DataConfig(height=8, train_images=20, test_images=20, cache="memory"))
    dataset, _ = load(DataConfig(height=8, train_images=20, test_images=20, cache=name))
    assert digest(dataset) == digest(held)
    assert (data.height, data.width) == (8, 8)


def test_the_split_of_arrays_names_positions():
    dataset, _ = load(DataConfig(train_images=20, test_images=20))
    source = fashion.read_builtin()
    np.testing.assert_array_equal(source.train_images[dataset.split["train"]], dataset.train_images[..., 0])
    np.testing.assert_array_equal(source.test_images[dataset.split["test"]], dataset.test_images[..., 0])
    assert dataset.split["parts"] == {"train": "train", "validation": "train", "test": "test"}


GROWTH = """
import json, os, sys
from pathlib import Path
os.cpu_count = lambda: 2  # threads hold an image each, however many processors there are
import numpy as np
from edgecbam.datasets import digest, load
from edgecbam.recipe import DataConfig

def mebibytes(key):  # VmHWM is the highest resident memory so far
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":")]
    return int(line.split()[1]) / 1024

before = mebibytes("VmRSS")
dataset, data = load(DataConfig(source=sys.argv[1], cache=sys.argv[2], height=1024, width=1024, channels=3))
images = dataset.train_images
for start in range(0, len(images), 4):
    batch = images[np.arange(start, min(start + 4, len(images)))]
digest(dataset)
print(json.dumps({"held": images.nbytes / 2**20, "grown": mebibytes("VmHWM") - before}))
"""


@pytest.mark.parametrize(("name", "bounded"), [("disk", True), ("none", True), ("memory", False)])
def test_resident_memory_stays_bounded_where_the_images_would_not_fit(make_folder, name, bounded):
    """273 MiB of decoded pixels are loaded, read and digested; kept in memory, they prove that growth is seen."""
    root = make_folder({"cat": 60, "dog": 60}, size=(32, 32))
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(root), name], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["held"] > 250
    assert (figures["grown"] < 130) == bounded, figures


def test_images_on_demand_feed_the_training_the_same_batches(photos):
    epochs = []
    for name in CACHES:
        dataset, data = load(config(photos, cache=name))
        stream = pipeline.batches(
            dataset.train_images,
            dataset.train_labels,
            classes=2,
            config=TrainConfig(batch_size=2, mixup=0.3),
            epoch=0,
            preprocessing=describe(data),
        )
        epochs.append([batch[0].numpy() for batch in stream])
    for first, second in pairwise(epochs):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
