"""The table of training speed: ``python -m edgecbam.benchmarks.training_speed_table RESULTS DOCUMENT``.

Made of ``RESULTS/training_speed_*.json``, the reports of ``edgecbam.training_speed``. It stands between comment lines,
so that a test can compare it with them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table
from .wording import NONE

BEGIN = "<!-- begin of the speeds made by edgecbam.benchmarks.training_speed_table -->"
PATTERN = "training_speed_*.json"


def reports(results: Path) -> list[dict[str, Any]]:
    """All committed reports, those of processors with AMX first."""
    found = [artifacts.read_json(path) for path in sorted(results.glob(PATTERN))]
    return sorted(found, key=lambda one: (one["precision"] == "float32", one["macs"]))


def renew(document: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The document with its table made of these reports."""
    heads = [
        "Recipe",
        "MMAC",
        "Precision",
        "Batch",
        "Ours, images/s",
        "Plain, images/s",
        "Ours / plain",
        "Input / step",
        "Ours / step",
    ]
    lines = list(dict.fromkeys(_machine(one) for one in found))
    settings = [
        f"{one['recipe']} with {', '.join(f'`{assignment}`' for assignment in one['set'])}."
        for one in found
        if one["set"]
    ]
    body = [table(heads, [_row(one) for one in found]), *settings, *lines]
    return replace(document, f"{BEGIN}\n" + "\n\n".join(body) + f"\n{END}")


def _row(one: Mapping[str, Any]) -> list[str]:
    rates = one["median_images_per_second"]
    return [
        one["recipe"],
        f"{one['macs'] / 1e6:.1f}",
        one["precision"],
        str(one.get("batch_size", NONE)),
        f"{rates['ours']:.0f}",
        f"{rates['plain']:.0f}",
        f"**{one['ours_over_plain']['value']:.2f}** {_interval(one['ours_over_plain'])}",
        f"{one['input_over_step']['value']:.1f}",
        f"{one['ours_over_step']['value']:.2f}",
    ]


def _interval(ratio: Mapping[str, float | None]) -> str:
    if ratio["low"] is None or ratio["high"] is None:
        return ""
    return f"\\[{ratio['low']:.2f}, {ratio['high']:.2f}\\]"


def _machine(one: Mapping[str, Any]) -> str:
    environment = one["environment"]
    return (
        f"{one['precision']}: {environment['cpu']}, {environment['logical_cpus']} CPUs, {environment['os']}, "
        f"TensorFlow {environment['versions'].get('tensorflow', NONE)}; medians of {one['sessions']} sessions, "
        f"{one['epochs_timed']} epochs of {one['train_images']} images timed in each; intervals of 95 % over sessions."
    )


def main(arguments: Sequence[str]) -> None:
    """Renew the table."""
    results, document = map(Path, arguments)
    artifacts.write_whole(document, renew(document.read_text("utf-8"), reports(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
