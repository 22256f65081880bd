"""What each node of an .onnx file takes, as ONNX Runtime's own trace says, and the graph that it made of the file.

ONNX Runtime rewrites a graph before it runs it, so the nodes of the trace are not those of the file. It can write down
what it made; that file and the trace name the nodes alike, and together they tell what each node takes and gives.
"""

import json
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import InputError
from edgecbam.runtimes import onnx_file
from edgecbam.runtimes.session import CannotRun, check_file, check_threads, one_line

WARM_UP = 10
RESOLUTION_US = 1.0  # the trace counts whole microseconds
NESTED = ("If", "Loop", "Scan")  # nodes whose time holds the time of others
_KERNEL = "_kernel_time"
_PROVIDER = "ExecutionProvider"


def profile(model: Path, threads: int, device: str, arrays: Sequence[np.ndarray], runs: int) -> dict[str, Any]:
    """Time the nodes of an .onnx file on the CPU; see Profiler for arguments, value and errors.

    ``name`` and ``op`` are those of the node as ONNX Runtime runs it; ``graph`` holds the nodes that it made of the
    file, with an activation that was merged into a node behind its kind.
    """
    if device != "cpu":
        raise CannotRun("ONNX Runtime's trace times how long a GPU's kernels take to start, not how long they run")
    events, made, reason = _trace(model, threads, arrays, WARM_UP + runs)
    try:
        ops = read(events, WARM_UP, runs)
    except ValueError as error:
        raise CannotRun(f"ONNX Runtime gives no usable trace of {model.name}: {one_line(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:  # the trace is not documented
        raise CannotRun(f"ONNX Runtime gives no readable trace of {model.name}: {one_line(repr(error))}") from error
    positions = {node.name: index for index, node in enumerate(made)}
    if reason is None and (len(positions) != len(made) or any(op["name"] not in positions for op in ops)):
        reason = f"not every node of {model.name} has a name of its own"
    for op in ops:
        op["nodes"] = [positions[op["name"]]] if reason is None else []
    return {
        "runs": runs,
        "delegate": None,  # the one provider takes everything
        "resolution_us": RESOLUTION_US,
        "ops": ops,
        "graph": [
            {
                "name": ";".join(name for name in (node.name, *node.outputs) if name),
                "op": f"{node.op} {node.activation}".strip(),
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
            }
            for node in made
        ],
        "graph_reason": reason,
    }


def read(events: Iterable[Mapping[str, Any]], warm_up: int, runs: int) -> list[dict[str, Any]]:
    """The nodes of a trace in the order of running, as ``ops`` of a profile.

    Args:
        events: the trace of ``warm_up`` + ``runs`` inferences.
        warm_up: inferences at the start that do not count.
        runs: those that do.

    Raises:
        ValueError: the trace lists no node, not every inference, or nodes inside of others.
    """
    durations: dict[tuple[str, str], list[float]] = {}
    ops: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL):
            continue
        arguments = event["args"]
        name = event["name"].removesuffix(_KERNEL)
        key = (name, arguments["node_index"])
        where = arguments["provider"].removesuffix(_PROVIDER).lower()
        ops.setdefault(key, {"name": name, "op": arguments["op_name"], "us": 0.0, "where": where})
        durations.setdefault(key, []).append(float(event["dur"]))
    if not ops:
        raise ValueError("it lists no node")
    nested = sorted({op["op"] for op in ops.values() if op["op"] in NESTED})
    if nested:
        raise ValueError(f"it has {', '.join(nested)}, and the times of the nodes inside cannot be told apart")
    for key, op in ops.items():
        if len(durations[key]) != warm_up + runs:
            raise ValueError(f"the node {op['name']} ran {len(durations[key])} times in {warm_up + runs} inferences")
        op["us"] = float(np.mean(durations[key][warm_up:]))
    return list(ops.values())


def _trace(
    model: Path, threads: int, arrays: Sequence[np.ndarray], inferences: int
) -> tuple[list[dict[str, Any]], list[onnx_file.OnnxNode], str | None]:
    """The events, the nodes of the graph as it ran, and why there are none."""
    # the registry entry in that file names this one, so neither can import the other first
    from edgecbam.runtimes import onnx_runtime

    check_threads(threads)
    check_file(model, (".onnx",))
    ort = onnx_runtime.ONNXRUNTIME.load()
    saturates = onnx_runtime.saturates(platform.machine(), onnx_runtime._read_cpuinfo())
    options = onnx_runtime.session_options(ort, threads, saturates)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgecbam-", ignore_cleanup_errors=True) as folder:
        executed = Path(folder) / "executed.onnx"
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.optimized_model_filepath = str(executed)
        session = onnx_runtime.create_session(ort, model, options)
        try:
            feeds = dict(zip([argument.name for argument in session.get_inputs()], arrays, strict=True))
            for _ in range(inferences):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        except Exception as error:  # its exceptions derive from Exception alone
            text = one_line(f"{type(error).__name__}: {error}")
            raise CannotRun(f"ONNX Runtime gives no readable trace of {model.name}: {text}") from error
        try:
            nodes, reason = onnx_file.read_nodes(executed), None
        except (OSError, InputError) as error:
            nodes, reason = [], f"the graph that ONNX Runtime made cannot be read: {one_line(error)}"
    return events, nodes, reason
