"""From what a runtime's profiler says of its ops to an entry of a report's ``profiles``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgecbam.errors import InputError

from . import attention_ops

ATTENTION = attention_ops.PATTERN
TOLERANCE = 0.05  # a share of attention that rounding leaves less sure than this says so


def pattern(attention: str) -> re.Pattern[str]:
    """The regular expression, for which upper and lower case are the same; raises InputError where it is none."""
    try:
        return re.compile(attention, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--attention {attention!r} is no regular expression: {error}") from None


def entry(place: Mapping[str, Any], raw: Mapping[str, Any], attention: str) -> dict[str, Any]:
    """One entry of ``profiles``.

    Args:
        place: ``model``, ``runtime``, ``device`` and ``threads``.
        raw: what a Profiler gives.
        attention: regular expression over names of ops. ATTENTION, the default, is helped by where the ops stand;
            another one counts alone.

    Returns:
        JSON values as in report.schema.json. An op counts as attention where all it computes is attention; where a
        runtime has merged attention with something else, or the op cannot be told among the model's, its
        ``attention`` is None, it is not counted and ``attention_reason`` says how much that is. That also says where
        rounded times leave the share open.

    Raises:
        InputError: ``attention`` is no regular expression.
    """
    ops = raw["ops"]
    total = float(sum(op["us"] for op in ops))
    flags, reason = _flags(raw, attention)
    if total == 0 and reason is None:
        reason = f"all ops together take less than the profiler's resolution, {raw['resolution_us']:g} µs"
    counted = None
    if reason is None:
        counted = _part([op for op, flag in zip(ops, flags, strict=True) if flag], total)
        reason = "; ".join(_reservations(raw, flags, total)) or None
    else:
        flags = [None] * len(ops)
    listed = [
        {
            "name": op["name"],
            "op": op["op"],
            "us": op["us"],
            "share": _share(op["us"], total),
            "where": op["where"],
            "attention": flag,
        }
        for op, flag in zip(ops, flags, strict=True)
    ]
    return {
        **_place(place),
        "status": "ok",
        "reason": "",
        "runs": raw["runs"],
        "total_us": total,
        "delegate": raw["delegate"],
        "resolution_us": raw["resolution_us"],
        "ops": sorted(listed, key=lambda op: -op["us"]),
        "attention": counted,
        "attention_reason": reason,
        "not_delegated": _not_delegated(raw, total),
        "by_op": _by_op(ops, total),
    }


def failed(place: Mapping[str, Any], status: str, reason: str) -> dict[str, Any]:
    """The entry of a cell whose profile could not be had."""
    return {
        **_place(place),
        "status": status,
        "reason": reason,
        "runs": None,
        "total_us": None,
        "delegate": None,
        "resolution_us": None,
        "ops": [],
        "attention": None,
        "attention_reason": None,
        "not_delegated": None,
        "by_op": [],
    }


def _place(place: Mapping[str, Any]) -> dict[str, Any]:
    return {key: place[key] for key in ("model", "runtime", "device", "threads")}


def _flags(raw: Mapping[str, Any], attention: str) -> tuple[list[bool | None], str | None]:
    """Whether each op is attention, None where that cannot be told; and why it cannot be told of any."""
    names, graph = pattern(attention), raw["graph"]
    if raw["graph_reason"] is not None:
        return [], raw["graph_reason"]
    marked = attention_ops.by_name(graph, names)
    if attention == ATTENTION:
        marked |= attention_ops.by_place(graph)
    nameless = {index for index, node in enumerate(graph) if attention != ATTENTION and not node["name"]}
    flags = [_flag(op["nodes"], marked, nameless) for op in raw["ops"]]
    if not marked and attention == ATTENTION:
        return (
            [],
            "no op has a name of attention, and none makes a gate: there is no attention, or none that can be told",
        )
    if not marked:
        return [], f"no op has a name that matches {attention!r}"
    return flags, None


def _flag(nodes: Sequence[int], marked: set[int], nameless: set[int]) -> bool | None:
    if not nodes or any(node in nameless for node in nodes):
        return None
    inside = sum(node in marked for node in nodes)
    return None if 0 < inside < len(nodes) else inside > 0


def _reservations(raw: Mapping[str, Any], flags: Sequence[bool | None], total: float) -> list[str]:
    """What makes the share of attention less than exact."""
    told = []
    unsure = [op for op, flag in zip(raw["ops"], flags, strict=True) if flag is None]
    if unsure:
        told.append(
            f"not counted: {len(unsure)} ops, {100 * _part(unsure, total)['share']:.1f} % of the time, that compute "
            "attention together with something else or that the runtime has added"
        )
    attention = sum(op["us"] for op, flag in zip(raw["ops"], flags, strict=True) if flag)
    lost_inside = raw["resolution_us"] * sum(flag is True for flag in flags)
    lost_outside = raw["resolution_us"] * sum(flag is not True for flag in flags)
    low, high = attention / (total + lost_outside), (attention + lost_inside) / (total + lost_inside)
    if high - low > TOLERANCE:
        told.append(
            f"the ops are short for a profiler that rounds down to {raw['resolution_us']:g} µs: the share lies "
            f"between {100 * low:.0f} and {100 * high:.0f} %"
        )
    return told


def _not_delegated(raw: Mapping[str, Any], total: float) -> dict[str, Any] | None:
    """The ops that ran elsewhere than meant; None where there is no such choice."""
    if raw["delegate"] is None:
        return None
    outside = [op for op in raw["ops"] if op["where"] != raw["delegate"]]
    return {"count": len(outside), **_part(outside, total), "ops": sorted({op["op"] for op in outside})}


def _by_op(ops: Sequence[Mapping[str, Any]], total: float) -> list[dict[str, Any]]:
    """The kinds of ops, the dearest first."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for op in ops:
        kinds.setdefault(op["op"], []).append(op)
    parts = [{"op": kind, "count": len(same), **_part(same, total)} for kind, same in kinds.items()]
    return sorted(parts, key=lambda part: -part["us"])


def _part(ops: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    us = float(sum(op["us"] for op in ops))
    return {"us": us, "share": _share(us, total)}


def _share(us: float, total: float) -> float:
    return us / total if total else 0.0
