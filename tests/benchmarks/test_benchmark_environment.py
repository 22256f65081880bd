"""The environment says what can be read, None for the rest, and nothing that names the machine or its owner."""

import getpass
import json
import platform
from pathlib import Path

import pytest

from edgecbam.benchmarks import environment


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_x86_server_with_a_quota(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Fast CPU\nflags\t\t: fpu avx2 amx_int8 avx512_vnni hypervisor\n\n"
            "processor\t: 1\nmodel name\t: Other\nflags\t\t: fpu\n",
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        },
    )
    found = environment.describe(["litert"], root)
    assert found["cpu"] == "Fast CPU"
    assert found["cpu_flags"] == ["avx2", "avx512_vnni", "amx_int8"]
    assert found["virtualised"] is True
    assert found["cgroup_cpus"] == 1.5
    assert found["governor"] == "performance"
    assert found["board"] is None


def test_an_arm_board(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd0b\n",
            "proc/device-tree/model": "Small Board 5\0",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu\n",
        },
    )
    found = environment.describe([], root)
    assert found["board"] == "Small Board 5"
    assert found["cpu_flags"] == ["asimd", "asimddp", "i8mm"]
    assert found["cpu"] is None
    assert found["virtualised"] is None, "Arm's list of features says nothing about it"
    assert found["cgroup_cpus"] == "unlimited"


@pytest.mark.parametrize(
    ("quota", "period", "expected"), [("-1", "100000", "unlimited"), ("50000", "100000", 0.5), (None, None, None)]
)
def test_control_groups_of_version_1(tmp_path: Path, quota: str | None, period: str | None, expected: object) -> None:
    files = {"proc/self/cgroup": "3:cpu,cpuacct:/\n0::/\n"}
    if quota and period:
        files |= {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota, "sys/fs/cgroup/cpu/cpu.cfs_period_us": period}
    assert environment.describe([], plant(tmp_path, files))["cgroup_cpus"] == expected


def test_what_cannot_be_read_is_none_and_never_guessed(tmp_path: Path) -> None:
    found = environment.describe([], tmp_path)
    for key in ("board", "cpu", "cpu_flags", "cgroup_cpus", "governor", "virtualised"):
        assert found[key] is None, key


def test_nothing_names_the_machine() -> None:
    found = environment.describe(["litert", "onnxruntime", "openvino"])
    text = json.dumps(found)
    for secret in (platform.node(), str(Path.home()), str(Path.cwd()), f"/{getpass.getuser()}"):
        assert secret not in text
    assert found["versions"]["litert"].startswith("2.")
    assert found["memory_bytes"] > 2**28
