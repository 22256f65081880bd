"""What an app's SOFTMAX and MediaPipe's resizing cost: ``python -m edgecbam.benchmarks.app_table RESULTS DOCUMENT``.

Made of ``RESULTS/app_softmax.json``, a report of ``edgecbam benchmark`` on the files of export/app_study.py, and of
``RESULTS/mediapipe_resizing.json``, by tests/consumers/mediapipe_resizing.py. Both stand between comment lines, so that
a test can compare them with their figures.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecbam import artifacts

from .readme_table import END, replace, table
from .wording import milliseconds, percent

SOFTMAX_FILE, MEDIAPIPE_FILE = "app_softmax.json", "mediapipe_resizing.json"
BEGIN_SOFTMAX = "<!-- begin of the softmax made by edgecbam.benchmarks.app_table -->"
BEGIN_MEDIAPIPE = "<!-- begin of the resizing made by edgecbam.benchmarks.app_table -->"


def renew(document: str, softmax: Mapping[str, Any], mediapipe: Mapping[str, Any]) -> str:
    """The document with both parts made of these figures."""
    document = replace(document, f"{BEGIN_SOFTMAX}\n{_softmax(softmax)}\n{END}")
    return replace(document, f"{BEGIN_MEDIAPIPE}\n{_mediapipe(mediapipe)}\n{END}")


def _softmax(report: Mapping[str, Any]) -> str:
    comparison = next(one for one in report["comparisons"] if one["kind"] == "candidate")
    rows = {row["model"]: row for row in report["results"] if row["status"] == "ok"}
    candidate, baseline = rows[comparison["candidate"]], rows[comparison["baseline"]]
    ratio, environment, protocol = comparison["ratio"], report["environment"], report["protocol"]
    plain, whole = (milliseconds(row["latency_ms"]["p50"]) for row in (baseline, candidate))
    outside = ", ".join(sorted(set(candidate["placement"]["ops_outside"])))
    return (
        f"`{comparison['candidate']}` beside the same file without SOFTMAX: p50 {whole} ms beside {plain} ms, ratio of "
        f"latencies {ratio['value']:.3f} \\[{ratio['low']:.3f}, {ratio['high']:.3f}\\], {comparison['verdict']}. "
        f"Outside of XNNPACK: {outside}. {environment['cpu']}, {environment['logical_cpus']} CPUs, "
        f"{environment['os']}; LiteRT {environment['versions']['litert']}; 1 thread, batch 1, "
        f"n = {candidate['latency_ms']['n']} in {comparison['processes']} processes ({protocol['name']} protocol)."
    )


def _mediapipe(found: Mapping[str, Any]) -> str:
    heads = ["Model", "Same class as of fitted pixels", "Mean change of the top score", "MediaPipe beside LiteRT"]
    rows = [
        [
            f"`{name}`",
            percent(one["same_class"]),
            f"{100 * one['mean_top_difference']:.1f} points",
            f"{one['largest_difference_from_litert']:g} at most",
        ]
        for name, one in sorted(found["models"].items())
    ]
    note = (
        f"MediaPipe {found['mediapipe']}, {found['images']} held-out images of `{found['recipe']}`, enlarged 1 to 12 "
        "times, half JPEG and half PNG. Last column: scores of the same fitted pixels."
    )
    return f"{table(heads, rows)}\n\n{note}"


def main(arguments: Sequence[str]) -> None:
    """Renew both parts."""
    results, document = map(Path, arguments)
    found = [artifacts.read_json(results / name) for name in (SOFTMAX_FILE, MEDIAPIPE_FILE)]
    artifacts.write_whole(document, renew(document.read_text("utf-8"), *found))


if __name__ == "__main__":
    main(sys.argv[1:])
