"""``tfds:NAME`` with small data sets that the tests write, and everything that can be wrong with a name or a set."""

import io
import os

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow_datasets

from edgecbam import preprocessing
from edgecbam.datasets import digest, lazy, load, tfds
from edgecbam.errors import EnvironmentFailure, InputError, MissingPackage
from edgecbam.recipe import DataConfig

PARTS = ("train", "validation", "test")
features = tensorflow_datasets.features


def pixels_of(split, number, size=(20, 20)):
    """What stands in example ``number`` of a split; its first pixel tells it apart."""
    image = np.random.default_rng([number, len(split)]).integers(0, 256, (*size, 3), dtype=np.uint8)
    image[0, 0] = (number, len(split), number % 3)
    return image


def write(folder, name, splits, table=None, labels=None, examples=None, keys=None):
    """Write a data set as TFDS lays it out, into ``folder``: ``splits`` says how many examples each has."""
    table = table or {
        "image": features.Image(shape=(20, 20, 3), encoding_format="png"),
        "label": features.ClassLabel(names=["red", "green", "blue"]),
        "id": features.Text(),
    }
    made = examples or (
        lambda split, number: {
            "image": pixels_of(split, number),
            "label": (labels or {}).get(split, number % 3),
            "id": str(number),
        }
    )

    def generate(self, split, count):
        for number in range(count):
            yield number, made(split, number)

    with tensorflow_datasets.core.registered.skip_registration():
        builder_class = type(
            "".join(part.title() for part in name.split("_")),
            (tensorflow_datasets.core.GeneratorBasedBuilder,),
            {
                "VERSION": tensorflow_datasets.core.Version("1.0.0"),
                "name": name,
                "pkg_dir_path": folder,
                "_info": lambda self: tensorflow_datasets.core.DatasetInfo(
                    builder=self, features=features.FeaturesDict(table), supervised_keys=keys, disable_shuffling=True
                ),
                "_split_generators": lambda self, _: {
                    split: self._generate_examples(split, count) for split, count in splits.items()
                },
                "_generate_examples": generate,
            },
        )
    builder = builder_class(data_dir=str(folder))
    tensorflow_datasets.disable_progress_bar()
    builder.download_and_prepare(file_format="tfrecord")


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """TFDS' folder."""
    folder = tmp_path / "tfds"
    folder.mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(tfds.urllib.request, "getproxies", dict)

    def fail(*_, **__):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(tfds.socket, "create_connection", fail)


def config(name, **changes):
    return DataConfig(**({"source": f"tfds:{name}", "validation_fraction": 0.2, "test_fraction": 0.2} | changes))


def test_a_set_with_its_own_parts_is_taken_as_it_is(prepared):
    write(prepared, "three_parts", {"train": 30, "validation": 6, "test": 9})
    dataset, data = load(config("three_parts"))
    assert (data.height, data.width, data.channels) == (20, 20, 3)
    assert dataset.classes == ("red", "green", "blue")
    for part, count in zip(PARTS, (30, 6, 9), strict=True):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        np.testing.assert_array_equal(images, np.stack([pixels_of(part, number) for number in range(count)]))
        np.testing.assert_array_equal(labels, np.arange(count) % 3)
        assert labels.dtype == np.int64
        assert dataset.split[part] == list(range(count))
    assert dataset.split["parts"] == {part: part for part in PARTS}


def test_missing_parts_are_split_off_train_by_class(prepared):
    write(prepared, "train_only", {"train": 60})
    dataset, _ = load(config("train_only"))
    assert dataset.split["parts"] == dict.fromkeys(PARTS, "train")
    rows = [row for part in PARTS for row in dataset.split[part]]
    assert sorted(rows) == list(range(60))
    for part, each in zip(PARTS, (13, 3, 4), strict=True):
        labels = getattr(dataset, f"{part}_labels")
        assert np.bincount(labels).tolist() == pytest.approx([each] * 3, abs=1)
        expected = np.stack([pixels_of("train", row) for row in dataset.split[part]])
        np.testing.assert_array_equal(getattr(dataset, f"{part}_images"), expected)
    other, _ = load(config("train_only", seed=2))
    assert other.split["test"] != dataset.split["test"]
    few, _ = load(config("train_only", train_images=9, test_images=6))
    assert [len(getattr(few, f"{part}_images")) for part in PARTS] == [9, len(dataset.validation_images), 6]
    assert set(few.split["train"]) <= set(dataset.split["train"])


def test_a_part_without_labels_is_passed_over(prepared, events):
    write(prepared, "no_answers", {"train": 30, "test": 6}, labels={"test": -1})
    dataset, _ = load(config("no_answers"), events)
    assert dataset.split["parts"]["test"] == "train"
    assert "passed over the split test of tfds:no_answers, which has no labels" in events.messages


def test_disk_holds_the_same_and_none_is_refused(prepared, image_cache):
    write(prepared, "cached_set", {"train": 30})
    held, _ = load(config("cached_set"))
    for _ in range(2):
        dataset, _ = load(config("cached_set", cache="disk"))
        assert isinstance(dataset.train_images, lazy.DecodedOnDisk)
        assert digest(dataset) == digest(held)
    assert len(list(image_cache.iterdir())) == 1
    other, _ = load(config("cached_set", cache="disk", seed=5))
    assert digest(other) == digest(load(config("cached_set", seed=5))[0])
    with pytest.raises(InputError, match=r"'none' cannot be used with tfds:cached_set: give memory or disk"):
        load(config("cached_set", cache="none"))


def test_images_of_many_sizes_are_fitted_as_files_are(prepared, tmp_path):
    table = {
        "photo": features.Image(shape=(None, None, 3), encoding_format="png"),
        "thumb": features.Image(shape=(4, 4, 3), encoding_format="png"),
        "kind": features.ClassLabel(names=["odd", "even"]),
    }
    sizes = [(40 + number, 60) for number in range(20)]

    def example(split, number):
        return {
            "photo": pixels_of(split, number, sizes[number]),
            "thumb": np.zeros((4, 4, 3), np.uint8),
            "kind": number % 2,
        }

    write(prepared, "many_sizes", {"train": 20}, table, examples=example, keys=("photo", "kind"))
    dataset, data = load(config("many_sizes"))
    assert (data.height, data.width, data.channels) == (48, 48, 3)
    wanted = preprocessing.describe(data)
    for row, image in zip(dataset.split["train"], dataset.train_images, strict=True):
        Image.fromarray(pixels_of("train", row, sizes[row])).save(tmp_path / "one.png")
        np.testing.assert_array_equal(image, preprocessing.load_image(tmp_path / "one.png", wanted))


def test_a_damaged_image_is_named_or_left_out(prepared):
    table = {
        "image": features.Image(shape=(20, 20, 3), encoding_format="png"),
        "label": features.ClassLabel(names=["odd", "even"]),
    }

    def example(split, number):
        buffer = io.BytesIO()
        Image.fromarray(pixels_of(split, number)).save(buffer, "PNG")
        raw = buffer.getvalue()
        return {"image": io.BytesIO(raw[: len(raw) // 2] if number == 7 else raw), "label": number % 2}

    write(prepared, "one_damaged", {"train": 20}, table, examples=example)
    with pytest.raises(InputError, match=r"^1 of 20 images in tfds:one_damaged cannot be read: train/7 is damaged or"):
        load(config("one_damaged"))
    dataset, _ = load(config("one_damaged", skip_bad=True))
    assert dataset.bad_files == ("train/7",)
    assert sorted(row for part in PARTS for row in dataset.split[part]) == [row for row in range(20) if row != 7]
    for part in PARTS:
        for row, image in zip(dataset.split[part], getattr(dataset, f"{part}_images"), strict=True):
            np.testing.assert_array_equal(image, pixels_of("train", row))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"text": features.Text(), "label": features.ClassLabel(num_classes=2)},
            "has the features label, text, but one image and one class label are needed",
        ),
        (
            {"image": features.Image(shape=(4, 4, 1)), "value": np.float32},
            "has the features image, value, but one image and one class label are needed",
        ),
        (
            {"image": features.Image(shape=(4, 4, 1)), "label": features.ClassLabel(num_classes=1)},
            "has 1 class: a classifier needs two",
        ),
    ],
)
def test_a_set_that_is_not_for_image_classification_is_refused(prepared, table, message):
    values = {"text": "x", "label": 0, "image": np.zeros((4, 4, 1), np.uint8), "value": 1.0}
    write(prepared, "other_kind", {"train": 4}, table, examples=lambda *_: {key: values[key] for key in table})
    with pytest.raises(InputError, match=message):
        load(config("other_kind"))


def test_a_set_without_train_or_labels_is_refused(prepared):
    write(prepared, "test_only", {"test": 4})
    with pytest.raises(InputError, match="has no split train, only test: choose another"):
        load(config("test_only"))
    write(prepared, "unlabelled", {"train": 4}, labels={"train": -1})
    with pytest.raises(InputError, match="has images without labels in train"):
        load(config("unlabelled"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beens", r"'tfds:beens' is no data set of TensorFlow Datasets: did you mean tfds:beans\?$"),
        ("zqxwvjk", r"is no data set of TensorFlow Datasets: see https://www\.tensorflow\.org/datasets/catalog$"),
        ("mnist:9.9.9", r"'tfds:mnist:9\.9\.9' cannot be opened \(.*only: .*\): mend the name$"),
        ("../x", r"cannot be opened \(.*\): mend the name$"),
        ("", r"cannot be opened \(.*\): mend the name$|is no data set"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_the_nearest(prepared, name, message):
    with pytest.raises(InputError, match=message) as caught:
        load(config(name))
    assert "\n" not in str(caught.value)


def test_a_download_without_network_is_refused_in_one_line_with_exit_code_2(prepared, no_network):
    with pytest.raises(
        InputError,
        match=rf"^tfds:beans is not in {prepared}/beans/\S+ and has to be downloaded, but there is no network \(.*\): ",
    ) as caught:
        load(config("beans"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not isinstance(caught.value, EnvironmentFailure)


def test_a_download_that_fails_is_refused_in_one_line(prepared, no_network, monkeypatch, events):
    monkeypatch.setattr(tfds.urllib.request, "getproxies", lambda: {"https": "http://127.0.0.1:9"})

    def fail(self, **_):
        raise AssertionError("Manual directory x does not exist or is empty.\nCreate it and download files.")

    monkeypatch.setattr(tensorflow_datasets.core.GeneratorBasedBuilder, "download_and_prepare", fail)
    with pytest.raises(
        InputError, match=r"cannot be prepared there \(Manual directory x does not exist .* files\.\): prepare"
    ):
        load(config("beans"), events)
    assert any(message.startswith("downloading tfds:beans into ") for message in events.messages)


def test_without_the_package_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(MissingPackage, match=r"needs the package tensorflow-datasets: pip install 'edgecbam\[tfds\]'"):
        load(config("beans"))
