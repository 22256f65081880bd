"""A stand-in for Google's benchmark_model that prints as it does, with made-up times and a made-up network.

What it does is written in the model file behind the identifier TFL3, as JSON: ``us``, the time of every run, the first
of which takes ten times as long; ``old``: it knows neither output files nor medians; ``same``: all runs take the same;
``error``, ``signal``, ``hang``: what goes wrong; ``gpu``: how many of its three ops the GPU delegate takes.
The network's one output is [sum of all inputs, sum of their squares], float32, or what ``table`` has for the sha256 of
its input. A file without JSON is taken for a real model, and LiteRT computes its outputs.
"""

import hashlib
import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

ERRORS = {
    "op": [
        "Didn't find op for builtin opcode 'GELU' version '2'. An older version of this builtin might be supported.",
        "Registration failed.",
        "Failed to initialize the interpreter",
    ],
    "damaged": ["The model is not a valid Flatbuffer buffer", "Failed to load model {graph}"],
    "odd": ["Something nobody has ever seen"],
}


def say(text):
    sys.stdout.write(f"INFO: {text}\n")
    sys.stdout.flush()


def complain(*texts):
    for text in texts:
        sys.stderr.write(f"ERROR: {text}\n")
    return 1


def statistics(times, model):
    if len(set(times)) == 1:
        line = f"count={len(times)} curr={times[0]}" + ("(all same)" if len(times) > 1 else "")
    else:
        mean = sum(times) / len(times)
        line = f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} "
        line += f"avg={mean:g} std=3"
    if not model.get("old"):
        ordered = sorted(times)
        low, middle, high = (ordered[len(times) * percent // 100] for percent in (5, 50, 95))
        line += f" p5={low} median={middle} p95={high}"
    return line


def main():
    options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
    say("STARTING!")
    content = Path(options["graph"]).read_bytes()
    try:
        model = json.loads(content[8:])
    except ValueError:
        model = {"name": "a real model", "us": 1000, "real": True}
    with (Path(os.environ["SCRIPTED_PHONE"]) / "runs").open("a") as log:
        log.write(json.dumps({"name": model["name"], **options}) + "\n")
    if model.get("old"):
        for option in ("output_filepath", "report_peak_memory_footprint"):
            value = options.pop(option, None)
            if value is not None:
                sys.stdout.write(f"WARN: Unconsumed cmdline flags: --{option}={value}\n")
    say("Log parameter values verbosely: [0]")
    say(f"Min num runs: [{options['num_runs']}]")
    say(f"Num threads: [{options['num_threads']}]")
    say(f"Graph: [{options['graph']}]")
    if "error" in model:
        texts = [text.format(graph=options["graph"]) for text in ERRORS[model["error"]]]
        return complain(*texts, "Benchmarking failed.")
    say(f"Loaded model {options['graph']}")
    if options.get("use_gpu") == "true":
        if not model.get("gpu"):
            sys.stdout.write("WARN: GPU acceleration is unsupported on this platform.\n")
        else:
            sys.stderr.write(
                f"VERBOSE: Replacing {model['gpu']} out of 3 node(s) with delegate (TfLiteGpuDelegateV2) node, "
                "yielding 2 partitions for subgraph 0.\n"
            )
            say("Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 1 ")
    else:
        sys.stderr.write("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        sys.stderr.write(
            "VERBOSE: Replacing 3 out of 3 node(s) with delegate (TfLiteXNNPackDelegate) node, "
            "yielding 1 partitions for subgraph 0.\n"
        )
    sys.stderr.flush()
    say("The input model file size (MB): 0.0123")
    say("Initialized session in 8.312ms.")
    values = [] if model.get("real") else inputs(options)
    if model.get("signal"):
        os.kill(os.getpid(), getattr(signal, model["signal"]))
    if model.get("hang") == options["num_runs"]:
        time.sleep(600)
    base, spread = model["us"], 0 if model.get("same") else 1
    for runs, first in ((int(options["warmup_runs"]), 10), (int(options["num_runs"]), 1)):
        say(f"Running benchmark for at least {runs} iterations and at least 0 seconds but terminate if exceeding 150 ")
        times = [base * first] + [base + spread * (run - 1) for run in range(1, runs)]
        times = times[:runs]
        say((statistics(times, model) if times else "count=0 p5=0 median=0 p95=0") + "\n")
    say(f"Inference timings in us: Init: 8312, First inference: {base * 10}, Warmup (avg): 1, Inference (avg): {base}")
    say("Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
    if options.get("report_peak_memory_footprint") == "true":
        say("Overall peak memory footprint (MB) via periodic monitoring: 12.5")
    if "output_filepath" in options:
        wrong = model.get("wrong", 0.0)
        output = struct.pack("<2f", sum(values) + wrong, sum(value * value for value in values))
        if model.get("real"):
            output = really_run(options)
        elif "table" in model:
            known = model["table"][hashlib.sha256(struct.pack(f"<{len(values)}f", *values)).hexdigest()]
            output = struct.pack(f"<{len(known)}f", *known)
        Path(options["output_filepath"]).write_bytes(
            output[: model.get("bytes", len(output))] + bytes(model.get("more", 0))
        )
    return 0


def really_run(options):
    """The outputs, one after another, of a real model of real inputs."""
    sys.path.append((Path(os.environ["SCRIPTED_PHONE"]) / "packages").read_text())
    import numpy
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=options["graph"], num_threads=1)
    interpreter.allocate_tensors()
    files = [pair.partition(":")[2] for pair in options["input_layer_value_files"].split(",")]
    for detail, file in zip(interpreter.get_input_details(), files, strict=True):
        values = numpy.fromfile(file, detail["dtype"]).reshape(detail["shape"])
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return b"".join(interpreter.get_tensor(detail["index"]).tobytes() for detail in interpreter.get_output_details())


def inputs(options):
    """All values of the input files; like the real program, it aborts where a file has the wrong size."""
    if "input_layer" not in options:
        return []
    values = []
    shapes = options["input_layer_shape"].split(":")
    files = [pair.partition(":")[2] for pair in options["input_layer_value_files"].split(",")]
    for shape, file in zip(shapes, files, strict=True):
        count = 1
        for size in shape.split(","):
            count *= int(size)
        content = Path(file).read_bytes()
        if len(content) != 4 * count:
            sys.stderr.write(f"FATAL: The size of {file} is {len(content)} bytes. It should be {4 * count} bytes.\n")
            os.abort()
        values += struct.unpack(f"<{count}f", content)
    return values


sys.exit(main())
