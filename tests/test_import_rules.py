"""Who may import whom: the order of the files, two folders that do not know each other, and nothing heavy early."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "edgecbam": ROOT / "edgecbam",
    "edgecbam.export": ROOT / "export",
    "edgecbam.benchmarks": ROOT / "benchmarks",
}

# A file imports only what stands above it. A new file takes its place here.
ORDER = [
    "errors",
    "events",
    "recipe",
    "run_lock",
    "array_file",
    "json_data",
    "artifacts",
    "metrics",
    "preprocessing",
    "runtimes",
    "datasets",
    "window_mean",
    "attention",
    "models",
    "training",
    "quantizers",
    "quantization",
    "requantization",
    "sensitivity",
    "export",
    "benchmarks",
    "api",
    "ablation",
    "training_speed",
    "console",
    "tables",
    "doctor",
    "containment",
    "cli",
    "__main__",
]
FOR_EXPORT = set(ORDER[: ORDER.index("export") + 1])
FOR_BENCHMARKS = {
    "errors",
    "events",
    "recipe",
    "run_lock",
    "array_file",
    "json_data",
    "artifacts",
    "metrics",
    "preprocessing",
    "runtimes",
    "benchmarks",
}
HEAVY = {"tensorflow", "tf_keras", "keras", "onnx", "tf2onnx", "onnxruntime", "openvino", "ai_edge_litert"}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its file: ``("edgecbam.datasets.folder", …)``."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(module: str, path: Path) -> set[str]:
    """What the file imports of edgecbam, anywhere in it: the names below ``edgecbam``, such as ``artifacts``."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{origin}.{alias.name}" for alias in node.names} if origin == "edgecbam" else {origin}
    ours = {name.split(".")[1] for name in names if name.startswith("edgecbam.")}
    return ours & {*ORDER, *(unit(module) for module, _ in sources())}


def unit(module: str) -> str:
    """The file or folder directly below edgecbam that a module belongs to; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import edgecbam.recipe\nfrom edgecbam import __version__, artifacts\n"
        "from edgecbam.export.verify import check\n"
        "def f():\n    from . import statistics\n    from .. import metrics\n    import numpy\n"
    )
    assert imported("edgecbam.benchmarks.sample", path) == {"recipe", "artifacts", "export", "benchmarks", "metrics"}


def test_every_file_has_its_place_in_the_order() -> None:
    found = {unit(module) for module, _ in sources()} - {""}
    assert found <= set(ORDER), "give the new files a place in ORDER"


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_file_imports_only_what_stands_above_it(module: str, path: Path) -> None:
    here = unit(module)
    allowed = set(ORDER[: ORDER.index(here) + 1]) if here else set()
    if here == "export":
        allowed = FOR_EXPORT
    elif here == "benchmarks":
        allowed = FOR_BENCHMARKS
    assert imported(module, path) <= allowed


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_no_file_imports_the_two_folders_by_their_bare_names(module: str, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & {"export", "benchmarks"}


def loaded_by(program: str) -> set[str]:
    """Top-level modules that a program leaves loaded in a fresh process."""
    script = f"{program}\nimport sys\nsys.__stdout__.write('\\n' + ' '.join(sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_help_loads_neither_a_framework_nor_numpy_nor_rich() -> None:
    program = "from edgecbam import cli\nassert cli.main(['--help']) == 0\nassert cli.main(['run', '--help']) == 0"
    assert not loaded_by(program) & {*HEAVY, "numpy", "PIL", "rich", "psutil"}


def test_the_api_loads_no_framework_until_used() -> None:
    assert not loaded_by("from edgecbam import api, recipe\nrecipe.load('fashion_cbam')") & HEAVY


@pytest.mark.parametrize("package", ["benchmarks", "runtimes", "datasets"])
def test_what_an_edge_device_needs_imports_without_a_framework_or_runtime(package: str) -> None:
    modules = [module for module, _ in sources() if unit(module) == package and not module.endswith("__main__")]
    assert modules
    assert not loaded_by("\n".join(f"import {module}" for module in modules)) & HEAVY


def test_verify_predict_and_report_import_without_tensorflow() -> None:
    program = "import edgecbam.api, edgecbam.export.verify, edgecbam.benchmarks.report, edgecbam.artifacts"
    assert not loaded_by(program) & {"tensorflow", "tf_keras", "keras", "onnx", "tf2onnx"}
