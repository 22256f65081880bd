"""What this machine can run and what it lacks, told from package metadata alone: nothing heavy is imported.

The tested range of every package is the one that edgecbam's own metadata states, so there is no second list to forget.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from edgecbam import __version__
from edgecbam.errors import EnvironmentFailure

CPU_FLAGS = (  # what decides the speed of int8 and bfloat16 kernels, x86 first, then ARM
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
ONNXRUNTIME_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu")  # they all install the module onnxruntime
VERIFY_RUNTIMES = ("ai-edge-litert", "onnxruntime")
# Through which API a package reaches a GPU, on Linux; elsewhere it is another, which nothing here asks.
GPU_APIS = {
    "ai-edge-litert": "vulkan",
    "onnxruntime-webgpu": "vulkan",
    "onnxruntime-gpu": "cuda",
    "tensorflow": "cuda",
}
UNTESTED_APIS = ("cuda",)  # no machine that edgecbam has been tested on has an NVIDIA GPU
INTEL_ONLY = ("openvino",)  # reach a GPU through Intel's own driver
MICRO, MICRO_PLATFORM = "tflite-micro", ("linux", "x86_64")  # there are packages for no other
SURVEY = (
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from edgecbam.runtimes.survey import main; main()",
    str(Path(__file__).resolve().parents[1]),
)
WIDTH = 80  # of the text; commands, which are there to be copied, keep their line

State = Literal["ok", "untested", "missing", "conflict"]


@dataclass(frozen=True)
class Requirement:
    """One line of edgecbam's metadata: ``tensorflow<2.22,>=2.21; extra == "train"``.

    Attributes:
        package: its name in lower case with hyphens.
        bounds: pairs of operator and version, such as ``((">=", "2.21"), ("<", "2.22"))``.
        extra: the extra that asks for it; empty for the base install.
        platform: what the machine must be, such as ``(("sys_platform", "linux"),)``.
    """

    package: str
    bounds: tuple[tuple[str, str], ...]
    extra: str
    platform: tuple[tuple[str, str], ...] = ()

    @property
    def range(self) -> str:
        """``>=2.21,<2.22``."""
        return ",".join(f"{operator}{version}" for operator, version in sorted(self.bounds, reverse=True))

    @property
    def wanted_here(self) -> bool:
        """Whether this machine is what the requirement is for."""
        here = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
        return all(here[variable] == value for variable, value in self.platform)


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
class Place:
    """A device that a runtime may run on.

    Attributes:
        device: ``"cpu"`` or ``"gpu"``.
        found: whether it is there; None where nothing tells but an attempt.
        adapters: names of the GPUs.
        note: what there is to know of it, or why it was not found; "" for nothing.
    """

    device: str
    found: bool | None
    adapters: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class RuntimeState:
    """A runtime of the registry. ``remedy`` is the exact command that adds it, or empty; ``note`` what else to know."""

    name: str
    package: str
    version: str | None
    installed: bool
    formats: tuple[str, ...]
    places: tuple[Place, ...]
    note: str
    remedy: str


@dataclass(frozen=True)
class Conflict:
    """Packages that cannot be in one environment, and the commands that put each into one of its own."""

    packages: tuple[str, ...]
    reason: str
    remedies: tuple[str, ...]


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
    runtimes: tuple[RuntimeState, ...]
    runtimes_reason: str  # why there are none; "" where there are
    conflicts: tuple[Conflict, ...]


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
    requirements = [r for r in map(parse_requirement, lines) if r.wanted_here]
    packages = examine(requirements, installed_version)
    told, reason = ask_survey(SURVEY)
    return Diagnosis(
        edgecbam=__version__,
        machine=look_at_machine(folder or Path.cwd()),
        packages=packages,
        abilities=abilities(packages, requirements),
        runtimes=runtime_states(told, sys.platform, platform.machine()) if told else (),
        runtimes_reason=reason,
        conflicts=conflicts(requirements, installed_version),
    )


def broken_base(diagnosis: Diagnosis) -> list[Package]:
    """Packages of the base install that are missing or outside their range: only these make ``doctor`` fail."""
    return [p for p in diagnosis.packages if not p.extra and p.state in ("missing", "untested")]


def parse_requirement(line: str) -> Requirement:
    """Read one requirement of our own metadata; raises ValueError for a form that edgecbam does not use."""
    specifier, _, marker = (part.strip() for part in line.partition(";"))
    match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(\[[^]]*\])?\s*\(?([^()]*)\)?", specifier)
    clauses = re.split(r"\band\b", marker) if marker else []
    conditions = [
        re.fullmatch(r"""\(?\s*(extra|sys_platform|platform_machine) == ["']([\w-]+)["']\s*\)?""", clause.strip())
        for clause in clauses
    ]
    if match is None or None in conditions:
        raise ValueError(f"cannot read the requirement {line!r}")
    told = [(condition[1], condition[2]) for condition in conditions if condition]
    bounds = []
    for part in filter(None, (piece.strip() for piece in match[3].split(","))):
        bound = re.fullmatch(r"(>=|<|==)\s*([0-9.]+(?:dev[0-9]+)?)", part)
        if bound is None:
            raise ValueError(f"cannot read the bound {part!r} of the requirement {line!r}")
        bounds.append((bound[1], bound[2]))
    return Requirement(
        canonical(match[1]),
        tuple(bounds),
        dict(told).get("extra", ""),
        tuple(pair for pair in told if pair[0] != "extra"),
    )


def canonical(name: str) -> str:
    """A package name as indexes compare it: ``tf_keras`` and ``tf-keras`` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def in_range(version: str, bounds: Iterable[tuple[str, str]]) -> bool:
    """Whether a version lies in the bounds; only its leading numbers count (``2.21.0rc1`` as 2.21.0).

    Where a bound is a daily build (``0.dev20261023``) the day counts too.
    """
    compare: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
        "==": lambda a, b: a == b,
    }
    return all(
        compare[operator](_numbers(version, "dev" in bound), _numbers(bound, "dev" in bound))
        for operator, bound in bounds
    )


def _numbers(version: str, daily: bool) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 2.21 and 2.21.0 are the same version
        numbers.pop()
    if daily:
        build = re.search(r"dev(\d+)", version)
        numbers = [*(numbers + [0] * 3)[:3], int(build[1]) if build else sys.maxsize]  # a release follows its builds
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
                there = _build_there(requirement, requirements, version_of)
                found[requirement.package] = _examine_one(there, version_of)
    order = ("", "train", *_runtime_extras(requirements))
    return tuple(sorted(found.values(), key=lambda package: order.index(package.extra)))


def _build_there(
    wanted: Requirement, requirements: Sequence[Requirement], version_of: Callable[[str], str | None]
) -> Requirement:
    """Another build of ONNX Runtime in place of the plain one, where that is not installed: it does the same."""
    if wanted.package == "onnxruntime" and not version_of("onnxruntime"):
        for requirement in requirements:
            if requirement.package in ONNXRUNTIME_BUILDS and version_of(requirement.package):
                return replace(requirement, extra=wanted.extra)
    return wanted


def _examine_one(requirement: Requirement, version_of: Callable[[str], str | None]) -> Package:
    name = requirement.package
    version = version_of(name)
    builds = [build for build in ONNXRUNTIME_BUILDS if version_of(build)] if name in ONNXRUNTIME_BUILDS else []
    state: State = "ok"
    remedy = ""
    exact = f"{_pip()} install {shlex.quote(f'{name}{requirement.range}')}"
    if len(builds) > 1:
        state = "conflict"
        remedy = f"{_pip()} uninstall -y {' '.join(builds)} && {exact}"
    elif version is None:
        state = "missing"
        remedy = _add(requirement.extra) if requirement.extra else exact
    elif not in_range(version, requirement.bounds):
        state = "untested"
        remedy = exact
    return Package(name, version, requirement.range, requirement.extra, state, remedy)


def conflicts(requirements: Sequence[Requirement], version_of: Callable[[str], str | None]) -> tuple[Conflict, ...]:
    """The builds of ONNX Runtime, where more than one is installed."""
    builds = tuple(build for build in ONNXRUNTIME_BUILDS if version_of(build))
    if len(builds) < 2:
        return ()
    reason = (
        f"{_listed(builds)} all install the module onnxruntime, over one another, so that none of them is whole. "
        "Keep each in an environment of its own."
    )
    plain = next((r for r in requirements if r.package == "onnxruntime"), None)
    wanted = f"onnxruntime{plain.range}" if plain else "onnxruntime"
    mend = f"{_pip()} uninstall -y {' '.join(builds)} && {_pip()} install {shlex.quote(wanted)}"
    return (Conflict(builds, reason, (mend, *(_apart(build) for build in builds if build != "onnxruntime"))),)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _add(extra: str) -> str:
    return f"{_pip()} install {shlex.quote(f'edgecbam[{extra}]')}"


def _apart(extra: str) -> str:
    """The command that adds an extra in an environment of its own."""
    folder = f"venv-{extra}"
    python = f"{folder}\\Scripts\\python" if os.name == "nt" else f"{folder}/bin/python"
    wanted = shlex.quote(f"edgecbam[{extra}]")
    return f"{shlex.quote(sys.executable)} -m venv {folder} && {python} -m pip install {wanted}"


def ask_survey(command: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """What edgecbam.runtimes.survey says in a process of its own, since it loads NumPy, or why it says nothing."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"the runtimes could not be looked at: {error}"
    if done.returncode == 0:
        try:
            told = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            return None, "the runtimes could not be looked at: no answer"
        return (told, "") if isinstance(told, dict) else (None, "the runtimes could not be looked at: no answer")
    lines = done.stderr.strip().splitlines()
    return None, f"the runtimes could not be looked at: {lines[-1] if lines else f'exit code {done.returncode}'}"


def runtime_states(told: Mapping[str, Any], system: str, machine: str) -> tuple[RuntimeState, ...]:
    """Each runtime of the registry, where it can run here, and what would add it.

    Args:
        told: what edgecbam.runtimes.survey returns.
        system: sys.platform.
        machine: platform.machine().
    """
    states = []
    for entry in told["runtimes"]:
        package, installed = entry["package"], bool(entry["installed"])
        note, remedy = entry["functional"], ""
        untested = package in GPU_APIS and GPU_APIS[package] in UNTESTED_APIS and entry["devices"] == ["gpu"]
        if untested:
            note = "untested"
        if not installed:
            if package == MICRO and (system, machine) != MICRO_PLATFORM:
                note = "there are packages for Linux on x86-64 alone"
            else:
                alone = package in ONNXRUNTIME_BUILDS and package != "onnxruntime"
                remedy = _apart(entry["extra"]) if alone else _add(entry["extra"])
        states.append(
            RuntimeState(
                name=entry["name"],
                package=package,
                version=entry["version"] if installed else None,
                installed=installed,
                formats=tuple(entry["formats"]),
                places=tuple(_place(device, package, told["gpus"], system) for device in entry["devices"]),
                note=note,
                remedy=remedy,
            )
        )
    return tuple(states)


def _place(device: str, package: str, listings: Sequence[Mapping[str, Any]], system: str) -> Place:
    if device == "cpu":
        return Place("cpu", True)
    if package in INTEL_ONLY:
        names = [gpu["name"] for listing in listings for gpu in listing["gpus"] if "intel" in gpu["name"].lower()]
        found = tuple(dict.fromkeys(names))
        return Place("gpu", True, found) if found else Place("gpu", None, (), "no GPU of Intel's is seen")
    api = GPU_APIS.get(package)
    if api is None or (api == "vulkan" and system != "linux"):
        return Place("gpu", None, (), "only an attempt tells")
    listing = next((listing for listing in listings if listing["api"] == api), None)
    if listing is None or not listing["gpus"]:
        return Place("gpu", False, (), "none, " + (listing["reason"] if listing else f"{api} was not asked"))
    notes = ["untested"] if api in UNTESTED_APIS else []
    if all(gpu["software"] for gpu in listing["gpus"]):
        notes.append("an emulation on the CPU: its time is no GPU's")
    return Place("gpu", True, tuple(gpu["name"] for gpu in listing["gpus"]), "; ".join(notes))


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip"


def _runtime_extras(requirements: Sequence[Requirement]) -> list[str]:
    """Extras that hold one runtime of the extra ``runtimes`` each: those with a single package, ours and tools aside.

    The others either exclude one of these or are not for every machine; ``runtime_states`` tells of them.
    """
    by_extra: dict[str, list[str]] = {}
    for requirement in requirements:
        by_extra.setdefault(requirement.extra, []).append(requirement.package)
    return [
        extra
        for extra, packages in by_extra.items()
        if extra not in ("", "train", "dev", "report", "micro", *ONNXRUNTIME_BUILDS[1:])
        and packages != ["edgecbam"]
        and len(packages) == 1
    ]


def abilities(packages: Sequence[Package], requirements: Sequence[Requirement]) -> tuple[Ability, ...]:
    """What can be done here: train to export, verify, and benchmark on each runtime."""
    usable = {package.name for package in packages if package.state in ("ok", "untested")}
    if usable & set(ONNXRUNTIME_BUILDS):
        usable.add("onnxruntime")

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
    """The diagnosis for a reader, 80 columns wide but for the commands, which come last."""
    parts = [
        _machine_lines(diagnosis),
        _package_lines(diagnosis.packages),
        [line for state in diagnosis.runtimes for line in _runtime_lines(state)] or _wrapped(diagnosis.runtimes_reason),
        [line for ability in diagnosis.abilities for line in _ability_lines(ability)],
    ]
    parts += [
        [*_wrapped(f"CONFLICT: {conflict.reason}"), *_commands(conflict.remedies)] for conflict in diagnosis.conflicts
    ]
    told = {remedy for conflict in diagnosis.conflicts for remedy in conflict.remedies}
    remedies = [p.remedy for p in diagnosis.packages if p.remedy and p.remedy not in told]
    if remedies:
        parts.append(["to mend it:", *_commands(remedies)])
    additions: dict[str, list[str]] = {}
    for state in diagnosis.runtimes:
        if state.remedy and state.remedy not in (*told, *remedies):
            additions.setdefault(state.remedy, []).append(state.name)
    parts += [[*_wrapped(f"to add {', '.join(names)}:"), *_commands([remedy])] for remedy, names in additions.items()]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _machine_lines(diagnosis: Diagnosis) -> list[str]:
    machine = diagnosis.machine
    cores = f"{machine.cores} cores"
    if machine.cores_allowed != machine.cores:
        cores += f", {machine.cores_allowed} of them for this process"
    indent = " " * 9
    return [
        *_wrapped(f"edgecbam {diagnosis.edgecbam}, Python {machine.python}, {machine.platform}", indent),
        *_wrapped(f"cpu      {machine.cpu}, {cores}", indent),
        *_wrapped(f"{indent}{' '.join(machine.cpu_flags) or 'no flags known'}", indent),
        f"memory   {_gib(machine.memory_available_bytes)} of {_gib(machine.memory_bytes)} available",
        *_wrapped(f"disk     {_gib(machine.disk_free_bytes)} free in {machine.disk_folder}", indent),
    ]


def _package_lines(packages: Sequence[Package]) -> list[str]:
    width = max(len(package.name) for package in packages)
    words = {"ok": "ok", "untested": "NOT TESTED", "missing": "not installed", "conflict": "CONFLICT"}
    return [
        f"{package.name:{width}} {package.version or '-':10} {words[package.state]:13} tested {package.tested}"
        for package in packages
    ]


def _runtime_lines(state: RuntimeState) -> list[str]:
    version = f" {state.version}" if state.version else ""
    head = f"{state.name}{version} ({', '.join(state.formats)})"
    if state.installed:
        body = "; ".join(_place_text(place) for place in state.places)
        note = "" if any(state.note == place.note for place in state.places) else state.note
    else:
        body, note = "not installed", state.note
    return _wrapped(f"{head}: {body}{'; ' if note else ''}{note}")


def _place_text(place: Place) -> str:
    if place.found is True:
        words = [", ".join(place.adapters), f"({place.note})" if place.note else ""]
        return " ".join(filter(None, [place.device + (":" if place.adapters else ""), *words]))
    return f"{place.device}: {place.note}"


def _ability_lines(ability: Ability) -> list[str]:
    verdict = "yes" if ability.possible else f"no, lacks {', '.join(ability.lacks)}"
    return _wrapped(f"{ability.name}: {verdict}")


def _commands(commands: Iterable[str]) -> list[str]:
    """Each on lines of its own, broken where a shell lets it be, so that it can be copied as it stands."""
    return [
        line for command in dict.fromkeys(commands) for line in f"  {command}".replace(" && ", " &&\n  ").split("\n")
    ]


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    """Lines of at most 80 columns, as far as its words allow."""
    lead = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(
        text.lstrip(),
        WIDTH,
        initial_indent=lead,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
