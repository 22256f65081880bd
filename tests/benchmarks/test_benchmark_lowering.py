"""What CBAM costs: rows from planted samples, the bytes that bound it, and LiteRT's own profile of small files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import litert_profile, lowering, measure
from edgecbam.benchmarks.lowering import Network
from edgecbam.benchmarks.measure import Outcome
from edgecbam.benchmarks.protocol import Protocol
from edgecbam.errors import EnvironmentFailure, InputError

FIRST = "resnet 16/32/64 at 96x96"
TIMES_NS = {
    "int8 none": 1_000_000,
    "int8 plain": 2_000_000,
    "int8 lowered": 1_200_000,
    "float32 none": 4_000_000,
    "float32 plain": 6_000_000,
    "float32 lowered": 4_800_000,
}
MOOD = (1.0, 1.5, 0.8)  # of the machine in each session: it must cancel
LUCK = (0.9, 1.0, 1.1)  # of the process with lowered int8: it must not
STUDENT_T = 4.302652729911275  # 95 %, two degrees of freedom


@pytest.fixture
def network(fixtures: Path) -> Network:
    """A network whose files are all the same small one of their dtype."""
    files = {
        "int8": dict.fromkeys(lowering.FORMS, fixtures / "tiny_int8.tflite"),
        "float32": dict.fromkeys(lowering.FORMS, fixtures / "tiny_fp32.tflite"),
    }
    return Network(FIRST, 96, 96, True, ((2, 3, 4), (5, 6, 7)), files)


def planted(network: Network) -> dict[str, Outcome]:
    """Outcomes with known times: [processes, rounds, runs]; controls are 2 % slower than what they repeat."""
    outcomes = {}
    for cell in lowering.cells(network):
        base = TIMES_NS[cell.model] * (1.02 if cell.control else 1)
        luck = LUCK if cell.model == "int8 lowered" else (1, 1, 1)
        samples = [[[round(base * m * one)] * 5] * 4 for m, one in zip(MOOD, luck, strict=True)]
        outcomes[cell.key] = Outcome(samples_ns=samples)
    return outcomes


def write_index(folder: Path, network: Network) -> None:
    entry = dataclasses.asdict(network) | {"kind": "network" if network.whole else "map"}
    entry["files"] = {d: {f: str(path) for f, path in forms.items()} for d, forms in network.files.items()}
    artifacts.write_json(folder / "index.json", {"schema_version": 1, "networks": [entry]})


def test_cells_are_six_files_and_two_controls(network: Network) -> None:
    cells = lowering.cells(network)
    assert len({cell.key for cell in cells}) == 8
    assert [cell.model for cell in cells if cell.control] == ["int8 none", "float32 none"]
    assert all(cell.baseline == f"{cell.model.split()[0]} none" for cell in cells)
    assert {cell.threads for cell in cells} == {1}


def test_rows_hold_the_planted_ratios(network: Network) -> None:
    int8, float32 = lowering.rows(network, planted(network), "a test")
    assert (int8["network"], int8["dtype"], int8["runtime"], int8["protocol"]) == (FIRST, "int8", "litert", "a test")
    assert (int8["n"], int8["processes"]) == (60, 3)
    mood = math.prod(MOOD) ** (1 / 3)  # p50 is the geometric mean of the processes' medians
    assert int8["none_ms"] == pytest.approx(1.0 * mood)
    assert int8["plain_ms"] == pytest.approx(2.0 * mood)
    assert int8["plain_ratio"] == pytest.approx(2.0, rel=1e-6)
    assert int8["plain_interval"] == pytest.approx([2.0, 2.0], rel=1e-5)
    assert int8["control"]["value"] == pytest.approx(1.02, rel=1e-6)
    assert float32["lowered_ratio"] == pytest.approx(1.2, rel=1e-6)
    assert float32["lowered_to_plain"]["value"] == pytest.approx(0.8, rel=1e-6)
    assert float32["lowered_to_plain"]["verdict"] == "faster"


def test_the_interval_is_over_processes(network: Network) -> None:
    row = lowering.rows(network, planted(network), "a test")[0]
    logs = [math.log(1.2 * luck) for luck in LUCK]
    mean = sum(logs) / 3
    half = STUDENT_T * math.sqrt(sum((log - mean) ** 2 for log in logs) / 2 / 3)
    assert row["lowered_ratio"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert row["interval"] == pytest.approx([math.exp(mean - half), math.exp(mean + half)], rel=1e-5)
    assert row["lowered_to_plain"]["verdict"] == "faster"


def test_a_target_is_met_by_the_value(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    int8, float32 = lowering.rows(network, planted(network), "a test")
    assert (int8["target"], int8["met"]) == (1.25, True), "although the interval reaches beyond it"
    assert int8["interval"][1] > 1.25
    assert (float32["target"], float32["met"]) == (1.15, False)
    other = dataclasses.replace(network, name="map 9x9x9")
    assert [(row["target"], row["met"]) for row in lowering.rows(other, planted(other), "a test")] == [(None, None)] * 2


def test_int8_lowered_against_float_as_trained(network: Network) -> None:
    entry = lowering.against_float(network, planted(network))
    assert entry["value"] == pytest.approx(5 / math.prod(LUCK) ** (1 / 3), rel=1e-5)
    assert entry["low"] < entry["value"] < entry["high"]
    assert (entry["target"], entry["met"]) == (2.3, True)
    second = dataclasses.replace(network, name="resnet 32/64/128 at 96x96")
    outcomes = planted(second)
    for process in outcomes["float32 plain|litert|cpu|1"].samples_ns:
        process[:] = [[ns // 2 for ns in block] for block in process]
    assert lowering.against_float(second, outcomes)["met"] is False


def test_a_file_that_was_not_measured_is_named(network: Network) -> None:
    outcomes = planted(network)
    outcomes["float32 lowered|litert|cpu|1"] = Outcome("crash", "died in block (SIGSEGV)")
    with pytest.raises(EnvironmentFailure, match=rf"{FIRST}, float32 lowered, was not measured: died in block"):
        lowering.rows(network, outcomes, "a test")


def test_attention_bytes_are_eight_passes_over_each_map(network: Network) -> None:
    elements = 2 * 3 * 4 + 5 * 6 * 7
    assert lowering.attention_bytes(network, "int8") == 8 * elements
    assert lowering.attention_bytes(network, "float32") == 32 * elements


@pytest.mark.parametrize("size", [1, 16_384, 3_000_000])
def test_a_bandwidth_is_a_positive_number(size: int) -> None:
    assert 0 < lowering.copy_bandwidth(size) < math.inf


def test_a_profile_sums_by_op_and_divides_by_the_bound(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = [("Multiply (ND)", 1.5), ("Sigmoid (NC)", 0.25), ("Multiply (ND)", 2.0)]
    monkeypatch.setattr(litert_profile, "profile_apart", lambda path, runs: ops)
    monkeypatch.setattr(lowering, "copy_bandwidth", lambda size: {210: 1e6}[size])
    row = lowering.rows(network, planted(network), "a test")[0]
    entry = lowering.profile(network, "int8", row, 7)
    assert entry["none_us"] == entry["lowered_us"] == {"Multiply (ND)": 3.5, "Sigmoid (NC)": 0.25}
    assert entry["bound_ms"] == pytest.approx(8 * 234 / 1e6 * 1e3)
    assert entry["extra_ms"] == pytest.approx(row["lowered_ms"] - row["none_ms"])
    assert entry["extra_over_bound"] == pytest.approx(entry["extra_ms"] / entry["bound_ms"])
    assert entry["runs"] == 7


@pytest.mark.parametrize(("slow_ms", "expected"), [(math.inf, "lowering"), (0.0, "lowering_slow")])
def test_slow_networks_are_run_less_often(
    network: Network, monkeypatch: pytest.MonkeyPatch, slow_ms: float, expected: str
) -> None:
    monkeypatch.setattr(lowering, "SLOW_MS", slow_ms)
    assert lowering._protocol(network).name == expected


def test_a_map_has_rows_and_nothing_else(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = dataclasses.replace(network, name="map 5x6x7", whole=False)
    write_index(tmp_path, single)
    monkeypatch.setattr(measure, "run_sessions", lambda cells, protocol: planted(single))
    report = lowering.run(tmp_path, quick=False)
    assert [row["dtype"] for row in report["rows"]] == ["int8", "float32"]
    assert (report["against_float"], report["profiles"]) == ([], [])
    assert report["command"] == "make bench-lowering"
    assert [protocol["processes"] for protocol in report["protocol"]] == [8, 8]


def test_the_command_measures_and_writes(
    network: Network, tmp_path: Path, tiny_protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path, network)
    monkeypatch.setattr(lowering, "QUICK", tiny_protocol)
    lowering.main([str(tmp_path), str(tmp_path / "results" / "report.json"), "--quick"])
    text = (tmp_path / "results" / "report.json").read_text()
    report = json.loads(text)
    assert {*report} >= {"schema_version", "command", "environment", "protocol", "rows", "against_float", "profiles"}
    assert [(row["n"], row["processes"]) for row in report["rows"]] == [(12, 2)] * 2
    assert all(row[f"{form}_ms"] > 0 for row in report["rows"] for form in lowering.FORMS)
    assert [entry["network"] for entry in report["against_float"]] == [FIRST]
    assert [entry["dtype"] for entry in report["profiles"]] == ["int8", "float32"]
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("index", [{}, {"networks": [{}]}, {"networks": 3}, []])
def test_what_is_no_index_is_refused(tmp_path: Path, index: Any) -> None:
    artifacts.write_json(tmp_path / "index.json", index)
    with pytest.raises(InputError, match=r"index\.json is no index of a lowering study"):
        lowering.read_index(tmp_path)


@pytest.mark.parametrize("name", ["tiny_int8.tflite", "tiny_fp32.tflite"])
def test_a_profile_lists_the_ops_as_they_run(fixtures: Path, name: str) -> None:
    ops = litert_profile.profile_apart(fixtures / name, 2000)
    kinds = ("Convolution (NHWC", "Mean (ND)", "Static Reshape", "Fully Connected (NC")
    assert all(op.startswith(kind) for (op, _), kind in zip(ops, kinds, strict=True))
    assert all(elapsed >= 0 for _, elapsed in ops)
    assert sum(elapsed for _, elapsed in ops) > 0


def test_ops_outside_of_xnnpack_are_in_the_profile(fixtures: Path) -> None:
    ops = litert_profile.profile_apart(fixtures / "tiny_split.tflite", 3)
    assert [op for op, _ in ops] == ["Multiply (ND)", "CUMSUM", "Multiply (ND)"]


def test_a_damaged_file_has_no_profile(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tflite"
    path.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    with pytest.raises(InputError, match=r"damaged\.tflite"):
        litert_profile.profile_apart(path, 1)
