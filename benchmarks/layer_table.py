"""The table of what layers cost in int8: ``python -m edgecbam.benchmarks.layer_table RESULTS DOCUMENT [RUN]``.

What ``edgecbam explain RUN --layers`` found is copied to ``RESULTS/layers_RECIPE.json``; then the table in DOCUMENT is
renewed from all such files. It stands between comment lines, so that a test can compare the two.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table
from .wording import percent

BEGIN = "<!-- begin of the layers made by edgecbam.benchmarks.layer_table -->"
PATTERN = "layers_*.json"
SHOWN = 10


def reports(results: Path) -> list[dict[str, Any]]:
    """All committed reports."""
    return [artifacts.read_json(path) for path in sorted(results.glob(PATTERN))]


def renew(document: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The document with its table made of these reports."""
    return replace(document, f"{BEGIN}\n" + "\n\n".join(part for one in found for part in _parts(one)) + f"\n{END}")


def _parts(one: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"`{row['name']}`",
            " + ".join(row["kinds"]),
            f"{100 * row['change']:+.2f} \\[{100 * row['low']:+.2f}, {100 * row['high']:+.2f}\\]",
            f"{100 * row['closer']:.1f} %",
        ]
        for row in one["layers"][:SHOWN]
    ]
    attention = [row for row in one["layers"] if "_attention_" in row["name"]]
    most = max(attention, key=lambda row: row["closer"])
    counted = sum(row["low"] > 0 or row["high"] < 0 for row in one["layers"])
    return [
        table(["Layer kept float", "Kinds", "Top-1, points", "Error less"], rows),
        f"`{one['recipe']}`, {one['images']:,} test images: {percent(one['int8_score'])} in int8, "
        f"{percent(one['float_score'])} with every layer float, in Keras with TensorFlow {one['tensorflow']}. "
        f"The {SHOWN} of {len(one['layers'])} layers that matter most. The interval of {counted} of all does not "
        f"hold 0. Of the {len(attention)} layers of attention, `{most['name']}` matters most, with "
        f"{100 * most['closer']:.1f} % of the error.",
    ]


def main(arguments: Sequence[str]) -> None:
    """Copy a run's figures, renew the table."""
    results, document, *runs = map(Path, arguments)
    for run in runs:
        name = artifacts.load_recipe(run).name
        told = artifacts.read_json(run / "explain" / "layers.json")
        artifacts.write_json(results / f"layers_{name}.json", {"recipe": name, **told})
    artifacts.write_whole(document, renew(document.read_text("utf-8"), reports(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
