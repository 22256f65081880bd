"""A stand-in for edgecbam.benchmarks.worker with made-up times; the name of its model file says what goes wrong, where.

``fine_1000.tflite`` answers with 1000 ns; ``crash_block.tflite`` dies in its first block; ``hang_open.tflite`` never
answers to open; ``second_block.tflite`` dies only in the second process of its cell, counted in the file itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def write(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(value):
    write(json.dumps(value))


def main():
    model = Path(json.loads(sys.stdin.readline())["model"])
    fault, _, moment = model.stem.partition("_")
    if fault == "second":
        count = len(model.read_text())
        model.write_text("x" * (count + 1))
        fault = "crash" if count == 1 else "fine"

    def misbehave(now):
        if now != moment:
            return
        if fault == "crash":
            sys.stderr.write("the kernel is not amused\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "exit":
            sys.exit(7)
        if fault == "hang":
            time.sleep(600)
        if fault == "spawn":
            model.write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
        if fault == "junk":
            write("INFO: this is no JSON")
        if fault == "list":
            say([1, 2])
        if fault == "input":
            say({"failed": "input", "reason": f"{model.name} is damaged"})
        if fault == "unsupported":
            say({"failed": "unsupported", "reason": "no kernel for GELU"})

    misbehave("start")
    say({"imported": True})
    for line in sys.stdin:
        command = json.loads(line)
        name = command["command"]
        misbehave(name)
        if name == "open":
            memory = {"imported_bytes": 1 << 20, "peak_bytes": 2 << 20}
            say({"init_ms": 1.0, "first_ms": 2.0, "memory": memory, "placement": {"device": "cpu"}})
        elif name == "check":
            wrong = fault == "wrong"
            parity = {"checked": False, "inputs": 8, "reason": "planted"}
            say({"passed": not wrong, "reason": "outputs are wrong" if wrong else "", "parity": parity})
        elif name == "warm":
            say({"warm": True})
        elif name == "block":
            ns = int(moment) if moment.isdigit() else 1000
            say({"ns": [ns] * command["runs"]})
        elif name == "profile":
            say({"failed": "unsupported", "reason": "planted: no profile"})
        elif name == "nodes":
            say({"nodes": {"total": 3, "integer": 2, "float": 1, "other": 0, "in_float": []}})


main()
