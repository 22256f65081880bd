"""Rounds are interleaved and random, a bad cell costs only itself, and no process survives."""

import dataclasses
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecbam.benchmarks import measure
from edgecbam.benchmarks.cells import Cell, with_controls
from edgecbam.benchmarks.child import Child, ChildFailed
from edgecbam.benchmarks.devices import LocalDevice, Unreachable
from edgecbam.benchmarks.protocol import Protocol, find_protocol
from edgecbam.errors import InputError
from edgecbam.events import Event

PLANTED_COMMAND = (sys.executable, "-I", str(Path(__file__).with_name("planted_worker.py")))
LeftBehind = Callable[[], list[int]]
Planted = Callable[[Cell | None, dict[str, Any]], Child]


def cell(name: str, folder: Path, baseline: str | None = "fine_1000.tflite") -> Cell:
    path = folder / name
    path.write_text("")
    return Cell(name, path, "litert", 1, None, baseline)


class FakeChild:
    """Answers at once with times from a clock of its own that drifts with every block taken from anyone."""

    log: list[tuple[int, str, str]]
    numbers = itertools.count()

    def __init__(self, task: dict[str, Any], log: list[tuple[int, str, str]], clock: list[int]) -> None:
        self.name = Path(task["model"]).stem
        self.number = next(self.numbers)
        self.log = log
        self.clock = clock
        self.killed = False
        self.pending: dict[str, Any] = {"imported": True}

    def tell(self, message: dict[str, Any]) -> None:
        self.log.append((self.number, self.name, message["command"]))
        if message["command"] == "open":
            memory = {"imported_bytes": None, "peak_bytes": 5}
            self.pending = {"init_ms": 1.0, "first_ms": 1.0, "memory": memory, "placement": {}}
        elif message["command"] == "check":
            self.pending = {"passed": True, "reason": "", "parity": {"checked": False, "reason": "fake"}}
        elif message["command"] == "block":
            self.clock[0] += 1
            speed = {"fast": 500, "slow": 1000}[self.name]
            self.pending = {"ns": [speed * self.clock[0]] * message["runs"]}
        elif message["command"] == "nodes":
            self.pending = {"nodes": {"total": 1}}

    def hear(self, timeout_s: float) -> dict[str, Any]:
        return self.pending

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.tell(message)
        return self.hear(timeout_s)

    def kill(self) -> None:
        self.killed = True

    def __enter__(self) -> "FakeChild":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture
def fake() -> tuple[Callable[[Cell, dict[str, Any]], Any], list[tuple[int, str, str]], list[FakeChild]]:
    log: list[tuple[int, str, str]] = []
    children: list[FakeChild] = []
    clock = [100]

    def start(cell: Cell, task: dict[str, Any]) -> FakeChild:
        children.append(FakeChild(task, log, clock))
        return children[-1]

    return start, log, children


def fake_cells(folder: Path) -> list[Cell]:
    return with_controls([cell("slow.tflite", folder, "slow.tflite"), cell("fast.tflite", folder, "slow.tflite")])


def test_rounds_visit_every_process_once_in_random_order(tmp_path: Path, fake: Any) -> None:
    start, log, children = fake
    protocol = dataclasses.replace(find_protocol("quick"), processes=3, rounds=30)
    report = measure.measure(fake_cells(tmp_path), [], protocol, start=start)
    blocks = [number for number, _, command in log if command == "block"]
    assert len(children) == 3 * 3, "three sessions of two cells and a control, each a fresh process"
    assert len(blocks) == 3 * 30 * 3
    orders = [tuple(blocks[i : i + 3]) for i in range(0, len(blocks), 3)]
    assert all(len(set(order)) == 3 for order in orders), "a round takes one block of every process"
    for session in range(3):
        seen = Counter(orders[30 * session : 30 * (session + 1)])
        assert len(seen) == 6, "all six orders come up in thirty rounds"
        assert max(seen.values()) < 15
    assert all(child.killed for child in children)
    assert [row["status"] for row in report["results"]] == ["ok", "ok"]
    assert [row["latency_ms"]["n"] for row in report["results"]] == [3 * 30 * 5] * 2


def test_nothing_is_timed_before_all_are_ready(tmp_path: Path, fake: Any) -> None:
    start, log, _ = fake
    measure.measure(fake_cells(tmp_path), [], dataclasses.replace(find_protocol("quick"), processes=1), start=start)
    steps = [command for _, _, command in log]
    assert steps[:9] == ["open"] * 3 + ["check"] * 3 + ["warm"] * 3
    assert set(steps[9:]) == {"block"}


def test_nodes_are_asked_for_once_and_after_all_blocks_of_a_session(tmp_path: Path, fake: Any) -> None:
    start, log, _ = fake
    protocol = dataclasses.replace(find_protocol("quick"), processes=2)
    cells = [dataclasses.replace(cell, runtime="onnxruntime") for cell in fake_cells(tmp_path)]
    report = measure.measure(cells, [], protocol, start=start)
    steps = [command for _, _, command in log]
    first = steps.index("nodes")
    assert steps[first : first + 3] == ["nodes", "nodes", "open"], "two cells without their control, then new processes"
    assert steps.count("block") == 2 * steps[:first].count("block")
    assert steps.count("nodes") == 2
    assert [row["nodes"] for row in report["results"]] == [{"total": 1}] * 2


class HangsAtNodes(Child):
    """Is waited for only so long as it takes to see that it hangs."""

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return super().ask(message, 0.5 if message["command"] == "nodes" else timeout_s)


@pytest.mark.parametrize("fault", ["crash", "exit", "junk", "list", "input", "unsupported", "hang"])
def test_a_runtime_that_does_not_tell_its_nodes_costs_no_row(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted, fault: str
) -> None:
    def start(cell: Cell, task: dict[str, Any]) -> Child:
        return HangsAtNodes(task, PLANTED_COMMAND) if "hang" in task["model"] else planted(cell, task)

    names = ["fine_1000.tflite", f"{fault}_nodes.tflite"]
    cells = [dataclasses.replace(cell(name, tmp_path), runtime="onnxruntime") for name in names]
    told, silent = measure.measure(cells, [], tiny_protocol, start=start)["results"]
    assert (told["nodes"]["integer"], told["nodes_reason"]) == (2, "")
    assert (silent["status"], silent["reason"], silent["latency_ms"]["n"]) == ("ok", "", 2 * 2 * 3)
    assert silent["nodes"] is None
    assert silent["nodes_reason"]


def test_interleaving_cancels_a_clock_that_drifts(tmp_path: Path, fake: Any) -> None:
    start, _, _ = fake
    report = measure.measure(fake_cells(tmp_path), [], find_protocol("quick"), start=start)
    by_kind = {comparison["kind"]: comparison for comparison in report["comparisons"]}
    assert by_kind["candidate"]["ratio"]["value"] == pytest.approx(0.5, rel=0.01)
    assert by_kind["candidate"]["verdict"] == "faster"
    assert by_kind["control"]["ratio"]["value"] == pytest.approx(1.0, rel=0.01)
    assert by_kind["control"]["verdict"] == "inconclusive"


def test_the_same_seed_gives_the_same_order_and_another_another(tmp_path: Path, fake: Any) -> None:
    start, log, _ = fake
    protocol = dataclasses.replace(find_protocol("quick"), processes=1)
    orders = []
    for seed in (1, 1, 2):
        log.clear()
        measure.measure(fake_cells(tmp_path), [], dataclasses.replace(protocol, seed=seed), start=start)
        first = min(number for number, _, _ in log)
        orders.append([number - first for number, _, command in log if command == "block"])
    assert orders[0] == orders[1] != orders[2]


FAULTS = {
    "crash_start.tflite": ("crash", "died starting (SIGSEGV): the kernel is not amused"),
    "crash_block.tflite": ("crash", "died in block (SIGSEGV): the kernel is not amused"),
    "exit_warm.tflite": ("crash", "died in warm (exit code 7)"),
    "junk_open.tflite": ("crash", "unintelligible answer in open"),
    "list_check.tflite": ("crash", "unintelligible answer in check"),
    "unsupported_open.tflite": ("unsupported", "no kernel for GELU"),
    "wrong_.tflite": ("wrong_output", "outputs are wrong"),
}


def test_a_failing_cell_is_a_row_and_costs_only_itself(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    names = ["fine_1000.tflite", "fine_2000.tflite", *FAULTS]
    cells = with_controls([cell(name, tmp_path) for name in names])
    report = measure.measure(cells, [], tiny_protocol, start=planted)
    rows = {row["model"]: row for row in report["results"]}
    for name, (status, reason) in FAULTS.items():
        assert rows[name]["status"] == status, name
        assert reason in rows[name]["reason"], name
        assert rows[name]["latency_ms"] is None
        assert rows[name]["init_ms"] is None
    assert rows["fine_1000.tflite"]["latency_ms"]["p50"] == pytest.approx(0.001)
    assert [(c["kind"], c["candidate"]) for c in report["comparisons"]] == [
        ("candidate", "fine_2000.tflite"),
        ("control", "fine_1000.tflite"),
    ]
    assert report["comparisons"][0]["ratio"] == pytest.approx({"value": 2, "low": 2, "high": 2})
    assert np.asarray(report["raw_ns"]["fine_2000.tflite|litert|cpu|1"]).shape == (2, 2, 3)


class Patient(Child):
    """Waits long for whoever means to answer: a slow machine decides nothing here."""

    def hear(self, timeout_s: float) -> dict[str, Any]:
        return super().hear(timeout_s if self.hangs else 60)

    hangs = False


@pytest.mark.parametrize("moment", ["start", "open", "block"])
def test_a_hanging_cell_is_a_timeout_and_costs_only_itself(
    tmp_path: Path, moment: str, left_behind: LeftBehind
) -> None:
    def start(cell: Cell, task: dict[str, Any]) -> Child:
        child = Patient(task, PLANTED_COMMAND)
        child.hangs = "hang" in task["model"]
        return child

    protocol = Protocol("hasty", 1, 1, 1, 0, 1, "a test", timeout_s=1)
    cells = [cell("fine_1000.tflite", tmp_path), cell(f"hang_{moment}.tflite", tmp_path)]
    report = measure.measure(cells, [], protocol, start=start)
    assert [row["status"] for row in report["results"]] == ["ok", "timeout"]
    assert "no answer within 1" in report["results"][1]["reason"]
    assert left_behind() == []


def test_a_cell_that_dies_in_a_later_process_has_no_latency(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    cells = [cell("fine_1000.tflite", tmp_path), cell("second_block.tflite", tmp_path)]
    report = measure.measure(cells, [], tiny_protocol, start=planted)
    row = report["results"][1]
    assert (row["status"], row["latency_ms"]) == ("crash", None)
    assert "process 2 of 2" in row["reason"]
    assert report["comparisons"] == []


def test_without_its_baseline_nothing_is_compared(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    cells = [
        cell("crash_block.tflite", tmp_path, "crash_block.tflite"),
        cell("fine_1000.tflite", tmp_path, "crash_block.tflite"),
    ]
    report = measure.measure(cells, [], tiny_protocol, start=planted)
    assert [row["status"] for row in report["results"]] == ["crash", "ok"]
    assert report["comparisons"] == []


def test_a_damaged_file_stops_everything_before_any_round(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted, left_behind: LeftBehind
) -> None:
    events: list[Event] = []
    cells = [cell("fine_1000.tflite", tmp_path), cell("input_open.tflite", tmp_path)]
    with pytest.raises(InputError, match=r"input_open\.tflite is damaged"):
        measure.measure(cells, [], tiny_protocol, events.append, start=planted)
    assert events == []
    assert left_behind() == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_process_behind(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted, interruption: type[BaseException]
) -> None:
    started: list[Child] = []

    def start(cell: Cell, task: dict[str, Any]) -> Child:
        started.append(planted(cell, task))
        return started[-1]

    def interrupt(event: Event) -> None:
        assert all(psutil.pid_exists(child.pid) for child in started)
        raise interruption

    cells = [cell("fine_1000.tflite", tmp_path), cell("fine_2000.tflite", tmp_path)]
    with pytest.raises(interruption):
        measure.measure(cells, [], tiny_protocol, interrupt, start=start)
    assert len(started) == 2
    assert not any(psutil.pid_exists(child.pid) for child in started)


def test_what_a_runtime_starts_ends_with_its_worker(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    spawning = cell("spawn_open.tflite", tmp_path)
    report = measure.measure([spawning], [], dataclasses.replace(tiny_protocol, processes=1), start=planted)
    assert report["results"][0]["status"] == "ok"
    pid = int(spawning.path.read_text())
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_cells_that_cannot_start_are_rows_too(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    absent = dataclasses.replace(cell("fine_2000.tflite", tmp_path), status="unsupported", reason="pip install it")
    report = measure.measure([absent], [], tiny_protocol, start=planted)
    assert [(row["status"], row["reason"]) for row in report["results"]] == [("unsupported", "pip install it")]
    assert report["comparisons"] == []
    assert report["raw_ns"] == {}


def test_progress_counts_every_round(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    events: list[Event] = []
    measure.measure([cell("fine_1000.tflite", tmp_path)], [], tiny_protocol, events.append, start=planted)
    assert [(event.step, event.total, event.unit) for event in events] == [(i, 4, "round") for i in (1, 2, 3, 4)]


def test_a_worker_ends_with_its_parent_even_while_it_hangs(tmp_path: Path) -> None:
    """The real worker: when its standard input ends, it goes away whatever it is doing."""
    child = Child({"model": str(tmp_path / "x.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None})
    assert child.hear(60) == {"imported": True}
    process = psutil.Process(child.pid)
    assert child._process.stdin is not None
    child._process.stdin.close()
    process.wait(timeout=20)
    assert not process.is_running()
    child.kill()


def test_child_can_be_killed_twice_and_says_how_it_died(planted: Planted, tmp_path: Path) -> None:
    child = planted(None, {"model": str(cell("crash_open.tflite", tmp_path).path)})
    assert child.hear(20) == {"imported": True}
    with pytest.raises(ChildFailed) as failed:
        child.ask({"command": "open"}, 20)
    assert failed.value.status == "crash"
    assert "SIGSEGV" in failed.value.reason
    child.kill()
    child.kill()


def test_reports_are_written_whole_and_raw_samples_apart(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    cells = with_controls([cell("fine_1000.tflite", tmp_path)])
    report = measure.measure(cells, [], tiny_protocol, start=planted)
    out = tmp_path / "out"
    out.mkdir()
    measure.write_report(out, report)
    written = json.loads((out / "report.json").read_text())
    assert "raw_ns" not in written
    assert written == {key: value for key, value in report.items() if key != "raw_ns"}
    with np.load(out / "samples.npz") as raw:
        assert set(raw) == {"fine_1000.tflite|litert|cpu|1", "fine_1000.tflite|litert|cpu|1|control"}
        assert raw["fine_1000.tflite|litert|cpu|1"].dtype == np.int64
        np.testing.assert_array_equal(raw["fine_1000.tflite|litert|cpu|1"], np.full((2, 2, 3), 1000))
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "samples.npz"]


def test_quick_says_that_it_is_a_look_and_unknown_protocols_get_the_nearest() -> None:
    assert find_protocol("quick").describe()["note"] == "quick protocol: a look, not a publication"
    quick, standard, rigorous = (find_protocol(name) for name in ("quick", "standard", "rigorous"))
    counts = [p.processes * p.rounds * p.block for p in (quick, standard, rigorous)]
    assert counts == sorted(counts)
    assert min(counts[1:]) >= 662, "p99 needs that many"
    with pytest.raises(InputError, match="did you mean rigorous"):
        find_protocol("rigourous")


def test_functional_rows_are_checked_once_and_never_timed(tmp_path: Path, fake: Any) -> None:
    start, log, children = fake

    def emulated(cell: Cell, task: dict[str, Any]) -> Any:
        child = start(cell, task)
        if child.name == "fast":
            told = child.tell
            child.tell = lambda message: (told(message), child.pending.update(functional="an emulation"))
        return child

    report = measure.measure(fake_cells(tmp_path), [], find_protocol("quick"), start=emulated)
    slow, fast = report["results"]
    assert (slow["status"], fast["status"], fast["reason"]) == ("ok", "functional_only", "an emulation")
    assert (fast["latency_ms"], fast["init_ms"]) == (None, None)
    assert fast["memory"] == {"imported_bytes": None, "peak_bytes": 5}
    assert [command for _, name, command in log if name == "fast"] == ["open", "check"]
    assert {comparison["kind"] for comparison in report["comparisons"]} == {"control"}
    assert sum(child.name == "fast" for child in children) == 1


def test_warming_up_takes_both_a_number_of_runs_and_a_time(fixtures: Path) -> None:
    task = {"model": str(fixtures / "tiny_fp32.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with Child(task) as child:
        child.hear(60)
        child.ask({"command": "open"}, 60)
        assert child.ask({"command": "warm", "runs": 3, "seconds": 0}, 60)["runs"] == 3
        started = time.perf_counter()
        done = child.ask({"command": "warm", "runs": 3, "seconds": 0.05}, 60)["runs"]
        assert time.perf_counter() - started >= 0.05
        assert done > 3


class LostDevice(LocalDevice):
    """Is reached the first ``good`` times that a worker is wanted, and never again."""

    def __init__(self, good: int, planted: Planted) -> None:
        super().__init__("ssh:lost")
        self.good, self.planted = good, planted

    def start(self, task: dict[str, Any]) -> Child:
        self.good -= 1
        if self.good < 0:
            raise Unreachable("connection to ssh:lost lost")
        return self.planted(None, task)


def planted_device(name: str, planted: Planted) -> LocalDevice:
    device = LocalDevice(name)
    device.start = lambda task: planted(None, task)  # type: ignore[method-assign]
    return device


def two_devices(folder: Path) -> list[Cell]:
    names = ("fine_1000.tflite", "fine_2000.tflite")
    here = [cell(name, folder) for name in names]
    return with_controls([*here, *(dataclasses.replace(c, device="ssh:lost") for c in here)])


def test_a_lost_device_costs_its_cells_alone_and_measuring_goes_on(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    cells = two_devices(tmp_path)
    models = [{"name": c.model, "sha256": c.model, "bytes": 1} for c in cells[:2]]
    devices = [planted_device("cpu", planted), LostDevice(4, planted)]
    first = measure.measure(cells, models, tiny_protocol, devices=devices)
    assert [(row["device"], row["status"]) for row in first["results"]].count(("cpu", "ok")) == 2
    lost = [row for row in first["results"] if row["device"] == "ssh:lost"]
    assert {row["status"] for row in lost} & {"skipped"}
    assert all("connection to ssh:lost lost (process 2 of 2)" in row["reason"] for row in lost if row["status"] != "ok")
    assert {c["device"] for c in first["comparisons"] if c["kind"] == "candidate"} == {"cpu"}

    asked: list[str] = []

    class Back(LocalDevice):
        def start(self, task: dict[str, Any]) -> Child:
            asked.append(self.name)
            return planted(None, task)

    again = measure.measure(cells, models, tiny_protocol, devices=[Back("cpu"), Back("ssh:lost")], earlier=first)
    assert set(asked) == {"ssh:lost"}, "what is there is not measured again"
    assert [(row["model"], row["device"], row["status"]) for row in again["results"]] == [
        (c.model, c.device, "ok") for c in cells if not c.control
    ]
    assert [row["measurement"] for row in again["results"]][:2] == [0, 0]
    assert [len(entry["cells"]) for entry in again["measurements"]] == [6, 3]
    compared = [(c["device"], c["measurement"]) for c in again["comparisons"] if c["kind"] == "candidate"]
    assert compared == [("cpu", 0), ("ssh:lost", 1)]
    whole = measure.measure(cells, models, tiny_protocol, devices=[Back("cpu"), Back("ssh:lost")], earlier=again)
    assert whole["results"] == again["results"]
    assert set(asked) == {"ssh:lost"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"models": []}, "another choice of models"),
        ({"protocol": {}}, "another choice of protocol"),
        ({"inputs": {"shapes": {"x": [1]}, "file_sha256": None}}, "another choice of inputs"),
    ],
)
def test_measuring_goes_on_only_with_the_same_measurement(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted, change: dict[str, Any], match: str
) -> None:
    cells = [cell("fine_1000.tflite", tmp_path)]
    models = [{"name": "fine_1000.tflite", "sha256": "x", "bytes": 1}]
    first = measure.measure(cells, models, tiny_protocol, start=planted)
    with pytest.raises(InputError, match=match):
        measure.measure(cells, models, tiny_protocol, start=planted, earlier={**first, **change})


def test_a_device_that_is_not_there_is_skipped_with_its_reason(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    class Absent(LocalDevice):
        def prepare(self, files: Any) -> None:
            raise Unreachable("no route to host")

    events: list[Event] = []
    devices = [planted_device("cpu", planted), Absent("ssh:lost")]
    report = measure.measure(two_devices(tmp_path), [], tiny_protocol, events.append, devices=devices)
    assert [(row["status"], row["reason"]) for row in report["results"]] == [
        *[("ok", "")] * 2,
        *[("skipped", "no route to host")] * 2,
    ]
    assert "ssh:lost: no route to host" in [event.message for event in events]
    assert set(report["devices"]) == {"cpu"}
    assert report["devices"]["cpu"]["after"]["load"] is not None


def test_without_its_baseline_a_whole_place_is_measured_again(
    tmp_path: Path, tiny_protocol: Protocol, planted: Planted
) -> None:
    cells = with_controls([cell(name, tmp_path) for name in ("fine_1000.tflite", "fine_2000.tflite")])
    first = measure.measure(cells, [], tiny_protocol, start=planted)
    first["results"][0] |= {"status": "crash", "latency_ms": None}
    first["comparisons"] = []
    again = measure.measure(cells, [], tiny_protocol, start=planted, earlier=first)
    assert [row["status"] for row in again["results"]] == ["ok", "ok"]
    assert [(c["kind"], c["measurement"]) for c in again["comparisons"]] == [("candidate", 1), ("control", 1)]


def test_rows_that_were_not_asked_for_again_are_kept(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    one, two = (cell(name, tmp_path) for name in ("fine_1000.tflite", "fine_2000.tflite"))
    first = measure.measure(with_controls([one, two]), [], tiny_protocol, start=planted)
    more = dataclasses.replace(one, threads=2)
    again = measure.measure(with_controls([more]), [], tiny_protocol, start=planted, earlier=first)
    assert [(row["model"], row["threads"], row["measurement"]) for row in again["results"]] == [
        ("fine_1000.tflite", 1, 0),
        ("fine_2000.tflite", 1, 0),
        ("fine_1000.tflite", 2, 1),
    ]


def test_a_slow_model_is_waited_for(tmp_path: Path, fake: Any) -> None:
    """Patience grows with what the first inference took."""
    start, _, children = fake
    heard: list[float] = []

    def patient(cell: Cell, task: dict[str, Any]) -> Any:
        child = start(cell, task)
        ask = child.ask
        child.ask = lambda message, timeout_s: heard.append(timeout_s) or {**ask(message, timeout_s), "first_ms": 9000}
        return child

    protocol = Protocol("slow", 1, 1, 10, 1, 50, "a test", timeout_s=60)
    measure.measure([fake_cells(tmp_path)[0]], [], protocol, start=patient)
    assert heard == [60, 60 + 3 * 50 * 9, 60 + 3 * 11 * 9], "to open, to warm up, for a block"
    assert all(child.killed for child in children)


def test_a_finished_report_can_get_profiles(tmp_path: Path, tiny_protocol: Protocol, planted: Planted) -> None:
    cells = with_controls([cell("fine_1000.tflite", tmp_path)])
    first = measure.measure(cells, [], tiny_protocol, start=planted)
    asked = measure.Request(profile=True)
    again = measure.measure(cells, [], tiny_protocol, start=planted, earlier=first, request=asked)
    told = [(entry["model"], entry["status"], entry["reason"]) for entry in again["profiles"]]
    assert told == [("fine_1000.tflite", "unsupported", "planted: no profile")]
    assert again["results"] == first["results"]
