"""What `make bench-onnx` asks of its figures: pairs of rows, and what the ratio of their latencies may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import statistics
from .sessions import Outcome

OPSETS = (13, 18, 21)


@dataclass(frozen=True)
class Row:
    """One file on one runtime."""

    attention: str
    variant: str
    runtime: str = "onnxruntime"

    def __str__(self) -> str:
        return f"{self.attention} {self.variant} on {self.runtime}"


@dataclass(frozen=True)
class Target:
    """Latency of ``above`` over that of ``below``: at most ``limit``, or at least; without one it is only told."""

    name: str
    above: Row
    below: Row
    limit: float | None = None
    at_least: bool = False


def _same(attention: str) -> tuple[Target, ...]:
    """Within one network: ours against what others make of it, and OpenVINO's int8 against its floats."""

    def row(variant: str, runtime: str = "onnxruntime") -> Row:
        return Row(attention, variant, runtime)

    return (
        Target(f"{attention}: int8 / quantize_static", row("int8"), row("int8_quantize_static"), 1.0),
        Target(f"{attention}: fp32 / tf2onnx", row("fp32"), row("fp32_tf2onnx"), 1.01),
        Target(f"{attention}: OpenVINO int8 / float32", row("int8", "openvino"), row("fp32", "openvino")),
        Target(f"{attention}: OpenVINO int8 / bfloat16", row("int8", "openvino"), row("fp32", "openvino_bf16")),
    )


def _cost(name: str, variant: str, limit: float | None = None) -> Target:
    """int8 with CBAM against a file without."""
    return Target(f"CBAM's cost: int8 / {name}", Row("cbam", "int8"), Row("none", variant), limit)


TARGETS = (
    Target("cbam: tf2onnx float32 / int8", Row("cbam", "fp32_tf2onnx"), Row("cbam", "int8"), 1.8, at_least=True),
    _cost("int8 without", "int8", 1.4),
    _cost("as written without", "int8_as_written"),
    _cost("quantize_static without", "int8_quantize_static"),
    *_same("none"),
    *_same("cbam"),
    Target("cbam: weights of 7 bits / of 8", Row("cbam", "int8_reduced"), Row("cbam", "int8")),
    *(Target(f"cbam: opset {opset} / 17", Row("cbam", f"int8_opset{opset}"), Row("cbam", "int8")) for opset in OPSETS),
)


def judge(network: str, outcomes: Mapping[Row, Outcome]) -> list[dict[str, Any]]:
    """One entry for each target.

    Args:
        network: its name.
        outcomes: what became of each row.

    Returns:
        JSON values; ``value`` and ``interval`` are None with a ``reason`` where a row was not measured, and a limit is
        not met then.
    """
    return [_judge_one(network, target, outcomes) for target in TARGETS]


def ratio(above: Outcome, below: Outcome) -> dict[str, float | None]:
    """Latency of one row over that of another from the same sessions: ``value``, ``low`` and ``high``."""
    return statistics.ratio(*([np.asarray(process) for process in row.samples_ns] for row in (above, below)))


def _judge_one(network: str, target: Target, outcomes: Mapping[Row, Outcome]) -> dict[str, Any]:
    entry = {
        "network": network,
        "name": target.name,
        "above": str(target.above),
        "below": str(target.below),
        "value": None,
        "interval": None,
        "limit": target.limit,
        "bound": None if target.limit is None else "at least" if target.at_least else "at most",
        "met": None if target.limit is None else False,
        "reason": "",
    }
    for row in (target.above, target.below):
        outcome = outcomes.get(row, Outcome("skipped", "there is no such file"))
        if outcome.status != "ok":
            return {**entry, "reason": f"{row}: {outcome.status}: {outcome.reason}"}
    found = ratio(outcomes[target.above], outcomes[target.below])
    value = found["value"]
    if value is not None and target.limit is not None:
        entry["met"] = value >= target.limit if target.at_least else value <= target.limit
    return {**entry, "value": value, "interval": [found["low"], found["high"]]}
