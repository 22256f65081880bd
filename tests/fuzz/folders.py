"""Damaged run folders into the commands that take one, each in a process of its own.

    python tests/fuzz/folders.py RESULT.json SECONDS RUN [SEED]

RUN is a whole run. In a copy one file is changed: values of its JSON or TOML, arrays, or bytes; then its digests are
made to fit, as a stranger would do, or, one time in four, left. What counts: a clean error, a gate that fails, or a
result, each in time. Not: an error of another kind, no end, or a result after a change that the digests show.
"""

import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import native
import numpy as np

from edgecbam import api, artifacts, cli, events
from edgecbam.benchmarks import protocol

Command = Callable[[Path], object]
QUICK = protocol.Protocol("quick", 1, 1, 1, 1, 1, "fuzzing", timeout_s=20)
MANY, MANY_S = ("benchmark", "resume"), 120  # they start many processes, each with a limit of its own
WRONG = 11  # an exit code beside native's: accepted although the digests do not fit
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 2**31, 2**40, 2**63, -(2**70), 1e308, float("nan"), float("inf"), 0.5),
    *("", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "<script>", "x" * 70000, "int8", "float32", "%s{}"),
    *([], {}, [None], [[]], {"": None}, [0] * 5000, [-1, -1], {"a": {"b": []}}),
)


def commands(run: Path) -> dict[str, tuple[Command, tuple[str, ...]]]:
    """What is tried, and the stages that it reads."""
    image = _image(run)
    return {
        "verify": (api.verify, ("export",)),
        "benchmark": (lambda it: api.benchmark(it, runtimes=["litert"], protocol="quick"), ("export",)),
        "resume": (
            lambda it: api.benchmark(it, runtimes=["litert"], protocol="quick", resume=True),
            ("export", "benchmark"),
        ),
        "report": (api.report, ("train", "quantize", "export", "verify", "benchmark")),
        "predict": (lambda it: api.predict(it, [image]), ("export",)),
        "explain": (lambda it: api.explain(it, [image]), ("export",)),
        "bundle": (api.bundle, ("export",)),
        "open": (_open, ("train", "quantize")),
    }


def _open(run: Path) -> None:
    """What quantize and export begin with; they work in a process of their own too."""
    artifacts.check_stage(run, "quantize")
    _, _, described = api._open_data(run, events.ignore)
    api.load_float(run)
    api._load_qat(run, described)


def _image(run: Path) -> Path:
    return next(iter(sorted((run / "app" / "web" / "samples").glob("*.png"))))


def altered_json(content: bytes, draw: random.Random) -> bytes:
    """One value or key of a JSON file replaced, removed or nested."""
    whole = json.loads(content)
    places = list(_places(whole))
    for _ in range(draw.choice((1, 1, 1, 3))):
        parent, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0:
            if isinstance(parent, dict):
                parent.pop(key, None)
        elif kind == 1 and isinstance(parent, dict) and key in parent:
            parent[draw.choice(("", "x", "schema_version", "\u0000"))] = parent.pop(key)
        elif kind == 2:
            depth = draw.choice((50, 900, 990, 100_000))
            return json.dumps(whole).encode().replace(b": ", b": " + b"[" * depth + b"]" * depth + b', "n": ', 1)
        elif isinstance(parent, dict) or key < len(parent):
            parent[key] = draw.choice(STRANGE)
    return json.dumps(whole, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Every container and key inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)


def altered_arrays(content: bytes, draw: random.Random) -> bytes:
    """One array of an .npz file of another shape, dtype or content."""
    arrays = dict(np.load(io.BytesIO(content)))
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    arrays[name] = draw.choice(
        (
            lambda: array[:0],
            lambda: array[:1],
            lambda: array.T,
            lambda: array.astype(draw.choice(("u1", "i8", "f4", "f8", "c16", "S3", "?"))),
            lambda: np.full(array.shape, draw.choice((np.nan, np.inf, -1e300, 1e300))),
            lambda: np.zeros(draw.choice(((), (0,), (3,), (2, 2), (1, 1, 1, 1, 1))), array.dtype),
            lambda: np.concatenate([array, array]) if array.ndim else array,
            lambda: -array.astype("i8") if array.dtype.kind in "iu" else array * 1e30,
        )
    )()
    if draw.random() < 0.2:
        del arrays[name]
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def altered_text(content: bytes, draw: random.Random) -> bytes:
    """A line of a text, such as TOML or CSV, removed, repeated or with another value."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    kind = draw.randrange(3)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[draw.randrange(len(lines))])
    else:
        head, sign, _ = lines[place].partition(b"=")
        value = draw.choice((b"nan", b"-1", b"[]", b'"x"', b"1e400", b"9" * 5000, b"[" * 2000, b"'''", b"true", b"{}"))
        lines[place] = head + (sign or b"=") + value
    return b"\n".join(lines)


def altered(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    kinds: dict[str, Callable[[bytes, random.Random], bytes]] = {
        ".json": altered_json,
        ".npz": altered_arrays,
        ".toml": altered_text,
        ".csv": altered_text,
        ".txt": altered_text,
    }
    return (
        kinds.get(path.suffix, native.mutated)(content, draw) if draw.random() < 0.85 else native.mutated(content, draw)
    )


def sign(run: Path) -> None:
    """Make the digests fit, as far as what holds them can still be read: of the manifest, then of each stage."""
    try:
        manifest = json.loads((run / "export" / artifacts.MANIFEST_FILE).read_bytes())
        for name, entry in manifest["files"].items():
            entry["sha256"] = artifacts.sha256_file(run / "export" / name)
        (run / "export" / artifacts.MANIFEST_FILE).write_text(json.dumps(manifest))
    except (ValueError, RecursionError, OSError, LookupError, TypeError, AttributeError):
        pass
    for stage, parents in artifacts.PARENTS.items():
        path = run / stage / artifacts.STAGE_FILE
        try:
            record = json.loads(path.read_bytes())
            record["files"] = {name: artifacts.sha256_file(run / stage / name) for name in record["files"]}
            record["parents"] = {
                parent: artifacts.sha256_file(run / parent / artifacts.STAGE_FILE) for parent in parents
            }
            record["recipe_digest"] = artifacts._recipe_digest(run, stage)
            path.write_text(json.dumps(record))
        except Exception:  # what was altered is this record itself: it stays as it is
            continue


def work(run: Path, command: Command, must_fail: bool) -> int:
    """Do one command; in the child."""
    protocol.PROTOCOLS["quick"] = QUICK
    native.limit()
    try:
        result = command(run)
    except BaseException as error:
        code, line = cli.explain(error)
        if code in (1, 2) or (code == 3 and not line.startswith("internal error")):
            if "\n" in line or not line:
                raise
            return native.ERROR
        raise
    failed = getattr(result, "passed", True) is False
    return WRONG if must_fail and not failed else native.RESULT


def changed(
    folder: Path, source: Path, draw: random.Random, name: str, stages: tuple[str, ...]
) -> tuple[Path, Path, bool]:
    """A copy of a run with one file changed; the copy, the file, and whether its digests are to show it."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run)
    files = [path for stage in stages for path in sorted((run / stage).rglob("*")) if path.is_file()]
    small = [path for path in files if path.suffix in (".json", ".npz", ".toml", ".csv", ".txt")]
    path = draw.choice([run / artifacts.RECIPE_FILE, *small, *small, *files])
    before = path.read_bytes()
    path.write_bytes(altered(path, draw))
    signed = draw.random() < 0.75
    if signed:
        sign(run)
    listed = path.name == "model_int8.tflite" or (path.suffix in (".tflite", ".onnx", ".npz") and name != "predict")
    return run, path, not signed and listed and path.read_bytes() != before


def main() -> int:
    result, seconds, source = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]).resolve()
    draw = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    found: Counter[str] = Counter()
    faults: list[dict[str, str]] = []
    known = commands(source)
    names = [name for name in known for _ in range(1 if name in MANY else 4)]
    api.predict(source, [_image(source)])  # imports what is needed, before the first child
    from edgecbam import quantization, training  # noqa: F401  TensorFlow

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            name = draw.choice(names)
            command, stages = known[name]
            run, path, must_fail = changed(folder, source, draw, name, stages)
            limit = MANY_S if name in MANY else native.LIMIT_S
            code, told = native.contained(lambda: work(run, command, must_fail), folder / "log", limit)  # noqa: B023
            kind = {**native.KINDS, WRONG: "wrong acceptance"}.get(code) or f"crash told: {-code}"
            found[f"{name}: {kind}"] += 1
            if code in (native.FAULT, native.HANG, WRONG):
                kept = result.with_name(f"{kind.replace(' ', '-')}-{name}-{len(faults)}-{path.parent.name}-{path.name}")
                kept.write_bytes(path.read_bytes())
                faults.append({"file": kept.name, "told": told[-600:]})
                sys.stdout.write(f"{name}, {kind}: {kept}\n{told[-1800:]}\n")
                sys.stdout.flush()
    told_kinds = dict(sorted(found.items()))
    wrong = sum(count for kind, count in found.items() if "wrong acceptance" in kind)
    told_all = {"inputs": sum(found.values()), "kinds": told_kinds, "faults": len(faults), "wrong_acceptances": wrong}
    result.write_text(json.dumps(told_all, indent=1) + "\n")
    sys.stdout.write(json.dumps(told_all, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
