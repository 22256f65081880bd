"""What this machine can run and what it lacks, told from package metadata alone: nothing heavy is imported.

The tested range of every package is the one that edgecbam's own metadata states, so there is no second list to forget.
"""

import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgecbam import __version__
from edgecbam.errors import EnvironmentFailure

CPU_FLAGS = (  # what decides the speed of int8 and bfloat16 kernels, x86 first, then ARM
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
ONNXRUNTIME_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu")  # they all install the module onnxruntime
VERIFY_RUNTIMES = ("ai-edge-litert", "onnxruntime")

State = Literal["ok", "untested", "missing", "conflict"]


@dataclass(frozen=True)
class Requirement:
    """One line of edgecbam's metadata: ``tensorflow<2.22,>=2.21; extra == "train"``.

    Attributes:
        package: its name in lower case with hyphens.
        bounds: pairs of operator and version, such as ``((">=", "2.21"), ("<", "2.22"))``.
        extra: the extra that asks for it; empty for the base install.
    """

    package: str
    bounds: tuple[tuple[str, str], ...]
    extra: str

    @property
    def range(self) -> str:
        """``>=2.21,<2.22``."""
        return ",".join(f"{operator}{version}" for operator, version in sorted(self.bounds, reverse=True))


@dataclass(frozen=True)
class Package:
    """What is known of one package. ``remedy`` is the exact command that mends it, or empty."""

    name: str
    version: str | None
    tested: str
    extra: str
    state: State
    remedy: str


@dataclass(frozen=True)
class Ability:
    """Something a user may want to do here, and which packages are still missing for it."""

    name: str
    possible: bool
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """The machine. Memory and disk are in bytes; memory is the container's limit where that is lower."""

    python: str
    platform: str
    cores: int
    cores_allowed: int
    cpu: str
    cpu_flags: tuple[str, ...]
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    disk_folder: str


@dataclass(frozen=True)
class Diagnosis:
    """All that ``edgecbam doctor`` has to say."""

    edgecbam: str
    machine: Machine
    packages: tuple[Package, ...]
    abilities: tuple[Ability, ...]


def diagnose(folder: Path | None = None) -> Diagnosis:
    """Look at this machine and this installation.

    Args:
        folder: where runs would be written (its free space is told); the current folder by default.

    Raises:
        EnvironmentFailure: edgecbam has no metadata here, because it was never installed.
    """
    try:
        lines = metadata.requires("edgecbam") or []
    except metadata.PackageNotFoundError:
        raise EnvironmentFailure(
            "edgecbam runs from a folder where it was never installed: python3 -m pip install -e . in its checkout"
        ) from None
    requirements = [parse_requirement(line) for line in lines]
    packages = examine(requirements, installed_version)
    return Diagnosis(__version__, look_at_machine(folder or Path.cwd()), packages, abilities(packages, requirements))


def broken_base(diagnosis: Diagnosis) -> list[Package]:
    """Packages of the base install that are missing or outside their range: only these make ``doctor`` fail."""
    return [p for p in diagnosis.packages if not p.extra and p.state in ("missing", "untested")]


def parse_requirement(line: str) -> Requirement:
    """Read one requirement of our own metadata; raises ValueError for a form that edgecbam does not use."""
    specifier, _, marker = (part.strip() for part in line.partition(";"))
    match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(\[[^]]*\])?\s*\(?([^()]*)\)?", specifier)
    extra = re.fullmatch(r"""extra == ["']([a-z0-9-]+)["']""", marker) if marker else None
    if match is None or (marker and extra is None):
        raise ValueError(f"cannot read the requirement {line!r}")
    bounds = []
    for part in filter(None, (piece.strip() for piece in match[3].split(","))):
        bound = re.fullmatch(r"(>=|<|==)\s*([0-9.]+)", part)
        if bound is None:
            raise ValueError(f"cannot read the bound {part!r} of the requirement {line!r}")
        bounds.append((bound[1], bound[2]))
    return Requirement(canonical(match[1]), tuple(bounds), extra[1] if extra else "")


def canonical(name: str) -> str:
    """A package name as indexes compare it: ``tf_keras`` and ``tf-keras`` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def in_range(version: str, bounds: Iterable[tuple[str, str]]) -> bool:
    """Whether a version lies in the bounds; only its leading numbers count (``2.21.0rc1`` as 2.21.0)."""
    here = _numbers(version)
    compare: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
        "==": lambda a, b: a == b,
    }
    return all(compare[operator](here, _numbers(bound)) for operator, bound in bounds)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 2.21 and 2.21.0 are the same version
        numbers.pop()
    return tuple(numbers)


def installed_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def examine(requirements: Sequence[Requirement], version_of: Callable[[str], str | None]) -> tuple[Package, ...]:
    """The state of every package that the base install, training or a runtime needs, in that order.

    A runtime that training needs too is listed under the runtime's own extra, the smaller thing to install.
    """
    extras = ("", *_runtime_extras(requirements), "train")
    found: dict[str, Package] = {}
    for extra in extras:
        for requirement in requirements:
            if requirement.extra == extra and requirement.package not in found and requirement.package != "edgecbam":
                found[requirement.package] = _examine_one(requirement, version_of)
    order = ("", "train", *_runtime_extras(requirements))
    return tuple(sorted(found.values(), key=lambda package: order.index(package.extra)))


def _examine_one(requirement: Requirement, version_of: Callable[[str], str | None]) -> Package:
    name = requirement.package
    version = version_of(name)
    state: State = "ok"
    remedy = ""
    builds = [build for build in ONNXRUNTIME_BUILDS if version_of(build)] if name == "onnxruntime" else []
    exact = f"{_pip()} install {shlex.quote(f'{name}{requirement.range}')}"
    if len(builds) > 1:
        state = "conflict"
        remedy = f"{_pip()} uninstall -y {' '.join(builds)} && {exact}"
    elif version is None:
        state = "missing"
        wanted = f"edgecbam[{requirement.extra}]" if requirement.extra else "edgecbam"
        remedy = f"{_pip()} install {shlex.quote(wanted)}" if requirement.extra else exact
    elif not in_range(version, requirement.bounds):
        state = "untested"
        remedy = exact
    return Package(name, version, requirement.range, requirement.extra, state, remedy)


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip"


def _runtime_extras(requirements: Sequence[Requirement]) -> list[str]:
    """Extras that hold one runtime each: those with a single package that is neither ours nor a tool."""
    by_extra: dict[str, list[str]] = {}
    for requirement in requirements:
        by_extra.setdefault(requirement.extra, []).append(requirement.package)
    return [
        extra
        for extra, packages in by_extra.items()
        if extra not in ("", "train", "dev", "report") and packages != ["edgecbam"] and len(packages) == 1
    ]


def abilities(packages: Sequence[Package], requirements: Sequence[Requirement]) -> tuple[Ability, ...]:
    """What can be done here: train to export, verify, and benchmark on each runtime."""
    usable = {package.name for package in packages if package.state in ("ok", "untested")}

    def ability(name: str, needs: Iterable[str]) -> Ability:
        lacks = tuple(package for package in needs if package not in usable)
        return Ability(name, not lacks, lacks)

    training = [requirement.package for requirement in requirements if requirement.extra == "train"]
    runtimes = {
        requirement.extra: requirement.package
        for requirement in requirements
        if requirement.extra in _runtime_extras(requirements)
    }
    return (
        ability("train, quantize, export", training),
        ability("verify", VERIFY_RUNTIMES),
        *(ability(f"predict, benchmark on {extra}", [package]) for extra, package in runtimes.items()),
    )


def look_at_machine(folder: Path) -> Machine:
    """Facts of the machine that decide what it can do and how fast."""
    import psutil

    memory = psutil.virtual_memory()
    limit = _container_limit()
    affinity = getattr(os, "sched_getaffinity", None)
    cpu, flags = _cpu()
    return Machine(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        cores_allowed=len(affinity(0)) if affinity else os.cpu_count() or 1,
        cpu=cpu,
        cpu_flags=tuple(flag for flag in CPU_FLAGS if flag in flags),
        memory_bytes=min(memory.total, limit or memory.total),
        memory_available_bytes=min(memory.available, limit or memory.available),
        disk_free_bytes=shutil.disk_usage(folder).free,
        disk_folder=str(folder),
    )


def _cpu() -> tuple[str, set[str]]:
    """Name and flags of the processor; only Linux tells the flags."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.machine(), set(flags[1].split()) if flags else set()


def _container_limit() -> int | None:
    """Memory limit of the container in bytes (cgroup 2), or None."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def to_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as JSON text."""
    import dataclasses

    return json.dumps(dataclasses.asdict(diagnosis), indent=1)


def to_text(diagnosis: Diagnosis) -> str:
    """The diagnosis for a reader, remedies last."""
    machine = diagnosis.machine
    cores = f"{machine.cores} cores"
    if machine.cores_allowed != machine.cores:
        cores += f", {machine.cores_allowed} of them for this process"
    lines = [
        f"edgecbam {diagnosis.edgecbam}, Python {machine.python}, {machine.platform}",
        f"cpu      {machine.cpu}, {cores}",
        f"         {' '.join(machine.cpu_flags) or 'no flags known'}",
        f"memory   {_gib(machine.memory_available_bytes)} of {_gib(machine.memory_bytes)} available",
        f"disk     {_gib(machine.disk_free_bytes)} free in {machine.disk_folder}",
        "",
    ]
    width = max(len(package.name) for package in diagnosis.packages)
    words = {"ok": "ok", "untested": "NOT TESTED", "missing": "not installed", "conflict": "CONFLICT"}
    for package in diagnosis.packages:
        version = package.version or "-"
        lines.append(f"{package.name:{width}} {version:10} {words[package.state]:13} tested {package.tested}")
    lines.append("")
    for ability in diagnosis.abilities:
        verdict = "yes" if ability.possible else f"no, lacks {', '.join(ability.lacks)}"
        lines.append(f"{ability.name}: {verdict}")
    remedies = dict.fromkeys(package.remedy for package in diagnosis.packages if package.remedy)
    if remedies:
        lines += ["", "to mend it:", *(f"  {remedy}" for remedy in remedies)]
    return "\n".join(lines)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
