"""``doctor`` reads the tested ranges from the package's metadata and names the exact command for whatever is amiss."""

import dataclasses
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement as StandardRequirement
from packaging.specifiers import SpecifierSet

from edgecbam import cli, doctor
from edgecbam.doctor import Package, Requirement
from edgecbam.errors import EnvironmentFailure

LINES = [
    "numpy<3,>=2.0",
    "edgecbam[train,runtimes]; extra == 'all'",
    "edgecbam[onnxruntime,openvino]; extra == 'runtimes'",
    'tensorflow<2.22,>=2.21; extra == "train"',
    'onnxruntime<1.33,>=1.31; extra == "train"',
    'onnxruntime<1.33,>=1.31; extra == "onnxruntime"',
    'openvino<2026.5,>=2026.4; extra == "openvino"',
    'pytest<10,>=9; extra == "dev"',
]
REQUIREMENTS = [doctor.parse_requirement(line) for line in LINES]
COMPLETE = {"numpy": "2.4.6", "tensorflow": "2.21.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}


def examined(installed: Mapping[str, str]) -> dict[str, Package]:
    return {package.name: package for package in doctor.examine(REQUIREMENTS, installed.get)}


def test_every_requirement_of_the_package_is_read_as_the_standard_reads_it() -> None:
    lines = metadata.requires("edgecbam")
    assert lines
    for line in lines:
        ours, standard = doctor.parse_requirement(line), StandardRequirement(line)
        assert ours.package == doctor.canonical(standard.name)
        assert SpecifierSet(ours.range) == standard.specifier
        assert (ours.extra == "") == (standard.marker is None)
        assert standard.marker is None or standard.marker.evaluate({"extra": ours.extra})


@pytest.mark.parametrize("line", ["x @ file:///x", "x~=1.0", "x>=1; python_version < '3.12'", "", "x>=1.*"])
def test_a_form_of_requirement_that_we_do_not_use_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        doctor.parse_requirement(line)


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ("2.21", True),
        ("2.21.0", True),
        ("2.21.9", True),
        ("2.21.0rc1", True),
        ("2.21.0+cpu", True),
        ("2.22", False),
        ("2.22.0", False),
        ("2.9", False),
        ("3", False),
    ],
)
def test_versions_compare_by_their_numbers(version: str, inside: bool) -> None:
    bounds = (("<", "2.22"), (">=", "2.21"))
    assert doctor.in_range(version, bounds) == inside


def test_a_complete_install_needs_nothing() -> None:
    packages = examined(COMPLETE)
    assert {name: package.version for name, package in packages.items()} == COMPLETE
    assert {package.state for package in packages.values()} == {"ok"}
    assert not any(package.remedy for package in packages.values())
    assert all(a.possible for a in doctor.abilities(list(packages.values()), REQUIREMENTS) if a.name != "verify")


def test_a_missing_package_is_added_by_its_smallest_extra() -> None:
    packages = examined({"numpy": "2.4.6"})
    for name, extra in (("tensorflow", "train"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        assert packages[name].state == "missing"
        assert packages[name].remedy == f"{doctor._pip()} install 'edgecbam[{extra}]'"


def test_a_version_out_of_range_is_named_with_the_range_that_was_tested() -> None:
    package = examined({**COMPLETE, "openvino": "2027.1"})["openvino"]
    assert package.state == "untested"
    assert package.remedy == f"{doctor._pip()} install 'openvino>=2026.4,<2026.5'"


@pytest.mark.parametrize("others", [["onnxruntime-gpu"], ["onnxruntime-gpu", "onnxruntime-webgpu"]])
def test_two_builds_of_onnxruntime_are_a_conflict(others: list[str]) -> None:
    package = examined({**COMPLETE, **dict.fromkeys(others, "1.32.0")})["onnxruntime"]
    assert package.state == "conflict"
    removed = " ".join(["onnxruntime", *others])
    again = f"{doctor._pip()} install 'onnxruntime>=1.31,<1.33'"
    assert package.remedy == f"{doctor._pip()} uninstall -y {removed} && {again}"


def test_what_cannot_be_done_names_what_it_lacks() -> None:
    found = doctor.abilities(list(examined({"numpy": "2", "onnxruntime": "1.32"}).values()), REQUIREMENTS)
    assert {ability.name: ability.lacks for ability in found} == {
        "train, quantize, export": ("tensorflow",),
        "verify": ("ai-edge-litert",),
        "predict, benchmark on onnxruntime": (),
        "predict, benchmark on openvino": ("openvino",),
    }


def test_the_runtimes_that_are_told_of_are_those_that_the_package_offers() -> None:
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    (entry,) = table["project"]["optional-dependencies"]["runtimes"]
    offered = set(StandardRequirement(entry).extras)
    requirements = [doctor.parse_requirement(line) for line in metadata.requires("edgecbam") or []]
    assert set(doctor._runtime_extras(requirements)) == offered
    verify = {r.package for r in requirements if r.extra in ("litert", "onnxruntime")}
    assert verify == set(doctor.VERIFY_RUNTIMES)


def test_the_machine_is_described_from_what_it_says_of_itself(tmp_path: Path) -> None:
    machine = doctor.look_at_machine(tmp_path)
    assert machine.python == sys.version.split()[0]
    assert 1 <= machine.cores_allowed <= machine.cores
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes
    assert machine.disk_free_bytes >= 0
    assert set(machine.cpu_flags) <= set(doctor.CPU_FLAGS)


def test_a_whole_base_is_no_failure_whatever_else_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version_of(package: str) -> str | None:
        base = {r.package for r in map(doctor.parse_requirement, metadata.requires("edgecbam") or []) if not r.extra}
        return metadata.version(package) if package in base else None

    monkeypatch.setattr(doctor, "installed_version", version_of)
    assert cli.main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "train, quantize, export: no, lacks tensorflow" in output
    assert "to mend it:" in output
    assert "install 'edgecbam[train]'" in output


def test_a_broken_base_exits_3_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.26.0" if name == "numpy" else "999")
    assert cli.main(["doctor"]) == 3
    line = capsys.readouterr().err
    assert line.startswith("edgecbam: error: the base install is broken (numpy")
    assert "install 'numpy>=2.0,<3'" in line


def test_without_metadata_it_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    with pytest.raises(EnvironmentFailure, match=r"pip install -e \."):
        doctor.diagnose()


def test_json_holds_the_whole_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(dataclasses.asdict(doctor.diagnose())))
    for changing in ("memory_available_bytes", "disk_free_bytes"):
        assert printed["machine"].pop(changing) > 0
        expected["machine"].pop(changing)
    assert printed == expected


def test_it_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from edgecbam import cli\n"
        "assert cli.main(['doctor']) == 0\n"
        "heavy = {'tensorflow', 'tf_keras', 'keras', 'onnx', 'onnxruntime', 'openvino', 'ai_edge_litert', 'numpy'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_requirements_of_one_package_may_stand_in_several_extras() -> None:
    assert REQUIREMENTS[4] == Requirement("onnxruntime", (("<", "1.33"), (">=", "1.31")), "train")
    assert [package.name for package in doctor.examine(REQUIREMENTS, COMPLETE.get)] == list(COMPLETE)
