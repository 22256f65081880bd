"""Which GPUs are there, asked of Vulkan's loader and of NVIDIA's nvidia-smi, without any runtime.

A broken graphics driver may end the process that asks it, so Vulkan is asked in a process of its own: this very file,
run as a script, which is why it imports nothing of edgecbam.

    for listing in listings():
        print(listing.api, [gpu.name for gpu in listing.gpus] or listing.reason)
"""

import ctypes
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

TIMEOUT_S = 30.0
EMULATIONS = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "basic render driver")
_LOADERS = {"Linux": "libvulkan.so.1", "Windows": "vulkan-1.dll", "Darwin": "libvulkan.1.dylib"}
_KINDS = ("other", "integrated", "discrete", "virtual", "cpu")  # VkPhysicalDeviceType
_VULKAN_1_1, _VULKAN_1_2 = 1 << 22 | 1 << 12, 1 << 22 | 2 << 12
_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1  # VkStructureType
_PROPERTIES_2, _DRIVER_PROPERTIES = 1000059001, 1000196000
_NO_DRIVER, _NO_DEVICE_YET = -9, -3  # VK_ERROR_INCOMPATIBLE_DRIVER, VK_ERROR_INITIALIZATION_FAILED
_NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """A graphics adapter.

    Attributes:
        name: as its driver says it.
        api: ``"vulkan"`` or ``"cuda"``.
        kind: ``"discrete"``, ``"integrated"``, ``"virtual"``, ``"cpu"`` or ``"other"``; None where the API is mute.
        driver: name and version of the driver; None where the API does not say.
        software: whether it is an emulation on the CPU.
        memory_bytes: its own memory; None where the API does not say.
    """

    name: str
    api: str
    kind: str | None
    driver: str | None
    software: bool
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Listing:
    """What one API lists. ``reason``: why there is nothing; "" where there is something."""

    api: str
    gpus: tuple[Gpu, ...]
    reason: str


def listings() -> tuple[Listing, ...]:
    """What Vulkan and nvidia-smi list. A GPU that both know is in both."""
    return vulkan(), nvidia()


def vulkan(command: Sequence[str] = (sys.executable, "-I", __file__)) -> Listing:
    """The devices of Vulkan's loader, whatever ``VK_ICD_FILENAMES`` and the like make of it."""
    text, reason = _answer(command, "the Vulkan query")
    if reason:
        return Listing("vulkan", (), reason)
    try:
        told = json.loads(text.splitlines()[-1])
        return Listing("vulkan", tuple(Gpu(**entry) for entry in told["gpus"]), str(told["reason"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return Listing("vulkan", (), "the Vulkan query gave no answer")


def nvidia(command: Sequence[str] = _NVIDIA_QUERY) -> Listing:
    """The devices of nvidia-smi."""
    text, reason = _answer(command, command[0])
    if reason:
        return Listing("cuda", (), reason)
    gpus = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, rest = line.partition(", ")
        driver, _, mebibytes = rest.partition(", ")
        memory = int(mebibytes) * 2**20 if mebibytes.isdigit() else None  # "[N/A]" where it is shared with the CPU
        gpus.append(Gpu(name, "cuda", None, f"NVIDIA {driver}" if driver else None, False, memory))
    return Listing("cuda", tuple(gpus), "" if gpus else "nvidia-smi lists no GPU")


def is_software(name: str, kind: str | None) -> bool:
    """Whether an adapter of this name and kind is an emulation on the CPU."""
    return kind == "cpu" or any(word in name.lower() for word in EMULATIONS)


def _answer(command: Sequence[str], what: str) -> tuple[str, str]:
    """Standard output of a command, or why there is none."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return "", f"no {command[0]}"
    except OSError as error:
        return "", f"{what} does not start: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"{what} gave no answer within {TIMEOUT_S:g} s"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return "", f"{what} was ended by {name}: a graphics driver here is broken"
    if done.returncode > 0:
        words = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        return "", f"{what} failed: {words[-1][:200] if words else f'exit code {done.returncode}'}"
    return done.stdout, ""


class _ApplicationInfo(ctypes.Structure):
    """VkApplicationInfo."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _DriverProperties(ctypes.Structure):
    """VkPhysicalDeviceDriverProperties, of Vulkan 1.2."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance", ctypes.c_uint8 * 4),
    )


class _Properties2(ctypes.Structure):
    """VkPhysicalDeviceProperties2 with the start of VkPhysicalDeviceProperties and room for its limits."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("room", ctypes.c_uint64 * 512),
    )


def _ask_vulkan() -> Listing:
    """Ask the loader in this process; a broken driver may end it."""
    library = _LOADERS.get(platform.system(), "libvulkan.so.1")
    try:
        loader = ctypes.CDLL(library)
        create, enumerate_devices = loader.vkCreateInstance, loader.vkEnumeratePhysicalDevices
        describe = loader.vkGetPhysicalDeviceProperties2
    except OSError:
        return Listing("vulkan", (), f"no Vulkan loader ({library})")
    except AttributeError:
        return Listing("vulkan", (), f"the Vulkan loader ({library}) is older than Vulkan 1.1")
    application = _ApplicationInfo(_APPLICATION_INFO, None, b"edgecbam", 0, None, 0, _VULKAN_1_1)
    wanted = _InstanceCreateInfo(_INSTANCE_CREATE_INFO, None, 0, ctypes.pointer(application), 0, None, 0, None)
    instance, count = ctypes.c_void_p(), ctypes.c_uint32()
    status = create(ctypes.byref(wanted), None, ctypes.byref(instance))
    if status == 0:
        status = enumerate_devices(instance, ctypes.byref(count), None)
    if status in (_NO_DRIVER, _NO_DEVICE_YET):
        return Listing("vulkan", (), "the Vulkan loader finds no driver")
    if status < 0:
        return Listing("vulkan", (), f"Vulkan answers {status}")
    handles = (ctypes.c_void_p * count.value)()
    enumerate_devices(instance, ctypes.byref(count), handles)
    gpus = tuple(_describe(describe, handle) for handle in handles[: count.value] if handle)
    loader.vkDestroyInstance(instance, None)
    return Listing("vulkan", gpus, "" if gpus else "the Vulkan loader lists no device")


def _describe(describe: "ctypes._NamedFuncPointer", handle: int) -> Gpu:
    told = _Properties2(_PROPERTIES_2, None)
    describe(ctypes.c_void_p(handle), ctypes.byref(told))
    driver = ""
    if told.api_version >= _VULKAN_1_2:
        more = _DriverProperties(_DRIVER_PROPERTIES, None)
        told.next = ctypes.cast(ctypes.pointer(more), ctypes.c_void_p)
        describe(ctypes.c_void_p(handle), ctypes.byref(told))
        driver = f"{_text(more.name)} {_text(more.info)}".strip()
    name = _text(told.name)
    kind = _KINDS[told.kind] if 0 <= told.kind < len(_KINDS) else "other"
    return Gpu(name, "vulkan", kind, driver or None, is_software(name, kind))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()


if __name__ == "__main__":
    print(json.dumps(asdict(_ask_vulkan())))  # noqa: T201  for vulkan(), which reads it
