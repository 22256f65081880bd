"""Small text files of /proc and /sys, read without complaint: what is not there or not for us to read is None."""

from pathlib import Path


def text(path: Path) -> str | None:
    """Content without the white space and zero bytes around it; None where unreadable or empty."""
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n\t ") or None
    except OSError:
        return None


def integer(path: Path) -> int | None:
    """A whole number; None where the file holds none."""
    content = text(path)
    try:
        return None if content is None else int(content)
    except ValueError:
        return None


def switch(path: Path) -> bool | None:
    """1 or 0; None for anything else."""
    return {"1": True, "0": False}.get(text(path) or "")


def numbered(folder: Path, stem: str) -> list[Path]:
    """The entries ``stem0``, ``stem1`` … of a folder, in the order of their numbers."""
    try:
        found = [path for path in folder.iterdir() if path.name.startswith(stem)]
    except OSError:
        return []
    digits = [(path.name.removeprefix(stem), path) for path in found]
    return [path for _, path in sorted((int(number), path) for number, path in digits if number.isdecimal())]
