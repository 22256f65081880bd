"""The package installs as a wheel and editable, holds all it needs, and leaves no bare ``export`` or ``benchmarks``."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "edgecbam", "export", "benchmarks")
LIGHT = {"numpy", "pillow", "rich", "typer", "tomli-w", "psutil"}
PROGRAM = """
import importlib.util, sys
from pathlib import Path
import edgecbam, edgecbam.export, edgecbam.benchmarks, edgecbam.export.verify, edgecbam.benchmarks.report
from edgecbam import recipe
from edgecbam.datasets import fashion
assert recipe.load(recipe.DEFAULT_RECIPE)
assert fashion.read_builtin()
for name in ("export", "benchmarks"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed as a bare top-level module"
print(Path(edgecbam.__file__).resolve().parent)
print(Path(edgecbam.export.__file__).resolve().parent)
print(Path(edgecbam.benchmarks.__file__).resolve().parent)
"""


def succeed(*command: str | Path, cwd: Path) -> str:
    """Run a command; returns what it printed."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from: building leaves files behind, and an old build/ would hide mistakes."""
    folder = tmp_path_factory.mktemp("check out") / "source"
    folder.mkdir()
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    succeed(*pip, "--wheel-dir", folder, checkout, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def fresh_environment(folder: Path) -> Path:
    """A new virtual environment that also sees what this one has, edgecbam aside; returns its python."""
    succeed(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    own = Path(succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not followed
    return python


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    """Install into a fresh environment with this environment's pip, from disk alone."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-build-isolation", "--no-deps")
    succeed(*pip, "--ignore-installed", *what, cwd=cwd)


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    install(python, wheel, cwd=tmp_path)
    package, export, benchmarks = map(Path, succeed(python, "-c", PROGRAM, cwd=tmp_path).split("\n")[:3])
    assert tmp_path in package.parents
    assert (export, benchmarks) == (package / "export", package / "benchmarks")
    assert succeed(tmp_path / "env" / "bin" / "edgecbam", "--version", cwd=tmp_path).startswith("edgecbam ")
    assert "Usage: edgecbam" in succeed(python, "-m", "edgecbam", "--help", cwd=tmp_path)


def test_an_editable_install_works_from_another_folder_and_from_its_own(checkout: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    install(python, "--editable", checkout, cwd=tmp_path)
    for folder in (tmp_path, checkout):
        program = PROGRAM if folder == tmp_path else re.sub(r"(?m)^for name(.|\n)*?module\"\n", "", PROGRAM)
        paths = [Path(line) for line in succeed(python, "-c", program, cwd=folder).split("\n")[:3]]
        assert paths == [checkout / "edgecbam", checkout / "export", checkout / "benchmarks"]


def test_a_plain_checkout_works_without_being_installed(checkout: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    program = "import edgecbam.export, edgecbam.benchmarks; print(edgecbam.export.__file__)"
    assert succeed(python, "-c", program, cwd=checkout).strip() == str(checkout / "export" / "__init__.py")


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(checkout: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.split("/", 1)[1] for name in archive.namelist() if ".dist-info/" in name}
    expected = set()
    for folder, place in (("edgecbam", ""), ("export", "edgecbam/"), ("benchmarks", "edgecbam/")):
        for path in (checkout / folder).rglob("*"):
            relative = path.relative_to(checkout)
            is_data = relative.parts[:2] == ("benchmarks", "results") or "__pycache__" in relative.parts
            if path.is_file() and not is_data:
                expected.add(f"{place}{relative.as_posix()}")
    assert packed == expected
    assert {"licenses/LICENSE", "licenses/edgecbam/datasets/builtin/LICENSE-fashion-mnist"} <= about


def test_the_built_in_images_take_at_most_four_megabytes() -> None:
    files = [path for path in (ROOT / "edgecbam" / "datasets" / "builtin").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 4_000_000


def test_the_base_install_is_light() -> None:
    assert {canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]} == LIGHT


def test_the_extras_are_those_that_the_documents_promise() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert {"train", "litert", "onnxruntime", "openvino", "runtimes", "all", "dev"} <= set(extras)
    frameworks = ("tensorflow", "tf-keras", "tf2onnx")
    for extra in ("litert", "onnxruntime", "openvino", "runtimes"):
        assert not any(canonicalize_name(Requirement(line).name).startswith(frameworks) for line in extras[extra])


def test_the_constraints_pin_every_direct_requirement_inside_its_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == sorted(pins)
    assert len(pins) == len(lines)
    apart = (ROOT / "tests" / "runtimes" / "gpu_constraints.txt").read_text("utf-8").splitlines()
    pins |= dict(line.split("==") for line in apart if not line.startswith("#"))
    project = PYPROJECT["project"]
    direct = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    for requirement in map(Requirement, direct):
        if requirement.name != "edgecbam":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement.name


@pytest.mark.parametrize("name", ["dev", "webgpu", "mediapipe"])
def test_every_package_is_locked_by_digests_at_its_pinned_version(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.txt").read_text("utf-8")
    assert "://" not in text, "packages come from the index alone"
    blocks = re.split(r"\n(?=\S)", text.strip())
    found = {}
    for block in blocks:
        head = re.fullmatch(r"([a-z0-9.-]+)==(\S+)( ; .*?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", block)
        assert head, block[:200]
        found[head[1]] = head[2]
    pins = {}
    for path in ("constraints.txt", "tests/runtimes/gpu_constraints.txt", "tests/consumers/mediapipe_requirements.txt"):
        lines = (ROOT / path).read_text("utf-8").splitlines()
        if (name == "mediapipe") == ("mediapipe" in path):
            pins |= dict(line.split("==") for line in lines if line and not line.startswith("#"))
    # what only other systems need is in no list of pins
    assert {package: version for package, version in found.items() if pins.get(package, version) != version} == {}
    assert len(set(found) & set(pins)) >= len(found) - 2
    direct = PYPROJECT["project"]["optional-dependencies"]["dev"] if name == "dev" else []
    assert {canonicalize_name(Requirement(line).name) for line in direct} - {"edgecbam"} <= set(found)


def test_every_hook_before_a_commit_is_local() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert set(re.findall(r"language: (\S+)", text)) == {"system"}
