"""The JavaScript packages that the page runs models with, as its package-lock.json pins them, fetched once by npm."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgecbam.datasets import cache
from edgecbam.errors import EnvironmentFailure

from . import web_page

TIMEOUT_S = 600


def folder() -> Path:
    """Where the packages of this lock file lie, or would."""
    lock = web_page.files()["package-lock.json"]
    return cache.home() / f"web-{hashlib.sha256(lock).hexdigest()[:16]}" / "node_modules"


def fetch() -> Path:
    """The folder node_modules; downloads about 80 MB where it is not there yet.

    npm checks every package against the digest in the lock file, and runs no script of any.

    Raises:
        EnvironmentFailure: npm is missing or fails.
    """
    final = folder()
    if final.is_dir():
        return final
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentFailure(
            "npm is missing, which fetches what the page runs models with: install the packages nodejs and npm"
        )
    final.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent.parent, prefix=".web-") as work:
        for name in web_page.PACKAGE_FILES:
            (Path(work) / name).write_bytes(web_page.files()[name])
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise EnvironmentFailure(
                f"npm did not end within {TIMEOUT_S} s: look at the connection and try again"
            ) from None
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
            reason = lines[0] if lines else f"exit code {done.returncode}"
            raise EnvironmentFailure(
                f"npm could not fetch what the page runs models with ({reason}): it is needed once"
            )
        final.parent.mkdir(exist_ok=True)
        try:
            os.rename(Path(work) / "node_modules", final)
        except OSError:
            if not final.is_dir():  # not put there by another process meanwhile
                raise
    return final
