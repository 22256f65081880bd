"""What is listed is there, what is not there has a reason, and a driver that crashes takes nobody with it."""

import subprocess
import sys
from pathlib import Path

import emulated_gpu
import pytest

from edgecbam.runtimes import gpus
from edgecbam.runtimes.gpus import Gpu


def answering(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def apply(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_vulkan_lists_an_emulation_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, emulated_gpu.environment(tmp_path))
    listing = gpus.vulkan()
    assert (listing.api, listing.reason) == ("vulkan", "")
    (gpu,) = listing.gpus
    assert (gpu.name, gpu.api, gpu.kind, gpu.software) == (emulated_gpu.NAME, "vulkan", "cpu", True)
    assert gpu.driver is not None
    assert "SwiftShader" in gpu.driver
    assert gpu.memory_bytes is None  # Vulkan was not asked, and nothing is guessed


def test_without_a_driver_or_a_loader_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, emulated_gpu.without_gpu())
    listing = gpus.vulkan()
    assert listing.gpus == ()
    assert listing.reason == "the Vulkan loader finds no driver"
    monkeypatch.setattr(gpus, "_LOADERS", dict.fromkeys(("Linux", "Windows", "Darwin"), "libno_such_vulkan.so.1"))
    assert gpus._ask_vulkan().reason == "no Vulkan loader (libno_such_vulkan.so.1)"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "the Vulkan query was ended by SIGABRT: a graphics driver here is broken"),
        ("raise SystemExit('boom')", "the Vulkan query failed: boom"),
        ("print('a driver talks')", "the Vulkan query gave no answer"),
        ("pass", "the Vulkan query gave no answer"),
    ],
)
def test_whatever_becomes_of_the_query_is_a_reason(program: str, reason: str) -> None:
    assert gpus.vulkan(answering(program)) == gpus.Listing("vulkan", (), reason)


def test_a_query_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "TIMEOUT_S", 0.5)
    assert gpus.vulkan(answering("import time; time.sleep(60)")).reason.endswith("gave no answer within 0.5 s")


def test_what_a_driver_says_beside_the_answer_does_not_hurt() -> None:
    answer = '{"api": "vulkan", "gpus": [{"name": "X", "api": "vulkan", "kind": "discrete", "driver": "d 1", '
    answer += '"software": false, "memory_bytes": null}], "reason": ""}'
    listing = gpus.vulkan(answering(f"print('a driver talks'); print({answer!r})"))
    assert listing.gpus == (Gpu("X", "vulkan", "discrete", "d 1", False),)


def test_nvidia_smi_tells_name_driver_and_memory() -> None:
    lines = "NVIDIA H100 80GB HBM3, 580.65.06, 81559\\nNVIDIA GB10, 580.65.06, [N/A]\\n"
    listing = gpus.nvidia(answering(f"print('{lines}')"))
    assert listing.gpus == (
        Gpu("NVIDIA H100 80GB HBM3", "cuda", None, "NVIDIA 580.65.06", False, 81559 * 2**20),
        Gpu("NVIDIA GB10", "cuda", None, "NVIDIA 580.65.06", False, None),
    )
    assert listing.reason == ""


def test_nvidia_smi_absent_failing_or_silent_is_a_reason() -> None:
    assert gpus.nvidia(("no-such-nvidia-smi",)).reason == "no no-such-nvidia-smi"
    failing = "import sys; sys.exit('NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver')"
    assert "could not communicate" in gpus.nvidia(answering(failing)).reason
    assert gpus.nvidia(answering("pass")) == gpus.Listing("cuda", (), "nvidia-smi lists no GPU")


@pytest.mark.parametrize(
    ("name", "kind", "software"),
    [
        ("llvmpipe (LLVM 15.0.6, 256 bits)", None, True),
        ("Microsoft Basic Render Driver", "other", True),
        ("Anything", "cpu", True),
        ("NVIDIA H100 80GB HBM3", "discrete", False),
        ("Intel(R) Graphics", "integrated", False),
    ],
)
def test_emulations_are_known_by_name_or_kind(name: str, kind: str | None, software: bool) -> None:
    assert gpus.is_software(name, kind) is software


def test_the_query_needs_nothing_but_python() -> None:
    program = f"import runpy, sys; runpy.run_path({gpus.__file__!r}); print('edgecbam' in sys.modules)"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
