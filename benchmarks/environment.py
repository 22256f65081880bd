"""The machine that a number was measured on, and its state while measuring. What cannot be read is None, never guessed.

No host name, no path, no serial number: a report can be published as it is.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgecbam
from edgecbam.runtimes import find, gpus

from . import control_groups, virtualisation
from .system_files import integer, numbered, switch, text

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
# What decides a number, in a checkout of edgecbam: not the reports that measuring itself writes.
SOURCES = ("edgecbam", "export", "benchmarks", "pyproject.toml", ":!benchmarks/results")
_CPUS = "sys/devices/system/cpu"
# Zones and sensors that are the processor's, or of the chip around it, by the words in their names.
_PROCESSOR_SENSORS = ("cpu", "pkg", "core", "soc", "k10temp", "zenpower", "package")


def describe(
    runtimes: Sequence[str], root: Path = Path("/"), look_for_gpus: Callable[[], Sequence[gpus.Listing]] = gpus.listings
) -> dict[str, Any]:
    """The environment as JSON values.

    Args:
        runtimes: names of the runtimes whose versions belong to the report.
        root: where /proc and /sys lie, for tests.
        look_for_gpus: lists them, for tests.
    """
    cpu = _cpuinfo(root)
    flags = (cpu.get("flags") or cpu.get("features") or "").split()
    virtualised = "hypervisor" in flags if cpu.get("flags") else None  # Arm's list does not say
    listings = look_for_gpus()
    found = [asdict(gpu) for listing in listings for gpu in listing.gpus]
    reasons = [listing.reason for listing in listings if listing.reason]
    commit, dirty = checkout(Path(edgecbam.__file__).resolve().parents[1])
    lowest, highest = _frequency_range(root)
    return {
        "board": text(root / "proc/device-tree/model"),
        "cpu": cpu.get("model name") or cpu.get("hardware"),
        "machine": platform.machine() or None,
        "cpu_flags": [flag for flag in X86_FLAGS + ARM_FLAGS if flag in flags] if flags else None,
        "logical_cpus": os.cpu_count(),
        "physical_cores": _physical_cores(),
        "smt": switch(root / _CPUS / "smt/active"),
        "affinity_cpus": None if (allowed := affinity()) is None else len(allowed),
        "affinity_list": allowed,
        "cgroup_cpus": control_groups.cpus(root),
        "cgroup_memory_bytes": control_groups.memory_bytes(root),
        "governor": text(root / _CPUS / "cpu0/cpufreq/scaling_governor"),
        "min_mhz": lowest,
        "max_mhz": highest,
        "turbo": _turbo(root),
        "virtualised": virtualised,
        "virtualisation": virtualisation.describe(root, virtualised),
        "memory_bytes": _memory_bytes(),
        "swap_bytes": _swap_bytes(root),
        "gpus": found or (None if reasons else []),
        "gpus_reason": "; ".join(reasons) or None,
        "os": _distribution(),
        "kernel": f"{platform.system()} {platform.release()}".strip() or None,
        "python": platform.python_version(),
        "versions": {"numpy": importlib.metadata.version("numpy"), **{name: find(name).version() for name in runtimes}},
        "git_commit": commit,
        "git_dirty": dirty,
    }


def snapshot(root: Path = Path("/")) -> dict[str, Any]:
    """What may change while measuring.

    Args:
        root: where /proc and /sys lie, for tests.

    Returns:
        ``load``; ``steal_ticks`` and ``cpu_ticks``, what a hypervisor took from this machine's CPUs and all that they
        had, since it started, in ticks of which ``user_hz`` make a second of one CPU; ``frequencies_mhz`` by CPU; and
        ``temperatures_celsius`` by sensor.
    """
    steal, total = _ticks(root)
    return {
        "load": load_average(),
        "steal_ticks": steal,
        "cpu_ticks": total,
        "user_hz": _user_hz(),
        "frequencies_mhz": _frequencies_mhz(root),
        "temperatures_celsius": _temperatures(root),
    }


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any]:
    """What two snapshots, or None where there is none, say of the time between them."""
    return {
        "steal_fraction": None if before is None or after is None else steal_fraction(before, after),
        "load_before": None if before is None else before.get("load"),
        "load_after": None if after is None else after.get("load"),
    }


def steal_fraction(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """Which part of the CPUs' time between two snapshots a hypervisor took for others; None where that is unknown."""
    marks = [(snapshot.get("steal_ticks"), snapshot.get("cpu_ticks")) for snapshot in (before, after)]
    (steal_before, total_before), (steal_after, total_after) = marks
    if steal_before is None or steal_after is None or total_before is None or total_after is None:
        return None
    stolen, total = steal_after - steal_before, total_after - total_before
    if total <= 0 or not 0 <= stolen <= total:  # no time has gone by, or the machine was started anew
        return None
    return float(stolen / total)


def load_average() -> float | None:
    """How many processes wanted a CPU, averaged over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def affinity() -> list[int] | None:
    """The CPUs that this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return None


def checkout(folder: Path) -> tuple[str | None, bool | None]:
    """The git commit of a checkout of edgecbam, and whether its sources differ from it; None, None for a wheel."""
    if not ((folder / ".git").exists() and (folder / "pyproject.toml").is_file()):
        return None, None  # nor is a folder of packages that happens to lie within somebody's repository asked
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", *SOURCES)
    return commit, None if commit is None or changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first value of each key of /proc/cpuinfo, keys in lower case; empty where there is none."""
    entries: dict[str, str] = {}
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip().lower(), value.strip())
    return entries


def _frequency_range(root: Path) -> tuple[float | None, float | None]:
    """The lowest and the highest frequency in MHz that any CPU may have under its governor."""
    folders = [cpu / "cpufreq" for cpu in numbered(root / _CPUS, "cpu")]
    lowest = [khz for folder in folders if (khz := integer(folder / "scaling_min_freq")) is not None]
    highest = [khz for folder in folders if (khz := integer(folder / "scaling_max_freq")) is not None]
    return min(lowest) / 1000 if lowest else None, max(highest) / 1000 if highest else None


def _frequencies_mhz(root: Path) -> dict[str, float] | None:
    found = {cpu.name: integer(cpu / "cpufreq/scaling_cur_freq") for cpu in numbered(root / _CPUS, "cpu")}
    return {name: khz / 1000 for name, khz in found.items() if khz is not None} or None


def _turbo(root: Path) -> bool | None:
    """Whether CPUs may go beyond their nominal frequency."""
    forbidden = switch(root / _CPUS / "intel_pstate/no_turbo")
    return switch(root / _CPUS / "cpufreq/boost") if forbidden is None else not forbidden


def _temperatures(root: Path) -> dict[str, float] | None:
    """Degrees Celsius of the processor: the warmest of the sensors that share a name."""
    found: dict[str, float] = {}
    places = [
        *((zone / "type", zone / "temp") for zone in numbered(root / "sys/class/thermal", "thermal_zone")),
        *((chip / "name", chip / "temp1_input") for chip in numbered(root / "sys/class/hwmon", "hwmon")),
    ]
    for name_file, value_file in places:
        name, value = text(name_file), integer(value_file)
        if name and value is not None and any(word in name.lower() for word in _PROCESSOR_SENSORS):
            found[name] = max(value / 1000, found.get(name, value / 1000))
    return found or None


def _ticks(root: Path) -> tuple[int | None, int | None]:
    """Ticks that were stolen from all CPUs, and all their ticks, since the machine started."""
    for line in (text(root / "proc/stat") or "").splitlines():
        name, *fields = line.split()
        if name == "cpu" and len(fields) >= 8 and all(field.isdecimal() for field in fields):
            counts = [int(field) for field in fields[:8]]  # user to steal; the guests' are within user and nice
            return counts[7], sum(counts)
    return None, None


def _user_hz() -> int | None:
    try:
        return os.sysconf("SC_CLK_TCK")
    except (AttributeError, ValueError, OSError):
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


def _swap_bytes(root: Path) -> int | None:
    for line in (text(root / "proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        amount = value.removesuffix("kB").strip()
        if key == "SwapTotal" and amount.isdecimal():
            return int(amount) * 1024
    if sys.platform == "linux":
        return None
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.swap_memory().total)


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        mac = platform.mac_ver()[0]
        return f"macOS {mac}" if mac else None
