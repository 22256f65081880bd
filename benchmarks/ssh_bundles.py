"""What goes to an ssh device: edgecbam's own modules, models, references and the descriptions of a run's export.

Names over there say nothing of this machine: a folder is named by the digest of what it holds.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgecbam
from edgecbam import artifacts

# What a worker imports of edgecbam itself, beside runtimes/ and benchmarks/.
MODULES = ("__init__", "errors", "events", "recipe", "artifacts", "metrics", "preprocessing")
EXPORT_FILES = (artifacts.MANIFEST_FILE, artifacts.SAMPLES_FILE)
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


Content = Path | bytes


@dataclass(frozen=True)
class Bundle:
    """Files that go to the machine together, into one folder named by the digest of them all.

    ``files`` maps names in that folder to files here, or to what they hold.
    """

    files: Mapping[str, Content]

    def digests(self) -> dict[str, str]:
        """The sha256 of each file."""
        return {
            name: hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else artifacts.sha256_file(content)
            for name, content in sorted(self.files.items())
        }


def size_of(content: Content) -> int:
    """Bytes of a file."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def code_bundle() -> Bundle:
    """The modules of edgecbam that a worker needs, as a wheel lays them out.

    Held in memory: all workers of a measurement run the same, whatever happens to the files meanwhile.
    """
    package = Path(edgecbam.__file__).parent
    files = {f"edgecbam/{name}.py": package / f"{name}.py" for name in MODULES}
    for name, folder in (("runtimes", package / "runtimes"), ("benchmarks", Path(__file__).parent)):
        files |= {f"edgecbam/{name}/{path.name}": path for path in folder.glob("*.py")}
    return Bundle({name: path.read_bytes() for name, path in files.items()})


def file_bundles(files: Sequence[Path]) -> list[Bundle]:
    """One bundle for each file, except those that describe a run's export: a worker reads them from one folder."""
    bundles = []
    exports: dict[Path, dict[str, Content]] = {}
    for path in files:
        if path.name in EXPORT_FILES:
            exports.setdefault(path.parent, {})[path.name] = path
        else:
            bundles.append(Bundle({remote_name(path): path}))
    return [*bundles, *(Bundle(export) for export in exports.values())]


def remote_name(path: Path) -> str:
    """The name of a file over there: its own, which a run's references are found by, or a plain one."""
    return path.name if SAFE_NAME.fullmatch(path.name) else f"model{path.suffix.lower()}"


def folder_name(digests: Mapping[str, str]) -> str:
    """The name of the folder of a bundle: sha256 of the names and digests of its files."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
