"""The far side of an ssh device: says what is there and takes what is missing.

Its text is sent with each call and run by the Python over there (see ssh_link.STUB), which has no edgecbam yet; so it
uses the standard library alone. It keeps *bundles*: folders under ~/.cache/edgecbam named by the digest of what they
hold. A bundle is there whole or not at all.

    {"do": "look", "bundles": {digest: {name: sha256}}, "modules": [...]}
        -> {"root": path, "python": version, "missing": [digests], "missing_modules": [...]}
    {"do": "store", "bundles": {digest: {name: sha256}}, "sizes": {digest: {name: bytes}}}, then the bytes of all files
        in this order -> {"stored": [digests]}

Both answer {"failed": reason} where the machine does not let them.
"""

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20


def main() -> None:
    """Serve one request: a JSON line on standard input, a JSON line on standard output."""
    os.umask(0o077)
    root = Path.home() / ".cache" / "edgecbam"
    request = json.loads(sys.stdin.buffer.readline())
    try:
        if request["do"] == "look":
            answer = look(root, request["bundles"], request["modules"])
        else:
            answer = store(root, request["bundles"], request["sizes"], sys.stdin.buffer)
    except OSError as error:
        answer = {"failed": f"{error.strerror or error} ({error.filename or root})"}
    sys.stdout.write(json.dumps(answer) + "\n")


def look(root: Path, bundles: Mapping[str, Mapping[str, str]], modules: list[str]) -> dict[str, Any]:
    """Which bundles are not there as they should be, and which modules cannot be imported."""
    if sys.platform != "linux":
        modules = [*modules, "psutil"]  # what /proc tells of memory on Linux
    return {
        "root": str(root),
        "python": sys.version.split()[0],
        "missing": [digest for digest, files in bundles.items() if not is_whole(root / digest, files)],
        "missing_modules": [name for name in modules if importlib.util.find_spec(name) is None],
    }


def store(
    root: Path, bundles: Mapping[str, Mapping[str, str]], sizes: Mapping[str, Mapping[str, int]], source: BinaryIO
) -> dict[str, Any]:
    """Take the bundles from a stream; raises OSError where the disk is full or the stream ends too early."""
    root.mkdir(parents=True, exist_ok=True)
    for digest, files in bundles.items():
        partial = root / f".{digest}.{secrets.token_hex(6)}.partial"
        try:
            for name in files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                _take(source, partial / name, sizes[digest][name])
            if not is_whole(partial, files):
                raise OSError(None, "a file was altered while it was sent")
            if not is_whole(root / digest, files):  # another measurement may have brought it meanwhile
                _move(partial, root / digest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return {"stored": list(bundles)}


def is_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether a folder holds these files, by their sha256."""
    return all(_sha256(folder / name) == digest for name, digest in files.items())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _take(source: BinaryIO, path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size:
            data = source.read(min(size, CHUNK_BYTES))
            if not data:
                raise OSError(None, "the files ended too early")
            file.write(data)
            size -= len(data)


def _move(partial: Path, final: Path) -> None:
    """Put a whole bundle in its place, moving aside what is there and is not what it should be."""
    old = partial.with_suffix(".old")
    if final.exists():
        os.rename(final, old)
    os.rename(partial, final)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
