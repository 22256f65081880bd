"""Coverage-guided fuzzing of one target with atheris, or of all in turn.

    python tests/fuzz/fuzz.py all SECONDS FOLDER     each target as long, one after the other
    python tests/fuzz/fuzz.py summary FOLDER RESULT  what this, native.py and folders.py have tried, as one JSON file
    python tests/fuzz/fuzz.py TARGET [libFuzzer's options] CORPUS

FOLDER/TARGET gathers inputs that reach new code, FOLDER/found what breaks a target; exit code 1 if anything does.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=65536", "-print_final_stats=1", "-verbosity=0")


def one(name: str) -> None:
    """Fuzz in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["edgecbam"]):
        import seeds
        import targets

        for data in seeds.make()[name]:  # imports what is imported on first use, instrumented
            targets.TARGETS[name](data)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets.TARGETS[name])
    atheris.Fuzz()


def every(seconds: float, folder: Path) -> int:
    """Fuzz all targets; prints and writes what was tried."""
    import seeds
    import targets

    seeds.write(folder)
    (folder / "found").mkdir(exist_ok=True)
    told, failed = {}, False
    for name in targets.TARGETS:
        limits = [*LIMITS, f"-max_total_time={max(1, round(seconds / len(targets.TARGETS)))}"]
        command = [
            sys.executable,
            __file__,
            name,
            *limits,
            f"-artifact_prefix={folder / 'found'}/{name}-",
            folder / name,
        ]
        kept = HERE / "corpus" / name
        start = time.monotonic()
        done = subprocess.run(
            [*map(str, command), *([str(kept)] if kept.is_dir() else [])], capture_output=True, text=True, check=False
        )
        runs = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
        kinds = [path.name.removeprefix(f"{name}-").partition("-")[0] for path in (folder / "found").glob(f"{name}-*")]
        wrong = int("WrongAcceptance" in done.stderr and kinds.count("crash") > 0)  # it ends with its first finding
        told[name] = {
            "inputs": int(runs[1]) if runs else 0,
            "ended": done.returncode,
            "crashes": kinds.count("crash") - wrong,
            "wrong_acceptances": wrong,
            "hangs": kinds.count("timeout"),
            "memory": kinds.count("oom"),
        }
        sys.stdout.write(f"{name}: {told[name]['inputs']:,} inputs in {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()
        if done.returncode or not runs:
            failed = True
            sys.stdout.write(done.stderr[-4000:])
    (folder / "fuzz.json").write_text(json.dumps(told, indent=1))
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1] == "all":
        sys.exit(every(float(sys.argv[2]), Path(sys.argv[3])))
    if sys.argv[1] == "summary":
        folder, result = map(Path, sys.argv[2:])
        names = {"parsers": "fuzz", "native": "native", "runs": "folders"}
        found = {key: json.loads((folder / f"{name}.json").read_text()) for key, name in names.items()}
        report = {"schema_version": 2, **found}
        result.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        sys.exit()
    one(sys.argv[1])
