"""What x86 processors without VNNI make of int8 ONNX files: sums of products that do not fit 16 bits saturate.

    python tests/consumers/saturation.py RESULT.json

Such a processor multiplies uint8 by int8 in pairs and cuts each pair's sum to 16 bits. ONNX Runtime and OpenVINO both
use that (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). This runs them under qemu's
emulation of such a processor, on two layers whose results are known: every activation is 255, every weight the
largest. Wants the Debian package qemu-user.
"""

import argparse
import ctypes
import json
import mmap
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import artifacts, runtimes

QEMU, CPU = "qemu-x86_64", "Haswell"
COMMAND = "make prove-saturation"
PRECISION = "session.x64quantprecision"  # "1": weights become uint8, whose products ONNX Runtime sums in 32 bits
OPS = ("Conv", "MatMul")
CHANNELS, OUTPUTS, ACTIVATION = 16, 32, 255
EXPECTED = 200
SCALE_OUT = ACTIVATION * 127 * CHANNELS / EXPECTED


@dataclass(frozen=True)
class Setting:
    """How a layer is stored and run. ``weight`` is the integer that stands for the real weight 127."""

    runtime: str
    name: str
    weight: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def careful(self) -> bool:
        """Whether every processor is expected to be exact."""
        return 2 * ACTIVATION * self.weight < 2**15 or bool(self.options)


SETTINGS = (
    Setting("onnxruntime", "8-bit weights", 127),
    Setting("onnxruntime", f"8-bit weights, {PRECISION}=1", 127, {PRECISION: "1"}),
    Setting("onnxruntime", "7-bit weights", 64),
    Setting("openvino", "8-bit weights", 127),
    Setting("openvino", "7-bit weights", 64),
)
# bits of CPUID: leaf, subleaf, register, bit
FEATURES = {
    "avx2": (7, 0, 1, 5),
    "avx512f": (7, 0, 1, 16),
    "avx512_vnni": (7, 0, 2, 11),
    "avx_vnni": (7, 1, 0, 4),
}


def saturated(weight: int) -> int:
    """The output where every pair of products is cut to 16 bits, as the closed form has it."""
    pair = min(2 * ACTIVATION * weight, 2**15 - 1)
    return round(CHANNELS / 2 * pair * (127 / weight) / SCALE_OUT)


def layer(op: str, weight: int) -> bytes:
    """A QDQ model of one layer, ``image`` float32 -> ``logits`` float32, all of whose outputs are EXPECTED quanta."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape, weights, ends = {
        "Conv": ([1, CHANNELS, 4, 4], [OUTPUTS, CHANNELS, 1, 1], [1, OUTPUTS, 4, 4]),
        "MatMul": ([4, CHANNELS], [CHANNELS, OUTPUTS], [4, OUTPUTS]),
    }[op]
    constants = {
        "unit": np.float32(1),
        "zero": np.uint8(0),
        "weights": np.full(weights, weight, np.int8),
        "weight_scale": np.full(OUTPUTS, 127 / weight, np.float32),
        "weight_zero": np.zeros(OUTPUTS, np.int8),
        "scale": np.float32(SCALE_OUT),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "unit", "zero"], ["image_q"]),
        helper.make_node("DequantizeLinear", ["image_q", "unit", "zero"], ["image_d"]),
        helper.make_node(
            "DequantizeLinear", ["weights", "weight_scale", "weight_zero"], ["weights_d"], axis=int(op == "MatMul")
        ),
        helper.make_node(op, ["image_d", "weights_d"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "scale", "zero"], ["sums_q"]),
        helper.make_node("DequantizeLinear", ["sums_q", "scale", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ends)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def answer(path: Path, setting: Setting) -> int:
    """The integer that all outputs of a ``layer`` have on this processor."""
    runtime = runtimes.find(setting.runtime).load()
    if setting.runtime == "onnxruntime":
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        for name, value in setting.options.items():
            options.add_session_config_entry(name, value)
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        image = np.full(session.get_inputs()[0].shape, ACTIVATION, np.float32)
        logits = session.run(None, {"image": image})[0]
    else:
        compiled = runtime.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
        logits = compiled([np.full(list(compiled.inputs[0].shape), ACTIVATION, np.float32)])[0]
    (only,) = np.unique(np.rint(logits / SCALE_OUT))
    return int(only)


def processor() -> dict[str, Any]:
    """Name and features as CPUID says, which is what ONNX Runtime goes by."""
    brand = b"".join(register.to_bytes(4, "little") for leaf in range(3) for register in _cpuid(0x80000002 + leaf, 0))
    found = {name: bool(_cpuid(leaf, sub)[at] >> bit & 1) for name, (leaf, sub, at, bit) in FEATURES.items()}
    return {"name": brand.rstrip(b"\0").decode().strip(), **found}


def sums_exactly() -> bool:
    """Whether this processor multiplies int8 without 16-bit sums: one with VNNI, or none of x86."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    found = processor()
    return bool(found["avx512_vnni"] or found["avx_vnni"])


def _cpuid(leaf: int, subleaf: int) -> list[int]:
    # push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid; mov [r8], eax and so on; pop rbx; ret
    code = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    registers = (ctypes.c_uint32 * 4)()
    ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(start)(leaf, subleaf, registers)
    return list(registers)


def write_layers(folder: Path) -> None:
    """Every layer in every width of weights."""
    for op in OPS:
        for setting in SETTINGS:
            layer_path(folder, op, setting).write_bytes(layer(op, setting.weight))


def layer_path(folder: Path, op: str, setting: Setting) -> Path:
    """Where a layer lies."""
    return folder / f"{op}_{setting.weight}.onnx"


def inside(folder: Path) -> dict[str, Any]:
    """What this process runs on, and what every layer of a folder gives in every setting."""
    rows = []
    for setting in SETTINGS:
        for op in OPS:
            got = answer(layer_path(folder, op, setting), setting)
            row = {"runtime": setting.runtime, "setting": setting.name, "op": op}
            rows.append({**row, "expected": EXPECTED, "got": got, "right": got == EXPECTED})
    versions = {name: runtimes.find(name).version() for name in ("onnxruntime", "openvino")}
    return {"versions": versions, "processor": processor(), "rows": rows}


def emulated(qemu: str) -> dict[str, Any]:
    """``inside``, under the emulated processor."""
    with tempfile.TemporaryDirectory() as folder:
        write_layers(Path(folder))
        # -P: this folder's modules must not stand before installed packages
        command = [qemu, "-cpu", CPU, sys.executable, "-P", str(Path(__file__).resolve()), "--inside", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{QEMU} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/consumers/saturation.py", description=__doc__)
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        sys.stdout.write("\n" + json.dumps(inside(options.result)) + "\n")
        return
    qemu = shutil.which(QEMU)
    if not qemu:
        raise SystemExit(f"{QEMU} is missing: sudo apt-get install qemu-user")
    version = re.search(r"version (\S+)", subprocess.check_output([qemu, "--version"], text=True))
    said = emulated(qemu)
    result = {
        "schema_version": 1,
        "command": COMMAND,
        "versions": {**said["versions"], "qemu": version.group(1) if version else "unknown"},
        "emulated": {"cpu": CPU, **said["processor"]},
        "rows": said["rows"],
    }
    artifacts.write_json(options.result, result)
    for row in said["rows"]:
        sys.stdout.write(
            f"{row['runtime']:12}{row['setting']:46}{row['op']:7}{row['expected']} expected, {row['got']} got\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
