"""The tables of docs/lowering.md say what their report says."""

from typing import Any

import pytest

from edgecbam.benchmarks import lowering_table


def report() -> dict[str, Any]:
    def row(network: str, dtype: str, lowered: float, target: float | None) -> dict[str, Any]:
        return {
            "network": network,
            "dtype": dtype,
            "none_ms": 1.0,
            "plain_ms": 2.5,
            "lowered_ms": lowered,
            "plain_ratio": 2.5,
            "lowered_ratio": lowered,
            "interval": [lowered - 0.1, lowered + 0.1],
            "lowered_to_plain": {"value": 0.5, "low": 0.45, "high": 0.55, "verdict": "faster"},
            "n": 1200,
            "processes": 8,
            "target": target,
            "met": None if target is None else lowered <= target,
        }

    return {
        "rows": [
            row("resnet", "int8", 1.2, 1.25),
            row("resnet", "float32", 1.3, 1.15),
            row("map 7x7x64", "int8", 1.1, None),
            row("map 7x7x64", "float32", 1.1, None),
        ],
        "against_float": [{"network": "resnet", "value": 3.0, "low": 2.9, "high": 3.1}],
        "profiles": [
            {
                "network": "resnet",
                "dtype": "int8",
                "none_us": {"Convolution": 1000.0},
                "lowered_us": {"Convolution": 1100.0, "Multiply": 300.0},
                "extra_ms": 0.4,
                "bound_ms": 0.05,
            }
        ],
        "environment": {"cpu": "A CPU", "logical_cpus": 2, "os": "Debian", "versions": {"litert": "2.3.0"}},
    }


def test_networks_and_maps_stand_apart_with_ratios_and_targets() -> None:
    networks, maps = lowering_table.networks(report()), lowering_table.maps(report())
    assert "| resnet | int8 | 1 | 2.5 | 1.2 | 2.50 | **1.20** \\[1.10, 1.30\\] | ≤ 1.25 met |" in networks
    assert "≤ 1.15 missed" in networks
    assert "resnet: 3.00× \\[2.90, 3.10\\]" in networks
    assert "8 processes, n = 1200" in networks
    assert "7x7x64" not in networks
    assert "| 7x7x64 | 0.50 \\[0.45, 0.55\\] faster | 0.50 \\[0.45, 0.55\\] faster |" in maps


def test_the_largest_additions_come_first() -> None:
    assert "| resnet | int8 | 0.4 | 0.05 | Multiply 0.3, Convolution 0.1 |" in lowering_table.limits(report())


def test_a_document_without_the_tables_is_refused() -> None:
    blocks = [lowering_table.NETWORKS, lowering_table.MAPS, lowering_table.LIMITS]
    document = "\n\n".join(f"{block}\n<!-- end of the table -->" for block in blocks)
    renewed = lowering_table.renew(document, report())
    assert lowering_table.renew(renewed, report()) == renewed
    assert renewed.count("| resnet |") == 3
    with pytest.raises(ValueError, match="lacks the lines"):
        lowering_table.renew("no table", report())
