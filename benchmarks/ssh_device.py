"""A machine reached by ssh as a device: the same worker as here, run there, its times taken by the clock there.

The machine has Python, NumPy and the runtimes; this side brings the modules of edgecbam that a worker needs, so both
are of one version, and the files to measure. They stay in ~/.cache/edgecbam there for the next time. Every worker has
a connection of its own: a lost one costs its cell and no other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .devices import Settings, Unreachable
from .ssh_bundles import EXPORT_FILES, Bundle, code_bundle, file_bundles, folder_name, size_of
from .ssh_link import Host
from .ssh_worker import PROGRAM, SshWorker

RECEIVER = Path(__file__).with_name("ssh_receiver.py")
PACKAGES = {"PIL": "pillow"}  # where the package has another name than its module
# What a child of a worker imports must be what the worker imports, whatever is installed there.
FIND_EDGECBAM = """
import os, sys
sys.path.insert(0, {root!r})
os.environ["PYTHONPATH"] = os.pathsep.join([{root!r}, *filter(None, [os.environ.get("PYTHONPATH")])])
"""
# Runtimes may print while they are asked for their version.
ASK_ENVIRONMENT = """
import json
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
request = json.loads(sys.stdin.buffer.readline())
from edgecbam.benchmarks import environment
value = environment.snapshot() if request["runtimes"] is None else environment.describe(request["runtimes"])
answers.write(json.dumps(value) + "\\n")
answers.close()
"""


class SshDevice:
    """The machine ``[USER@]HOST[:PORT]``; raises InputError where that names none."""

    runtimes = None

    def __init__(self, where: str, settings: Settings) -> None:
        self.host = Host(where, settings.remote_python)
        self.name = self.host.name
        self._bundle = code_bundle()
        self._code = ""  # where edgecbam lies there
        self._there: dict[Path, str] = {}  # where each file lies there

    def prepare(self, files: Sequence[Path]) -> None:
        """Reach the machine and bring it edgecbam and the files.

        Raises:
            Unreachable: the machine does not answer, lacks Python or NumPy, or does not take the files.
        """
        modules = ["numpy"]
        if any(path.name in EXPORT_FILES for path in files):
            modules.append("PIL")  # for the preprocessing of a run's images
        bundles = [(bundle, bundle.digests()) for bundle in (self._bundle, *file_bundles(files))]
        wanted = {folder_name(digests): digests for _, digests in bundles}
        program = RECEIVER.read_text("utf-8")
        seen = self.host.call(program, {"do": "look", "bundles": wanted, "modules": modules})
        self._check_modules(seen["python"], seen["missing_modules"])
        self._store(program, {folder_name(digests): bundle for bundle, digests in bundles}, wanted, seen["missing"])
        for bundle, digests in bundles:
            folder = f"{seen['root']}/{folder_name(digests)}"
            if bundle is self._bundle:
                self._code = folder
            else:
                self._there |= {
                    path: f"{folder}/{name}" for name, path in bundle.files.items() if isinstance(path, Path)
                }

    def start(self, task: dict[str, Any]) -> SshWorker:
        """A worker for a task; it is there when this returns, so that handshakes do not pile up at the server.

        Raises:
            Unreachable: the machine cannot be reached any more.
        """
        files = {key: Path(task[key]) for key in ("model", "reference") if task[key] is not None}
        export = [] if task["export"] is None else [Path(task["export"]) / name for name in EXPORT_FILES]
        needed = [*files.values(), *export]
        if any(path not in self._there for path in needed):
            self.prepare(needed)
        paths = {key: self._there[path] for key, path in files.items()}
        if export:
            paths["export"] = self._there[export[0]].rpartition("/")[0]
        return SshWorker(self.host, self._program(PROGRAM), task, paths)

    def describe(self, runtimes: Sequence[str]) -> dict[str, Any]:
        """The machine as environment.describe there tells it; raises Unreachable."""
        return self.host.call(self._program(ASK_ENVIRONMENT), {"runtimes": list(runtimes)})

    def snapshot(self) -> dict[str, Any]:
        """What may change while measuring, as environment.snapshot there tells it; raises Unreachable."""
        return self.host.call(self._program(ASK_ENVIRONMENT), {"runtimes": None})

    def close(self) -> None:
        """Nothing to let go of: what was brought stays for the next measurement."""

    def _program(self, body: str) -> str:
        if not self._code:
            self.prepare([])
        return FIND_EDGECBAM.format(root=self._code) + body

    def _check_modules(self, version: str, missing: Sequence[str]) -> None:
        if missing:
            packages = " ".join(PACKAGES.get(module, module) for module in missing)
            raise Unreachable(f"{self.name}: its Python {version} lacks {packages}: {self.host.pip(packages)}")

    def _store(
        self, program: str, bundles: dict[str, Bundle], wanted: dict[str, dict[str, str]], missing: Sequence[str]
    ) -> None:
        if not missing:
            return
        sizes = {d: {name: size_of(bundles[d].files[name]) for name in wanted[d]} for d in missing}
        contents = [bundles[digest].files[name] for digest in missing for name in wanted[digest]]
        self.host.call(program, {"do": "store", "bundles": {d: wanted[d] for d in missing}, "sizes": sizes}, contents)
