"""The files of `make prove-runtimes`: two networks with CBAM in every export profile and both precisions.

    python -m edgecbam.export.runtime_models OUT

benchmarks/runtime_proof.py runs them under many versions of the runtimes; the two meet in OUT/index.json.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts
from edgecbam.events import Event, OnEvent, ignore

from . import lowering, lowering_study, tflite
from .lowering_study import Network

# A network of the study, and one whose maps, 30x42 and 15x21, do not divide into blocks of 4x4.
NETWORKS = (
    *(network for network in lowering_study.NETWORKS if network.name == "resnet-20 at 32x32"),
    Network("resnet 16/32 at 30x42", 30, 42, (16, 32), (1, 1)),
)


def make(networks: Sequence[Network], out: Path, on_event: OnEvent = ignore) -> None:
    """Write a file for every network, profile and precision into a folder, and ``index.json`` last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / lowering_study.INDEX_FILE).unlink(missing_ok=True)
    entries = []
    for network in networks:
        on_event(Event("runtime_models", message=network.name))
        entries += _make_one(network, out)
    artifacts.write_json(out / lowering_study.INDEX_FILE, {"schema_version": 1, "models": entries})


def _make_one(network: Network, out: Path) -> list[dict[str, Any]]:
    stem = re.sub("[^a-z0-9]+", "_", network.name)
    sources = lowering_study.convert(lowering_study.build(network, "cbam"), lowering_study.calibration_batches(network))
    entries = []
    for precision, source in sources.items():
        for profile in lowering.PROFILES:
            content = lowering.lower(source, profile, network.name).content
            path = out / f"{stem}_{precision}_{profile}.tflite"
            artifacts.write_whole(path, tflite.with_io(content, "int8") if precision == "int8" else content)
            entries.append(
                {
                    "name": network.name,
                    "profile": profile,
                    "precision": precision,
                    "file": path.name,
                    "sha256": artifacts.sha256_file(path),
                }
            )
    return entries


def _say(event: Event) -> None:
    sys.stderr.write(f"{event.message}\n")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.export.runtime_models", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the files and index.json")
    make(NETWORKS, parser.parse_args(arguments).out, _say)


if __name__ == "__main__":
    main(sys.argv[1:])
