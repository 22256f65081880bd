"""benchmark_model is driven over adb as if a phone were there: a scripted adb keeps one in a folder."""

import dataclasses
import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import adb_worker, measure, parity, report_schema
from edgecbam.benchmarks.adb_device import AdbDevice
from edgecbam.benchmarks.cells import Cell
from edgecbam.benchmarks.child import ChildFailed
from edgecbam.benchmarks.devices import Settings, Unreachable, connect
from edgecbam.benchmarks.protocol import PROTOCOLS, Protocol
from edgecbam.benchmarks.sessions import run_sessions
from edgecbam.errors import InputError
from edgecbam.runtimes import find

HERE = Path(__file__).parent
SERIAL = "R5CT1234"
PROPERTIES = {
    "ro.product.manufacturer": "Fable",
    "ro.product.model": "Phone 9",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8550",
    "ro.board.platform": "kalama",
    "ro.build.version.release": "14",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.serialno": "R5CT1234SECRET",
}
BATTERY = """Current Battery Service state:
  AC powered: false
  status: 3
  level: 84
  scale: 100
  temperature: 326
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=41.2, mType=0, mName=AP, mStatus=0}
"""
SPEEDS = {0: 2016000, 1: 2016000, 2: 2016000, 3: 2803200, 4: 2803200, 5: 2803200, 6: 2803200, 7: 3360000}


class ScriptedPhone:
    """The phone's folder: what it is, what goes wrong with it, and what was asked of it."""

    def __init__(self, folder: Path, where: Path) -> None:
        self.folder, self.where = folder, where
        self.tmp = folder / "fs/data/local/tmp"
        self.binary = where / "benchmark_model"
        self.tmp.mkdir(parents=True)
        (folder / "bin").mkdir()
        self.settings(serial=SERIAL, state="device")
        for number, speed in SPEEDS.items():
            cpufreq = folder / f"fs/sys/devices/system/cpu/cpu{number}/cpufreq"
            cpufreq.mkdir(parents=True)
            (cpufreq / "cpuinfo_max_freq").write_text(f"{speed}\n")
            (cpufreq / "scaling_governor").write_text("walt\n")
            (cpufreq / "scaling_cur_freq").write_text(f"{speed // 2}\n")
        proc = folder / "fs/proc"
        proc.mkdir()
        (proc / "cpuinfo").write_text("Features\t: fp asimd asimdhp asimddp i8mm\n")
        (proc / "meminfo").write_text("MemTotal:        7712345 kB\n")
        (proc / "loadavg").write_text("4.25 4.01 3.90 2/3456 12345\n")
        self.properties(**PROPERTIES)
        self.program("dumpsys", f"case $1 in battery) printf '{BATTERY}';; thermalservice) printf '{THERMAL}';; esac")
        (folder / "packages").write_text(sysconfig.get_path("purelib"))
        present = sum(1 << number for number in SPEEDS)
        self.program(
            "taskset",
            f'if [ $((0x$1 & {present})) = 0 ]; then echo "taskset: bad mask" >&2; exit 1; fi\n'
            'mask=$1; shift; echo $mask >> "$SCRIPTED_PHONE/masks"\n'
            'if [ "$1" = grep ]; then printf "Cpus_allowed:\\t00000000,%08x\\n" 0x$mask; exit 0; fi; exec "$@"',
        )
        shebang = f"#!{sys.executable} -IS\n"
        self.binary.write_text(shebang + (HERE / "planted_benchmark_model.py").read_text())
        adb = where / "path/adb"
        adb.parent.mkdir()
        adb.write_text(shebang + (HERE / "scripted_adb.py").read_text())
        adb.chmod(0o755)

    def program(self, name: str, script: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def properties(self, **values: str) -> None:
        lines = "".join(f"[{name}]: [{value}]\n" for name, value in values.items())
        self.program("getprop", f"cat <<'END'\n{lines}END")

    def settings(self, **values: Any) -> None:
        file = self.folder / "settings.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(before | values))

    def calls(self, verb: str = "") -> list[list[str]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [call for call in map(json.loads, lines) if verb in call]

    def runs(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.folder / "runs").read_text().splitlines()]

    def model(self, name: str, **content: Any) -> Path:
        path = self.where / name
        path.write_bytes(b"\x18\0\0\0TFL3" + json.dumps({"name": name, "us": 1000} | content).encode())
        return path

    def device(self, serial: str = SERIAL, **settings: Any) -> AdbDevice:
        digest = hashlib.sha256(self.binary.read_bytes()).hexdigest()
        given = Settings(benchmark_model=self.binary, benchmark_model_sha256=digest)
        device = connect(f"adb:{serial}", dataclasses.replace(given, **settings))
        assert isinstance(device, AdbDevice)
        return device


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedPhone:
    scripted = ScriptedPhone(tmp_path / "phone", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setenv("SCRIPTED_PHONE", str(scripted.folder))
    return scripted


def task(model: Path, **changes: Any) -> dict[str, Any]:
    plain = {"model": str(model), "runtime": "benchmark_model", "device": "cpu", "threads": 1, "seed": 1}
    return plain | {"shapes": {}, "export": None, "reference": None} | changes


def reference(path: Path, sets: int = 3) -> Path:
    """Of the network that planted_benchmark_model.py computes, with two inputs."""
    rng = np.random.default_rng(0)
    inputs = [[rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((1, 4), (2, 3))] for _ in range(sets)]
    flat = [np.concatenate([array.ravel() for array in arrays]).astype(np.float64) for arrays in inputs]
    outputs = [[np.array([[values.sum(), (values**2).sum()]], np.float32)] for values in flat]
    parity.save_reference(path, parity.Reference(inputs, outputs, "the formula", "float32", (None,)))
    return path


def opened(device: AdbDevice, **changes: Any) -> tuple[Any, dict[str, Any]]:
    worker = device.start(task(**changes))
    assert worker.hear(20) == {"imported": True}
    return worker, worker.ask({"command": "open"}, 20)


def failure(action: Callable[[], Any]) -> ChildFailed:
    with pytest.raises(ChildFailed) as caught:
        action()
    return caught.value


def test_a_cell_goes_through_every_step(phone: ScriptedPhone, tmp_path: Path) -> None:
    model = phone.model("net.tflite", us=1200)
    device = phone.device()
    device.prepare([model])
    worker, answer = opened(device, model=model, reference=str(reference(tmp_path / "reference.npz")))
    placement = answer.pop("placement")
    assert answer == {
        "init_ms": 8.312,
        "first_ms": 12.0,
        "memory": {"imported_bytes": None, "peak_bytes": round(12.5 * 2**20)},
        "functional": "",
    }
    assert placement["device"] == "cpu"
    assert placement["threads"] == 1
    assert placement["cores"] == "80", "one thread runs on the one fastest core"
    assert placement["delegate"] == "xnnpack"
    assert placement["delegated"] == [{"delegate": "xnnpack", "nodes": 3, "of_nodes": 3, "partitions": 1}]
    assert placement["statistic"].startswith("median of the timed runs")
    assert placement["benchmark_model_sha256"] == hashlib.sha256(phone.binary.read_bytes()).hexdigest()
    check = worker.ask({"command": "check", "images": 64}, 20)
    assert check["passed"], check["reason"]
    assert check["parity"]["checked"]
    assert check["parity"]["inputs"] == 3
    assert check["parity"]["relative_error"] < 1e-6
    assert worker.ask({"command": "warm", "runs": 20, "seconds": 0.5}, 20)["warm"]
    # 1200, then 1200, 1201, 1202, 1203: the median is in whole microseconds, as the program prints it
    assert worker.ask({"command": "block", "lead_in": 1, "runs": 5}, 20) == {"ns": [1201000]}
    last = phone.runs()[-1]
    assert (last["warmup_runs"], last["warmup_min_secs"], last["num_runs"]) == ("20", "0.5", "5")
    assert last["min_secs"] == "0", "the program would go on for a second"
    assert "report_peak_memory_footprint" not in last, "watching memory disturbs the times"
    assert last["input_layer_shape"] == "1,4:2,3", "timed with real inputs"
    assert (phone.folder / "masks").read_text().split()[-1] == "80"
    worker.kill()
    device.close()
    assert not list((phone.tmp / "edgecbam").glob("work-*")), "inputs and outputs are gone"
    assert len(list((phone.tmp / "edgecbam").iterdir())) == 2, "the model and the program stay for the next time"


def test_files_are_pushed_once_and_under_names_of_ours(phone: ScriptedPhone) -> None:
    nasty = phone.model("a 'b' \"c\" $(touch pwned) ; -x.tflite")
    for _ in range(2):
        device = phone.device()
        device.prepare([nasty, nasty.with_suffix(".npz")])
        worker, _ = opened(device, model=nasty)
        assert worker.ask({"command": "block", "lead_in": 0, "runs": 1}, 20) == {"ns": [1000000]}
        device.close()
    pushed = phone.calls("push")
    assert len(pushed) == 2, "the program and the model, and nothing the second time"
    assert not any("pwned" in call[-1] for call in phone.calls())
    assert not list(phone.folder.rglob("pwned"))
    digest = hashlib.sha256(nasty.read_bytes()).hexdigest()
    assert pushed[1][-1] == f"/data/local/tmp/edgecbam/{digest}/model"


def test_a_damaged_transfer_is_noticed(phone: ScriptedPhone) -> None:
    phone.settings(fault={"match": " push ", "what": "corrupt"})
    with pytest.raises(Unreachable, match="did not arrive whole"):
        phone.device().prepare([])
    phone.settings(fault=None)
    phone.device().prepare([])  # the damaged file is replaced


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark_model": None}, "--benchmark-model PATH --benchmark-model-sha256 HEX"),
        ({"benchmark_model_sha256": None}, "--benchmark-model PATH --benchmark-model-sha256 HEX"),
        ({"benchmark_model_sha256": "0" * 64}, "has the sha256 .*, not the one given"),
        ({"benchmark_model_sha256": "cafe"}, "is no sha256"),
        ({"benchmark_model": Path("nowhere")}, "cannot read benchmark_model nowhere"),
        ({"adb_cores": "big"}, "'big' is no mask of cores"),
        ({"adb_cores": "0"}, "'0' is no mask of cores"),
    ],
)
def test_wrong_settings_say_which_options(phone: ScriptedPhone, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        phone.device(**changes)


@pytest.mark.parametrize(
    ("serial", "state", "message"),
    [
        (SERIAL, "offline", "offline: reconnect the cable"),
        (SERIAL, "unauthorized", "allow USB debugging from this computer"),
        (SERIAL, "many", "several phones answer"),
        (SERIAL, "permissions", "udev"),
        (SERIAL, "gone", "no such device: see adb devices"),
        (SERIAL, "recovery", "restart it into Android"),
        ("192.0.2.7:5555", "device", "adb connect 192.0.2.7:5555 first"),
    ],
)
def test_an_unreachable_phone_says_how_to_mend_it(phone: ScriptedPhone, serial: str, state: str, message: str) -> None:
    phone.settings(state=state)
    with pytest.raises(Unreachable, match=message) as caught:
        phone.device(serial).prepare([])
    assert f"adb:{serial} cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_adb_the_error_says_what_to_install(phone: ScriptedPhone, monkeypatch: pytest.MonkeyPatch) -> None:
    device = phone.device()
    monkeypatch.setenv("PATH", str(phone.folder))
    with pytest.raises(Unreachable, match="no adb here: install"):
        device.prepare([])


def test_a_connection_lost_in_a_block_costs_the_cell(phone: ScriptedPhone) -> None:
    model = phone.model("net.tflite")
    device = phone.device()
    device.prepare([model])
    worker, _ = opened(device, model=model)
    phone.settings(fault={"match": "--num_runs=7", "what": "lost", "after": 1})
    block = {"command": "block", "lead_in": 0, "runs": 7}
    assert worker.ask(block, 20)["ns"]
    failed = failure(lambda: worker.ask(block, 20))
    assert (failed.status, failed.reason) == ("skipped", f"connection to adb:{SERIAL} lost: error: closed")
    worker.kill()
    with pytest.raises(Unreachable, match="lost"):
        device.snapshot()
    device.close()


def test_a_connection_that_hangs_is_lost_too(phone: ScriptedPhone) -> None:
    model = phone.model("net.tflite")
    device = phone.device()
    device.prepare([model])
    worker, _ = opened(device, model=model)
    phone.settings(fault={"match": "--num_runs=7", "what": "hang"})
    failed = failure(lambda: worker.ask({"command": "block", "lead_in": 0, "runs": 7}, 1))
    assert (failed.status, failed.reason) == ("skipped", f"connection to adb:{SERIAL} lost")


def test_a_run_that_takes_too_long_is_ended_on_the_phone(phone: ScriptedPhone) -> None:
    model = phone.model("slow.tflite", hang="3")
    device = phone.device()
    device.prepare([model])
    worker, _ = opened(device, model=model)
    failed = failure(lambda: worker.ask({"command": "block", "lead_in": 0, "runs": 3}, 2))
    assert failed.status == "timeout"
    assert phone.runs()[-1]["num_runs"] == "3", "it had begun"
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if command.startswith(sys.executable) and str(phone.tmp) in command]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        ({"error": "op"}, "unsupported", "Didn't find op for builtin opcode 'GELU' version '2'"),
        ({"error": "damaged"}, "input", "planted.tflite: The model is not a valid Flatbuffer buffer"),
        ({"error": "odd"}, "crash", "benchmark_model ended with exit code 1: Something nobody has ever seen"),
        ({"signal": "SIGSEGV"}, "crash", "benchmark_model died (SIGSEGV)"),
    ],
)
def test_what_the_program_complains_of_becomes_the_row(
    phone: ScriptedPhone, content: dict[str, Any], status: str, reason: str
) -> None:
    model = phone.model("planted.tflite", **content)
    device = phone.device()
    device.prepare([model])
    worker = device.start(task(model))
    worker.hear(20)
    failed = failure(lambda: worker.ask({"command": "open"}, 20))
    assert failed.status == status
    assert failed.reason.startswith(reason)


def test_a_program_for_another_kind_of_phone(phone: ScriptedPhone) -> None:
    phone.binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    model = phone.model("net.tflite")
    device = phone.device()
    device.prepare([model])
    worker = device.start(task(model))
    worker.hear(20)
    failed = failure(lambda: worker.ask({"command": "open"}, 20))
    assert failed.status == "unsupported"
    assert "not built for this phone" in failed.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtime": "litert"}, f"adb:{SERIAL} has benchmark_model and no litert"),
        ({"model": "net.onnx"}, "benchmark_model reads .tflite files, not .onnx"),
    ],
)
def test_what_a_phone_cannot_run_is_unsupported(phone: ScriptedPhone, changes: dict[str, Any], reason: str) -> None:
    device = phone.device()
    device.prepare([])
    worker = device.start(task(phone.model("net.tflite")) | changes)
    failed = failure(lambda: worker.hear(20))
    assert (failed.status, failed.reason) == ("unsupported", reason)


def test_wrong_outputs_do_not_pass(phone: ScriptedPhone, tmp_path: Path) -> None:
    expected = str(reference(tmp_path / "reference.npz"))
    device = phone.device()
    device.prepare([])
    planted: tuple[tuple[dict[str, Any], str], ...] = (
        ({"wrong": 0.5}, "differs from the reference"),
        ({"bytes": 4}, "has shape"),
        ({"more": 4}, "has shape"),
    )
    for content, reason in planted:
        worker, _ = opened(device, model=phone.model("net.tflite", **content), reference=expected)
        check = worker.ask({"command": "check", "images": 64}, 20)
        assert not check["passed"]
        assert reason in check["reason"]


def test_files_of_a_run_are_compared_with_keras(
    phone: ScriptedPhone, run_folder: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = run_folder / "export"
    samples = artifacts.load_samples(export)
    session = find("litert").open(fixtures / "tiny_fp32.tflite", threads=1)
    table = {}
    for image in samples.images[:6]:
        array = ((image[None].astype(np.float32)) - 128) / 128
        table[hashlib.sha256(array.tobytes()).hexdigest()] = session.run([array])[0].ravel().tolist()
    model = phone.model("run/export/model_fp32.tflite", table=table)  # the phone knows six images and no others
    device = phone.device()
    device.prepare([model])
    monkeypatch.setattr(adb_worker, "MOST_IMAGES", 6)
    worker, _ = opened(device, model=model, export=str(export))
    check = worker.ask({"command": "check", "images": 2**31}, 20)
    assert check["passed"], check["reason"]
    assert check["parity"]["images"] == 6
    assert check["accuracy"] is None, "six of 120 images say nothing of accuracy"
    check = worker.ask({"command": "check", "images": 5}, 20)
    assert check["passed"]
    assert check["accuracy"] is not None, "all that was asked for"
    phone.model("run/export/model_fp32.tflite", table={key: value[::-1] for key, value in table.items()})
    worker, _ = opened(device, model=model, export=str(export))
    assert not worker.ask({"command": "check", "images": 5}, 20)["passed"]


def test_an_old_program_is_believed_as_far_as_it_goes(phone: ScriptedPhone, tmp_path: Path) -> None:
    model = phone.model("net.tflite", old=True, us=1000)
    device = phone.device()
    device.prepare([model])
    worker, answer = opened(device, model=model, reference=str(reference(tmp_path / "reference.npz")))
    assert answer["memory"]["peak_bytes"] is None
    assert answer["first_ms"] == 10.0
    assert answer["placement"]["statistic"].startswith("mean of the timed runs")
    check = worker.ask({"command": "check", "images": 64}, 20)
    assert check["passed"]
    assert not check["parity"]["checked"]
    assert "cannot write outputs: it does not know --output_filepath" in check["parity"]["reason"]
    assert worker.ask({"command": "block", "lead_in": 0, "runs": 4}, 20) == {"ns": [1000750]}


def test_cores_are_those_asked_for_or_the_fastest_that_hold_the_threads(phone: ScriptedPhone) -> None:
    model = phone.model("net.tflite")
    for cores, threads, expected in ((None, 1, "80"), (None, 4, "f8"), (None, 8, "ff"), ("0xF0", 1, "f0")):
        device = phone.device(adb_cores=cores)
        device.prepare([model])
        assert opened(device, model=model, threads=threads)[1]["placement"]["cores"] == expected
        assert phone.runs()[-1]["num_threads"] == str(threads)
    device = phone.device(adb_cores="f00")
    device.prepare([model])
    worker = device.start(task(model))
    worker.hear(20)
    failed = failure(lambda: worker.ask({"command": "open"}, 20))
    assert (failed.status, failed.reason) == ("unsupported", "cannot run on the cores f00: taskset: bad mask")


def test_the_gpu_delegate_must_really_take_over(phone: ScriptedPhone) -> None:
    device = phone.device(f"{SERIAL}/gpu")
    assert device.name == f"adb:{SERIAL}/gpu"
    device.prepare([])
    placement = opened(device, model=phone.model("net.tflite", gpu=2))[1]["placement"]
    assert placement["device"] == "gpu"
    assert placement["delegated"] == [{"delegate": "gpu", "nodes": 2, "of_nodes": 3, "partitions": 2}]
    assert placement["precision"] == "f16"
    assert placement["adapter"] is None, "the phone does not tell"
    worker = device.start(task(phone.model("cpu_only.tflite")))
    worker.hear(20)
    failed = failure(lambda: worker.ask({"command": "open"}, 20))
    assert failed.status == "unsupported"
    assert "GPU acceleration is unsupported on this platform" in failed.reason
    with pytest.raises(InputError, match="no 'npu' on a phone"):
        phone.device(f"{SERIAL}/npu")


def test_an_emulator_is_no_phone(phone: ScriptedPhone) -> None:
    phone.properties(**PROPERTIES, **{"ro.boot.qemu": "1"})
    device = phone.device()
    device.prepare([])
    _, answer = opened(device, model=phone.model("net.tflite"))
    assert "emulator" in answer["functional"]
    assert device.describe([])["virtualised"] is True


def test_the_report_knows_the_phone_but_not_its_number(phone: ScriptedPhone) -> None:
    device = phone.device()
    device.prepare([])
    told = device.describe(["litert"])
    assert (told["board"], told["cpu"], told["platform"]) == ("Fable Phone 9", "QTI SM8550", "kalama")
    assert (told["os"], told["machine"], told["logical_cpus"]) == ("Android 14", "arm64-v8a", 8)
    assert told["memory_bytes"] == 7712345 * 1024
    assert told["governor"] == "walt"
    assert told["cores"][7] == {"core": 7, "max_mhz": 3360.0, "governor": "walt", "online": True}
    assert set(told["cpu_flags"]) >= {"asimd", "asimddp", "i8mm"}
    assert told["gpu"] is None
    assert told["versions"]["benchmark_model"].startswith("sha256 ")
    assert "SECRET" not in json.dumps(told)
    state = device.snapshot()
    assert state["battery"] == {"level_percent": 84, "status": "discharging", "temperature_celsius": 32.6}
    assert state["thermal_status"] == "moderate"
    assert state["frequencies_mhz"]["7"] == 1680.0
    assert state["load"] == 4.25


def test_what_a_phone_keeps_to_itself_is_null(phone: ScriptedPhone) -> None:
    phone.properties()
    phone.program("dumpsys", "echo 'Permission Denial' >&2; exit 1")
    for file in (phone.folder / "fs").rglob("*freq"):
        if file.is_file():
            file.unlink()
    for file in (phone.folder / "fs/proc").iterdir():
        file.unlink()
    device = phone.device()
    device.prepare([])
    told = device.describe([])
    for key in ("board", "cpu", "platform", "machine", "cpu_flags", "memory_bytes", "gpu", "os"):
        assert told[key] is None, key
    assert device.snapshot() == {
        "battery": {"level_percent": None, "status": None, "temperature_celsius": None},
        "thermal_status": None,
        "frequencies_mhz": {str(number): None for number in SPEEDS},
        "load": None,
    }
    _, answer = opened(device, model=phone.model("net.tflite"))
    assert answer["placement"]["cores"] is None, "no speeds, no choice of cores"


def test_models_are_interleaved_invocation_by_invocation(phone: ScriptedPhone, tmp_path: Path) -> None:
    expected = reference(tmp_path / "reference.npz", sets=2)
    device = phone.device()
    names = ("one.tflite", "two.tflite", "broken.tflite")
    faults: dict[str, dict[str, Any]] = {"broken.tflite": {"error": "op"}}
    paths = [phone.model(name, us=1000 * (k + 1), **faults.get(name, {})) for k, name in enumerate(names)]
    cells = [
        Cell(path.name, path, "benchmark_model", 1, None, "one.tflite", device=device.name, reference=expected)
        for path in paths
    ]
    device.prepare(paths)
    protocol = Protocol("tiny", 2, 6, 3, 1, 2, "a test", timeout_s=60)
    outcomes = run_sessions(cells, protocol, start=lambda cell, what: device.start(what))
    one, two, broken = (outcomes[cell.key] for cell in cells)
    assert (one.status, two.status, broken.status) == ("ok", "ok", "unsupported")
    assert np.shape(one.samples_ns) == (2, 6, 1), "processes, rounds, and one figure for each invocation"
    assert set(np.ravel(one.samples_ns)) == {1000_000}
    assert set(np.ravel(two.samples_ns)) == {2000_000}
    blocks = [run["name"] for run in phone.runs() if run["num_runs"] == "3"]
    assert len(blocks) == 2 * 6 * 2
    rounds = [tuple(blocks[i : i + 2]) for i in range(0, len(blocks), 2)]
    assert all(set(order) == {"one.tflite", "two.tflite"} for order in rounds), "every round visits both"
    assert len(set(rounds)) == 2, "in either order"


def test_a_whole_benchmark_of_a_real_model_on_two_devices(
    phone: ScriptedPhone, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", Protocol("quick", 2, 2, 3, 1, 2, "a test", timeout_s=60))
    digest = hashlib.sha256(phone.binary.read_bytes()).hexdigest()
    settings = Settings(benchmark_model=phone.binary, benchmark_model_sha256=digest)
    request = measure.Request(protocol="quick", devices=("adb:nowhere", f"adb:{SERIAL}"), settings=settings)
    report = measure.benchmark_models([fixtures / "tiny_int8.tflite"], request)
    errors = jsonschema.Draft202012Validator(report_schema.load()).iter_errors(report)
    assert not [error.message for error in errors if {"devices", "results"} & set(error.absolute_path)]
    away, row = report["results"]
    assert (away["device"], away["status"]) == ("adb:nowhere", "skipped")
    assert "no such device" in away["reason"]
    assert (row["device"], row["status"], row["reason"]) == (f"adb:{SERIAL}", "ok", "")
    assert row["runtime"] == "benchmark_model"
    assert row["runtime_version"] == f"sha256 {digest[:12]}"
    assert row["parity"]["checked"]
    assert row["latency_ms"]["p50"] == 1.0
    assert report["devices"][f"adb:{SERIAL}"]["before"]["battery"]["level_percent"] == 84
    assert np.shape(report["raw_ns"][f"tiny_int8.tflite|benchmark_model|adb:{SERIAL}|1"]) == (2, 2, 1)
    assert [one["kind"] for one in report["comparisons"]] == ["control"]
