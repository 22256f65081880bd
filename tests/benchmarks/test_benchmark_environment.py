"""The environment says what can be read, None for the rest, and nothing that names the machine or its owner."""

import getpass
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgecbam.benchmarks import environment
from edgecbam.runtimes import gpus

CPU0 = "sys/devices/system/cpu/cpu0/cpufreq"


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def describe(root: Path, *listings: gpus.Listing) -> dict[str, Any]:
    """The environment of a planted root, without a look for real GPUs."""
    return environment.describe([], root, lambda: listings)


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
    found = describe(root)
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
    found = describe(root)
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
    assert describe(plant(tmp_path, files))["cgroup_cpus"] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/memory.max": "max", "a/b/memory.max": "1048576"}, 1048576),
        ({"a/memory.max": "4096", "a/b/memory.max": "1048576"}, 4096),
        ({"a/memory.max": "max"}, "unlimited"),
        ({}, "unlimited"),
    ],
    ids=["own", "the parent's", "max", "no file"],
)
def test_the_memory_of_control_groups_of_version_2(tmp_path: Path, files: dict[str, str], expected: object) -> None:
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        },
    )
    assert describe(root)["cgroup_memory_bytes"] == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("268435456", 268435456), ("9223372036854771712", "unlimited"), (None, None)], ids=str
)
def test_the_memory_of_control_groups_of_version_1(tmp_path: Path, limit: str | None, expected: object) -> None:
    files = {"proc/self/cgroup": "4:memory:/docker/a\n3:cpu,cpuacct:/\n"}
    if limit:  # a container sees its own group as the root
        files["sys/fs/cgroup/memory/memory.limit_in_bytes"] = limit
    assert describe(plant(tmp_path, files))["cgroup_memory_bytes"] == expected


def test_frequencies_turbo_and_threads_of_a_core(tmp_path: Path) -> None:
    files = {}
    for number, (lowest, highest) in enumerate([(400000, 1800000), (600000, 2400000)] + [(500000, 1800000)] * 9):
        folder = f"sys/devices/system/cpu/cpu{number}/cpufreq"
        files |= {f"{folder}/scaling_min_freq": str(lowest), f"{folder}/scaling_max_freq": str(highest)}
    files |= {"sys/devices/system/cpu/smt/active": "1\n", "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n"}
    found = describe(plant(tmp_path, files))
    assert (found["min_mhz"], found["max_mhz"]) == (400.0, 2400.0)
    assert found["smt"] is True
    assert found["turbo"] is False


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "0"}, False),
        ({"cpufreq/boost": "on"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_turbo_by_either_driver(tmp_path: Path, files: dict[str, str], expected: bool | None) -> None:
    root = plant(tmp_path, {f"sys/devices/system/cpu/{name}": text for name, text in files.items()})
    assert describe(root)["turbo"] is expected


HYPERVISOR, METAL = "flags\t: fpu hypervisor\n", "flags\t: fpu\n"
ARM = "Features\t: fp asimd\n"


@pytest.mark.parametrize(
    ("cpuinfo", "vendor", "product", "hypervisor", "kind"),
    [
        (HYPERVISOR, "QEMU", "Standard PC (Q35 + ICH9, 2009)", None, "qemu"),
        (HYPERVISOR, "VMware, Inc.", "VMware Virtual Platform", None, "vmware"),
        (HYPERVISOR, "innotek GmbH", "VirtualBox", None, "virtualbox"),
        (HYPERVISOR, "Microsoft Corporation", "Virtual Machine", None, "hyper-v"),
        (HYPERVISOR, "Google", "Google Compute Engine", None, "google compute engine"),
        (HYPERVISOR, "Amazon EC2", "m7i.large", None, "amazon ec2"),
        (METAL, "Amazon EC2", "m7i.metal-24xl", None, "none"),
        (ARM, "Amazon EC2", "m7g.metal", None, None),
        (HYPERVISOR, "Xen", "HVM domU", "xen", "xen"),
        (METAL, "Dell Inc.", "PowerEdge R640", None, "none"),
        (METAL, "Microsoft Corporation", "Surface Laptop", None, "none"),
        (HYPERVISOR, None, None, None, None),
        (ARM, "QEMU", "QEMU Virtual Machine", None, "qemu"),
        (ARM, None, None, None, None),
    ],
)
def test_the_kind_of_virtual_machine(
    tmp_path: Path, cpuinfo: str, vendor: str | None, product: str | None, hypervisor: str | None, kind: str | None
) -> None:
    planted = {
        "proc/cpuinfo": cpuinfo,
        "sys/class/dmi/id/sys_vendor": vendor,
        "sys/class/dmi/id/product_name": product,
        "sys/class/dmi/id/product_serial": "SECRET-1",
        "sys/hypervisor/type": hypervisor,
    }
    found = describe(plant(tmp_path, {name: text for name, text in planted.items() if text}))
    told = found["virtualisation"]
    assert told["kind"] == kind
    assert (told["system_vendor"], told["product_name"], told["hypervisor_type"]) == (vendor, product, hypervisor)
    assert "SECRET" not in json.dumps(found)


@pytest.mark.parametrize(
    ("files", "namespace", "expected"),
    [
        ({".dockerenv": ""}, None, True),
        ({"run/.containerenv": ""}, None, True),
        ({"run/systemd/container": "lxc"}, None, True),
        ({"proc/1/cgroup": "0::/kubepods.slice/pod1\n"}, None, True),
        ({"proc/self/cgroup": "1:cpu:/docker/0123\n"}, "pid:[4026531836]", True),
        ({"proc/1/environ": "PATH=/bin\0container=podman\0"}, None, True),
        ({"proc/1/cgroup": "0::/init.scope\n"}, "pid:[4026531836]", False),
        ({"proc/1/cgroup": "0::/\n"}, "pid:[4026532000]", None),
        ({}, None, None),
    ],
    ids=str,
)
def test_a_container_is_seen_by_its_marks(
    tmp_path: Path, files: dict[str, str], namespace: str | None, expected: bool | None
) -> None:
    root = plant(tmp_path, files)
    if namespace:
        (root / "proc/self/ns").mkdir(parents=True)
        (root / "proc/self/ns/pid").symlink_to(namespace)
    assert describe(root)["virtualisation"]["container"] is expected


def test_swap_is_told_in_bytes_none_at_all_included(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/meminfo": "MemTotal:  8000 kB\nSwapTotal:     2048 kB\n"})
    assert describe(root)["swap_bytes"] == 2048 * 1024
    assert describe(plant(tmp_path, {"proc/meminfo": "SwapTotal:  0 kB\n"}))["swap_bytes"] == 0


def test_gpus_with_their_drivers_or_why_none_is_known(tmp_path: Path) -> None:
    gpu = gpus.Gpu("Big GPU", "vulkan", "discrete", "Driver 1.2", False, 2**33)
    found = describe(tmp_path, gpus.Listing("vulkan", (gpu,), ""), gpus.Listing("cuda", (), "no nvidia-smi"))
    assert found["gpus"] == [
        {
            "name": "Big GPU",
            "api": "vulkan",
            "kind": "discrete",
            "driver": "Driver 1.2",
            "software": False,
            "memory_bytes": 2**33,
        }
    ]
    assert found["gpus_reason"] == "no nvidia-smi"
    blind = describe(
        tmp_path, gpus.Listing("vulkan", (), "no Vulkan loader"), gpus.Listing("cuda", (), "no nvidia-smi")
    )
    assert blind["gpus"] is None, "that nothing could be asked does not mean that nothing is there"
    assert blind["gpus_reason"] == "no Vulkan loader; no nvidia-smi"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_whether_its_sources_differ(tmp_path: Path) -> None:
    root = plant(tmp_path / "checkout", {"pyproject.toml": "", "edgecbam/a.py": "1\n", "docs/a.md": "1\n"})
    assert environment.checkout(root) == (None, None)
    git(root, "init", "--quiet")
    assert environment.checkout(root) == (None, None), "nothing is committed"
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    commit = git(root, "rev-parse", "HEAD")
    assert environment.checkout(root) == (commit, False)
    plant(root, {"benchmarks/results/new.json": "{}", "docs/a.md": "2\n", "notes.txt": ""})
    assert environment.checkout(root) == (commit, False), "nothing that runs has changed"
    plant(root, {"benchmarks/new.py": ""})
    assert environment.checkout(root) == (commit, True)
    (root / "benchmarks/new.py").unlink()
    plant(root, {"edgecbam/a.py": "2\n"})
    assert environment.checkout(root) == (commit, True)


def test_a_wheel_within_somebodys_repository_has_no_commit(tmp_path: Path) -> None:
    git(plant(tmp_path, {"pyproject.toml": ""}), "init", "--quiet")
    packages = plant(tmp_path / "venv/site-packages", {"edgecbam/__init__.py": ""})
    assert environment.checkout(packages) == (None, None)


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(plant(tmp_path, {"pyproject.toml": ""}), "init", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.checkout(tmp_path) == (None, None)


def test_a_snapshot_of_ticks_frequencies_and_temperatures(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/stat": "cpu  10 20 30 400 5 6 7 88 9 1\ncpu0 1 2 3 4 5 6 7 8 9 1\nintr 1\n",
            f"{CPU0}/scaling_cur_freq": "2400000",
            f"{CPU0.replace('cpu0', 'cpu10')}/scaling_cur_freq": "1800500",
            "sys/devices/system/cpu/cpufreq/boost": "1",
            "sys/class/thermal/thermal_zone0/type": "acpitz",
            "sys/class/thermal/thermal_zone0/temp": "20000",
            "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone1/temp": "45500",
            "sys/class/thermal/thermal_zone2/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone2/temp": "hot",
            "sys/class/hwmon/hwmon0/name": "coretemp",
            "sys/class/hwmon/hwmon0/temp1_input": "51000",
            "sys/class/hwmon/hwmon1/name": "coretemp",
            "sys/class/hwmon/hwmon1/temp1_input": "-3000",
        },
    )
    found = environment.snapshot(root)
    assert found.pop("load") >= 0
    assert found.pop("user_hz") == os.sysconf("SC_CLK_TCK")
    assert found == {
        "steal_ticks": 88,
        "cpu_ticks": 10 + 20 + 30 + 400 + 5 + 6 + 7 + 88,
        "frequencies_mhz": {"cpu0": 2400.0, "cpu10": 1800.5},
        "temperatures_celsius": {"x86_pkg_temp": 45.5, "coretemp": 51.0},
    }


@pytest.mark.parametrize("stat", [None, "cpu 1 2 3 4\n", "cpu 1 2 3 4 5 6 7 x\n", "intr 5\n"], ids=str)
def test_a_snapshot_of_nothing(tmp_path: Path, stat: str | None) -> None:
    found = environment.snapshot(plant(tmp_path, {"proc/stat": stat} if stat else {}))
    for key in ("steal_ticks", "cpu_ticks", "frequencies_mhz", "temperatures_celsius"):
        assert found[key] is None, key


def ticks(steal: int | None, total: int | None, load: float | None = None) -> dict[str, Any]:
    return {"steal_ticks": steal, "cpu_ticks": total, "load": load}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (ticks(10, 1000), ticks(60, 2000), 0.05),
        (ticks(10, 1000), ticks(10, 1001), 0.0),
        (ticks(10, 1000), ticks(10, 1000), None),
        (ticks(10, 1000), ticks(3, 500), None),
        (ticks(10, 1000), ticks(5, 2000), None),
        (ticks(None, None), ticks(60, 2000), None),
        (ticks(10, 1000), {"load": 1.0}, None),
    ],
    ids=["some", "none", "no time", "restarted", "backwards", "unknown before", "an older snapshot"],
)
def test_the_fraction_that_was_stolen(before: dict[str, Any], after: dict[str, Any], expected: float | None) -> None:
    assert environment.steal_fraction(before, after) == expected


def test_the_difference_of_two_snapshots() -> None:
    before, after = ticks(0, 100, 0.5), ticks(50, 200, 1.5)
    assert environment.difference(before, after) == {"steal_fraction": 0.5, "load_before": 0.5, "load_after": 1.5}
    assert environment.difference(before, None) == {"steal_fraction": None, "load_before": 0.5, "load_after": None}
    assert environment.difference(None, None) == {"steal_fraction": None, "load_before": None, "load_after": None}


def test_what_cannot_be_read_is_none_and_never_guessed(tmp_path: Path) -> None:
    found = describe(tmp_path)
    unknown = ("board", "cpu", "cpu_flags", "smt", "cgroup_cpus", "cgroup_memory_bytes", "governor", "virtualised")
    for key in (*unknown, "min_mhz", "max_mhz", "turbo", "swap_bytes"):
        assert found[key] is None, key
    assert set(found["virtualisation"].values()) == {None}


def test_nothing_names_the_machine() -> None:
    found = environment.describe(["litert", "onnxruntime", "openvino"])
    text = json.dumps(found)
    for secret in (platform.node(), str(Path.home()), str(Path.cwd()), f"/{getpass.getuser()}"):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text), secret
    assert found["versions"]["litert"].startswith("2.")
    assert found["memory_bytes"] > 2**28
    if found["affinity_list"] is not None:
        assert found["affinity_list"] == sorted(os.sched_getaffinity(0))
        assert found["affinity_cpus"] == len(found["affinity_list"])
