"""How long to measure: the protocols, as values that go into every report."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from edgecbam.errors import InputError

from . import statistics


@dataclass(frozen=True)
class Protocol:
    """One way to measure.

    A session starts a fresh process for every cell; each of ``rounds`` rounds visits all cells in a new random order
    and takes a block of ``block`` timed runs from each, after ``lead_in`` untimed ones that undo what the other cells
    did to the caches. All timed runs are kept.

    Attributes:
        processes: sessions, and so fresh processes of each cell.
        warm_up: untimed runs of each process before the first round, at least.
        warm_up_s: seconds of untimed runs, at least: clocks and schedulers settle by time, not by count.
        seed: of the random orders and of random inputs.
        timeout_s: patience for one answer of a process, in seconds.
    """

    name: str
    processes: int
    rounds: int
    block: int
    lead_in: int
    warm_up: int
    note: str
    seed: int = 1
    timeout_s: float = 120.0
    warm_up_s: float = 0.0

    def describe(self) -> dict[str, Any]:
        """The protocol as JSON values, with what its numbers mean."""
        return {
            **dataclasses.asdict(self),
            "confidence": statistics.CONFIDENCE,
            "timed": "one synchronous inference with its inputs already in place (LiteRT: invoke; ONNX Runtime: run "
            "with bound inputs and outputs; OpenVINO: infer); Python's garbage collector is off; no sample is trimmed",
            "pinning": "on a CPU all processes of a session share as many CPUs as an inference has threads, another "
            "choice of the fastest ones in each session, as far as the system allows it",
            "ratio": "candidate / baseline latency: median over rounds of log ratios of block medians in each session, "
            "Student's interval over the sessions",
        }


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("quick", 5, 20, 5, 1, 20, "quick protocol: a look, not a publication", warm_up_s=0.1),
        Protocol(
            "standard", 8, 40, 10, 1, 50, "standard protocol: fit to compare two builds on one machine", warm_up_s=0.5
        ),
        Protocol(
            "rigorous",
            15,
            60,
            10,
            1,
            100,
            "rigorous protocol: fit to publish, with the environment beside it",
            warm_up_s=1.0,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of this name; raises InputError with the nearest name."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    close = difflib.get_close_matches(name, list(PROTOCOLS), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(PROTOCOLS)}"
    raise InputError(f"no benchmark protocol {name!r}: {hint}")
