"""Environments that hold one version of one runtime each, for runtime_proof.py.

On this machine's own processor each is a virtual environment. For 64-bit Arm each is a folder of packages, run by an
Arm Python of Debian under qemu. All are kept, and made anew only where what they should hold has changed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecbam.errors import EnvironmentFailure

LITERT, MICRO = "ai-edge-litert", "tflite-micro"
PYTHON = (3, 11)  # has packages of every version below
VERSIONS = ("1.0.1", "1.1.2", "1.2.0", "1.3.0", "1.4.0", "2.0.3", "2.1.2", "2.1.3", "2.1.6", "2.2.0", "2.3.0")
MICRO_VERSION = "0.dev20261023182759"  # there are daily builds alone
ARM64_VERSIONS = ("1.2.0", "1.4.0", "2.1.6", "2.3.0")
# What the runtimes import. Their own lists ask for more, and old ones for versions that exclude one another.
NEEDS = {
    LITERT: ("numpy==1.26.4", "flatbuffers==25.12.19", "typing_extensions==4.16.0"),
    MICRO: ("numpy==1.26.4", "flatbuffers==25.12.19", "pyyaml==6.0.3"),
}
ARM64_PLATFORMS = ("manylinux_2_17", "manylinux2014", "manylinux_2_27", "manylinux_2_28", "manylinux_2_35")
MARK = ".requirements"  # in a finished environment: what it holds

QEMU = "qemu-aarch64-static"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "bookworm"
SOURCE = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main"
PACKAGES = (
    *("python3.11", "libpython3.11-stdlib", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libffi8"),
    *("libbz2-1.0", "liblzma5", "libsqlite3-0", "libatomic1", "libgomp1"),
)


@dataclass(frozen=True)
class Environment:
    """A runtime, ready to run runtime_probe.py.

    Attributes:
        runtime: name of its package.
        version: of the package.
        architecture: as ``uname -m`` says.
        cpu: name of the processor; None where it cannot be read.
        command: what to put before the arguments of Python.
        variables: added to the process's environment.
    """

    runtime: str
    version: str
    architecture: str
    cpu: str | None
    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.runtime} {self.version} on {self.cpu or self.architecture}"


@dataclass(frozen=True)
class Core:
    """A processor that qemu knows, and what Linux says of it.

    XNNPACK chooses its kernels by /proc/cpuinfo. qemu shows that of the machine below, with which it crashes.
    """

    name: str
    part: str
    features: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo with two such processors."""
        lines = {
            "BogoMIPS": "108.00",
            "Features": self.features,
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU variant": "0x4",
            "CPU part": self.part,
            "CPU revision": "1",
        }
        said = "".join(f"{key}\t: {value}\n" for key, value in lines.items())
        return "".join(f"processor\t: {index}\n{said}\n" for index in range(2))


_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
CORES = (
    Core("cortex-a53", "0xd03", _V8),
    Core("cortex-a76", "0xd0b", f"{_V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),
)


def make_native(folder: Path, runtime: str, version: str, architecture: str, cpu: str | None) -> Environment:
    """A virtual environment with one runtime, below ``folder``.

    Raises:
        EnvironmentFailure: no suitable Python, or the packages cannot be installed.
    """
    place = folder / f"{runtime}-{version}"
    python = place / "bin" / "python"

    def make() -> None:
        _run([*_find_python(), "-m", "venv", str(place)], f"make the environment {place.name}")
        _install([str(python)], _requirements(runtime, version), [], place.name)

    _make_once(place, _requirements(runtime, version), make)
    return Environment(runtime, version, architecture, cpu, (str(python.absolute()),))


def make_arm64(folder: Path, version: str, core: Core) -> Environment:
    """A 64-bit Arm Python with a version of ai-edge-litert, below ``folder``; call ``check_arm64`` first.

    Raises:
        EnvironmentFailure: the root or the packages cannot be installed.
    """
    folder = folder.absolute()
    debian, packages, root = folder / "arm64", folder / f"arm64-{LITERT}-{version}", folder / f"arm64-{core.name}"
    options = ["--only-binary=:all:", "--target", str(packages), "--python-version", "3.11", "--implementation", "cp"]
    options += ["--abi", "cp311", *(f"--platform={name}_aarch64" for name in ARM64_PLATFORMS), "--platform=any"]
    requirements = _requirements(LITERT, version)
    _make_once(debian, (SUITE, *PACKAGES), lambda: _make_debian(debian))
    _make_once(packages, requirements, lambda: _install([sys.executable], requirements, options, packages.name))
    _make_once(root, (core.cpuinfo(),), lambda: _make_root(root, debian, core))
    variables = {
        "PYTHONHOME": str(debian / "usr"),
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = (QEMU, "-cpu", core.name, "-L", str(root), str(debian / "usr" / "bin" / "python3.11"))
    return Environment(LITERT, version, "aarch64", f"qemu {core.name}", command, tuple(variables.items()))


def check_arm64(folder: Path) -> None:
    """Raise EnvironmentFailure, with one line that says what to install, unless ``make_arm64`` can do its work."""
    missing = [] if shutil.which(QEMU) else ["qemu-user-static"]
    made = (folder / "arm64" / MARK).is_file()
    if not made and not shutil.which("mmdebstrap"):
        missing.append("mmdebstrap")
    if not made and not KEYRING.is_file():
        missing.append("debian-archive-keyring")
    if missing:
        raise EnvironmentFailure(f"64-bit Arm needs an emulator: sudo apt-get install {' '.join(missing)}")
    if not made and os.geteuid() != 0:
        raise EnvironmentFailure(
            "64-bit Arm needs a Debian Python, which mmdebstrap unpacks as root alone: run as root"
        )


def emulator() -> str:
    """What qemu calls itself."""
    done = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def _requirements(runtime: str, version: str) -> tuple[str, ...]:
    return (f"{runtime}=={version}", *NEEDS[runtime])


def _make_once(place: Path, content: Sequence[str], make: Callable[[], None]) -> None:
    """Keep a folder that is marked as holding ``content``; make it anew otherwise, and mark it last."""
    mark = place / MARK
    if mark.is_file() and mark.read_text("utf-8") == "\n".join(content):
        return
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    make()
    mark.write_text("\n".join(content), "utf-8")


def _make_debian(place: Path) -> None:
    include = f"--include={','.join(PACKAGES)}"
    options = ["--architectures=arm64", "--variant=extract", include]
    _run(["mmdebstrap", *options, SUITE, str(place), SOURCE], "unpack Debian's Python for arm64")


def _make_root(root: Path, debian: Path, core: Core) -> None:
    """What the emulated processes see as /: Debian's, with the core's own cpuinfo."""
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(core.cpuinfo(), "utf-8")
    for entry in debian.iterdir():
        if entry.name not in ("proc", MARK):
            (root / entry.name).symlink_to(Path("..", debian.name, entry.name))


def _find_python() -> list[str]:
    name = "python{}.{}".format(*PYTHON)
    found = sys.executable if sys.version_info[:2] == PYTHON else shutil.which(name)
    if not found:
        raise EnvironmentFailure(f"old versions of {LITERT} have packages for {name} alone: install it")
    return [found]


def _install(python: Sequence[str], requirements: Sequence[str], options: Sequence[str], name: str) -> None:
    pip = [*python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, *options, *requirements], f"install the packages of {name}")


def _run(command: Sequence[str], purpose: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise EnvironmentFailure(f"cannot {purpose}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EnvironmentFailure(f"cannot {purpose}: {said[-1] if said else f'exit code {done.returncode}'}")
