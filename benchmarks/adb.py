"""One Android phone, reached through the program adb: run a command on it, bring it a file, fetch a folder.

Nothing here needs a rooted phone. Remote paths are ours alone: files lie under the sha256 of their content in
/data/local/tmp/edgecbam, never under a name that a user or a stranger chose.
"""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from edgecbam import artifacts
from edgecbam.runtimes.session import one_line

from .devices import Unreachable

ROOT = "/data/local/tmp/edgecbam"
CALL_S = 30.0  # patience for a call that does next to nothing
PUSH_BYTES_PER_S = 1_000_000  # the slowest transfer that is waited for
MISSING_ADB = "no adb here: install Android's platform-tools (Debian: apt install adb) and put adb on the PATH"


class TooSlow(Unreachable):
    """A call to adb outlasted the patience that it was given. Whatever ran on the phone may still run."""


@dataclass(frozen=True)
class Answer:
    """What a shell command on the phone ended with and printed, standard error included."""

    code: int
    text: str


class Phone:
    """The phone that adb knows by ``serial``; ``HOST:PORT`` for one that is reached by network."""

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.name = f"adb:{serial}"
        self._there: set[str] = set()

    def reach(self) -> None:
        """Raise Unreachable, with the way to mend it, unless adb can talk to the phone."""
        program = _adb()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a fresh server must not inherit our pipes
            subprocess.run(
                [program, "start-server"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CALL_S,
                check=False,
            )
        state = self.state()
        if state != "device":
            raise Unreachable(self._mend(state))

    def state(self) -> str:
        """adb's word for the connection: ``device`` where it stands, else another state or an error message."""
        try:
            code, out, error = _call([_adb(), "-s", self.serial, "get-state"], CALL_S)
        except TooSlow:
            return "adb does not answer"
        return out.strip() if code == 0 else error.strip() or out.strip() or "adb failed and said nothing"

    def shell(self, script: str, timeout_s: float = CALL_S) -> Answer:
        """Run a script in the phone's shell.

        A mark of our own ends the answer: older phones do not pass on the exit code, and an answer without it was cut
        off.

        Raises:
            TooSlow: it ran longer than ``timeout_s``.
            Unreachable: the connection broke before it ended.
        """
        mark = f"edgecbam-{secrets.token_hex(6)}"
        command = f"( {script}\n) 2>&1; echo {mark}:$?"
        _, out, error = _call([_adb(), "-s", self.serial, "shell", command], timeout_s)
        text = out.replace("\r\n", "\n")
        body, found, tail = text.rpartition(f"{mark}:")
        if not found:
            raise Unreachable(self._lost(error or text))
        return Answer(int(tail), body)

    def checked(self, script: str, timeout_s: float = CALL_S) -> str:
        """``shell`` for what must succeed; raises Unreachable where it does not."""
        answer = self.shell(script, timeout_s)
        if answer.code != 0:
            raise Unreachable(f"{self.name} cannot be used: {one_line(answer.text) or f'exit code {answer.code}'}")
        return answer.text

    def keep(self, path: Path, name: str) -> str:
        """Bring a file to the phone once, proven by its sha256 there; returns its remote path, ending in ``name``."""
        digest = artifacts.sha256_file(path)
        remote = f"{ROOT}/{digest}/{name}"
        if remote in self._there:
            return remote
        if not self._is_there(remote, digest):
            self.checked(f"mkdir -p {shlex.quote(f'{ROOT}/{digest}')}")
            self.push(path, remote)
            if not self._is_there(remote, digest):
                raise Unreachable(f"{self.name}: {path.name} did not arrive whole (its sha256 differs): try again")
        self._there.add(remote)
        return remote

    def push(self, path: Path, remote: str) -> None:
        """Copy a file or folder to the phone; a folder goes into an existing remote one. Raises Unreachable."""
        self._copy(["push", str(path.resolve()), remote], _size(path))

    def pull(self, remote: str, folder: Path) -> None:
        """Copy a remote folder into an existing one here. Raises Unreachable."""
        self._copy(["pull", remote, str(folder.resolve())], 100 * PUSH_BYTES_PER_S)

    def lost(self, detail: str = "") -> str:
        """The reason of a row that lost its phone."""
        return f"connection to {self.name} lost" + (f": {one_line(detail, 120)}" if detail else "")

    def _copy(self, arguments: list[str], size: int) -> None:
        try:
            code, out, error = _call([_adb(), "-s", self.serial, *arguments], CALL_S + size / PUSH_BYTES_PER_S)
        except TooSlow:
            raise Unreachable(self._lost("a file did not go through in time")) from None
        if code != 0:
            if _is_connection(error + out):
                raise Unreachable(self._lost(error or out))
            raise Unreachable(f"{self.name} does not take a file: {one_line(error or out)}")

    def _is_there(self, remote: str, digest: str) -> bool:
        answer = self.shell(f"sha256sum {shlex.quote(remote)}", 4 * CALL_S)
        if answer.code == 127:
            raise Unreachable(f"{self.name} has no sha256sum: files cannot be proven; Android 8 or later has it")
        return answer.code == 0 and answer.text.split()[:1] == [digest]

    def _lost(self, detail: str) -> str:
        return self.lost(detail.replace(f"'{self.serial}'", "").strip())

    def _mend(self, state: str) -> str:
        where = f"{self.name} cannot be reached: "
        if "unauthorized" in state or "authorizing" in state:
            return where + "unlock the phone and allow USB debugging from this computer in the dialog it shows"
        if "offline" in state:
            return where + "it is offline: reconnect the cable, or adb reconnect offline"
        if "permission" in state:
            return (
                where + "adb may not open USB devices: add its udev rules (Debian: android-sdk-platform-tools-common)"
            )
        if "more than one" in state:
            return where + "several phones answer to it: disconnect all but one, or name one as adb devices does"
        if "not found" in state or "no devices" in state:
            hint = f"adb connect {self.serial} first" if ":" in self.serial else "see adb devices for those attached"
            return where + f"no such device: {hint}, and turn on USB debugging on the phone"
        if state in ("recovery", "sideload", "bootloader", "rescue"):
            return where + f"it is in {state}: restart it into Android"
        return where + f"{one_line(state, 160)} (adb devices says more)"


def _adb() -> str:
    found = shutil.which("adb")
    if found is None:
        raise Unreachable(MISSING_ADB)
    return found


def _is_connection(text: str) -> bool:
    return re.search(r"not found|offline|closed|unauthorized|no devices|protocol fault|connect", text) is not None


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _call(command: list[str], timeout_s: float) -> tuple[int, str, str]:
    """Exit code, standard output, standard error; raises TooSlow, and nothing of ours is left running then."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is the parent's to handle
    )
    started = time.monotonic()
    try:
        out, error = process.communicate(timeout=max(timeout_s, 0.1))
    except BaseException as cause:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if isinstance(cause, subprocess.TimeoutExpired):
            raise TooSlow(f"adb gave no answer within {time.monotonic() - started:.0f} s") from None
        raise
    return process.returncode, out.decode("utf-8", "replace"), error.decode("utf-8", "replace")
