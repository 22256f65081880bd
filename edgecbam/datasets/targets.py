"""A folder of images with a CSV file of numbers: the data of a regression.

    file,weight_g,height_mm,split
    small/0001.jpg,12.5,30,train
    0002.png,8,25.5,test

The column ``file`` names an image relative to the folder, at any depth; every other column is a target, in the order of
the file. ``split``, which may be absent, says ``train``, ``validation`` or ``test``. Without it a random
``data.test_fraction`` of the rows, which ``data.seed`` fixes, is set apart for testing, and
``data.validation_fraction`` of the rest for validation. Where the column is there, it alone decides.

With ``data.standardize_targets`` a label is ``(value - mean) / std``, mean and std of each target over the training
images, computed in float64.
"""

import csv
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from edgecbam.datasets import folder, sampling
from edgecbam.datasets.dataset import Dataset
from edgecbam.datasets.decode import decode
from edgecbam.datasets.scan import IMAGE_SUFFIXES
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent
from edgecbam.preprocessing import printable
from edgecbam.recipe import DataConfig

FILE, SPLIT = "file", "split"
LARGEST = 1e30  # float32, in which networks compute, ends at 3e38
PARTS = ("train", "validation", "test")
_LAYOUT = "give it a column 'file' and a column of numbers for each target, with their names in the first row"


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file: images, values [n, targets] float64, and parts, None without a column ``split``."""

    targets: tuple[str, ...]
    paths: tuple[Path, ...]
    values: np.ndarray
    parts: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.paths)


def load(root: Path, data: DataConfig, on_event: OnEvent) -> tuple[Dataset, DataConfig]:
    """Read the table, split, decode; see the module.

    Args:
        root: the folder of images.
        data: its ``targets`` names the CSV file, relative to the folder, else to where the program runs.
        on_event: told of each decoded image, and of images without a row.

    Raises:
        InputError: the table or its images are not usable; the message names the row and column.
        EnvironmentFailure: as cache.keep.
    """
    if not root.is_dir():
        raise InputError(f"{printable(root)} is no folder: give the folder of the images that data.targets names")
    table_path = find(root, data.targets)
    table = read(table_path, root)
    _note_unnamed(root, table, on_event)
    chosen = _split(table_path, table, data)
    rows = np.concatenate(chosen)
    paths = tuple(table.paths[row] for row in rows.tolist())
    data = folder.with_shape(data, paths[: len(chosen[0])])
    images, bad = decode(paths, root, data, on_event)
    if bad and not data.skip_bad:
        raise InputError(folder.complaint(root, bad, len(paths)))
    if bad:
        on_event(Event(stage="data", message=f"left out {len(bad)} unreadable of {len(paths)} images"))
    kept = folder.readable(bad, (len(chosen[0]), len(chosen[1]), len(chosen[2])))
    values = table.values[rows]
    for part, positions in zip(PARTS, kept, strict=True):
        if not len(values[positions]) and part != "validation":
            raise InputError(f"{printable(root)} has no readable image left to {part} on: add intact images")
    mean, std = _statistics(table_path, table.targets, values[kept[0]], data.standardize_targets)
    labels = ((values - mean) / std).astype(np.float32)
    bad_files = tuple(sorted(folder.names(root, paths, list(bad))))
    split = folder.split_record(root, paths, kept, data.seed)
    dataset = folder.assemble(table.targets, images, labels, kept, bad_files, split)
    return replace(dataset, target_mean=tuple(mean.tolist()), target_std=tuple(std.tolist())), data


def find(root: Path, name: str) -> Path:
    """The CSV file: relative to the folder of images, else to where the program runs."""
    try:
        asked = Path(name).expanduser()
        for path in (root / asked, asked):
            if path.is_file():
                return path
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no permission, ~nobody, a null byte
        raise InputError(f"data.targets = {name!r} cannot be looked up ({error}): name a CSV file") from None
    where = printable(asked) if asked.is_absolute() else f"{printable(root / asked)} nor {printable(asked.absolute())}"
    raise InputError(f"data.targets: there is {'no' if asked.is_absolute() else 'neither'} {where}: name a CSV file")


def read(path: Path, root: Path) -> Table:
    """Read a CSV file of targets.

    Args:
        path: the file; UTF-8, separated by commas.
        root: the folder that the images are named relative to.

    Raises:
        InputError: something is missing, doubtful or no number; the message names the row, counted as an editor
            counts lines, and the column.
    """
    shown = printable(path)
    lines = _lines(path, shown)
    try:
        first = next(lines)
    except StopIteration:
        raise InputError(f"{shown} is empty: {_LAYOUT}") from None
    header = tuple(name.strip() for name in first[1])
    targets = _targets(shown, header)
    paths: list[Path] = []
    values: list[list[float]] = []
    parts: list[str] = []
    seen: dict[Path, int] = {}
    for number, cells in lines:
        where = f"{shown}, row {number}"
        if len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells for {len(header)} columns: give one for each, none empty")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        image = _image(where, row[FILE], root)
        if image in seen:
            raise InputError(
                f"{where}, column {FILE}: {printable(row[FILE])} stands in row {seen[image]} too: keep one"
            )
        seen[image] = number
        paths.append(image)
        values.append([_number(where, target, row[target]) for target in targets])
        if SPLIT in row:
            if row[SPLIT] not in PARTS:
                raise InputError(f"{where}, column {SPLIT}: {row[SPLIT]!r} is not one of {', '.join(PARTS)}: mend it")
            parts.append(row[SPLIT])
    if not paths:
        raise InputError(f"{shown} has no rows below its column names: add one for each image")
    return Table(targets, tuple(paths), np.array(values, np.float64), tuple(parts) if SPLIT in header else None)


def _lines(path: Path, shown: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the number of their last line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise InputError(f"{shown}, row {reader.line_num}: no valid CSV ({error}): mend it") from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read ({error.strerror}): mend that") from None


def _targets(shown: str, header: tuple[str, ...]) -> tuple[str, ...]:
    if FILE not in header:
        raise InputError(f"{shown} has no column {FILE!r} among {', '.join(map(repr, header))}: {_LAYOUT}")
    for position, name in enumerate(header):
        if not name:
            raise InputError(f"{shown}: column {position + 1} has no name: {_LAYOUT}")
        if name in header[:position]:
            raise InputError(f"{shown}: there are two columns {printable(name)}: keep one of them")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise InputError(f"{shown}: column {printable(name)} has a name that labels.txt cannot hold: rename it")
    targets = tuple(name for name in header if name not in (FILE, SPLIT))
    if not targets:
        raise InputError(f"{shown} has no column of targets: {_LAYOUT}")
    return targets


def _image(where: str, name: str, root: Path) -> Path:
    if not name:
        raise InputError(f"{where}, column {FILE}: the cell is empty: name an image, or remove the row")
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise InputError(
            f"{where}, column {FILE}: {printable(name)} leads out of {printable(root)}: name a file in that folder"
        )
    path = root / relative
    try:
        found = path.is_file()
    except OSError:  # a name too long
        found = False
    if not found:
        raise InputError(f"{where}, column {FILE}: {printable(path)} does not exist: add it, or remove the row")
    return path


def _number(where: str, target: str, text: str) -> float:
    where = f"{where}, column {printable(target)}"
    if not text:
        raise InputError(f"{where}: the cell is empty: give a number, or remove the row")
    try:
        if "_" in text or not text.isascii():  # Python reads 1_5 as 15
            raise ValueError
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is no number: give one, with a point for decimals") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {text!r} is not finite: give a number, or remove the row")
    if abs(value) > LARGEST:
        raise InputError(f"{where}: {text!r} is too large to train on: choose another unit")
    return value


def _note_unnamed(root: Path, table: Table, on_event: OnEvent) -> None:
    """Tell how many images of the folder have no row."""
    named = set(table.paths)
    unnamed = sum(
        path.suffix.lower() in IMAGE_SUFFIXES and path not in named and path.is_file() for path in root.rglob("*")
    )
    if unnamed:
        on_event(Event(stage="data", message=f"passed over {unnamed} images in {printable(root)} that have no row"))


def _split(path: Path, table: Table, data: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train, to validate and to test on, each in a random order that the seed fixes."""
    if table.parts is not None:
        parts = np.array(table.parts)
        train, validation, test = (np.flatnonzero(parts == part) for part in PARTS)
        for part, rows in (("train", train), ("test", test)):
            if not len(rows):
                raise InputError(f"{printable(path)}, column {SPLIT}: no row says {part}: give some rows to it")
    else:
        if len(table) < 2:
            raise InputError(f"{printable(path)} has 1 row: give at least 2, one to train and one to test on")
        everything = np.zeros(len(table), np.int64)  # one class: the draw is random and not stratified
        count = min(max(1, round(data.test_fraction * len(table))), len(table) - 1)
        test = sampling.stratified(everything, count, data.seed, sampling.TEST)
        train = sampling.complement(len(table), test)
        validation = np.zeros(0, np.int64)
        if data.validation_fraction > 0:
            count = min(max(1, round(data.validation_fraction * len(train))), len(train) - 1)
            validation = train[sampling.stratified(everything[train], count, data.seed, sampling.VALIDATION)]
            train = np.setdiff1d(train, validation)
    zeros = np.zeros(len(table), np.int64)
    train = train[
        sampling.subset(zeros[train], data.train_images, data.seed, sampling.TRAIN_SUBSET, "data.train_images")
    ]
    test = test[sampling.subset(zeros[test], data.test_images, data.seed, sampling.TEST_SUBSET, "data.test_images")]
    shuffled = (
        rows[np.random.RandomState([data.seed, sampling.ORDER]).permutation(len(rows))]
        for rows in (train, validation, test)
    )
    return tuple(shuffled)  # type: ignore[return-value]


def _statistics(
    path: Path, targets: tuple[str, ...], values: np.ndarray, standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each target, [targets] float64; 0 and 1 if not asked for."""
    if not standardize:
        return np.zeros(len(targets)), np.ones(len(targets))
    mean, std = values.mean(axis=0), values.std(axis=0)
    for target, spread, level in zip(targets, std.tolist(), mean.tolist(), strict=True):
        if spread <= 1e-12 * abs(level):
            raise InputError(
                f"{printable(path)}, column {printable(target)} is the same in all {len(values)} training rows, so it "
                "cannot be standardised: leave the column out, or give data.standardize_targets=false"
            )
    return mean, std
