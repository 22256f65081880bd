"""Whether this Linux runs in a virtual machine or a container, from what the kernel and the firmware say of it."""

import re
from pathlib import Path
from typing import Any

from .system_files import text

# Vendor or product in the firmware's tables (DMI) that belong to a virtual machine. The first that is found counts.
FIRMWARE = (
    ("kvm", "kvm"),
    ("qemu", "qemu"),
    ("vmware", "vmware"),
    ("innotek", "virtualbox"),
    ("virtualbox", "virtualbox"),
    ("xen", "xen"),
    ("google compute engine", "google compute engine"),
    ("amazon ec2", "amazon ec2"),
    ("openstack", "openstack"),
    ("bhyve", "bhyve"),
    ("parallels", "parallels"),
    ("apple virtualization", "apple virtualization"),
    ("firecracker", "firecracker"),
)
INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the same in every Linux
_RUNNERS = re.compile(r"docker|kubepods|containerd|libpod|podman|crio|lxc|garden|buildkit")


def describe(root: Path, hypervisor_flag: bool | None) -> dict[str, Any]:
    """``kind`` of the virtual machine ("none" where there is none), what tells it, and ``container``.

    Args:
        root: where /proc, /sys and /run lie.
        hypervisor_flag: whether the CPU says that a hypervisor is at work; None where it cannot say.
    """
    dmi = root / "sys/class/dmi/id"
    vendor, product = text(dmi / "sys_vendor"), text(dmi / "product_name")
    xen = text(root / "sys/hypervisor/type")
    return {
        "kind": _kind(hypervisor_flag, xen, vendor, product),
        "hypervisor_type": xen,
        "system_vendor": vendor,
        "product_name": product,
        "container": in_container(root),
    }


def _kind(flag: bool | None, xen: str | None, vendor: str | None, product: str | None) -> str | None:
    """A name, "none", or None where it is unknown: there may be a virtual machine, but of what kind nothing says."""
    if xen:
        return xen
    if vendor == "Microsoft Corporation" and product == "Virtual Machine":
        return "hyper-v"
    names = f"{vendor or ''} {product or ''}".lower()
    metal = ".metal" in names  # Amazon's and others' bare machines bear the same vendor
    kind = next((name for word, name in FIRMWARE if word in names), None)
    if kind and not metal and flag is not False:
        return kind
    return "none" if flag is False else None


def in_container(root: Path) -> bool | None:
    """True where something shows it, False where this is the machine's own process tree, None where neither is seen."""
    marks = (root / ".dockerenv", root / "run/.containerenv", root / "run/systemd/container")
    if any(_exists(mark) for mark in marks):
        return True
    if any(_RUNNERS.search(text(root / f"proc/{process}/cgroup") or "") for process in ("1", "self")):
        return True
    if "container=" in (text(root / "proc/1/environ") or ""):
        return True
    try:
        return False if (root / "proc/self/ns/pid").readlink().name == INITIAL_PID_NAMESPACE else None
    except OSError:
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
