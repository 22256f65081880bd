"""One process at a time on a run folder: ``RUN/.lock``, locked by the kernel as long as its owner lives.

The lock is the kernel's (flock), so that it ends with the process, however that ends: a file that a killed process left
is stale and taken over. What is in the file is for people: who works here, and since when.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from edgecbam.errors import InputError

LOCK_FILE = ".lock"
_held: set[tuple[int, int]] = set()  # device and inode of the folders that this process has locked


@contextlib.contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep other processes from working on a run folder; inside, this process may hold it again.

    A folder that does not exist is left to whoever misses it. Without flock (on Windows) nothing is locked.

    Raises:
        InputError: another process works on it; the message has its number and start.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        status = run.stat()
    except OSError:
        yield
        return
    key = (status.st_dev, status.st_ino)
    if key in _held or not run.is_dir():
        yield
        return
    path = run / LOCK_FILE
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            told = os.read(descriptor, 4096)
            os.close(descriptor)
            raise InputError(f"{run} is in use by {_owner(told)}: wait for its end, or give another folder") from None
        if _same_file(descriptor, path):
            break
        os.close(descriptor)  # its owner has just removed it
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(owner).encode())
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        with contextlib.suppress(FileNotFoundError):  # removed with its folder
            if _same_file(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open or make the lock; never what a link of this name leads to, which may be anything of the user's."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a link: the run folder is not to be trusted") from None
        raise OSError(error.errno, error.strerror, str(path.parent)) from None  # the folder is what can be mended
    status = os.fstat(descriptor)
    if status.st_nlink > 1 or not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is another file too, or no regular one: the run folder is not to be trusted")
    return descriptor


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owner(told: bytes) -> str:
    try:
        owner = json.loads(told)
        where = "" if owner["host"] == socket.gethostname() else f" on {owner['host']}"
        return f"process {int(owner['pid'])}{where} since {str(owner['since'])[:40]}"
    except (ValueError, KeyError, TypeError, RecursionError):  # it is just writing
        return "another process"
