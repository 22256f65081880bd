"""A worker on an ssh device: child.Child with ssh between, and its failures told in the terms of this side."""

import re
from typing import Any

from .child import Child, ChildFailed
from .devices import Unreachable
from .ssh_link import CALL_S, LOST, MISSING_SSH, Host

# Signals that have the same number everywhere; a shell ends with 128 and the number of the one that killed its command.
SIGNALS = {4: "SIGILL", 6: "SIGABRT", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
WORDS_OF_SSH = re.compile(r"connection|timeout|disconnect|broken pipe|reset", re.IGNORECASE)
ADVICE = re.compile(r"(?<=needs the package )(\S+): pip install .*")  # of MissingPackage, for this side
# A shell stands between the worker and its session, and only the leader of a group can end its whole group.
PROGRAM = """
os.setsid()
os.write(1, b'{"here": true}\\n')
from edgecbam.benchmarks.worker import main
main()
"""


class SshWorker:
    """A worker over there; see child.Worker. Its failures are told in the terms of this side.

    Raises:
        Unreachable: it could not be started.
    """

    def __init__(self, host: Host, program: str, task: dict[str, Any], paths: dict[str, str]) -> None:
        self._host = host
        self._paths_here = {remote: str(task[key]) for key, remote in paths.items()}
        try:
            self._child = Child({"program": program}, host.command())
        except FileNotFoundError:
            raise Unreachable(MISSING_SSH) from None
        try:
            self._child.hear(CALL_S)
        except BaseException as error:
            reason = self._no_start(error) if isinstance(error, ChildFailed) else ""
            self._child.kill()
            if reason:
                raise Unreachable(reason) from None
            raise
        self._child.tell({**task, **paths})

    def tell(self, message: dict[str, Any]) -> None:
        """Send one command."""
        self._child.tell(message)

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; raises ChildFailed, with the status "skipped" where the connection was lost."""
        try:
            return self._child.hear(timeout_s)
        except ChildFailed as failure:
            raise self._told_here(failure) from None

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """``tell`` and ``hear``."""
        self.tell(message)
        return self.hear(timeout_s)

    def kill(self) -> None:
        """End the connection; the worker ends with it. May be called again."""
        self._child.kill()

    def __enter__(self) -> "SshWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _no_start(self, failure: ChildFailed) -> str:
        code = self._child.exit_code() if failure.status == "crash" else None
        if code:
            return self._host.explain(code, self._child.last_words())
        return f"{self._host.name} cannot be used: {failure.reason}"

    def _told_here(self, failure: ChildFailed) -> ChildFailed:
        """A failure without the words and paths of the other machine."""
        code = self._child.exit_code() if failure.status == "crash" else None
        if code == LOST:
            words = self._child.last_words()
            why = f": {words}" if WORDS_OF_SSH.search(words) else ""  # or it is the runtime that spoke last
            return ChildFailed("skipped", f"connection to {self._host.name} lost{why}")
        reason = failure.reason
        if code is not None and code - 128 in SIGNALS:
            reason = reason.replace(f"exit code {code}", SIGNALS[code - 128], 1)
        for there, here in self._paths_here.items():
            reason = reason.replace(there, here)
        if failure.status == "unsupported":
            reason = ADVICE.sub(lambda match: f"{match[1]}: {self._host.pip(match[1])}", reason)
            reason = f"on {self._host.name}: {reason}"
        return ChildFailed(failure.status, reason)
