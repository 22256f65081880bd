"""Damaged model files into the runtimes: each opened and run in a process of its own, as `edgecbam inspect` does it.

    python tests/fuzz/native.py RESULT.json SECONDS [SEED]

Whole .tflite and .onnx files are changed at random: bytes, words, lengths, ends, pieces of themselves. What counts: a
clean error, a result, or a crash of a runtime that is told as one. Not: an error of another kind, or no end.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecbam import runtimes
from edgecbam.errors import EdgeCbamError
from edgecbam.export import inspection

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = ("tiny_int8.tflite", "tiny_fp32.tflite", "tiny_split.tflite", "tiny_int8.onnx", "tiny_fp32.onnx")
RESULT, ERROR, FAULT, HANG = 0, 2, 9, 10
KINDS = {RESULT: "result", ERROR: "clean error", FAULT: "fault", HANG: "hang"}
LIMIT_S = 60  # a size of one tensor changed to millions takes a runtime some 20 s, which is no hang
MEMORY = 8 * 2**30


def mutated(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        kind, place = draw.randrange(6), draw.randrange(len(data))
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + 4] = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**20, 255)).to_bytes(4, "little")
        elif kind == 2:
            data[place] = draw.randrange(256)
        elif kind == 3:
            end = draw.randrange(len(data))
            data[place : place + 16] = data[end : end + 16]
        elif kind == 4 and draw.random() < 0.2:
            del data[max(8, place) :]
        else:
            data[place : place + 8] = draw.choice((0, 2**40, 2**63, 2**62)).to_bytes(8, "little")
    return bytes(data)


def limit() -> None:
    """Bound the memory of this process, and leave no core files."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(path: Path) -> int:
    """What `edgecbam inspect` does, then an inference; in the child."""
    limit()
    try:
        inspection.inspect(path)
        session = runtimes.find("litert" if path.suffix == ".tflite" else "onnxruntime").open(path, threads=1)
        session.run([np.zeros([abs(size) for size in tensor.shape], tensor.dtype) for tensor in session.inputs])
    except (EdgeCbamError, runtimes.CannotRun, MemoryError):
        return ERROR
    return RESULT


def contained(work: Callable[[], int], log: Path, limit_s: float = LIMIT_S) -> tuple[int, str]:
    """The exit code of a child, negative where a signal ended it, and what it wrote where it failed."""
    child = os.fork()
    if child == 0:
        code = FAULT
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            try:
                code = work()
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(code)
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HANG, ""


def main() -> int:
    result, seconds = Path(sys.argv[1]), float(sys.argv[2])
    draw = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    found: Counter[str] = Counter()
    faults = []
    for name in ("litert", "onnxruntime"):
        runtimes.find(name).open(FIXTURES / ("tiny_fp32.tflite" if name == "litert" else "tiny_fp32.onnx"), 1).close()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            source = FIXTURES / draw.choice(FILES)
            path = Path(folder) / f"it{source.suffix}"
            path.write_bytes(mutated(source.read_bytes(), draw))
            code, told = contained(lambda: work(path), Path(folder) / "log")  # noqa: B023
            kind = KINDS.get(code)
            kind = kind or f"crash told: {signal.Signals(-code).name}"
            found[f"{source.suffix[1:]}: {kind}"] += 1
            if code in (FAULT, HANG):
                kept = result.with_name(f"{kind}-{len(faults)}{source.suffix}")
                kept.write_bytes(path.read_bytes())
                faults.append({"file": kept.name, "told": told[-600:]})
                sys.stdout.write(f"{kind}: {kept}\n{told[-1500:]}\n")
                sys.stdout.flush()
    told = {"inputs": sum(found.values()), "kinds": dict(sorted(found.items())), "faults": len(faults)}
    result.write_text(json.dumps(told, indent=1) + "\n")
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
