"""Find the images of a folder: ``DIR/CLASS/*.jpg``, or ``DIR/train/CLASS/*.jpg`` beside ``DIR/test`` and ``DIR/val``.

Only the files directly in a class folder count; nothing is searched in depth, so links that lead in circles do no
harm. Names that begin with a dot are hidden and passed over. Classes and files are sorted by name.
"""

import collections
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecbam.errors import InputError
from edgecbam.preprocessing import printable

IMAGE_SUFFIXES = {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"} | {
    ".pbm",
    ".pgm",
    ".pnm",
    ".ppm",
}
TRAIN, TEST = "train", "test"
VALIDATION = ("val", "validation")
_LAYOUT = "put the images into one folder for each class, DIR/CLASS/*.jpg, or into DIR/train/CLASS and DIR/test/CLASS"


@dataclass(frozen=True)
class Part:
    """Image files and the index of each one's class, in the order of class and name."""

    paths: tuple[Path, ...]
    labels: np.ndarray  # [n] int64

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: np.ndarray) -> "Part":
        """The files at the given positions, in their order."""
        return Part(tuple(self.paths[position] for position in positions), self.labels[positions])


@dataclass(frozen=True)
class Tree:
    """What a folder holds. ``validation`` and ``test`` are None where the folder does not set them apart.

    ``ignored`` counts files passed over by their suffix; the suffix is "(none)" for a name without one.
    """

    classes: tuple[str, ...]
    train: Part
    validation: Part | None
    test: Part | None
    ignored: dict[str, int]


def scan(root: Path) -> Tree:
    """List the image files below ``root``; no file is opened.

    Raises:
        InputError: no folder, no class folders, one class only, an empty class folder, classes that differ between
            train and test or only in case, names that cannot be written to labels.txt.
    """
    if not root.is_dir():
        raise InputError(f"{printable(root)} is no folder: {_LAYOUT}")
    ignored: collections.Counter[str] = collections.Counter()
    names = {path.name for path in _folders(root)}
    if not _is_divided(root, names):
        classes, train = _part(root, ignored)
        return Tree(classes, train, None, None, dict(ignored))
    both = [name for name in VALIDATION if name in names]
    if len(both) == 2:
        raise InputError(f"{printable(root)} has both val and validation: keep one of them")
    classes, train = _part(root / TRAIN, ignored)
    test = _same_classes(root, classes, TEST, ignored) if TEST in names else None
    validation = _same_classes(root, classes, both[0], ignored) if both else None
    return Tree(classes, train, validation, test, dict(ignored))


def _is_divided(root: Path, names: set[str]) -> bool:
    """Whether the folder is DIR/train, DIR/test; a class may be called train as long as its folder holds files."""
    parts = {TRAIN, TEST, *VALIDATION}
    divided = {name for name in names & parts if _folders(root / name)}
    if TRAIN not in divided:
        if divided and names <= parts:
            raise InputError(f"{printable(root)} has {min(divided)} but no class folders in train: {_LAYOUT}")
        return False
    others = sorted(names - parts)
    if others:
        raise InputError(
            f"{printable(root)} holds {printable(others[0])} beside train, so it is unclear what the classes are: "
            "move away all but train, test and validation"
        )
    return True


def _part(folder: Path, ignored: collections.Counter[str]) -> tuple[tuple[str, ...], Part]:
    class_folders = _folders(folder)
    classes = tuple(path.name for path in class_folders)
    if not classes:
        raise InputError(f"{printable(folder)} holds no class folders: {_LAYOUT}")
    _check_names(folder, classes)
    if len(classes) == 1:
        raise InputError(f"{printable(folder)} holds one class only, {printable(classes[0])}: a classifier needs two")
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        images = _images(class_folder, ignored)
        if not images:
            raise InputError(
                f"the class folder {printable(class_folder)} holds no images (folders inside it are not searched): "
                "add images, or remove it"
            )
        paths += images
        labels += [label] * len(images)
    return classes, Part(tuple(paths), np.array(labels, np.int64))


def _same_classes(root: Path, classes: tuple[str, ...], name: str, ignored: collections.Counter[str]) -> Part:
    found, part = _part(root / name, ignored)
    lacking = [f"{name} lacks {printable(missing)}" for missing in classes if missing not in found]
    lacking += [f"train lacks {printable(extra)}" for extra in found if extra not in classes]
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise InputError(
            f"the classes of train and {name} in {printable(root)} differ: {', '.join(lacking[:5])}{more}: "
            "give both the same class folders"
        )
    return part


def _check_names(folder: Path, classes: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise InputError(
                f"the class folder {printable(folder / name)} has a name that labels.txt cannot hold: rename it"
            )
        same = unicodedata.normalize("NFC", name).casefold()
        if same in seen:
            raise InputError(
                f"the class folders {seen[same]} and {name} in {printable(folder)} differ only in case or in the "
                "encoding of accents: merge them, or rename one"
            )
        seen[same] = name


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _images(folder: Path, ignored: collections.Counter[str]) -> list[Path]:
    images = []
    for path in _visible(folder):
        suffix = path.suffix.lower()
        if path.is_dir():
            continue
        if suffix in IMAGE_SUFFIXES:
            images.append(path)
        else:
            ignored[printable(suffix) or "(none)"] += 1
    return images


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"the folder {printable(folder)} cannot be listed ({error.strerror}): mend that") from None
