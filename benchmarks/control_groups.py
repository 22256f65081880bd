"""What Linux' control groups let this process have, in versions 1 and 2.

A group is bound by its parents too, so the least of all levels counts; version 1 says "no limit" with a number close
to the largest that it can hold.
"""

from pathlib import Path

from .system_files import text

UNLIMITED = "unlimited"
_LARGEST_BYTES = 1 << 62  # version 1 rounds 2^63 - 1 down to whole pages


def cpus(root: Path) -> float | str | None:
    """CPUs' worth of time; "unlimited" where there is no quota; None where unreadable.

    Args:
        root: where /proc and /sys lie.
    """
    levels = _levels(root, "cpu")
    if levels is None:
        return None
    version, folders = levels
    if version == 2:
        return _least([_quota(text(folder / "cpu.max")) for folder in folders], UNLIMITED)
    quotas = []
    for folder in folders:
        quota, period = text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")
        quotas.append(_quota(f"{quota} {period}" if quota and period else None))
    return _least(quotas, None)


def memory_bytes(root: Path) -> int | str | None:
    """Bytes of memory; "unlimited" where there is no limit; None where unreadable.

    Args:
        root: where /proc and /sys lie.
    """
    levels = _levels(root, "memory")
    if levels is None:
        return None
    version, folders = levels
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    found = _least([_bytes(text(folder / name)) for folder in folders], UNLIMITED if version == 2 else None)
    return int(found) if isinstance(found, float) else found


def _least(limits: "list[float | str | None]", otherwise: str | None) -> float | str | None:
    """The lowest limit; without one "unlimited" where a level says so, else what a level without the file means."""
    numbers = [limit for limit in limits if isinstance(limit, float)]
    return min(numbers) if numbers else UNLIMITED if UNLIMITED in limits else otherwise


def _levels(root: Path, controller: str) -> tuple[int, list[Path]] | None:
    """Version and folders, the group's own first, of the hierarchy that rules over ``controller``."""
    groups: dict[str, str] = {}
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        if line.count(":") > 1:
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    base = root / "sys/fs/cgroup"
    if "" in groups and (base / "cgroup.controllers").is_file():
        return 2, _upwards(base, groups[""])
    if controller in groups:
        return 1, _upwards(base / controller, groups[controller])
    return None


def _upwards(base: Path, path: str) -> list[Path]:
    """The folder of a control group and of all its parents, up to the base."""
    folder = base / path.strip("/")
    return [level for level in (folder, *folder.parents) if level == base or base in level.parents]


def _quota(content: str | None) -> float | str | None:
    """CPUs from "quota period"; "unlimited" for max (version 2) or -1 (version 1); None for no such file."""
    if content is None:
        return None
    quota, _, period = content.partition(" ")
    if quota in ("max", "-1"):
        return UNLIMITED
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _bytes(content: str | None) -> float | str | None:
    if content is None:
        return None
    if content == "max":
        return UNLIMITED
    if not content.isdecimal():
        return None
    return UNLIMITED if int(content) >= _LARGEST_BYTES else float(int(content))
