"""Open .keras files as a worker would, in a fresh process: ``python keras_session.py FOLDER IMAGES.npy``.

Prints one JSON object: what was found by name. TensorFlow's threads are settled once for a process.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.runtimes import Session, find

FOLDER = Path(sys.argv[1])
KERAS = find("keras")
assert KERAS.reference
images = np.load(sys.argv[2])
found: dict[str, Any] = {}


def refused(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def opened(name: str, **options: Any) -> Session:
    return KERAS.open(FOLDER / f"{name}.keras", 2, **options)


session = opened("tiny")
found["loaded_ours"] = "edgecbam.models" in sys.modules
found["tensors"] = [[info.name, info.shape, info.dtype, info.scale] for info in (*session.inputs, *session.outputs)]
found["logits"] = np.concatenate([session.run([image[None]])[0] for image in images]).tolist()
found["placement"] = session.placement()
reference = KERAS.reference(FOLDER / "tiny.keras", 2)
found["reference"] = np.concatenate([reference.run([image[None]])[0] for image in images]).tolist()
found["reference_placement"] = reference.placement()
found["batch"] = session.run([images[:3]])[0].tolist()
found["graphs"] = len(session._graphs)  # type: ignore[attr-defined]

array = images[:1].copy()
session.prepare([array])
array[:] = 0
session.invoke()
first = session.outputs_now()[0]
kept = first.copy()
session.prepare([images[1:2]])
session.invoke()
found["shares_no_memory"] = bool(np.array_equal(first, kept) and np.array_equal(first, session.run([images[:1]])[0]))
found["wrong_arrays"] = [
    refused(lambda arrays=arrays: session.run(arrays))  # type: ignore[misc]
    for arrays in ([], [images[:1].astype(np.uint8)], [images[0]], [images[:1, :7]])
]

several = opened("several")
found["several_tensors"] = [[info.name, info.shape, info.dtype] for info in (*several.inputs, *several.outputs)]
found["several"] = [
    output.tolist() for output in several.run([np.asarray([[1, 2, 3]], np.float32), np.asarray([[4, 5, 6]], np.int32)])
]
ours = opened("ours")
found["ours"] = bool(np.allclose(ours.run([np.full((1, 8, 8, 4), 3, np.float32)])[0], 3))
found["loaded_ours_now"] = "edgecbam.models" in sys.modules
found["half"] = opened("half").placement()
free = opened("free")
found["free"] = [
    free.inputs[0].shape,
    free.run([np.ones((1, 5, 4, 1), np.float32)])[0].shape,
    opened("free", shapes={"image": (1, 3, 3, 1)}).run([np.ones((1, 3, 3, 1), np.float32)])[0].tolist(),
    refused(lambda: opened("free", shapes={"image": (1, 3, 3, 2)})),
    refused(lambda: free.prepare([np.ones((1, 2, 2, 1), np.float32)])),  # smaller than the convolution
]
found["weights"] = refused(lambda: opened("weights"))
found["gpu"] = refused(lambda: opened("tiny", device="gpu"))
found["other_threads"] = refused(lambda: KERAS.open(FOLDER / "tiny.keras", 1))
sys.stdout.write(json.dumps(found) + "\n")
