"""The tables of reliability: ``python -m edgecbam.benchmarks.reliability_table RESULTS DOCUMENT``.

Made of ``RESULTS/chaos.json`` (tests/chaos/crashes.py), ``fuzz.json`` (tests/fuzz) and ``soak.json``
(tests/chaos/soak.py). They stand between comment lines, so that a test can compare them with their figures.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table

FILES = ("chaos.json", "fuzz.json", "soak.json")
BEGIN = "<!-- begin of the {} made by edgecbam.benchmarks.reliability_table -->"


def renew(document: str, results: Path) -> str:
    """The document with its tables made of these files."""
    chaos, fuzz, soak = (artifacts.read_json(results / name) for name in FILES)
    for name, made in (("crashes", _chaos(chaos)), ("inputs", _fuzz(fuzz)), ("long runs", _soak(soak))):
        document = replace(document, f"{BEGIN.format(name)}\n{made}\n{END}")
    return document


def _chaos(told: Mapping[str, Any]) -> str:
    heads = ["Stage", "Changes of files", "Faults", "told", "passed over", "Crash states", "gone on from"]
    rows = [
        [
            f"`{stage}`",
            str(changes),
            str(told["faults"][stage]["injected"]),
            str(told["faults"][stage]["reported"]),
            str(told["faults"][stage]["survived"]),
            str(told["crashes"][stage]["moments"]),
            str(told["crashes"][stage]["gone_on_with"]),
        ]
        for stage, changes in sorted(told["changes"].items(), key=lambda one: list(_ORDER).index(one[0]))
    ]
    kills = told["kills"]
    every = "every change" if told["every"] == 1 else f"one change in {told['every']}"
    return (
        f"{table(heads, rows)}\n\n"
        f"Tried: {every} of a file; then {kills['sigkill']} times SIGKILL at random moments; runs that came to their "
        f"end through these: {kills['runs_ended']}. Lost: {told['lost']}. "
        f"{told['identical_files']} files of train, quantize and export were identical in two undisturbed runs and "
        f"after all of these. TensorFlow {told['tensorflow']}, {told['os']}."
    )


_ORDER = ("train", "quantize", "export", "verify", "benchmark", "report")


def _fuzz(told: Mapping[str, Any]) -> str:
    heads = ["Parser", "Inputs", "Crashes and wrong errors", "Hangs", "Too much memory", "Wrong acceptances"]
    columns = ("crashes", "hangs", "memory", "wrong_acceptances")
    rows = [
        [f"`{name}`", f"{one['inputs']:,}", *(str(one[column]) for column in columns)]
        for name, one in sorted(told["parsers"].items())
    ]
    total = sum(one["inputs"] for one in told["parsers"].values())
    native, runs = told["native"], told["runs"]
    commands = sorted({kind.partition(":")[0] for kind in runs["kinds"]})
    counts = [[runs["kinds"].get(f"{name}: {kind}", 0) for kind in ("clean error", "result")] for name in commands]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in native["kinds"].items())
    return (
        f"{table(heads, rows)}\n\n"
        f"{total:,} in all.\n\n"
        f"Damaged models in the runtimes: {native['inputs']:,}; {kinds}. Faults: {native['faults']}.\n\n"
        f"{table(['Damaged run folders into', 'Clean errors', 'Results'], _named(commands, counts))}\n\n"
        f"{runs['inputs']:,} in all; faults: {runs['faults']}, of these wrong acceptances: {runs['wrong_acceptances']}."
    )


def _named(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[f"`{name}`", *(f"{count:,}" for count in row)] for name, row in zip(names, counts, strict=True)]


def _soak(told: Mapping[str, Any]) -> str:
    first, last = told["third"], told["last"]
    return (
        f"{told['sessions']} benchmark sessions in {told['minutes']:g} minutes: memory "
        f"{100 * told['memory_growth']:+.1f} % since the third ({last['rss_bytes'] / 2**20:.0f} MiB), open files "
        f"{first['open_files']} and {last['open_files']}, threads {first['threads']} and {last['threads']}, children "
        f"{last['children']}, temporary files {last['temporary_files']}."
    )


def main(arguments: Sequence[str]) -> None:
    """Renew the tables."""
    results, document = map(Path, arguments)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), results))


if __name__ == "__main__":
    main(sys.argv[1:])
