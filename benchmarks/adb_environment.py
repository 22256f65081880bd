"""What kind of phone a number was measured on, and in what state: read without root, None where unreadable.

No serial number is read or kept.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .environment import ARM_FLAGS

BATTERY_STATUS = {2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
THERMAL_STATUS = dict(enumerate(("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")))
GRAPHICS_EMULATIONS = ("swiftshader", "llvmpipe", "lavapipe", "softpipe")

# Each part answers after a line "@NAME"; what a phone keeps to itself is left empty.
DESCRIBE = """exec 2>/dev/null
echo @properties; getprop
echo @cores; for c in /sys/devices/system/cpu/cpu[0-9]*; do
echo "${c##*/cpu} max=$(cat $c/cpufreq/cpuinfo_max_freq)" \\
"governor=$(cat $c/cpufreq/scaling_governor) online=$(cat $c/online)"; done
echo @features; grep -m 1 -i '^Features' /proc/cpuinfo
echo @memory; grep -m 1 MemTotal /proc/meminfo
echo @kernel; uname -r
echo @graphics; dumpsys SurfaceFlinger | grep -m 1 GLES:
true"""
SNAPSHOT = """exec 2>/dev/null
echo @battery; dumpsys battery
echo @thermal; dumpsys thermalservice
echo @load; cat /proc/loadavg
echo @frequencies; for c in /sys/devices/system/cpu/cpu[0-9]*; do
echo "${c##*/cpu} now=$(cat $c/cpufreq/scaling_cur_freq)"; done
true"""


@dataclass(frozen=True)
class Core:
    """One CPU core; ``max_khz`` is None where the phone does not tell."""

    number: int
    max_khz: int | None
    governor: str | None
    online: bool


@dataclass(frozen=True)
class PhoneFacts:
    """What does not change while measuring."""

    properties: dict[str, str]
    cores: tuple[Core, ...]
    features: tuple[str, ...]
    memory_bytes: int | None
    kernel: str | None
    graphics: str | None

    @property
    def abi(self) -> str | None:
        """Such as ``arm64-v8a``."""
        return self.properties.get("ro.product.cpu.abi")

    @property
    def emulator(self) -> bool:
        """Whether it is no phone at all, but Android in an emulator on a computer."""
        return any(self.properties.get(key) == "1" for key in ("ro.kernel.qemu", "ro.boot.qemu"))

    @property
    def software_graphics(self) -> bool | None:
        """Whether its GPU is an emulation on the CPU; None where it does not tell its name."""
        if self.graphics is None:
            return None
        return any(name in self.graphics.lower() for name in GRAPHICS_EMULATIONS)

    def as_json(self) -> dict[str, Any]:
        """For the report, in the terms of environment.describe where these fit."""
        get = self.properties.get
        governors = sorted({core.governor for core in self.cores if core.governor})
        maker, model = get("ro.product.manufacturer"), get("ro.product.model")
        return {
            "board": " ".join(word for word in (maker, model) if word) or None,
            "cpu": " ".join(word for word in (get("ro.soc.manufacturer"), get("ro.soc.model")) if word) or None,
            "platform": get("ro.board.platform"),
            "machine": self.abi,
            "cpu_flags": [flag for flag in ARM_FLAGS if flag in self.features] if self.features else None,
            "logical_cpus": len(self.cores) or None,
            "cores": [
                {"core": core.number, "max_mhz": _mhz(core.max_khz), "governor": core.governor, "online": core.online}
                for core in self.cores
            ],
            "governor": ", ".join(governors) or None,
            "virtualised": self.emulator,
            "memory_bytes": self.memory_bytes,
            "gpu": self.graphics,
            "os": f"Android {get('ro.build.version.release')}" if get("ro.build.version.release") else None,
            "kernel": self.kernel,
        }


def read_facts(answer: str) -> PhoneFacts:
    """From the answer to DESCRIBE."""
    parts = _parts(answer)
    properties = dict(re.findall(r"^\[([^\]]+)\]: \[([^\]\n]+)\]", parts.get("properties", ""), re.MULTILINE))
    memory = re.search(r"MemTotal:\s*(\d+) kB", parts.get("memory", ""))
    graphics = parts.get("graphics", "").partition("GLES:")[2].strip()
    return PhoneFacts(
        properties,
        tuple(sorted((_core(line) for line in _numbered(parts.get("cores", ""))), key=lambda core: core.number)),
        tuple(parts.get("features", "").partition(":")[2].split()),
        int(memory[1]) * 1024 if memory else None,
        parts.get("kernel", "").strip() or None,
        graphics or None,
    )


def read_state(answer: str) -> dict[str, Any]:
    """What may change while measuring, as JSON values, from the answer to SNAPSHOT."""
    parts = _parts(answer)
    numbers = re.findall(r"^\s*(\w+): (-?\d+)\s*$", parts["battery"], re.MULTILINE)
    battery = {name: int(value) for name, value in numbers}
    thermal = re.search(r"Thermal Status: (\d+)", parts["thermal"])
    load = re.match(r"\s*([\d.]+) ", parts["load"])
    full, level, temperature = battery.get("scale", 100), battery.get("level"), battery.get("temperature")
    return {
        "battery": {
            "level_percent": round(100 * level / full) if level is not None and full else None,
            "status": BATTERY_STATUS.get(battery.get("status", 0)),
            "temperature_celsius": temperature / 10 if temperature is not None else None,
        },
        "thermal_status": THERMAL_STATUS.get(int(thermal[1])) if thermal else None,
        "frequencies_mhz": {
            line.split()[0]: _mhz(_number(r"now=(\d+)", line)) for line in _numbered(parts["frequencies"])
        },
        "load": float(load[1]) if load else None,
    }


def fastest_cores(cores: Sequence[Core], threads: int) -> str | None:
    """Mask, for taskset, of the fastest clusters that together hold ``threads`` cores; None where speeds are unknown.

    A cluster is the cores of one highest frequency. One prime core is not made to carry four threads.
    """
    known = [core for core in cores if core.online and core.max_khz]
    if not known:
        return None
    chosen: list[Core] = []
    for speed in sorted({core.max_khz or 0 for core in known}, reverse=True):
        chosen += [core for core in known if core.max_khz == speed]
        if len(chosen) >= threads:
            break
    return f"{sum(1 << core.number for core in chosen):x}"


def _parts(answer: str) -> dict[str, str]:
    parts = re.split(r"^@(\w+)\n", answer, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _numbered(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"\d+ ", line)]


def _core(line: str) -> Core:
    governor = re.search(r"governor=(\S+)", line)
    online = _number(r"online=(\d+)", line)  # core 0 often has no such file: it cannot be switched off
    return Core(int(line.split()[0]), _number(r"max=(\d+)", line), governor[1] if governor else None, online != 0)


def _number(pattern: str, line: str) -> int | None:
    found = re.search(pattern, line)
    return int(found[1]) if found else None


def _mhz(khz: int | None) -> float | None:
    return None if khz is None else round(khz / 1000, 1)
