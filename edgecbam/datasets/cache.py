"""Where decoded images are kept: in memory, in a file on disk, or nowhere. The pixels are the same.

A file lies in ``$EDGECBAM_CACHE``, else in ``~/.cache/edgecbam``, in a folder named by the digest of what the pixels
depend on: name, size and time of change of every image file, and the preprocessing. Later stages, a resumed run, and
other runs on the same images find it there. It appears whole or not at all, may be deleted at any time, and is never
deleted by edgecbam.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL

from edgecbam import artifacts, preprocessing
from edgecbam.datasets import memory
from edgecbam.datasets.dataset import Images
from edgecbam.datasets.lazy import DecodedOnDemand, DecodedOnDisk
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import DataConfig

PIXELS, BAD = "pixels", "bad.json"
SPARE = 2**30  # bytes that a cache leaves free on the disk: checkpoints are to find room too
_VERSION = 2  # of the layout of a cache and of what preprocessing makes of a file

Each = Callable[
    [Iterable[Any], int, Callable[[Any], np.ndarray], Callable[[int, np.ndarray], None], OnEvent], dict[int, str]
]


@dataclass(frozen=True)
class Source:
    """Images that can be decoded.

    Attributes:
        count: how many there are.
        items: what ``one`` decodes, for the given positions in the given order.
        one: item -> [height, width, channels] uint8; raises UnreadableImage. Where ``again``, an item is a position.
        fingerprint: a text that changes where the images do.
        name: for messages.
        names: a key for each image to sort by, so that another order of the same images finds the same file; None
            keeps the order.
        again: whether ``one`` can be called anew at any time.
    """

    count: int
    items: Callable[[list[int]], Iterable[Any]]
    one: Callable[[Any], np.ndarray]
    fingerprint: Callable[[], str]
    name: str
    names: Callable[[], list[bytes]] | None = None
    again: bool = True


def keep(source: Source, data: DataConfig, each: Each, on_event: OnEvent) -> tuple[Images, dict[int, str]]:
    """Decode a source and keep the pixels as ``data.cache`` says.

    Args:
        source: what to decode.
        data: with height, width and channels known.
        each: decodes items in threads, see decode.each.
        on_event: told of progress, and where the pixels are kept unless that is in memory.

    Returns:
        The images in the order of the source, and by position why some are unreadable.

    Raises:
        InputError: ``memory`` does not hold them, or the source cannot be decoded anew for ``none``.
        EnvironmentFailure: the disk has not room enough, or its folder cannot be written.
    """
    where, why = _choose(source, data) if data.cache == "auto" else (data.cache, "")
    if where == "memory":
        return _in_memory(source, data, each, on_event)
    if where == "disk":
        return _on_disk(source, data, each, on_event, why)
    if not source.again:
        raise InputError(
            f"data.cache = 'none' cannot be used with {source.name}: give memory or disk{why and f' ({why})'}"
        )
    on_event(Event("data", message=f"images are decoded anew in every epoch{why and f': {why}'}"))
    bad = each(source.items(list(range(source.count))), source.count, source.one, lambda *_: None, on_event)
    return DecodedOnDemand(source.one, np.arange(source.count), _shape(data)), bad


def _choose(source: Source, data: DataConfig) -> tuple[str, str]:
    """``memory`` where it holds the images, else ``disk`` where that has room, else ``none``; and why."""
    if memory.fits(source.count, data):
        return "memory", ""
    size = f"decoded they take {_gib(memory.needed(source.count, data))}, more than half of the memory available"
    if _find(_folder(source, data), source, data):
        return "disk", size
    try:
        _check_room(memory.needed(source.count, data))
    except EnvironmentFailure as error:
        return "none", f"{size}, and {error}"
    return "disk", size


def _in_memory(source: Source, data: DataConfig, each: Each, on_event: OnEvent) -> tuple[Images, dict[int, str]]:
    memory.check(source.count, data)
    images = np.zeros((source.count, *_shape(data)), np.uint8)
    bad = each(source.items(list(range(source.count))), source.count, source.one, images.__setitem__, on_event)
    return images, bad


def _on_disk(
    source: Source, data: DataConfig, each: Each, on_event: OnEvent, why: str
) -> tuple[Images, dict[int, str]]:
    order = _order(source)
    folder = _folder(source, data)
    found = _find(folder, source, data)
    if found:
        on_event(Event("data", message=f"decoded images are read from {folder}"))
        on_event(Event("data", step=source.count, total=source.count, unit="image"))
    else:
        on_event(Event("data", message=f"decoded images are kept in {folder}{why and f': {why}'}"))
        _write(folder, source, data, each, on_event, order)
    rows = np.empty(source.count, np.int64)
    rows[order] = np.arange(source.count)
    listed = json.loads((folder / BAD).read_text("utf-8"))
    if listed and found and source.again:
        listed = _try_again(folder, source, data, each, order, sorted(map(int, listed)))
    return DecodedOnDisk(folder / PIXELS, rows, _shape(data)), {order[int(row)]: why for row, why in listed.items()}


def _try_again(
    folder: Path, source: Source, data: DataConfig, each: Each, order: list[int], rows: list[int]
) -> dict[str, str]:
    """Decode what could not be read when the cache was made: a permission may have been given since."""
    size, kept = memory.needed(1, data), {}

    def put(position: int, pixels: np.ndarray) -> None:
        kept[rows[position]] = np.ascontiguousarray(pixels).reshape(-1)

    bad = each(source.items([order[row] for row in rows]), len(rows), source.one, put, ignore)
    listed = {str(rows[position]): bad[position] for position in sorted(bad)}
    if kept:
        try:
            with (folder / PIXELS).open("r+b", buffering=0) as file:
                for row, pixels in kept.items():
                    _write_whole(file.fileno(), pixels.data, row * size)
                os.fsync(file.fileno())
            artifacts.write_json(folder / BAD, listed)
        except OSError as error:
            raise EnvironmentFailure(
                f"{folder} cannot be written, and lacks images that can be read now ({error.strerror or error}): "
                "remove it, or set EDGECBAM_CACHE"
            ) from None
    return listed


def _write(folder: Path, source: Source, data: DataConfig, each: Each, on_event: OnEvent, order: list[int]) -> None:
    size = memory.needed(1, data)
    total = source.count * size
    try:
        with _partial(folder) as partial, (partial / PIXELS).open("wb", buffering=0) as file:
            _check_room(total)
            _reserve(file.fileno(), total)

            def put(row: int, pixels: np.ndarray) -> None:
                _write_whole(file.fileno(), np.ascontiguousarray(pixels).reshape(-1).data, row * size)

            bad = each(source.items(order), source.count, source.one, put, on_event)
            os.fsync(file.fileno())
            (partial / BAD).write_text(json.dumps({str(row): bad[row] for row in sorted(bad)}), "utf-8")
            if _find(folder, source, data):  # another process was faster, and may be reading already
                return
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            try:
                partial.rename(folder)
            except OSError:
                if not _find(folder, source, data):
                    raise
    except OSError as error:
        raise EnvironmentFailure(
            f"the decoded images ({_gib(total)}) cannot be kept in {folder.parent} ({error.strerror or error}): "
            "set EDGECBAM_CACHE to a folder with room, or give data.cache=none"
        ) from None


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on the disk now: to find it full after hours of decoding would be a pity."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _write_whole(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


@contextlib.contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is gone afterwards unless it was renamed; those of dead processes go too.

    A process holds a lock on a file beside its folder as long as it lives, whatever host or container it is in.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{folder.name}.partial-*.lock"):
        with contextlib.suppress(FileNotFoundError), left.open("rb") as lock:
            if _locked(lock):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink()
    partial = folder.with_name(f"{folder.name}.partial-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    own = partial.with_name(f"{partial.name}.lock")
    with own.open("wb") as lock:
        _locked(lock)
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            own.unlink(missing_ok=True)


def _locked(file: IO[bytes]) -> bool:
    """Whether the file could be locked for this process alone, until it is closed."""
    import fcntl  # not on Windows, where benchmarks run

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def home() -> Path:
    """The folder of all caches: $EDGECBAM_CACHE, else ~/.cache/edgecbam."""
    given = os.environ.get("EDGECBAM_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "edgecbam"


def of_files(root: Path, paths: tuple[Path, ...]) -> str:
    """A fingerprint of files: the folder, and every file's name, size in bytes and time of change."""
    lines = []
    for path in sorted(paths):
        try:
            status = path.stat()
            lines.append(f"{os.fsencode(path.relative_to(root))!r} {status.st_size} {status.st_mtime_ns}")
        except OSError:  # a dangling link: decoding says so
            lines.append(f"{os.fsencode(path.relative_to(root))!r} missing")
    return "\n".join([repr(os.fsencode(root.resolve())), *lines])


def _folder(source: Source, data: DataConfig) -> Path:
    wanted = preprocessing.describe(data)
    pixels = {key: wanted[key] for key in ("height", "width", "channels", "resize")}
    text = json.dumps([_VERSION, PIL.__version__, pixels, source.count], sort_keys=True) + "\n" + source.fingerprint()
    return home() / hashlib.sha256(text.encode()).hexdigest()[:32]


def _find(folder: Path, source: Source, data: DataConfig) -> bool:
    """Whether a whole cache lies there."""
    try:
        return (folder / BAD).is_file() and (folder / PIXELS).stat().st_size == memory.needed(source.count, data)
    except OSError:
        return False


def _order(source: Source) -> list[int]:
    """In which order the images lie in the file."""
    if source.names is None:
        return list(range(source.count))
    names = source.names()
    return sorted(range(source.count), key=names.__getitem__)


def _check_room(size: int) -> None:
    folder = home()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise EnvironmentFailure(f"{folder} cannot be used as a cache ({error.strerror}): set EDGECBAM_CACHE") from None
    if size + SPARE > free:
        raise EnvironmentFailure(
            f"the disk of {home()} has {_gib(free)} free, but the decoded images take {_gib(size)} and {_gib(SPARE)} "
            "stay free: set EDGECBAM_CACHE to a folder with room, give data.cache=none, or a smaller data.height"
        )


def _shape(data: DataConfig) -> tuple[int, int, int]:
    return data.height, data.width, data.channels


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
