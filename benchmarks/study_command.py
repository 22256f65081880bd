"""The command line of the slow studies: a folder of files, the report to write, and --quick."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.events import Event, OnEvent


def main(
    module: str,
    about: str | None,
    made_by: str,
    run: Callable[[Path, bool, OnEvent], dict[str, Any]],
    arguments: Sequence[str],
) -> None:
    """Measure what a study wrote, and write the report whole.

    Args:
        module: whose command it is, in edgecbam.benchmarks.
        about: its docstring.
        made_by: the module of edgecbam.export that writes the folder.
        run: measures a folder; the second argument asks for a fast look.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m edgecbam.benchmarks.{module}", description=about)
    parser.add_argument("folder", type=Path, help=f"what edgecbam.export.{made_by} wrote")
    parser.add_argument("report", type=Path, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a fast look, not a publication")
    options = parser.parse_args(arguments)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(options.report, run(options.folder, options.quick, say))


def say(event: Event) -> None:
    """Show what a study is doing."""
    sys.stderr.write(f"{event.message}\n")
