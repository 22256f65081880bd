"""The table in the README, made from a committed report: ``python -m edgecbam.benchmarks.readme_table REPORT README``.

It stands between two comment lines, so that a test can compare it with the report that it came from.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from . import report as reports

BEGIN = "<!-- begin of the table made by edgecbam.benchmarks.readme_table -->"
END = "<!-- end of the table -->"


def block(report: dict[str, Any]) -> str:
    """The results of a report as Markdown, with the machine and the number of samples below."""
    environment, protocol = report["environment"], report["protocol"]
    versions = environment["versions"]
    results = reports.results_markdown(report)
    samples = protocol["processes"] * protocol["rounds"] * protocol["block"]
    machine = (
        f"{environment['cpu']}, {environment['logical_cpus']} CPUs, {environment['os']}; "
        f"LiteRT {versions['litert']}, ONNX Runtime {versions['onnxruntime']}; "
        f"1 thread, batch 1, n = {samples} in {protocol['processes']} processes ({protocol['name']} protocol)."
    )
    return f"{BEGIN}\n{results}\n\n{machine}\n{END}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows])


def replace(text: str, new: str) -> str:
    """A document with the block that begins like ``new`` replaced; raises ValueError where it has none."""
    first_line = new.partition("\n")[0]
    head, begin, rest = text.partition(first_line)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the file lacks the lines {first_line} and {END}")
    return head + new + tail


def main(arguments: list[str]) -> None:
    """Renew the table of README from REPORT."""
    report, readme = map(Path, arguments)
    artifacts.write_whole(readme, replace(readme.read_text("utf-8"), block(artifacts.read_json(report))))


if __name__ == "__main__":
    main(sys.argv[1:])
