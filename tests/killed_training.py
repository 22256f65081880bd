"""Trains and quantizes runs, again and again where they are killed by SIGKILL at given moments, until they are whole.

    python killed_training.py JOB…      JOB: RUN:STAGE:MOMENT,…   MOMENT: steps, then seconds, as 3+0.05

Each attempt is a process of its own, forked from this one after the imports, which take most of the time; this one
never lets TensorFlow compute. What ends an attempt is SIGKILL, or its own end; the last attempt is not disturbed.
Writes for each attempt how it ended, and what it said on continuing, with the job before it.
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


def say(job: str, text: str) -> None:
    sys.stdout.write(f"{job}: {text}\n")
    sys.stdout.flush()


def attempt(run: Path, stage: str, moment: str) -> bool:
    """Returns whether the attempt came to its own end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(work(run, stage, writing))
    os.close(writing)
    if moment:
        steps, _, delay = moment.partition("+")
        for _ in range(int(steps)):
            os.read(reading, 1)  # written after a step, and at the end of the process
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
    while os.read(reading, 4096):
        pass
    status = os.waitpid(child, 0)[1]
    os.close(reading)
    killed = os.WIFSIGNALED(status)
    say(f"{run.name} {stage}", "killed" if killed else f"exit {os.WEXITSTATUS(status)}")
    return not killed


def work(run: Path, stage: str, writing: int) -> int:
    loop.PROGRESS_SECONDS = -1.0  # an event for every step

    def listen(event: Event) -> None:
        if event.message.startswith("continuing"):
            say(f"{run.name} {stage}", event.message)
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


for job in sys.argv[1:]:
    run, stage, moments = job.rsplit(":", 2)
    for moment in [*filter(None, moments.split(",")), ""]:
        if attempt(Path(run), stage, moment):
            break
