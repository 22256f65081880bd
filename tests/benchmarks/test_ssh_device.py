"""Measuring over ssh, against a real sshd: what is brought, what is told, and what a failure costs."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sshd import Sshd, free_port, serve, write_script

from edgecbam.benchmarks import measure, protocol, ssh_bundles, ssh_link, ssh_receiver
from edgecbam.benchmarks.child import Child, ChildFailed
from edgecbam.benchmarks.devices import LocalDevice, Settings, Unreachable, connect
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.benchmarks.ssh_device import SshDevice
from edgecbam.benchmarks.ssh_worker import SshWorker
from edgecbam.errors import InputError

HERE = Settings(remote_python=sys.executable)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for all tests; its home folder is empty at the start of each."""
    sshd = serve(tmp_path_factory.mktemp("ssh") / "server")
    yield sshd
    sshd.stop()


@pytest.fixture
def sshd(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    server.cut()
    home = server.home
    home.rename(tmp_path / "home of the test before")
    home.mkdir()
    monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
    return server


def task_for(model: Path, **more: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"shapes": {}, "export": None, "reference": None}
    return {"model": str(model), "runtime": "litert", "device": "cpu", "threads": 1, "seed": 1, **nothing, **more}


def cache(sshd: Sshd) -> list[Path]:
    return sorted((sshd.home / ".cache" / "edgecbam").iterdir())


def wait_until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def venv(folder: Path) -> Path:
    """An environment with no package at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def planted(sshd: Sshd, body: str) -> SshWorker:
    """A worker that does as the body says once it is there."""
    host = SshDevice(sshd.where, HERE).host
    program = f"import os, sys, time\nos.write(1, b'{{\"here\": true}}\\n')\n{body}"
    return SshWorker(host, program, {"model": "/here/x.tflite"}, {"model": "/there/model.tflite"})


# What a device is called


@pytest.mark.parametrize("where", ["pi", "me@pi.local", "pi:2222", "me@10.0.0.2:22", "[::1]:22", "me@[fe80::1%eth0]"])
def test_a_host_is_named_as_ssh_takes_it(where: str) -> None:
    assert connect(f"ssh:{where}", HERE).name == f"ssh:{where}"


@pytest.mark.parametrize(
    "where",
    [
        "-oProxyCommand=id",
        "pi:99999",
        "pi:0",
        "pi:x",
        "a b",
        "pi\n",
        "me@",
        "@pi",
        "::1",
        "pi|x",
        "$(id)",
        "-l@pi",
    ],
)
def test_what_names_no_host_is_refused(where: str) -> None:
    with pytest.raises(InputError, match=r"give ssh:\[USER@\]HOST"):
        connect(f"ssh:{where}", HERE)


def test_user_and_port_reach_ssh_as_words_of_their_own() -> None:
    command = SshDevice("me@[::1]:2222", HERE).host.command()
    assert command[-5:-1] == ["-p", "2222", "--", "me@::1"]


def test_a_python_in_the_remote_home_stays_for_the_remote_shell_and_the_rest_is_quoted() -> None:
    script = shlex.split(ssh_link.Host("pi", "~/my $(id) env/bin/python").command()[-1])[-1]
    assert script.startswith("~/'my $(id) env/bin/python' -c ")


def test_no_python_is_an_input_error() -> None:
    with pytest.raises(InputError, match="remote-python"):
        ssh_link.Host("pi", "a\nb")


# What is brought


def test_a_worker_over_ssh_answers_as_one_here(sshd: Sshd, fixtures: Path) -> None:
    model = fixtures / "tiny_int8.tflite"
    with SshDevice(sshd.where, HERE).start(task_for(model)) as there, Child(task_for(model)) as here:
        for worker in (there, here):
            assert worker.hear(PATIENCE_S) == {"imported": True}
        opened = [worker.ask({"command": "open"}, PATIENCE_S) for worker in (there, here)]
        assert opened[0]["placement"] == opened[1]["placement"]
        checks = [worker.ask({"command": "check", "images": 8}, PATIENCE_S) for worker in (there, here)]
        assert checks[0] == checks[1]
        block = there.ask({"command": "block", "lead_in": 1, "runs": 3}, PATIENCE_S)
        assert len(block["ns"]) == 3
    assert min(block["ns"]) > 0


def test_a_run_folder_is_checked_with_its_samples(sshd: Sshd, run_folder: Path) -> None:
    export = run_folder / "export"
    device = SshDevice(sshd.where, HERE)
    device.prepare([export / "model_int8.onnx", export / "manifest.json", export / "samples.npz"])
    with device.start(task_for(export / "model_int8.onnx", runtime="onnxruntime", export=str(export))) as worker:
        worker.hear(PATIENCE_S)
        worker.ask({"command": "open"}, PATIENCE_S)
        check = worker.ask({"command": "check", "images": 120}, PATIENCE_S)
    assert check["passed"], check["reason"]
    assert check["accuracy"] == pytest.approx(0.75, abs=0.05)  # a quarter of the labels is wrong by design


def test_what_is_there_is_not_sent_again_and_what_was_altered_is(
    sshd: Sshd, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    call = ssh_link.Host.call

    def counted(self: ssh_link.Host, program: str, request: dict[str, Any], contents: Any = ()) -> dict[str, Any]:
        sent.append(len(contents))
        return call(self, program, request, contents)

    monkeypatch.setattr(ssh_link.Host, "call", counted)
    modules = len(ssh_bundles.code_bundle().files)
    models = [fixtures / "tiny_fp32.tflite", fixtures / "tiny_fp32.onnx"]
    SshDevice(sshd.where, HERE).prepare(models)
    assert sent == [0, modules + 2]
    SshDevice(sshd.where, HERE).prepare(models)
    assert sent[2:] == [0]
    (there,) = sshd.home.rglob("tiny_fp32.tflite")
    there.write_bytes(there.read_bytes()[:-1])
    SshDevice(sshd.where, HERE).prepare(models)
    assert sent[3:] == [0, 1]
    assert there.read_bytes() == models[0].read_bytes()
    assert all(len(path.name) == 64 for path in cache(sshd))  # nothing half done is left


def test_equal_files_of_two_folders_both_have_their_place(sshd: Sshd, fixtures: Path, tmp_path: Path) -> None:
    twins = [tmp_path / name / "same.tflite" for name in ("a", "b")]
    for twin in twins:
        twin.parent.mkdir()
        twin.write_bytes((fixtures / "tiny_fp32.tflite").read_bytes())
    device = SshDevice(sshd.where, HERE)
    device.prepare(twins)
    for twin in twins:
        with device.start(task_for(twin)) as worker:
            worker.hear(PATIENCE_S)
            assert worker.ask({"command": "open"}, PATIENCE_S)["init_ms"] > 0
    assert len(cache(sshd)) == 2  # edgecbam and one model


def test_names_from_here_are_no_shell_text_there(sshd: Sshd, fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "$(touch pwned)" `touch pwned`;\nü'
    folder.mkdir()
    model = folder / "-m '$(touch pwned)\n\".tflite"
    model.write_bytes((fixtures / "tiny_fp32.tflite").read_bytes())
    device = SshDevice(sshd.where, HERE)
    device.prepare([model])
    with device.start(task_for(model)) as worker:
        worker.hear(PATIENCE_S)
        assert worker.ask({"command": "open"}, PATIENCE_S)["placement"]["device"] == "cpu"
    assert [path for path in sshd.home.rglob("*") if "pwned" in path.name] == []
    assert len(list(sshd.home.rglob("model.tflite"))) == 1


def test_a_python_with_a_difficult_path_is_run(sshd: Sshd) -> None:
    write_script(sshd.home / "it's $(my) python", f'exec {shlex.quote(sys.executable)} "$@"')
    device = SshDevice(sshd.where, Settings(remote_python="~/it's $(my) python"))
    device.prepare([])
    assert device.snapshot().keys() == LocalDevice("cpu").snapshot().keys()


def test_modules_in_the_login_folder_and_an_installed_edgecbam_have_no_say(
    sshd: Sshd, fixtures: Path, tmp_path: Path
) -> None:
    (sshd.home / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n")
    other = tmp_path / "installed" / "edgecbam"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('the wrong edgecbam')\n")
    python = tmp_path / "python"
    write_script(python, f'cd; PYTHONPATH={other.parent}; export PYTHONPATH; exec {sys.executable} "$@"')
    device = SshDevice(sshd.where, Settings(remote_python=str(python)))
    with device.start(task_for(fixtures / "tiny_fp32.tflite")) as worker:
        assert worker.hear(PATIENCE_S) == {"imported": True}


def test_what_is_brought_needs_numpy_alone(tmp_path: Path) -> None:
    for name, content in ssh_bundles.code_bundle().files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        (tmp_path / name).write_bytes(content)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "sys.modules.update(dict.fromkeys(['PIL', 'tomli_w', 'typer', 'rich', 'psutil', 'onnxruntime']))\n"
        "import edgecbam.benchmarks.worker, edgecbam.benchmarks.environment as environment\n"
        "assert edgecbam.__file__.startswith(sys.argv[1])\n"
        "print(environment.describe(['onnxruntime'])['versions']['numpy'])\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path)], check=True, timeout=PATIENCE_S, cwd=tmp_path)


def test_files_that_end_too_early_leave_nothing(tmp_path: Path) -> None:
    request = {"do": "store", "bundles": {"d": {"a": "0" * 64}}, "sizes": {"d": {"a": 100}}}
    done = subprocess.run(
        [sys.executable, "-P", ssh_receiver.__file__],
        input=json.dumps(request).encode() + b"\nshort",
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    assert "ended too early" in json.loads(done.stdout)["failed"]
    assert list((tmp_path / ".cache" / "edgecbam").iterdir()) == []


def test_a_home_that_takes_no_files_is_told(sshd: Sshd, fixtures: Path) -> None:
    (sshd.home / ".cache").write_text("a file where a folder should be")
    with pytest.raises(Unreachable, match=r"cannot be used: (File exists|Not a directory) \(.*\.cache"):
        SshDevice(sshd.where, HERE).prepare([fixtures / "tiny_fp32.tflite"])


# What is told of the machine


def test_the_environment_is_that_of_the_remote_python(sshd: Sshd, tmp_path: Path) -> None:
    python = tmp_path / "python"
    patch = "import platform; platform.python_version = lambda: '9.8.7'; import sys; exec(sys.argv[1])"
    write_script(python, f'exec {sys.executable} -c "{patch}" "$2"')
    device = SshDevice(sshd.where, Settings(remote_python=str(python)))
    device.prepare([])
    described = device.describe(["litert", "onnxruntime"])
    assert described["python"] == "9.8.7"
    assert described["cpu"] == LocalDevice("cpu").describe([])["cpu"]
    assert set(described["versions"]) >= {"numpy", "litert", "onnxruntime"}


def test_a_runtime_that_is_missing_there_is_unsupported_with_the_command(
    sshd: Sshd, fixtures: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    hide = "import sys; sys.modules['ai_edge_litert'] = None; exec(sys.argv[1])"
    write_script(python, f'exec {sys.executable} -c "{hide}" "$2"')
    device = SshDevice(sshd.where, Settings(remote_python=str(python)))
    with device.start(task_for(fixtures / "tiny_fp32.tflite")) as worker, pytest.raises(ChildFailed) as caught:
        worker.hear(PATIENCE_S)
    command = f"ssh -p {sshd.port} 127.0.0.1 {python} -m pip install ai-edge-litert"
    assert caught.value.status == "unsupported"
    assert caught.value.reason.startswith(f"on {device.name}: ")
    assert caught.value.reason.endswith(f"needs the package ai-edge-litert: {command}")


# What cannot be reached


def test_a_python_without_numpy_is_told_with_the_command(sshd: Sshd, tmp_path: Path, run_folder: Path) -> None:
    python = venv(tmp_path / "bare")
    device = SshDevice(sshd.where, Settings(remote_python=str(python)))
    with pytest.raises(Unreachable) as caught:
        device.prepare([run_folder / "export" / "manifest.json"])
    version = sys.version.split()[0]
    command = f"ssh -p {sshd.port} 127.0.0.1 {python} -m pip install numpy pillow"
    assert str(caught.value) == f"{device.name}: its Python {version} lacks numpy pillow: {command}"


def test_a_python_that_is_too_old_is_told(sshd: Sshd, tmp_path: Path) -> None:
    python = tmp_path / "python3.9"
    old = "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (x)'; exec(sys.argv[1])"
    write_script(python, f'exec {sys.executable} -c "{old}" "$2"')
    with pytest.raises(
        Unreachable, match=r"Python 3\.11 or later there, this is 3\.9\.2 \(name another with --remote-p"
    ):
        SshDevice(sshd.where, Settings(remote_python=str(python))).prepare([])


def test_no_python_is_told(sshd: Sshd) -> None:
    with pytest.raises(Unreachable, match="has no Python at /no/such/python: name one with --remote-python"):
        SshDevice(sshd.where, Settings(remote_python="/no/such/python")).prepare([])


def test_a_key_that_the_server_does_not_take(sshd: Sshd) -> None:
    text = (sshd.folder / "ssh_config").read_text()
    client = sshd.bin / "ssh"
    right = client.read_text()
    (sshd.folder / "wrong_config").write_text(text.replace("user_key", "other_key"))
    client.write_text(right.replace("ssh_config", "wrong_config"))
    try:
        with pytest.raises(Unreachable, match=r"Permission denied \(publickey\).*ssh-copy-id"):
            SshDevice(sshd.where, HERE).prepare([])
    finally:
        client.write_text(right)


def test_a_port_where_nobody_listens(sshd: Sshd) -> None:
    where = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=rf"ssh:{where} cannot be reached: .*Connection refused.*check the host and"):
        SshDevice(where, HERE).prepare([])


@pytest.mark.parametrize("known", ["nothing", "another"])
def test_a_host_key_that_was_not_accepted_by_hand(sshd: Sshd, known: str) -> None:
    hosts = sshd.folder / "known_hosts"
    right = hosts.read_text()
    other = (sshd.folder / "other_key.pub").read_text()
    hosts.write_text("" if known == "nothing" else f"[127.0.0.1]:{sshd.port} {other}")
    mend = (
        rf"accept its host key once by hand.*ssh -p {sshd.port} 127\.0\.0\.1" if known == "nothing" else "ssh-keygen -R"
    )
    try:
        with pytest.raises(Unreachable, match=f"Host key verification failed.*{mend}"):
            SshDevice(sshd.where, HERE).prepare([])
        assert hosts.read_text() != right  # and it was not accepted by us
    finally:
        hosts.write_text(right)


def test_no_ssh_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unreachable, match="apt install openssh-client"):
        SshDevice("pi", HERE).prepare([])


def test_a_shell_that_prints_is_told(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "ssh", f'echo Welcome to the machine\nexec {sshd.bin}/ssh "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Unreachable, match=r"prints 'Welcome to the machine.*make its shell start silently"):
        SshDevice(sshd.where, HERE).prepare([])


# What a failure costs


def test_a_crash_there_is_a_crash(sshd: Sshd) -> None:
    with planted(sshd, "os.kill(os.getpid(), 11)") as worker, pytest.raises(ChildFailed, match="SIGSEGV") as caught:
        worker.hear(PATIENCE_S)
    assert caught.value.status == "crash"


def test_the_last_words_of_a_crash_come_along(sshd: Sshd) -> None:
    body = "sys.stderr.write('the kernel is not amused\\n'); sys.exit(7)"
    with planted(sshd, body) as worker, pytest.raises(ChildFailed) as caught:
        worker.hear(PATIENCE_S)
    assert (caught.value.status, caught.value.reason) == (
        "crash",
        "died starting (exit code 7): the kernel is not amused",
    )


def test_a_failure_names_the_file_of_this_side(sshd: Sshd) -> None:
    body = 'os.write(1, b\'{"failed": "input", "reason": "/there/model.tflite is damaged"}\\n\')'
    with planted(sshd, body) as worker, pytest.raises(ChildFailed) as caught:
        worker.hear(PATIENCE_S)
    assert (caught.value.status, caught.value.reason) == ("input", "/here/x.tflite is damaged")


def test_a_worker_that_hangs_is_a_timeout_and_is_ended(sshd: Sshd) -> None:
    with planted(sshd, "time.sleep(600)") as worker:
        (process,) = sshd.workers()
        with pytest.raises(ChildFailed) as caught:
            worker.hear(0.2)
        assert caught.value.status == "timeout"
        process.kill()  # it reads no input, so only a real worker would end by itself


def test_a_connection_that_falls_silent_is_noticed(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_link, "ALIVE_S", 1)
    monkeypatch.setattr(ssh_link, "ALIVE_TIMES", 1)
    with planted(sshd, "sys.stdin.read()") as worker:
        servers = sshd.connections()
        for process in servers:
            process.suspend()
        try:
            with pytest.raises(ChildFailed, match=r"connection to ssh:\S+ lost: Timeout, server") as caught:
                worker.hear(PATIENCE_S)
        finally:
            for process in servers:
                process.resume()
    assert caught.value.status == "skipped"


def test_a_server_that_went_away_before_a_worker_was_there(
    tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        other = serve(tmp_path / "other")
        stack.callback(other.stop)
        monkeypatch.setenv("PATH", f"{other.bin}:{os.environ['PATH']}")
        device = SshDevice(other.where, HERE)
        device.prepare([fixtures / "tiny_fp32.tflite"])
    with pytest.raises(Unreachable, match="Connection refused"):
        device.start(task_for(fixtures / "tiny_fp32.tflite"))
    with pytest.raises(Unreachable, match="Connection refused"):
        device.snapshot()


PARENT = """
import json, sys
from pathlib import Path
from edgecbam.benchmarks.devices import Settings
from edgecbam.benchmarks.ssh_device import SshDevice
task = json.loads(sys.argv[2])
worker = SshDevice(sys.argv[1], Settings(remote_python=sys.executable)).start(task)
worker.hear(60), worker.ask({"command": "open"}, 60)
worker.tell({"command": "warm", "runs": 1, "seconds": 600})
print("busy", flush=True)
sys.stdin.read()
"""


def test_a_killed_parent_leaves_no_worker_there(sshd: Sshd, fixtures: Path) -> None:
    task = json.dumps(task_for(fixtures / "tiny_fp32.tflite"))
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, sshd.where, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"busy\n"
        workers = sshd.workers()
        assert len(workers) == 1
        assert os.getpgid(workers[0].pid) == workers[0].pid  # so that it can end what the runtime has started
        parent.kill()
    assert wait_until(lambda: not any(psutil.pid_exists(process.pid) for process in workers))
    assert wait_until(lambda: not sshd.connections())


# Whole measurements


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_protocol: Protocol) -> str:
    monkeypatch.setitem(protocol.PROTOCOLS, "tiny", tiny_protocol)
    return "tiny"


def by_device(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["device"]: row for row in report["results"]}


def test_this_machine_and_another_in_one_report(sshd: Sshd, fixtures: Path, tiny: str) -> None:
    name = f"ssh:{sshd.where}"
    request = measure.Request(runtimes=("litert",), protocol=tiny, devices=("cpu", name), settings=HERE)
    report = measure.benchmark_models([fixtures / "tiny_fp32.tflite"], request)
    rows = by_device(report)
    assert {device: row["status"] for device, row in rows.items()} == {"cpu": "ok", name: "ok"}, rows
    assert rows[name]["parity"]["checked"]
    assert rows[name]["runtime_version"] == rows["cpu"]["runtime_version"]
    assert rows[name]["latency_ms"]["n"] == rows["cpu"]["latency_ms"]["n"]
    assert {(c["kind"], c["device"]) for c in report["comparisons"]} == {("control", "cpu"), ("control", name)}
    machine = report["devices"][name]
    assert machine["environment"]["versions"]["litert"] == rows[name]["runtime_version"]
    assert machine["before"].keys() == machine["after"].keys()
    assert wait_until(lambda: not sshd.workers())
    assert cache(sshd)  # what was brought stays


def test_a_connection_that_is_cut_costs_its_cell_and_a_rerun_measures_it(
    sshd: Sshd, fixtures: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"ssh:{sshd.where}"
    request = measure.Request(runtimes=("litert",), protocol=tiny, devices=(name,), settings=HERE)
    models = [fixtures / "tiny_fp32.tflite", fixtures / "tiny_int8.tflite"]
    tell = SshWorker.tell
    cut: list[str] = []

    def cutting(self: SshWorker, message: dict[str, Any]) -> None:
        tell(self, message)
        model = next(iter(self._paths_here))
        if message["command"] == "block" and "tiny_int8" in model and not cut:
            mine = [worker for worker in sshd.workers() if any(model in f for f in open_files(worker))]
            cut.append(model)
            assert len(mine) == 1
            for process in set(mine[0].parents()) & set(sshd.connections()):
                process.kill()

    with monkeypatch.context() as patch:
        patch.setattr(SshWorker, "tell", cutting)
        report = measure.benchmark_models(models, request)
    rows = {row["model"]: row for row in report["results"]}
    lost = rows.pop("tiny_int8.tflite")
    assert (lost["status"], lost["latency_ms"]) == ("skipped", None)
    assert lost["reason"].startswith(f"connection to {name} lost")
    assert rows["tiny_fp32.tflite"]["status"] == "ok", rows

    again = measure.benchmark_models(models, request, earlier=report)
    assert {row["status"] for row in again["results"]} == {"ok"}, again["results"]
    assert len(again["measurements"]) == 2
    remeasured = [row for row in again["results"] if row["measurement"] == 1]
    assert [row["model"] for row in remeasured] == ["tiny_int8.tflite"]


def open_files(process: psutil.Process) -> list[str]:
    return [*(entry.path for entry in process.memory_maps()), *(entry.path for entry in process.open_files())]


def test_a_device_that_cannot_be_reached_costs_its_cells_alone(sshd: Sshd, fixtures: Path, tiny: str) -> None:
    name = f"ssh:127.0.0.1:{free_port()}"
    request = measure.Request(runtimes=("litert",), protocol=tiny, devices=("cpu", name), settings=HERE)
    report = measure.benchmark_models([fixtures / "tiny_fp32.tflite"], request)
    rows = by_device(report)
    assert rows["cpu"]["status"] == "ok"
    assert rows[name]["status"] == "skipped"
    assert "Connection refused" in rows[name]["reason"]
    assert rows[name]["runtime_version"] is None
    assert name not in report["devices"]


def test_workers_are_started_one_handshake_at_a_time(sshd: Sshd, fixtures: Path) -> None:
    device = SshDevice(sshd.where, HERE)
    device.prepare([fixtures / "tiny_fp32.tflite"])
    with contextlib.ExitStack() as stack:  # the server allows two unfinished handshakes
        workers = [stack.enter_context(device.start(task_for(fixtures / "tiny_fp32.tflite"))) for _ in range(6)]
        assert [worker.hear(PATIENCE_S) for worker in workers] == [{"imported": True}] * 6
