"""Where cells are measured: here, or on a machine that is reached by ssh or adb.

A device starts workers; what a worker is asked and answers is the same everywhere (see worker.py), and times are taken
by the clock of the machine that runs the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgecbam.errors import EnvironmentFailure, InputError

from . import environment
from .child import Child, Worker

LOCAL = ("cpu", "gpu")


class Unreachable(EnvironmentFailure):
    """The device cannot be reached, or not any more. Costs its cells and no others."""


@dataclass(frozen=True)
class Settings:
    """What remote devices need to know.

    Attributes:
        remote_python: Python of an ssh device, with NumPy and the runtimes to measure.
        benchmark_model: Google's benchmark_model for Android, for adb devices.
        benchmark_model_sha256: what it must be.
        adb_cores: hexadecimal mask of the cores to run on, for taskset; None: the fastest cluster.
    """

    remote_python: str = "python3"
    benchmark_model: Path | None = None
    benchmark_model_sha256: str | None = None
    adb_cores: str | None = None


class Device(Protocol):
    """One place where cells are measured."""

    @property
    def name(self) -> str:
        """As the user said it: ``cpu``, ``gpu``, ``ssh:HOST``, ``adb:SERIAL``."""

    @property
    def runtimes(self) -> tuple[str, ...] | None:
        """The only names of runtimes that it has; None: those of edgecbam.runtimes."""

    def prepare(self, files: Sequence[Path]) -> None:
        """Reach the device and bring it the files (models, references, samples); raises Unreachable."""

    def start(self, task: dict[str, Any]) -> Worker:
        """A fresh worker for a task whose paths are those of this machine."""

    def describe(self, runtimes: Sequence[str]) -> dict[str, Any]:
        """The machine as JSON values, as environment.describe; raises Unreachable."""

    def snapshot(self) -> dict[str, Any]:
        """What may change while measuring, as environment.snapshot; raises Unreachable."""

    def close(self) -> None:
        """Let go of it."""


class LocalDevice:
    """This machine's CPU or GPU."""

    runtimes = None

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, files: Sequence[Path]) -> None:
        pass

    def start(self, task: dict[str, Any]) -> Worker:
        return Child(task)

    def describe(self, runtimes: Sequence[str]) -> dict[str, Any]:
        return environment.describe(runtimes)

    def snapshot(self) -> dict[str, Any]:
        return environment.snapshot()

    def close(self) -> None:
        pass


def connect(name: str, settings: Settings) -> Device:
    """The device of this name, not yet reached; raises InputError where the name says nothing."""
    if name in LOCAL:
        return LocalDevice(name)
    kind, _, where = name.partition(":")
    if kind == "ssh" and where:
        from .ssh_device import SshDevice

        return SshDevice(where, settings)
    if kind == "adb" and where:
        from .adb_device import AdbDevice

        return AdbDevice(where, settings)
    raise InputError(f"no device {name!r}: give cpu, gpu, ssh:HOST or adb:SERIAL")
