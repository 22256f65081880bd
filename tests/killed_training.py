"""Trains or quantizes a run again and again, killed by SIGKILL at given moments, until it is whole.

    python killed_training.py RUN STAGE MOMENT…      MOMENT: progress events, then seconds, as 3+0.05

Each attempt is a process of its own, forked from this one after the imports, which take most of the time; this one
never lets TensorFlow compute. What ends an attempt is SIGKILL, or its own end; the last attempt is not disturbed.
Prints for each attempt how it ended and what it said on continuing.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import tensorflow as tf  # noqa: F401
import tensorflow_model_optimization as tfmot  # noqa: F401

from edgecbam import api, quantization  # noqa: F401
from edgecbam.events import Event
from edgecbam.training import loop


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def attempt(run: Path, stage: str, moment: str) -> bool:
    """Returns whether the stage became whole."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(work(run, stage, writing))
    os.close(writing)
    if moment:
        events, _, delay = moment.partition("+")
        for _ in range(int(events)):
            os.read(reading, 1)
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
    while os.read(reading, 4096):
        pass
    status = os.waitpid(child, 0)[1]
    os.close(reading)
    say("killed" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}")
    return not os.WIFSIGNALED(status)


def work(run: Path, stage: str, writing: int) -> int:
    loop.PROGRESS_SECONDS = -1.0  # an event for every step

    def listen(event: Event) -> None:
        if event.message.startswith("continuing"):
            say(event.message)
        if "loss" in event.figures:
            os.write(writing, b".")

    try:
        if stage == "train":
            api.train(None, run, resume=True, on_event=listen)
        else:
            api.quantize(run, on_event=listen)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    run, stage = Path(sys.argv[1]), sys.argv[2]
    for moment in [*sys.argv[3:], ""]:
        if attempt(run, stage, moment):
            break
    return 0 if (run / stage).is_dir() else 1


sys.exit(main())
