"""An Android phone as a device: Google's benchmark_model, driven over adb, measures the cells.

The program gives no single latencies, only statistics of an invocation (see adb_result.py). So a block is one fresh
invocation: it loads the model, warms up as long as the protocol says, times the block's runs, and its median is the
one figure of the block. Since the parent visits the cells in random order, models are interleaved invocation by
invocation. What the report shows of such a row is the distribution of those medians over invocations, and its
``placement`` says so under ``statistic``.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.errors import InputError

from . import adb_environment
from .adb import Phone
from .adb_bench import RUNTIME, Bench
from .adb_worker import FORMAT, AdbWorker
from .devices import Settings

WANTED = "--benchmark-model PATH --benchmark-model-sha256 HEX"


class AdbDevice:
    """The phone that adb calls ``serial``, or its GPU: ``SERIAL/gpu``.

    Raises:
        InputError: benchmark_model is not given, not there or not the file that its sha256 says; or the mask of cores
            is none.
    """

    runtimes = (RUNTIME,)

    def __init__(self, serial: str, settings: Settings) -> None:
        serial, slash, kind = serial.partition("/")  # no serial number, host or port has one
        if slash and kind not in ("cpu", "gpu"):
            raise InputError(f"no {kind!r} on a phone: give adb:{serial}, adb:{serial}/cpu or adb:{serial}/gpu")
        phone = Phone(serial)
        self.name = phone.name + slash + kind
        self._kind = kind or "cpu"
        binary, digest = _checked_binary(settings, self.name)
        self._bench = Bench(phone, binary, digest, _checked_mask(settings.adb_cores))
        self._numbers = itertools.count()

    def prepare(self, files: Sequence[Path]) -> None:
        """Reach the phone and bring it benchmark_model and the .tflite files; raises Unreachable."""
        self._bench.prepare()
        for path in files:
            if path.suffix.lower() == FORMAT:
                self._bench.model(path)

    def start(self, task: dict[str, Any]) -> AdbWorker:
        """A worker for a task. What the phone cannot do, the worker says when it is heard."""
        return AdbWorker(self._bench, {**task, "device": self._kind}, f"w{next(self._numbers)}")

    def describe(self, runtimes: Sequence[str]) -> dict[str, Any]:
        """The phone, in the terms of environment.describe; raises Unreachable."""
        # the program does not tell its version; it is one of the device's own, whatever names are asked for
        return {**self._bench.facts().as_json(), "versions": {RUNTIME: f"sha256 {self._bench.digest[:12]}"}}

    def snapshot(self) -> dict[str, Any]:
        """Battery, heat, clocks and load as they are now; raises Unreachable."""
        return adb_environment.read_state(self._bench.phone.checked(adb_environment.SNAPSHOT))

    def close(self) -> None:
        """Remove what this measurement left on the phone, except the files that the next one needs too."""
        self._bench.close()


def _checked_binary(settings: Settings, device: str) -> tuple[Path, str]:
    path, wanted = settings.benchmark_model, settings.benchmark_model_sha256
    if path is None or wanted is None:
        raise InputError(f"{device} needs Google's benchmark_model for Android: give {WANTED}")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise InputError(f"--benchmark-model-sha256 {wanted!r} is no sha256: give {WANTED}, 64 hexadecimal digits")
    try:
        found = artifacts.sha256_file(path)
    except OSError as error:
        raise InputError(f"cannot read benchmark_model {path} ({error.strerror}): give {WANTED}") from None
    if found != wanted.lower():
        raise InputError(f"{path} has the sha256 {found}, not the one given: check the file, or give {WANTED}")
    return path, found


def _checked_mask(mask: str | None) -> str | None:
    if mask is None:
        return None
    digits = mask.lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,16}", digits) or int(digits, 16) == 0:
        raise InputError(f"--adb-cores {mask!r} is no mask of cores: give hexadecimal digits, such as f0 for 4 to 7")
    return digits
