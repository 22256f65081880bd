"""A folder with a CSV file of targets: its splits, its standardised values, and all that can be wrong with it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgecbam.datasets import digest, load
from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

PARTS = ("train", "validation", "test")


@pytest.fixture
def root(tmp_path):
    """20 images at several depths; image n has grey level n."""
    folder = tmp_path / "photos"
    for number in range(20):
        path = folder / name_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, number, number)).save(path)
    return folder


def name_of(number):
    return ("", "deep/", "deep/er/")[number % 3] + f"{number:02}.png"


def rows_of(count=20, values="{n},{m}", name=name_of):
    return [f"{name(n)}," + values.format(n=n, m=100 - n / 8) for n in range(count)]


def write(root, rows, header="file,weight,height", name="targets.csv", encoding="utf-8"):
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding=encoding)


def config(root, **changes):
    asked = DataConfig(source=str(root), validation_fraction=0.25, test_fraction=0.2, targets="targets.csv")
    return replace(asked, **changes)


def refuse(root, message, **changes):
    with pytest.raises(InputError, match=message) as caught:
        load(config(root, **changes))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def numbers(images):
    """Which of the images these are, by their grey level."""
    return images[:, 0, 0, 0].astype(int)


def test_rows_are_split_at_random_and_recorded_and_standardised(root):
    write(root, rows_of())
    dataset, data = load(config(root))
    assert dataset.classes == ("weight", "height")
    assert (data.height, data.width, data.channels) == (24, 24, 3)
    assert [len(getattr(dataset, f"{part}_images")) for part in PARTS] == [12, 4, 4]
    everything = np.concatenate([numbers(getattr(dataset, f"{part}_images")) for part in PARTS])
    assert sorted(everything) == list(range(20))
    trained = numbers(dataset.train_images)
    weight, height = trained.astype(np.float64), 100 - trained / 8
    assert dataset.target_mean == pytest.approx((weight.mean(), height.mean()))
    assert dataset.target_std == pytest.approx((weight.std(), height.std()))
    np.testing.assert_allclose(dataset.train_labels.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train_labels.std(axis=0), 1, rtol=1e-5)
    for part in PARTS:
        labels, shown = getattr(dataset, f"{part}_labels"), numbers(getattr(dataset, f"{part}_images"))
        assert labels.dtype == np.float32
        real = labels * np.array(dataset.target_std) + np.array(dataset.target_mean)
        np.testing.assert_allclose(real, np.stack([shown, 100 - shown / 8], axis=1), atol=1e-4)
        assert dataset.split[part] == [name_of(number) for number in shown]
    assert dataset.split["seed"] == 1


def test_the_seed_decides_and_the_order_of_the_images_is_random(root):
    write(root, rows_of())
    first, again, other = (load(config(root, seed=seed))[0] for seed in (1, 1, 2))
    assert digest(first) == digest(again) != digest(other)
    assert first.split == again.split != other.split
    assert numbers(first.train_images).tolist() != sorted(numbers(first.train_images))


def test_a_column_split_alone_decides(root):
    parts = ["train"] * 12 + ["validation"] * 3 + ["test"] * 5
    write(root, [f"{row},{part}" for row, part in zip(rows_of(), parts, strict=True)], "file,weight,height,split")
    dataset, _ = load(config(root))
    assert dataset.classes == ("weight", "height")
    assert sorted(numbers(dataset.train_images)) == list(range(12))
    assert sorted(numbers(dataset.validation_images)) == [12, 13, 14]
    assert sorted(numbers(dataset.test_images)) == list(range(15, 20))
    few, _ = load(config(root, train_images=5, test_images=2))
    assert (len(few.train_images), len(few.validation_images), len(few.test_images)) == (5, 3, 2)


def test_without_standardising_the_values_stay(root):
    write(root, rows_of())
    dataset, _ = load(config(root, standardize_targets=False))
    assert (dataset.target_mean, dataset.target_std) == ((0.0, 0.0), (1.0, 1.0))
    np.testing.assert_array_equal(dataset.train_labels[:, 0], numbers(dataset.train_images))


def test_values_far_from_0_are_standardised_in_double_precision(root):
    write(root, rows_of(values="{n}e-7,1"), "file,shift,unused")
    text = (root / "targets.csv").read_text().splitlines()
    changed = [text[0].removesuffix(",unused")]
    changed += [f"{name_of(n)},{1e6 + n * 1e-3!r}" for n in range(20)]
    (root / "targets.csv").write_text("\n".join(changed))
    dataset, _ = load(config(root))
    shown = numbers(dataset.train_images)
    np.testing.assert_allclose(dataset.train_labels[:, 0], (shown - shown.mean()) / shown.std(), rtol=1e-4)


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_all_caches_give_the_same(root, cache):
    write(root, rows_of())
    assert digest(load(config(root, cache=cache))[0]) == digest(load(config(root))[0])


def test_images_without_a_row_are_counted(root, events):
    write(root, rows_of(17))
    (root / "notes.txt").write_text("x")
    load(config(root), events)
    assert any(message.startswith("passed over 3 images in ") and "no row" in message for message in events.messages)


def test_the_file_is_found_in_the_folder_then_where_the_program_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, rows_of(values="{n}"), "file,outside")
    assert load(config(root))[0].classes == ("outside",)
    write(root, rows_of(values="{n}"), "file,inside")
    assert load(config(root))[0].classes == ("inside",)
    assert load(config(root, targets=str(tmp_path / "targets.csv")))[0].classes == ("outside",)
    refuse(root, r"data\.targets: there is neither .*photos/no\.csv nor .*/no\.csv: name a CSV file", targets="no.csv")
    refuse(root, r"data\.targets: there is no /no\.csv: name a CSV file", targets="/no.csv")
    refuse(root, "cannot be looked up", targets="~nobody_of_that_name/x.csv")
    refuse(root, "cannot be looked up|there is neither", targets="x" * 5000)


def test_spreadsheets_forms_are_read(root):
    """A byte order mark, spaces, quotes, blank lines, another order of columns, backslashes and Windows' line ends."""
    rows = [f'"{n}", {name_of(n)} ' for n in range(19)]
    text = '\ufeffweight (g), "file"\r\n' + "\r\n\r\n".join(rows) + "\r\n,\r\n19,.\\deep\\19.png"
    (root / "targets.csv").write_bytes(text.encode())
    dataset, _ = load(config(root))
    assert dataset.classes == ("weight (g)",)
    real = dataset.test_labels[:, 0] * dataset.target_std[0] + dataset.target_mean[0]
    np.testing.assert_allclose(real, numbers(dataset.test_images), atol=1e-4)


def test_unreadable_images_are_named_or_left_out(root):
    write(root, rows_of())
    (root / name_of(4)).write_bytes(b"")
    refuse(root, r"1 of 20 images in .* cannot be read: deep/04\.png is empty")
    dataset, _ = load(config(root, skip_bad=True))
    assert dataset.bad_files == ("deep/04.png",)
    assert sum(len(getattr(dataset, f"{part}_images")) for part in PARTS) == 19
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    refuse(root, "has no readable image left to train on", skip_bad=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("deep/07.png,3", r"row 9: 2 cells for 3 columns: give one for each, none empty"),
        ("deep/07.png,3,4,5", r"row 9: 4 cells for 3 columns"),
        ("deep/07.png,,4", r"row 9, column weight: the cell is empty: give a number, or remove the row"),
        ("deep/07.png,3, ", r"row 9, column height: the cell is empty"),
        (",3,4", r"row 9, column file: the cell is empty: name an image"),
        ("deep/07.png,nan,4", r"row 9, column weight: 'nan' is not finite"),
        ("deep/07.png,3,-inf", r"row 9, column height: '-inf' is not finite"),
        ("deep/07.png,3,1e400", r"row 9, column height: '1e400' is not finite"),
        ("deep/07.png,3,1e31", r"row 9, column height: '1e31' is too large to train on"),
        ("deep/07.png,1_5,4", r"row 9, column weight: '1_5' is no number"),
        ("deep/07.png,heavy,4", r"row 9, column weight: 'heavy' is no number: give one, with a point for decimals"),
        ('deep/07.png,"3,5",4', r"row 9, column weight: '3,5' is no number"),
        ("00.png,3,4", r"row 9, column file: 00\.png stands in row 2 too: keep one"),
        ("./deep/01.png,3,4", r"row 9, column file: \./deep/01\.png stands in row 3 too"),
        ("nowhere.png,3,4", r"row 9, column file: .*nowhere\.png does not exist: add it, or remove the row"),
        ("deep,3,4", r"row 9, column file: .*deep does not exist"),
        ("../photos/07.png,3,4", r"row 9, column file: \.\./photos/07\.png leads out of .*photos: name a file in"),
        ("deep/../../x.png,3,4", r"row 9, column file: .* leads out of"),
        ("/etc/passwd,3,4", r"row 9, column file: /etc/passwd leads out of"),
        ("..\\x.png,3,4", r"row 9, column file: .* leads out of"),
        ("x" * 5000 + ",3,4", r"row 9, column file: .* does not exist"),
        ('deep/07.png,"3,4', r"row \d+: no valid CSV \(.*\): mend it|row 9: 2 cells"),
    ],
)
def test_a_bad_row_is_named_with_its_column(root, row, message):
    rows = rows_of()
    write(root, [*rows[:7], row, *rows[8:]])
    refuse(root, rf"targets\.csv, {message}")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,weight,height", r"has no column 'file' among 'image', 'weight', 'height': give it a column 'file'"),
        ("file;weight;height", r"has no column 'file' among 'file;weight;height': give it a column 'file' and"),
        ("file,weight,weight", r"there are two columns weight: keep one"),
        ("file,weight,", r"column 3 has no name"),
        ("file,split", r"has no column of targets"),
        ('file,weight,"he\night"', r"column he\\night has a name that labels\.txt cannot hold"),
    ],
)
def test_a_bad_header_is_refused(root, header, message):
    write(root, rows_of(), header)
    refuse(root, message)


def test_files_without_rows_or_text_are_refused(root):
    write(root, [])
    refuse(root, r"targets\.csv has no rows below its column names: add one for each image")
    (root / "targets.csv").write_bytes(b"")
    refuse(root, r"targets\.csv is empty: give it a column 'file'")
    write(root, ["00.png,1,2"])
    refuse(root, r"has 1 row: give at least 2")
    (root / "targets.csv").write_bytes("file,größe\n".encode("latin-1"))
    refuse(root, r"targets\.csv is not UTF-8 text \(.* at byte \d+\): save it as UTF-8")
    (root / "targets.csv").write_bytes(b"file,a\n\0,1\n")
    refuse(root, r"targets\.csv, row \d: (no valid CSV|column file)|row 2, column file")
    (root / "targets.csv").unlink()
    (root / "targets.csv").mkdir()
    refuse(root, r"there is neither")


def test_a_bad_column_split_is_refused(root):
    rows = [f"{row},{'train' if n < 15 else 'test'}" for n, row in enumerate(rows_of())]
    write(root, [*rows[:3], rows[3].replace("train", "Train"), *rows[4:]], "file,weight,height,split")
    refuse(root, r"row 5, column split: 'Train' is not one of train, validation, test: mend it")
    write(root, [row.replace("test", "train") for row in rows], "file,weight,height,split")
    refuse(root, r"column split: no row says test: give some rows to it")
    write(root, [row.replace("train", "test") for row in rows], "file,weight,height,split")
    refuse(root, r"column split: no row says train")


def test_a_constant_target_is_refused_only_where_it_would_be_standardised(root):
    write(root, rows_of(values="{n},5.5"))
    refuse(
        root, r"column height is the same in all 12 training rows, so it cannot be standardised: leave the column out"
    )
    dataset, _ = load(config(root, standardize_targets=False))
    assert set(dataset.train_labels[:, 1]) == {5.5}


def test_more_images_than_there_are_and_no_folder_are_refused(root, tmp_path):
    write(root, rows_of())
    refuse(root, r"data\.train_images = 13, but there are only 12", train_images=13)
    refuse(root, r"data\.test_images = 5, but there are only 4", test_images=5)
    (tmp_path / "one.png").write_bytes(b"x")
    refuse(tmp_path / "one.png", r"one\.png is no folder: give the folder of the images")


def test_two_rows_are_enough_and_keep_one_to_train_on(root):
    write(root, rows_of(2))
    dataset, _ = load(config(root, standardize_targets=False))
    assert [len(getattr(dataset, f"{part}_images")) for part in PARTS] == [1, 0, 1]
