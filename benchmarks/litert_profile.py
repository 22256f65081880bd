"""Op by op: what LiteRT's own profiler says of one .tflite file, for the study of the lowering.

See edgecbam/runtimes/litert_profile.py for what it counts and what it cannot tell.
"""

from pathlib import Path

from edgecbam.errors import InputError
from edgecbam.runtimes import CannotRun

from .child import Child, ChildFailed

TIMEOUT_S = 300.0
SEED = 1


def profile_apart(path: Path, runs: int) -> list[tuple[str, float]]:
    """Run a file on one thread, in a process of its own, which may crash without harm, and time its ops.

    Args:
        path: a .tflite file without free dimensions; gets the random inputs of a benchmark of a bare file.
        runs: inferences to average over.

    Returns:
        (XNNPACK's name of the op, or LiteRT's outside of it; mean microseconds per run), in the order of running.

    Raises:
        InputError: the file is missing or no sound .tflite file.
        CannotRun: LiteRT is not installed, cannot run the file or does not tell.
    """
    task = {"model": str(path), "runtime": "litert", "threads": 1, "seed": SEED, "export": None}
    with Child(task) as child:
        try:
            child.hear(TIMEOUT_S)
            child.ask({"command": "open"}, TIMEOUT_S)
            answer = child.ask({"command": "profile", "runs": runs}, TIMEOUT_S)
        except ChildFailed as failure:
            if failure.status == "input":
                raise InputError(failure.reason) from None
            raise CannotRun(f"no profile of {path.name}: {failure.reason}") from None
    return [(str(op["op"]), float(op["us"])) for op in answer["profile"]["ops"]]
