"""The machine that a number was measured on. What cannot be read is None, never guessed.

No host name, no path, no serial number: a report can be published as it is.
"""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecbam.runtimes import find

# The instruction sets that decide which kernels a runtime picks, by their names in /proc/cpuinfo.
X86_FLAGS = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


def describe(runtimes: Sequence[str], root: Path = Path("/")) -> dict[str, Any]:
    """The environment as JSON values.

    Args:
        runtimes: names of the runtimes whose versions belong to the report.
        root: where /proc and /sys lie, for tests.
    """
    cpu = _cpuinfo(root)
    flags = (cpu.get("flags") or cpu.get("features") or "").split()
    return {
        "board": _text(root / "proc/device-tree/model"),
        "cpu": cpu.get("model name") or cpu.get("hardware"),
        "machine": platform.machine() or None,
        "cpu_flags": [flag for flag in X86_FLAGS + ARM_FLAGS if flag in flags] if flags else None,
        "logical_cpus": os.cpu_count(),
        "physical_cores": _physical_cores(),
        "affinity_cpus": _affinity(),
        "cgroup_cpus": _cgroup_cpus(root),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtualised": "hypervisor" in flags if cpu.get("flags") else None,  # Arm's list does not say
        "memory_bytes": _memory_bytes(),
        "os": _distribution(),
        "kernel": f"{platform.system()} {platform.release()}".strip() or None,
        "python": platform.python_version(),
        "versions": {"numpy": importlib.metadata.version("numpy"), **{name: find(name).version() for name in runtimes}},
    }


def snapshot() -> dict[str, Any]:
    """What may change while measuring."""
    return {"load": load_average()}


def load_average() -> float | None:
    """How many processes wanted a CPU, averaged over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first value of each key of /proc/cpuinfo, keys in lower case; empty where there is none."""
    entries: dict[str, str] = {}
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip().lower(), value.strip())
    return entries


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _physical_cores() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    count = psutil.cpu_count(logical=False)
    return int(count) if count else None


def _memory_bytes() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().total)


def _affinity() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return None


def _cgroup_cpus(root: Path) -> float | str | None:
    """CPUs' worth of time that the control groups allow; "unlimited" where they set no quota; None where unreadable."""
    groups = dict(_group(line) for line in (_text(root / "proc/self/cgroup") or "").splitlines() if line.count(":") > 1)
    base = root / "sys/fs/cgroup"
    if "" in groups and (base / "cgroup.controllers").is_file():  # version 2
        quotas = [_quota(_text(level / "cpu.max")) for level in _levels(base, groups[""])]
        limits = [quota for quota in quotas if isinstance(quota, float)]
        return min(limits, default="unlimited")  # a level without the file sets no limit
    if "cpu" in groups:  # version 1
        quotas = []
        for level in _levels(base / "cpu", groups["cpu"]):
            quota, period = _text(level / "cpu.cfs_quota_us"), _text(level / "cpu.cfs_period_us")
            quotas.append(_quota(f"{quota} {period}" if quota and period else None))
        limits = [quota for quota in quotas if isinstance(quota, float)]
        return min(limits, default="unlimited" if "unlimited" in quotas else None)
    return None


def _group(line: str) -> tuple[str, str]:
    """Controller ("" for version 2, "cpu" where it is among several) and path, from a line of /proc/self/cgroup."""
    _, controllers, path = line.split(":", 2)
    return ("cpu" if "cpu" in controllers.split(",") else controllers), path


def _levels(base: Path, path: str) -> list[Path]:
    """The folder of a control group and of all its parents, up to the base."""
    folder = base / path.strip("/")
    return [level for level in (folder, *folder.parents) if level == base or base in level.parents]


def _quota(text: str | None) -> float | str | None:
    """CPUs from "quota period"; "unlimited" for max (v2) or -1 (v1); None for no such file."""
    if text is None:
        return None
    quota, _, period = text.partition(" ")
    if quota in ("max", "-1"):
        return "unlimited"
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        mac = platform.mac_ver()[0]
        return f"macOS {mac}" if mac else None
