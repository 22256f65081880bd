"""The sessions of a measurement: fresh processes for every cell, then rounds of short blocks in random order.

Measuring A and then B on a shared machine compares two moments, not two models. So every cell is a process of its
own, all of them ready before the first timed run, and the parent takes a short block of runs from each in a new
random order, round after round; then come fresh processes, because processes differ too. A second process of the
baseline runs along as a control: it shows what difference two equal things have on this machine, today.
"""

import contextlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecbam import runtimes
from edgecbam.errors import InputError
from edgecbam.events import Event, OnEvent, ignore

from .cells import Cell
from .child import Child, ChildFailed, Worker
from .protocol import Protocol

STAGE = "benchmark"
PARITY_IMAGES = 64  # in every process after the first, which checks all samples
ALL_IMAGES = 2**31
CHECK_PATIENCE, CHECK_RUNS = 5, 8  # a check is many inferences, of a bare file so many
SLOWER_THAN_FIRST = 3  # an inference takes no longer than this times the first one
PROFILE_RUNS = 50

Start = Callable[[Cell, dict[str, Any]], Worker]


@dataclass
class Outcome:
    """What became of one cell. ``samples_ns`` holds [rounds, runs] for each process that went through, ``cpus`` what
    each was bound to.

    ``nodes`` counts those on integers and in float; where the runtime should have told and did not, it is None and
    ``nodes_reason`` says why. That is no failure of the cell.
    """

    status: str = "ok"
    reason: str = ""
    opened: list[dict[str, Any]] = field(default_factory=list)
    check: dict[str, Any] | None = None
    cpus: list[list[int] | None] = field(default_factory=list)
    samples_ns: list[list[list[int]]] = field(default_factory=list)
    nodes: dict[str, Any] | None = None
    nodes_reason: str = ""


def start_here(cell: Cell, task: dict[str, Any]) -> Worker:
    """A worker on this machine."""
    return Child(task)


def run_sessions(
    cells: Sequence[Cell], protocol: Protocol, on_event: OnEvent = ignore, start: Start = start_here
) -> dict[str, Outcome]:
    """Run every session of a protocol; returns the outcome of each cell by key. No process is left behind.

    Args:
        cells: what to measure, controls included.
        protocol: how long.
        on_event: told of every round.
        start: starts a worker for a cell, from its task.

    Raises:
        InputError: a model file is damaged.
    """
    outcomes = {cell.key: Outcome(cell.status or "ok", cell.reason) for cell in cells}
    order = random.Random(protocol.seed)
    for number in range(protocol.processes):
        alive = [cell for cell in cells if outcomes[cell.key].status == "ok"]
        order.shuffle(alive)
        if alive:
            _Session(number, alive, outcomes, protocol, order, on_event).run(start)
    return outcomes


class _Session:
    """One fresh process for each cell: start, open, check, warm up, then rounds of blocks."""

    def __init__(
        self,
        number: int,
        cells: Sequence[Cell],
        outcomes: dict[str, Outcome],
        protocol: Protocol,
        order: random.Random,
        on_event: OnEvent,
    ) -> None:
        self.number, self.cells, self.outcomes = number, cells, outcomes
        self.protocol, self.order, self.on_event = protocol, order, on_event
        self.workers: dict[str, Worker] = {}

    def run(self, start: Start) -> None:
        """The whole session; every worker is gone afterwards."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._kill_all)
            for cell in self.cells:
                self._start(cell, start)
            for cell in self.cells:  # importing goes on side by side: nothing is timed yet
                self._hear(cell.key, self.protocol.timeout_s)
            for cell in self.cells:  # one after another, for init_ms and first_ms are times
                opened = self._ask(cell.key, {"command": "open"})
                if opened is not None:
                    self.outcomes[cell.key].opened.append(opened)
            self._check()
            for cell in self.cells:
                warm = {"command": "warm", "runs": self.protocol.warm_up, "seconds": self.protocol.warm_up_s}
                answer = self._ask(cell.key, {**warm, "turn": self.number}, self.protocol.warm_up)
                if answer is not None:
                    self.outcomes[cell.key].cpus.append(answer.get("cpus"))
            self._rounds()
            if self.number == 0:  # it opens the file a second time: nothing is timed any more
                for cell in self.cells:
                    self._ask_nodes(cell)

    def _start(self, cell: Cell, start: Start) -> None:
        try:
            self.workers[cell.key] = start(cell, task_of(cell, self.protocol))
        except ChildFailed as failure:
            self._fail(cell.key, failure)

    def _kill_all(self) -> None:
        for worker in self.workers.values():
            worker.kill()

    def _step(self, key: str, action: Callable[[Worker], dict[str, Any]]) -> dict[str, Any] | None:
        """Do something with a worker that is still there; a failure costs this cell and no other."""
        if key not in self.workers:
            return None
        try:
            return action(self.workers[key])
        except ChildFailed as failure:
            self._fail(key, failure)
            return None

    def _hear(self, key: str, timeout_s: float) -> dict[str, Any] | None:
        return self._step(key, lambda worker: worker.hear(timeout_s))

    def _ask(self, key: str, message: dict[str, Any], runs: int = 0) -> dict[str, Any] | None:
        return self._step(key, lambda worker: worker.ask(message, self._patience(key, runs)))

    def _patience(self, key: str, runs: int) -> float:
        """Seconds to wait for an answer that takes so many inferences: a slow model is no hanging one."""
        opened = self.outcomes[key].opened
        first_s = (opened[-1]["first_ms"] or 0.0) / 1000 if opened else 0.0
        return self.protocol.timeout_s + SLOWER_THAN_FIRST * runs * first_s

    def _fail(self, key: str, failure: ChildFailed) -> None:
        self._drop(key)
        if failure.status == "input":
            raise InputError(failure.reason) from None
        which = f" (process {self.number + 1} of {self.protocol.processes})" if self.number else ""
        self.outcomes[key].status, self.outcomes[key].reason = failure.status, failure.reason + which
        self.on_event(Event(STAGE, f"{key}: {failure.status}: {failure.reason}{which}"))

    def _drop(self, key: str) -> None:
        worker = self.workers.pop(key, None)
        if worker is not None:
            worker.kill()

    def _check(self) -> None:
        """Parity in every process, as many at once as the machine has CPUs for."""
        images = PARITY_IMAGES if self.number else ALL_IMAGES
        at_once = max(1, (os.cpu_count() or 1) // self.cells[0].threads)
        keys = list(self.workers)
        for group in (keys[i : i + at_once] for i in range(0, len(keys), at_once)):
            for key in group:
                self.workers[key].tell({"command": "check", "images": images})
            for key in group:
                patience = self._patience(key, CHECK_RUNS) + (CHECK_PATIENCE - 1) * self.protocol.timeout_s
                check = self._hear(key, patience)
                if check is not None:
                    self._note_check(key, check)

    def _note_check(self, key: str, check: dict[str, Any]) -> None:
        outcome = self.outcomes[key]
        outcome.check = outcome.check or check
        functional = outcome.opened[-1].get("functional")
        if not check["passed"]:
            which = f" (process {self.number + 1})" if self.number else ""
            outcome.status, outcome.reason = "wrong_output", check["reason"] + which
        elif functional:  # it computes what it should, and its time means nothing
            outcome.status, outcome.reason = "functional_only", functional
        else:
            return
        self._drop(key)

    def _rounds(self) -> None:
        samples: dict[str, list[list[int]]] = {key: [] for key in self.workers}
        block = {"command": "block", "lead_in": self.protocol.lead_in, "runs": self.protocol.block}
        total = self.protocol.processes * self.protocol.rounds
        for number in range(self.protocol.rounds):
            keys = list(self.workers)
            self.order.shuffle(keys)
            for key in keys:
                answer = self._ask(key, block, self.protocol.lead_in + self.protocol.block)
                if answer is not None:
                    samples[key].append(answer["ns"])
            step = self.number * self.protocol.rounds + number + 1
            self.on_event(Event(STAGE, step=step, total=total, unit="round"))
        for key in self.workers:
            self.outcomes[key].samples_ns.append(samples[key])

    def _ask_nodes(self, cell: Cell) -> None:
        tells = cell.runtime in runtimes.RUNTIMES and runtimes.find(cell.runtime).nodes is not None
        if not tells or cell.control or cell.key not in self.workers:
            return
        outcome = self.outcomes[cell.key]
        try:
            outcome.nodes = self.workers[cell.key].ask({"command": "nodes"}, self.protocol.timeout_s)["nodes"]
        except ChildFailed as failure:
            outcome.nodes_reason = failure.reason


def task_of(cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """What a worker is told: see worker.Task."""
    return {
        "model": str(cell.path),
        "runtime": cell.runtime,
        "device": "gpu" if cell.device == "gpu" else "cpu",
        "threads": cell.threads,
        "seed": protocol.seed,
        "shapes": {name: list(shape) for name, shape in cell.shapes},
        "export": None if cell.export is None else str(cell.export),
        "reference": None if cell.reference is None else str(cell.reference),
    }


def ask_profile(cell: Cell, protocol: Protocol, start: Start) -> dict[str, Any]:
    """The raw profile of one cell, in a process of its own that times nothing else.

    Raises:
        ChildFailed: it could not be had.
    """
    with start(cell, task_of(cell, protocol)) as worker:
        worker.hear(protocol.timeout_s)
        worker.ask({"command": "open"}, protocol.timeout_s)
        answer = worker.ask({"command": "profile", "runs": PROFILE_RUNS}, CHECK_PATIENCE * protocol.timeout_s)
    return dict(answer["profile"])
