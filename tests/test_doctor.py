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
from edgecbam.doctor import Package, Place, Requirement, RuntimeState
from edgecbam.errors import EnvironmentFailure
from edgecbam.runtimes import RUNTIMES

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
        assert standard.marker is None or standard.marker.evaluate({"extra": ours.extra}) == ours.wanted_here


def test_a_requirement_for_one_kind_of_machine_is_wanted_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = 'tflite-micro>=0.dev20261023; (sys_platform == "linux" and platform_machine == "x86_64") and extra == "dev"'
    requirement = doctor.parse_requirement(line)
    assert (requirement.extra, requirement.bounds) == ("dev", ((">=", "0.dev20261023"),))
    for system, machine, wanted in (("linux", "x86_64", True), ("linux", "aarch64", False), ("win32", "x86_64", False)):
        monkeypatch.setattr(doctor.sys, "platform", system)
        monkeypatch.setattr(doctor.platform, "machine", lambda machine=machine: machine)
        assert requirement.wanted_here == wanted, (system, machine)


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


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ("0.dev20261023182759", True),
        ("0.dev20261101000000", True),
        ("0.dev20261022000000", False),
        ("0", True),
        ("1.0", True),
    ],
)
def test_daily_builds_compare_by_their_day(version: str, inside: bool) -> None:
    assert doctor.in_range(version, ((">=", "0.dev20261023182759"),)) == inside


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
    installed = {**COMPLETE, **dict.fromkeys(others, "1.32.0")}
    package = examined(installed)["onnxruntime"]
    assert package.state == "conflict"
    removed = " ".join(["onnxruntime", *others])
    again = f"{doctor._pip()} install 'onnxruntime>=1.31,<1.33'"
    assert package.remedy == f"{doctor._pip()} uninstall -y {removed} && {again}"
    (conflict,) = doctor.conflicts(REQUIREMENTS, installed.get)
    assert conflict.packages == ("onnxruntime", *others)
    for name in conflict.packages:
        assert name in conflict.reason
    assert conflict.remedies[0] == package.remedy
    assert list(conflict.remedies[1:]) == [
        f"{doctor.shlex.quote(sys.executable)} -m venv venv-{name} && "
        f"venv-{name}/bin/python -m pip install 'edgecbam[{name}]'"
        for name in others
    ]


def test_the_gpu_builds_conflict_without_the_plain_one_too() -> None:
    installed = {"onnxruntime-gpu": "1.32.0", "onnxruntime-webgpu": "1.27.0"}
    (conflict,) = doctor.conflicts(REQUIREMENTS, installed.get)
    assert conflict.packages == ("onnxruntime-gpu", "onnxruntime-webgpu")
    assert "uninstall -y onnxruntime-gpu onnxruntime-webgpu &&" in conflict.remedies[0]


@pytest.mark.parametrize("name", doctor.ONNXRUNTIME_BUILDS)
def test_any_one_build_of_onnxruntime_is_no_conflict_and_serves(name: str) -> None:
    requirements = [
        *REQUIREMENTS,
        doctor.parse_requirement("onnxruntime-gpu[cuda]<1.33,>=1.31; extra == 'onnxruntime-gpu'"),
        doctor.parse_requirement("onnxruntime-webgpu<1.28,>=1.27; extra == 'onnxruntime-webgpu'"),
    ]
    version = "1.27.0" if name == "onnxruntime-webgpu" else "1.32.0"
    installed = {"numpy": "2.4.6", "ai-edge-litert": "2.3.0", name: version}
    assert doctor.conflicts(requirements, installed.get) == ()
    packages = doctor.examine(requirements, installed.get)
    (package,) = [package for package in packages if package.name in doctor.ONNXRUNTIME_BUILDS]
    assert (package.name, package.version, package.remedy) == (name, version, "")
    if name == "onnxruntime-webgpu":
        assert package.tested == ">=1.27,<1.28"
    able = {ability.name: ability.possible for ability in doctor.abilities(packages, requirements)}
    assert able["predict, benchmark on onnxruntime"]


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


def entry(name: str, package: str, *devices: str, installed: bool = True, functional: str = "") -> dict[str, object]:
    return {
        "name": name,
        "package": package,
        "extra": package,
        "formats": [".x"],
        "devices": list(devices),
        "functional": functional,
        "installed": installed,
        "version": "1.0",
    }


def gpu(name: str, software: bool = False) -> dict[str, object]:
    return {"name": name, "software": software}


NO_GPU = [
    {"api": "vulkan", "gpus": [], "reason": "no Vulkan loader"},
    {"api": "cuda", "gpus": [], "reason": "no nvidia-smi"},
]


def state(
    runtime: dict[str, object], gpus: list[dict[str, object]], system: str = "linux", machine: str = "x86_64"
) -> RuntimeState:
    (only,) = doctor.runtime_states({"runtimes": [runtime], "gpus": gpus}, system, machine)
    return only


def listing(api: str, *gpus: dict[str, object]) -> list[dict[str, object]]:
    return [{"api": api, "gpus": list(gpus), "reason": ""}]


def test_a_gpu_is_there_where_the_api_of_the_runtime_lists_one() -> None:
    litert = entry("litert_compiled", "ai-edge-litert", "cpu", "gpu")
    cpu, found = state(litert, listing("vulkan", gpu("Big GPU"))).places
    assert (cpu.device, cpu.found) == ("cpu", True)
    assert found == Place("gpu", True, ("Big GPU",))
    assert state(litert, NO_GPU).places[1] == Place("gpu", False, (), "none, no Vulkan loader")
    assert state(litert, listing("cuda", gpu("Big GPU"))).places[1].found is False, "it reaches GPUs through Vulkan"
    assert state(litert, NO_GPU, system="darwin").places[1] == Place("gpu", None, (), "only an attempt tells")


def test_an_emulated_gpu_is_called_one() -> None:
    litert = entry("litert_compiled", "ai-edge-litert", "gpu")
    (only,) = state(litert, listing("vulkan", gpu("llvmpipe", software=True))).places
    assert "an emulation on the CPU" in only.note
    (both,) = state(litert, listing("vulkan", gpu("llvmpipe", software=True), gpu("Big GPU"))).places
    assert both.adapters == ("llvmpipe", "Big GPU")
    assert both.note == ""


def test_cuda_and_tensorrt_are_called_untested_there_or_not() -> None:
    for installed in (True, False):
        cuda = state(entry("onnxruntime_cuda", "onnxruntime-gpu", "gpu", installed=installed), NO_GPU)
        assert cuda.note == "untested"
        assert "untested" in "\n".join(doctor._runtime_lines(cuda))
    keras = state(entry("keras", "tensorflow", "cpu", "gpu"), listing("cuda", gpu("NVIDIA GPU")))
    assert keras.note == ""
    assert keras.places[1] == Place("gpu", True, ("NVIDIA GPU",), "untested")
    webgpu = state(entry("onnxruntime_webgpu", "onnxruntime-webgpu", "gpu"), listing("vulkan", gpu("Big GPU")))
    assert "untested" not in "\n".join(doctor._runtime_lines(webgpu))


def test_openvino_takes_gpus_of_intel_alone() -> None:
    vino = entry("openvino", "openvino", "cpu", "gpu")
    assert state(vino, listing("vulkan", gpu("Big GPU"))).places[1].found is None
    assert state(vino, listing("vulkan", gpu("Intel(R) Arc"))).places[1].adapters == ("Intel(R) Arc",)


def test_a_runtime_that_lacks_gets_the_command_that_adds_it() -> None:
    litert = state(entry("litert", "litert", "cpu", installed=False), NO_GPU)
    assert litert.remedy == f"{doctor._pip()} install 'edgecbam[litert]'"
    assert litert.version is None
    apart = state(entry("onnxruntime_webgpu", "onnxruntime-webgpu", "gpu", installed=False), NO_GPU).remedy
    assert apart.startswith(f"{doctor.shlex.quote(sys.executable)} -m venv venv-onnxruntime-webgpu && ")
    assert apart.endswith("-m pip install 'edgecbam[onnxruntime-webgpu]'"), "it would overwrite the build that is here"
    micro = entry("tflite_micro", "tflite-micro", "cpu", installed=False, functional="no speed")
    assert state(micro, NO_GPU).remedy == f"{doctor._pip()} install 'edgecbam[tflite-micro]'"
    elsewhere = state(micro, NO_GPU, machine="aarch64")
    assert (elsewhere.remedy, elsewhere.note) == ("", "there are packages for Linux on x86-64 alone")


def test_every_runtime_of_the_registry_is_told_of_with_its_own_extra() -> None:
    told, reason = doctor.ask_survey(doctor.SURVEY)
    assert reason == ""
    assert told
    assert [runtime["name"] for runtime in told["runtimes"]] == list(RUNTIMES)
    extras = {requirement.extra for requirement in map(doctor.parse_requirement, metadata.requires("edgecbam") or [])}
    assert {runtime["extra"] for runtime in told["runtimes"]} <= extras
    with_gpu = {runtime["package"] for runtime in told["runtimes"] if "gpu" in runtime["devices"]}
    assert with_gpu == {*doctor.GPU_APIS, *doctor.INTEL_ONLY}, "doctor must know how each reaches a GPU"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('ImportError: numpy is broken')", "ImportError: numpy is broken"),
        ("raise SystemExit(5)", "exit code 5"),
        ("print('nonsense')", "no answer"),
        ("print(1)", "no answer"),
        ("", "no answer"),
    ],
)
def test_a_registry_that_cannot_be_read_leaves_the_rest(
    program: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SURVEY", (sys.executable, "-c", program))
    diagnosis = doctor.diagnose()
    assert diagnosis.runtimes == ()
    assert words in diagnosis.runtimes_reason
    assert words in doctor.to_text(diagnosis)
    assert "numpy" in doctor.to_text(diagnosis)


def test_the_text_fits_80_columns_and_its_commands_can_be_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/usr/bin/python3")
    long = [entry("litert_compiled", "ai-edge-litert", "cpu", "gpu")]
    long += [entry("onnxruntime_webgpu", "onnxruntime-webgpu", "gpu", installed=False)]
    long += [entry("tflite_micro", "tflite-micro", "cpu", functional="no speed, " * 20)]
    answer = {"runtimes": long, "gpus": listing("vulkan", *(gpu(f"A GPU of a long name {n}", True) for n in range(4)))}
    monkeypatch.setattr(doctor, "ask_survey", lambda command: (answer, ""))
    installed = {**COMPLETE, "onnxruntime-gpu": "1.32.0", "onnxruntime-webgpu": "1.27.0"}
    monkeypatch.setattr(doctor, "installed_version", installed.get)
    diagnosis = doctor.diagnose(tmp_path)
    machine = dataclasses.replace(
        diagnosis.machine, cpu="A processor of a long name " * 4, cpu_flags=doctor.CPU_FLAGS, platform="Linux-" * 20
    )
    text = doctor.to_text(dataclasses.replace(diagnosis, machine=machine))
    words_too_long = ("Linux-Linux", str(tmp_path), " -m pip ", " -m venv ")  # the last two: commands
    lines = [line for line in text.splitlines() if not any(word in line for word in words_too_long)]
    assert len(lines) > 20
    assert [line for line in lines if len(line) > doctor.WIDTH] == []
    assert "CONFLICT: onnxruntime, onnxruntime-gpu and onnxruntime-webgpu all install" in text
    assert text.count("-m venv venv-onnxruntime-webgpu &&\n  venv-onnxruntime-webgpu/bin/python -m pip install") == 1


def test_a_whole_install_has_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = {r.package: "999" for r in map(doctor.parse_requirement, metadata.requires("edgecbam") or [])}
    monkeypatch.setattr(doctor, "ask_survey", lambda command: ({"runtimes": [], "gpus": []}, ""))
    monkeypatch.setattr(doctor, "in_range", lambda version, bounds: True)
    monkeypatch.setattr(
        doctor,
        "installed_version",
        lambda name: complete.get(name) if name not in doctor.ONNXRUNTIME_BUILDS[1:] else None,
    )
    text = doctor.to_text(doctor.diagnose())
    assert "mend" not in text
    assert "CONFLICT" not in text


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
