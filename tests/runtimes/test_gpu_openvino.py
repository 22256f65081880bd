"""OpenVINO on a GPU of Intel's: run there or refused with the devices that there are."""

from pathlib import Path

import pytest

from edgecbam.runtimes import CannotRun, find
from edgecbam.runtimes.openvino_runtime import gpu_name


class Core:
    """As much of openvino.Core as naming a GPU takes."""

    def __init__(self, names: dict[str, str]) -> None:
        self.available_devices = list(names)
        self._names = names

    def get_property(self, device: str, name: str) -> str:
        assert name == "FULL_DEVICE_NAME"
        return self._names[device]


def test_the_first_gpu_is_named_and_none_is_an_error_that_names_the_rest() -> None:
    two = Core({"CPU": "some CPU", "GPU.0": "Intel(R) Arc(TM) (dGPU)", "GPU.1": "Intel(R) UHD (iGPU)"})
    assert gpu_name(two) == "Intel(R) Arc(TM) (dGPU)"
    assert gpu_name(Core({"CPU": "some CPU", "GPU": "Intel(R) UHD (iGPU)"})) == "Intel(R) UHD (iGPU)"
    with pytest.raises(CannotRun, match="OpenVINO has no GPU here, only CPU, NPU"):
        gpu_name(Core({"CPU": "some CPU", "NPU": "some NPU"}))


@pytest.mark.parametrize("file", ["tiny_fp32.onnx", "tiny_fp32.tflite"])
def test_a_gpu_is_used_or_refused_and_never_replaced(file: str, fixtures: Path) -> None:
    devices = find("openvino").load().Core().available_devices
    if any(device.startswith("GPU") for device in devices):
        session = find("openvino").open(fixtures / file, 1, "gpu")
        placement = session.placement()
        assert (placement["device"], placement["precision"]) == ("gpu", "f32")
        assert placement["execution_devices"].startswith("gpu")
    else:
        with pytest.raises(CannotRun, match=r"no GPU here, only CPU.*intel-opencl-icd"):
            find("openvino").open(fixtures / file, 1, "gpu")


def test_bfloat16_stays_on_the_cpu(fixtures: Path) -> None:
    with pytest.raises(CannotRun, match="openvino_bf16 runs on cpu, not on gpu"):
        find("openvino_bf16").open(fixtures / "tiny_fp32.onnx", 1, "gpu")
