"""The child process of tests on a GPU: opens models, runs arrays and tells what came out, as one line of JSON.

A task: ``runtime``, ``device``, ``models`` (paths), ``arrays`` (path of an .npz: the inputs of each model in turn are
its arrays ``image``, or drawn at random where it is None), ``shapes``, ``busy``: whether to look at what the process
still does after an inference.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import runtimes
from edgecbam.errors import EdgeCbamError

REST_S = 0.5


def main() -> None:
    """Answer the task of the command line."""
    task = json.loads(sys.argv[1])
    answers = [_answer(Path(model), task) for model in task["models"]]
    sys.__stdout__.write("\n" + json.dumps({"answers": answers}) + "\n")


def _answer(model: Path, task: dict[str, Any]) -> dict[str, Any]:
    shapes = {name: tuple(shape) for name, shape in task.get("shapes", {}).items()}
    try:
        session = runtimes.find(task["runtime"]).open(model, 1, task["device"], shapes)
        sets = [[_draw(i, info, shapes) for info in session.inputs] for i in range(2)]
        if task.get("arrays"):
            images = np.load(task["arrays"])["image"]
            sets = [[runtimes.to_input(image[None], session.inputs[0])] for image in images]
        outputs = [session.run(arrays)[0] for arrays in sets]
        answer = {
            "outputs": np.concatenate(outputs).tolist(),
            "placement": session.placement(),
            "inputs": [[info.name, list(info.shape), info.dtype, info.scale] for info in session.inputs],
            "again": session.run(sets[0])[0].tolist() == outputs[0].tolist(),
        }
        if task.get("busy"):
            answer["busy"] = busy_afterwards(session.invoke)
    except EdgeCbamError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    session.close()
    return answer


def _draw(seed: int, info: runtimes.TensorInfo, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), shapes.get(info.name, info.shape)
    if np.dtype(info.dtype).kind == "f":
        return rng.uniform(-1, 1, shape).astype(info.dtype)
    return rng.integers(0, 100, shape).astype(info.dtype)


def busy_afterwards(invoke: Any) -> float:
    """What a call leaves undone: CPU seconds spent after it returned, as a fraction of all that were spent on it.

    The emulated GPU computes in threads of this process, and CPU time does not grow while others use the CPU.
    """
    invoke()
    time.sleep(REST_S)
    before = time.process_time()
    invoke()
    during = time.process_time() - before
    time.sleep(REST_S)
    return 1 - during / (time.process_time() - before)


if __name__ == "__main__":
    main()
