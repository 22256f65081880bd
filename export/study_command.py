"""The command line of the slow studies: a folder to write, and one network alone on request."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgecbam.events import Event, OnEvent


def main(
    module: str,
    about: str | None,
    networks: Sequence[Any],
    study: Callable[[Sequence[Any], Path, OnEvent], None],
    arguments: Sequence[str],
) -> None:
    """Write the files of a study.

    Args:
        module: whose command it is, in edgecbam.export.
        about: its docstring.
        networks: all that it knows, each with a ``name``.
        study: writes the files of the chosen ones into a folder.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m edgecbam.export.{module}", description=about)
    parser.add_argument("out", type=Path, help="folder for the files and index.json")
    parser.add_argument("--only", choices=[network.name for network in networks], help="one network alone")
    options = parser.parse_args(arguments)
    study([network for network in networks if options.only in (None, network.name)], options.out, _say)


def _say(event: Event) -> None:
    sys.stderr.write(f"{event.message}\n")
