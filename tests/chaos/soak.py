"""A benchmark that goes on for long: processes, open files, files on disk and memory before and after.

    python tests/chaos/soak.py RESULT.json MINUTES

Measures two small models side by side again and again, as `edgecbam benchmark` does it, in this process.
"""

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from edgecbam import api

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = [FIXTURES / name for name in ("tiny_int8.tflite", "tiny_fp32.tflite", "tiny_int8.onnx", "tiny_fp32.onnx")]


def state(folder: Path) -> dict[str, int]:
    process = psutil.Process()
    return {
        "rss_bytes": process.memory_info().rss,
        "children": len(process.children(recursive=True)),
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "temporary_files": sum(1 for _ in folder.rglob("*")),
    }


def main() -> int:
    result, minutes = Path(sys.argv[1]), float(sys.argv[2])
    sessions, states = 0, []
    with tempfile.TemporaryDirectory(prefix="edgecbam-soak-") as folder:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = folder
        start = time.monotonic()
        while time.monotonic() - start < 60 * minutes:
            api.benchmark_models(MODELS, protocol="quick")
            sessions += 1
            states.append(state(Path(folder)))
    # Python's own caches fill in the first sessions
    first, last = states[min(2, len(states) - 1)], states[-1]
    told: dict[str, Any] = {
        "schema_version": 1,
        "minutes": minutes,
        "sessions": sessions,
        "third": first,
        "last": last,
        "memory_growth": last["rss_bytes"] / first["rss_bytes"] - 1,
        "os": platform.platform(),
    }
    result.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    leaked = any(last[key] > first[key] for key in ("children", "open_files", "threads", "temporary_files"))
    return int(leaked or told["memory_growth"] > 0.05)


if __name__ == "__main__":
    sys.exit(main())
