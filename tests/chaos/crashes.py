"""Disturbs the stages of small runs and looks at what is left; writes what it found as JSON.

    python tests/chaos/crashes.py RESULT.json [--every K] [--kills N] [--seed S] [--parts FOLDER] [--only PART ...]

1. Two undisturbed runs: what train, quantize and export make is the same bytes twice, timings excepted.
2. A full disk, or an error of the device, at every K-th change of a file in every stage (faults.c): one clear line,
   exit code 3, and nothing of the stages before is touched; then the stage is made without faults.
3. A crash at every K-th change: the folder as it is at that moment (which is what kill -9 leaves) is copied, checked,
   and the stage gone on with there, to the same bytes.
4. SIGKILL at N random moments of whole runs, one after the other through resumes, to the same bytes.

After each of them every file outside of .partial folders must be whole and listed in its stage.json.

With --parts what each part found is kept in FOLDER, so that a run that was stopped goes on, and so that several
processes share the work with --only; whichever ends last writes RESULT.json.
"""

import argparse
import ctypes
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

COUNT, KILL, NO_SPACE, IO_ERROR, SNAPSHOT = range(5)
SETTINGS = (
    *(
        "data.train_images=64",
        "data.test_images=20",
        "data.height=16",
        "data.width=16",
        "data.channels=1",
        "data.cache=none",
    ),
    *("model.widths=[4]", "model.blocks=[1]", "model.reduction_ratio=2", "model.dropout=0.2"),
    *("train.epochs=2", "train.batch_size=16", "train.precision=float32", "train.checkpoint_minutes=0"),
    *("quantize.epochs=1", "quantize.batch_size=16", "quantize.calibration_images=32", "export.samples_images=20"),
    *("benchmark.runtimes=['litert']", "benchmark.protocol=quick"),
    # a network this little trained is right by chance: what is tested here is its files
    *("verify.max_accuracy_drop=1.0", "verify.min_qat_agreement=0.0", "verify.min_onnx_agreement=0.0"),
)
MADE = ("train", "quantize", "export")
TIMINGS = ("timing.json", "stage.json", "checkpoint")  # the last: TensorFlow notes when a checkpoint was made


class Lost(AssertionError):
    """What the issue forbids: a file that is not whole, work that is gone, other bytes."""


def stages() -> dict[str, Callable[[Path], Any]]:
    from edgecbam import api

    return {
        "train": lambda run: api.train(None, run, resume=True),
        "quantize": api.quantize,
        "export": api.export,
        "verify": api.verify,
        "benchmark": api.benchmark,
        "report": api.report,
    }


def begin(run: Path) -> None:
    from edgecbam import artifacts, recipe

    artifacts.create_run(run, recipe.load("fashion_cbam", SETTINGS))


def check(run: Path) -> None:
    """Every file outside of .partial folders is whole and listed."""
    from edgecbam import artifacts
    from edgecbam.artifacts import STAGE_FILE, STAGES

    allowed = {artifacts.RECIPE_FILE, ".lock", "explain", *STAGES}
    for path in run.iterdir():
        if path.name.startswith(".") and path.name.endswith((".partial", ".old")):
            continue
        if path.name not in allowed:
            raise Lost(f"{path} belongs to nothing")
    artifacts.load_recipe(run)
    for stage in STAGES:
        folder = run / stage
        if not folder.exists():
            folder = run / f".{stage}.old"  # between two renames: the next reader puts it back
            if not folder.exists():
                continue
        record = json.loads((folder / STAGE_FILE).read_text())
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        if found != {*record["files"], STAGE_FILE}:
            raise Lost(f"{folder}: {sorted(found ^ {*record['files'], STAGE_FILE})} are not listed, or missing")
        for name, digest in record["files"].items():
            if artifacts.sha256_file(folder / name) != digest:
                raise Lost(f"{folder / name} is not whole")


def digests(run: Path, names: tuple[str, ...] = MADE) -> dict[str, str]:
    """sha256 of what stages made, timings excepted."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in names
        for path in sorted((run / stage).rglob("*"))
        if path.is_file() and path.name not in TIMINGS
    }


def same(run: Path, expected: dict[str, str], names: tuple[str, ...] = MADE) -> None:
    found = digests(run, names)
    wanted = {name: digest for name, digest in expected.items() if name.split("/")[0] in names}
    if found != wanted:
        other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise Lost(f"{run}: other bytes than of an undisturbed run: {', '.join(other)}")


def forked(work: Callable[[], Any], delay: float | None = None) -> int:
    """Do something in a process of its own; returns its exit code, negative where a signal ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Chaos:
    """Everything together; each part returns what it found."""

    def __init__(self, work: Path, library: Path, every: int, seed: int) -> None:
        self.work, self.every, self.random = work, every, random.Random(seed)
        self.library = ctypes.CDLL(str(library))
        self.library.fault_calls.restype = ctypes.c_long
        self.library.fault_last.restype = ctypes.c_char_p
        self.expected: dict[str, str] = {}

    def arm(self, folder: Path, number: int, action: int, copies: Path | None = None, every: int = 1) -> None:
        self.library.fault_arm(
            str(folder).encode(), ctypes.c_long(number), action, str(copies or "").encode(), ctypes.c_long(every)
        )

    def disarm(self) -> None:
        self.library.fault_arm(b"", ctypes.c_long(0), COUNT, b"", ctypes.c_long(1))

    def undisturbed(self) -> dict[str, str]:
        """Two whole runs, each stage in a process of its own; before each stage of the first a copy for later."""
        found = []
        for name in ("first", "second"):
            run = self.work / name
            begin(run)
            for stage, make in stages().items():
                if name == "first":
                    shutil.copytree(run, self.work / "before" / stage)
                self._must(forked(lambda run=run, make=make: make(run)), f"the undisturbed stage {stage}")
            check(run)
            found.append(digests(run))
        if found[0] != found[1]:
            other = sorted(name for name in found[0] if found[0][name] != found[1].get(name))
            raise Lost(f"two undisturbed runs differ: {', '.join(other)}")
        self.expected = found[0]
        return self.expected

    def faults(self, stage: str) -> dict[str, Any]:
        """Errors at every K-th change of a stage, one after the other, in one process."""
        from edgecbam import cli

        make, before = stages()[stage], self.work / "before" / stage
        answers = self.work / "answers.jsonl"
        answers.unlink(missing_ok=True)

        def inject() -> None:
            run, number = self.work / "faulty", self.random.randint(1, self.every)
            while True:
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(before, run)
                self.arm(run, number, (NO_SPACE, IO_ERROR)[number % 2])
                error: BaseException | None = None
                try:
                    make(run)
                except BaseException as raised:
                    error = raised
                calls, last = self.library.fault_calls(), self.library.fault_last().decode()
                self.disarm()
                code, line = (0, "") if error is None else cli.explain(error)
                with answers.open("a") as file:
                    file.write(json.dumps({"number": number, "at": last, "code": code, "line": line}) + "\n")
                check(run)
                same_before(before, run, stage)
                if error is not None and (code != 3 or "\n" in line or not line or line.startswith("internal error")):
                    traceback.print_exception(error)
                    raise Lost(f"{stage}, change {number} ({last}): exit code {code}, {line!r}")
                if error is None and stage in MADE:  # whoever passes over a failed write must have done without it
                    same(run, self.expected, MADE[: MADE.index(stage) + 1])
                if calls < number:
                    return
                number += self.every

        self._must(forked(inject), f"faults in {stage}")
        told = [json.loads(line) for line in answers.read_text().splitlines()]
        injected = [one for one in told if one["at"]]
        return {
            "injected": len(injected),
            "reported": sum(one["code"] == 3 for one in injected),
            "survived": sum(one["code"] == 0 for one in injected),
            "lines": sorted({one["line"].replace(str(self.work), "…") for one in injected if one["line"]}),
        }

    def crashes(self, stage: str) -> dict[str, Any]:
        """The folder at every K-th change of a stage; gone on with in each of them."""
        make, before = stages()[stage], self.work / "before" / stage
        copies, run = self.work / "copies", self.work / "crashed"
        for folder in (copies, run):
            shutil.rmtree(folder, ignore_errors=True)
        copies.mkdir()
        shutil.copytree(before, run)
        count = self.work / "count"

        def record() -> None:
            self.arm(run, 0, SNAPSHOT, copies, self.every)
            make(run)
            count.write_text(str(self.library.fault_calls()))

        self._must(forked(record), f"recording {stage}")
        moments = sorted(copies.iterdir(), key=lambda path: int(path.name))
        kinds: dict[str, Path] = {}
        for moment in moments:
            check(moment)
            kinds.setdefault(_resumable(moment, stage), moment)

        def go_on() -> None:
            for moment in kinds.values():
                make(moment)
                check(moment)
                if stage in MADE:
                    same(moment, self.expected, MADE[: MADE.index(stage) + 1])
                if any(path.name.startswith(".") for path in moment.iterdir()):
                    raise Lost(f"{moment}: something is left: {sorted(path.name for path in moment.iterdir())}")
                shutil.rmtree(moment)

        self._must(forked(go_on), f"going on with {stage}")
        return {"changes": int(count.read_text()), "moments": len(moments), "gone_on_with": len(kinds)}

    def kills(self, count: int, longest: float) -> dict[str, Any]:
        """SIGKILL at random moments of whole runs; a run that ends makes room for the next."""
        from edgecbam import api

        ended, killed, run = 0, 0, self.work / "killed-0"
        begin(run)
        while killed < count:
            delay = longest * self.random.random() ** 2
            code = forked(lambda run=run: api.run(None, run, resume=True), delay)
            check(run)
            if code == -signal.SIGKILL:
                killed += 1
                continue
            self._must(code, "a run between kills")
            ended += 1
            self._whole(run)
            run = self.work / f"killed-{ended}"
            begin(run)
        self._must(forked(lambda: api.run(None, run, resume=True)), "the last run")
        self._whole(run)
        return {"sigkill": killed, "runs_ended": ended + 1, "identical": ended + 1}

    def _whole(self, run: Path) -> None:
        check(run)
        same(run, self.expected)
        shutil.rmtree(run)

    def _must(self, code: int, what: str) -> None:
        if code:
            raise Lost(f"{what} ended with {code}")


def same_before(before: Path, run: Path, stage: str) -> None:
    """The stages before a failed one are as they were."""
    for path in before.rglob("*"):
        if path.is_file() and (run / path.relative_to(before)).read_bytes() != path.read_bytes():
            raise Lost(f"{path.relative_to(before)} was changed by a fault in {stage}")


def _resumable(moment: Path, stage: str) -> str:
    """What going on depends on: all files, but not those in the partial folder of a stage that begins anew."""
    anew = stage not in ("train", "quantize")
    parts = []
    for path in sorted(moment.rglob("*")):
        name = path.relative_to(moment)
        if path.is_file() and not (anew and name.parts[0].endswith(".partial") and name.parts[0] != ".train.partial"):
            parts.append(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
        elif path.is_dir() and len(name.parts) == 1:
            parts.append(str(name))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def build(work: Path) -> Path:
    library = work / "faults.so"
    source = Path(__file__).with_name("faults.c")
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler: install the package gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


def parts(chaos: Chaos, kills: int, longest: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """Everything but the undisturbed runs, which each process needs."""
    return {
        **{f"crashes-{stage}": lambda stage=stage: chaos.crashes(stage) for stage in stages()},
        **{f"faults-{stage}": lambda stage=stage: chaos.faults(stage) for stage in stages()},
        "kills": lambda: chaos.kills(kills, longest),
    }


def summary(folder: Path, names: Iterable[str], settings: dict[str, Any]) -> dict[str, Any] | None:
    """All parts in one; None while one is missing."""
    found = {name: _kept(folder / f"{name}.json", settings) for name in ("undisturbed", *names)}
    if not all(found.values()):
        return None
    crashes = {stage: found[f"crashes-{stage}"] for stage in stages()}
    return {
        "schema_version": 1,
        **settings,
        "lost": 0,  # the first would have ended its process
        "identical_files": len(found["undisturbed"]),
        "changes": {stage: part.pop("changes") for stage, part in crashes.items()},
        "crashes": crashes,
        "faults": {stage: found[f"faults-{stage}"] for stage in stages()},
        "kills": found["kills"],
    }


def _code() -> str:
    """sha256 of all sources: what was found with others is found again."""
    root = Path(__file__).parents[2]
    whole = hashlib.sha256()
    for name in ("edgecbam", "export", "benchmarks", "tests/chaos"):
        for path in sorted((root / name).rglob("*")):
            if path.suffix in (".py", ".c", ".toml") and path.is_file():
                whole.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def _kept(path: Path, settings: dict[str, Any]) -> Any:
    """What a part found, if it was made with these settings; else None."""
    told = json.loads(path.read_text()) if path.exists() else {}
    return told["found"] if told.get("settings") == settings else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--longest", type=float, default=30.0, help="seconds until a kill, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", type=Path, help="folder that keeps what each part found")
    parser.add_argument(
        "--only", nargs="+", help="parts to do here, such as faults-train; default: all that are missing"
    )
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.work is None:  # the library must be there before anything else is loaded
        with tempfile.TemporaryDirectory(prefix="edgecbam-chaos-") as folder:
            library = build(Path(folder))
            environment = {**os.environ, "LD_PRELOAD": str(library), "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [sys.executable, __file__, *sys.argv[1:], "--work", folder]
            raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)
    import tensorflow
    import tensorflow_model_optimization  # noqa: F401

    from edgecbam import __version__, artifacts, quantization, training  # noqa: F401
    from edgecbam.export import artifact_set  # noqa: F401

    settings = {
        "every": options.every,
        "kills_wanted": options.kills,
        "seed": options.seed,
        "edgecbam": __version__,
        "tensorflow": tensorflow.__version__,
        "os": platform.platform(),
        "code": _code(),
    }
    folder = options.parts or options.work / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(options.work, options.work / "faults.so", options.every, options.seed)
    work = parts(chaos, options.kills, options.longest)
    if unknown := {*(options.only or ())} - {*work}:
        raise SystemExit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(work)}")

    def do(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        start = time.monotonic()
        found = part()
        sys.stdout.write(f"{name}: {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()
        return found

    expected = do("undisturbed", chaos.undisturbed)
    if _kept(folder / "undisturbed.json", settings) not in (None, expected):
        raise Lost(f"undisturbed runs of two processes differ: see {folder}")
    artifacts.write_json(folder / "undisturbed.json", {"settings": settings, "found": expected})
    for name in options.only or work:
        if _kept(folder / f"{name}.json", settings) is None:
            artifacts.write_json(folder / f"{name}.json", {"settings": settings, "found": do(name, work[name])})
    if told := summary(folder, work, settings):
        artifacts.write_json(options.result, told)
    else:
        sys.stdout.write(f"parts are missing in {folder}: run it again for the rest\n")


if __name__ == "__main__":
    main()
