"""A machine reached by the program ssh: run a Python program there and hear its answer.

Nothing of the user's ever becomes part of a shell command there but the path of its Python: programs, requests and
files go through standard input. Keys, jump hosts and aliases are those of the user's ssh configuration.
"""

import io
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any

from edgecbam.errors import InputError
from edgecbam.runtimes.session import one_line

from .devices import Unreachable
from .ssh_bundles import Content, size_of

CALL_S = 60.0  # patience for a call that does next to nothing
SEND_BYTES_PER_S = 100_000  # the slowest transfer that is waited for
CONNECT_S = 15
ALIVE_S, ALIVE_TIMES = 10, 3  # a link that is silent for so long, so many times, is dead
LOST = 255  # exit code of ssh itself; also where the program there was killed and no shell was left to say so
NO_COMMAND = (126, 127)  # exit codes of a shell that cannot run its command
MISSING_SSH = "no ssh here: install it (Debian: apt install openssh-client) and put it on the PATH"
WHERE = re.compile(
    r"(?:(?P<user>[^\s@:|-][^\s@:|]*)@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|\w[\w.-]*)(?::(?P<port>\d{1,5}))?"
)
# Run by the Python over there: reads the program that it is to be from the first line. It holds no single quote.
# A name in the login folder must shadow no module.
STUB = (
    "import sys; sys.version_info < (3, 11) and "
    'sys.exit("edgecbam needs Python 3.11 or later there, this is " + sys.version.split()[0]); '
    "import json; sys.path = [p for p in sys.path if p]; "
    'exec(json.loads(sys.stdin.buffer.readline())["program"])'
)
MENDS = (
    ("Host key verification failed", "accept its host key once by hand, after comparing the fingerprint: {ssh}"),
    ("Permission denied", "it takes none of your keys, and edgecbam asks for no password: ssh-copy-id, or ssh-add"),
    ("Connection refused", "no ssh server listens there: check the host and the port"),
    ("timed out", "it does not answer: check that it is on and in reach"),
    ("No route to host", "it does not answer: check that it is on and in reach"),
    ("Could not resolve", "check the name, or add it to ~/.ssh/config"),
)
CHANGED_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
CHANGED_KEY_MEND = "its host key is another than before: find out why, then ssh-keygen -R removes the old one"


class Host:
    """A machine as the user named it: ``[USER@]HOST[:PORT]``.

    Attributes:
        name: name of the device, ``ssh:`` and what the user said.
        python: its Python; ``~/`` is the home folder there.

    Raises:
        InputError: that names no machine.
    """

    def __init__(self, where: str, python: str) -> None:
        match = WHERE.fullmatch(where)
        port = match and match["port"]
        if match is None or (port and not 0 < int(port) < 2**16):
            raise InputError(f"no device 'ssh:{where}': give ssh:[USER@]HOST[:PORT], an IPv6 address in brackets")
        if not python or "\0" in python or "\n" in python or "\r" in python:
            raise InputError(f"no Python {python!r}: --remote-python names a program of the ssh device")
        self.name = f"ssh:{where}"
        self.python = python
        target = (f"{match['user']}@" if match["user"] else "") + match["host"].strip("[]")
        self._target = [*(["-p", port] if port else []), "--", target]
        self._shown = " ".join(["ssh", *(["-p", port] if port else []), target])

    def command(self) -> list[str]:
        """The command that runs STUB there.

        A shell stays beside it to pass on the exit code: without one, ssh ends alike for a program that was killed and
        for a connection that was lost. The words are quoted so that any login shell passes them on as they are.
        """
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": ALIVE_S,
            "ServerAliveCountMax": ALIVE_TIMES,
            "ControlMaster": "no",  # or the end of one worker would cut off the others
            "ClearAllForwardings": "yes",
            "RemoteCommand": "none",
            "LogLevel": "INFO",  # says that a connection was lost
        }
        script = f"{_quoted_program(self.python)} -c {shlex.quote(STUB)}; exit $?"
        return [
            "ssh",
            "-T",
            "-a",
            "-x",
            *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
            *self._target,
            f"exec sh -c {shlex.quote(script)}",
        ]

    def pip(self, packages: str) -> str:
        """What a user types to install packages there."""
        command = f"{_quoted_program(self.python)} -m pip install {packages}"
        plain = shlex.quote(self.python) == self.python
        return f"{self._shown} {command if plain else shlex.quote(command)}"

    def call(self, program: str, request: dict[str, Any], contents: Sequence[Content] = ()) -> dict[str, Any]:
        """Run a Python program there, give it a request and the bytes of files, and return the JSON line it prints.

        Raises:
            Unreachable: the machine, its Python or the program could not do it; says how to mend it.
        """
        size = sum(map(size_of, contents))
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as noise:
            told.write(_line({"program": program}))
            told.write(_line(request))
            for content in contents:
                with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                    shutil.copyfileobj(file, told)
            told.seek(0)
            code, answer = self._run(told, noise, CALL_S + size / SEND_BYTES_PER_S)
            noise.seek(0)
            said = noise.read().decode("utf-8", "replace")
        if code != 0:
            raise Unreachable(self.explain(code, said))
        try:
            value = json.loads(answer)
            if not isinstance(value, dict):
                raise ValueError
        except ValueError:
            raise Unreachable(self.chatty(answer)) from None
        if "failed" in value:
            raise Unreachable(f"{self.name} cannot be used: {one_line(value['failed'])}")
        return value

    def explain(self, code: int | None, said: str) -> str:
        """Why no program of ours ran there, from the exit code of ssh and what was written to standard error."""
        lines = said.strip().splitlines()
        last = one_line(lines[-1]) if lines else ""
        if code == LOST:
            mends = [mend.format(ssh=self._shown) for sign, mend in MENDS if sign in last]
            mend = CHANGED_KEY_MEND if CHANGED_KEY in said else next(iter(mends), f"try {self._shown}")
            return f"{self.name} cannot be reached: {last or 'ssh does not say why'} ({mend})"
        if code in NO_COMMAND:
            return (
                f"{self.name} has no Python at {self.python}: name one with --remote-python, "
                "3.11 or later, with NumPy and the runtimes to measure"
            )
        mend = " (name another with --remote-python)" if last.startswith("edgecbam needs Python") else ""
        return f"{self.name} cannot be used: {last or f'exit code {code}'}{mend}"

    def chatty(self, answer: bytes | str) -> str:
        """What to say where a machine prints something else than our program does."""
        text = answer if isinstance(answer, str) else answer.decode("utf-8", "replace")
        return (
            f"{self.name} prints {one_line(text, 60)!r} where only programs talk: "
            "make its shell start silently, in ~/.bashrc or the like"
        )

    def _run(self, told: IO[bytes], noise: IO[bytes], timeout_s: float) -> tuple[int, bytes]:
        try:
            done = subprocess.run(
                self.command(), stdin=told, stdout=subprocess.PIPE, stderr=noise, timeout=timeout_s, check=False
            )
        except FileNotFoundError:
            raise Unreachable(MISSING_SSH) from None
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.name} cannot be reached: no answer within {timeout_s:g} s") from None
        return done.returncode, done.stdout


def _quoted_program(path: str) -> str:
    """A path for a shell; only ``~/`` at its start stays for the shell to replace."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") and len(path) > 2 else shlex.quote(path)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
