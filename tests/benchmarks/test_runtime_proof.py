"""Which runtime a file needs: rows and minimum from planted answers, the probe itself, and the committed proof."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import artifacts
from edgecbam.benchmarks import runtime_environments, runtime_probe, runtime_proof
from edgecbam.benchmarks.runtime_environments import LITERT, MICRO, Environment
from edgecbam.benchmarks.runtime_proof import Model
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.export.lowering import MINIMUM_RUNTIME, PROFILES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PRECISIONS = ("int8", "float32")
OLD, MIDDLE, NEW = (Environment(LITERT, version, "x86_64", "a CPU", ("python",)) for version in ("1.9", "1.10", "2.0"))
TINY_CHIP = Environment(MICRO, "0.dev1", "x86_64", "a CPU", ("python",))
OUTPUTS = np.array([[1, 2, 3], [4, 5, 6]], np.int8)


def model(profile: str, precision: str = "int8") -> Model:
    return Model("net", profile, precision, Path(f"net_{precision}_{profile}.tflite"), "0" * 64)


def answer(outputs: np.ndarray, partitions: int | None = 1, **outside: int) -> dict[str, Any]:
    """What the probe says of a file that ran."""
    content = base64.b64encode(outputs.tobytes()).decode()
    return {
        "status": "ok",
        "reason": None,
        "partitions": partitions,
        "outside": None if partitions is None else outside,
        "arena_bytes": 99 if partitions is None else None,
        "inputs_sha256": "a",
        "outputs_sha256": hashlib.sha256(outputs.tobytes()).hexdigest(),
        "outputs": {"dtype": outputs.dtype.name, "shape": list(outputs.shape), "base64": content},
    }


def failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason}


@pytest.fixture
def models() -> list[Model]:
    return [model("reference"), model("xnnpack")]


@pytest.fixture
def answers(models: list[Model]) -> dict[Environment, dict[str, dict[str, Any]]]:
    """The lowered file is in one partition from 1.10 on, has the reference's bytes from 2.0 on, and fails on a chip."""
    reference, lowered = (entry.path.name for entry in models)
    return {
        OLD: {reference: answer(OUTPUTS, 3, REDUCE_MAX=2), lowered: answer(OUTPUTS + np.int8(2), 2, REDUCE_MAX=1)},
        MIDDLE: {reference: answer(OUTPUTS), lowered: answer(OUTPUTS - np.int8(1))},
        NEW: {reference: answer(OUTPUTS), lowered: answer(OUTPUTS)},
        TINY_CHIP: {
            reference: answer(OUTPUTS + np.int8(1), None),
            lowered: failed("no op in /a/secret/folder/x.tflite"),
        },
    }


def test_rows_compare_with_the_reference_and_with_the_newest(models: list[Model], answers: Any) -> None:
    found = runtime_proof.rows(models, answers, NEW)
    assert len(found) == 8
    lowered = {row["version"]: row for row in found if row["profile"] == "xnnpack"}
    reference = {row["version"]: row for row in found if row["profile"] == "reference"}
    assert [lowered[v]["equal_to_reference"] for v in ("1.9", "1.10", "2.0")] == [False, False, True]
    assert [lowered[v]["lsb_to_reference"] for v in ("1.9", "1.10", "2.0")] == [2, 1, 0]
    assert [lowered[v]["equal_to_newest"] for v in ("1.9", "1.10", "2.0")] == [False, False, True]
    assert (lowered["1.9"]["partitions"], lowered["1.9"]["outside"]) == (2, {"REDUCE_MAX": 1})
    assert all(row["equal_to_reference"] and row["lsb_to_reference"] == 0 for row in reference.values())
    assert reference["0.dev1"]["lsb_to_newest"] == 1
    assert reference["0.dev1"]["arena_bytes"] == 99
    assert all(row["relative_to_newest"] is None for row in found)


def test_a_row_of_a_file_that_did_not_run_claims_nothing_and_names_no_folder(models: list[Model], answers: Any) -> None:
    (row,) = [row for row in runtime_proof.rows(models, answers, NEW) if row["status"] != "ok"]
    assert row["reason"] == "no op in x.tflite"
    compared = ("equal", "lsb", "relative")
    assert all(row[f"{what}_to_{other}"] is None for what in compared for other in ("reference", "newest"))
    assert row["partitions"] is None
    assert row["outside"] is None


def test_int8_differences_do_not_wrap_around(models: list[Model]) -> None:
    low, high = (np.array([[0, value], [1, 1]], np.int8) for value in (-128, 127))
    answers = {NEW: {models[0].path.name: answer(low), models[1].path.name: answer(high)}}
    assert [row["lsb_to_reference"] for row in runtime_proof.rows(models, answers, NEW)] == [0, 255]


def test_float_differences_are_relative_to_the_largest_logit() -> None:
    models = [model("reference", "float32"), model("xnnpack", "float32")]
    expected = np.array([[1.0, -8.0], [2.0, 4.0]], np.float32)
    other = expected + np.array([[0, 0], [0, 2]], np.float32)
    answers = {NEW: {models[0].path.name: answer(expected), models[1].path.name: answer(other)}}
    row = runtime_proof.rows(models, answers, NEW)[1]
    assert (row["equal_to_reference"], row["lsb_to_reference"], row["relative_to_reference"]) == (False, None, 0.25)


def test_the_minimum_is_the_oldest_version_from_which_on_it_holds(models: list[Model], answers: Any) -> None:
    found = runtime_proof.minimum(runtime_proof.rows(models, answers, NEW))
    assert found["xnnpack"]["int8"] == {"one_partition": "1.10", "equal_to_reference": "2.0"}
    assert found["reference"]["int8"] == {"one_partition": "1.10", "equal_to_reference": "1.9"}


def test_a_newer_version_that_fails_moves_the_minimum_up(models: list[Model], answers: Any) -> None:
    answers[MIDDLE][models[0].path.name] = failed("cannot")
    found = runtime_proof.minimum(runtime_proof.rows(models, answers, NEW))
    assert found["reference"]["int8"] == {"one_partition": "2.0", "equal_to_reference": "2.0"}
    answers[NEW][models[1].path.name] = answer(OUTPUTS, 1, MEAN=1)
    found = runtime_proof.minimum(runtime_proof.rows(models, answers, NEW))
    assert found["xnnpack"]["int8"] == {"one_partition": None, "equal_to_reference": "2.0"}


def test_every_file_and_processor_counts_for_the_minimum(models: list[Model], answers: Any) -> None:
    other = Environment(LITERT, "1.10", "x86_64", "another CPU", ("python",))
    answers[other] = {entry.path.name: answer(OUTPUTS, 2) for entry in models}
    found = runtime_proof.minimum(runtime_proof.rows(models, answers, NEW))
    assert found["xnnpack"]["int8"]["one_partition"] == "2.0"


def test_other_inputs_are_refused(models: list[Model], answers: Any) -> None:
    answers[OLD][models[0].path.name]["inputs_sha256"] = "b"
    with pytest.raises(EnvironmentFailure, match="other inputs"):
        runtime_proof.rows(models, answers, NEW)


def test_outputs_that_are_all_the_same_prove_nothing(models: list[Model], answers: Any) -> None:
    answers[OLD][models[0].path.name] = answer(np.ones((2, 3), np.int8))
    with pytest.raises(EnvironmentFailure, match=r"same of every input under ai-edge-litert 1\.9"):
        runtime_proof.rows(models, answers, NEW)


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("import os; os.abort()", "crash", r"died \(SIGABRT\)"),
        ("print('hello')", "crash", r"died \(exit code 0\)"),
        ("print('[]')", "crash", r"died \(exit code 0\)"),
        ("import sys; sys.exit('no such thing')", "crash", r"died \(exit code 1\): no such thing"),
        ("import time; time.sleep(60)", "timeout", r"no answer within 0\.5 s"),
    ],
)
def test_a_probe_that_answers_badly_is_an_answer(program: str, status: str, reason: str) -> None:
    place = Environment(LITERT, "2.0", "x86_64", None, (sys.executable, "-c", program))
    found = runtime_proof.ask(place, [model("xnnpack")], 2, 0.5 if status == "timeout" else 60)
    (only,) = found.values()
    assert only["status"] == status
    assert re.match(reason, only["reason"])


def test_one_file_that_crashes_does_not_take_the_others_along(tmp_path: Path, models: list[Model]) -> None:
    said = json.dumps(
        {"runtime": LITERT, "version": "2.0", "files": {models[0].path.name: {"status": "ok", "reason": None}}}
    )
    program = f"import os, sys\nif any('xnnpack' in a for a in sys.argv): os.abort()\nprint({said!r})"
    place = Environment(LITERT, "2.0", "x86_64", None, (sys.executable, "-c", program))
    found = runtime_proof.ask(place, models, 2)
    assert {name: entry["status"] for name, entry in found.items()} == {
        models[0].path.name: "ok",
        models[1].path.name: "crash",
    }


def test_an_environment_with_another_version_is_refused(fixtures: Path) -> None:
    place = Environment(LITERT, "0.1", "x86_64", None, (sys.executable,))
    with pytest.raises(EnvironmentFailure, match=r"of ai-edge-litert 0\.1 on x86_64 holds ai-edge-litert 2\.3"):
        runtime_proof.ask(place, [Model("tiny", "reference", "int8", fixtures / "tiny_int8.tflite", "")], 2)


def test_the_probe_runs_a_file(fixtures: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    command = [sys.executable, "-P", runtime_probe.__file__, "--inputs", "6", "--seed", "3"]
    command += [str(fixtures / "tiny_int8.tflite"), str(damaged)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    said = json.loads(done.stdout)
    assert said["runtime"] == LITERT
    tiny = said["files"]["tiny_int8.tflite"]
    assert (tiny["status"], tiny["partitions"], tiny["outside"]) == ("ok", 1, {})
    assert tiny["outputs"]["shape"] == [6, 3]
    inputs = runtime_probe.make_inputs((1, 8, 8, 1), np.int8, 6, 3)
    assert tiny["inputs_sha256"] == hashlib.sha256(inputs.tobytes()).hexdigest()
    content = base64.b64decode(tiny["outputs"]["base64"])
    assert content == expected_outputs(fixtures / "tiny_int8.tflite", inputs).tobytes()
    assert tiny["outputs_sha256"] == hashlib.sha256(content).hexdigest()
    assert said["files"]["damaged.tflite"]["status"] == "failed"
    assert str(tmp_path) not in done.stdout


def expected_outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    """[n, classes], through the package's own session."""
    from edgecbam import runtimes

    session = runtimes.find("litert").open(path, threads=1)
    try:
        return np.concatenate([session.run([array])[0] for array in inputs])
    finally:
        session.close()


def test_the_probe_counts_what_stays_outside() -> None:
    ops = [
        {"index": 0, "op_name": "MUL", "inputs": [0], "outputs": [1]},
        {"index": 1, "op_name": "REDUCE_MAX", "inputs": [1], "outputs": [2]},
        {"index": 2, "op_name": "MUL", "inputs": [2], "outputs": [3]},
        {"index": 3, "op_name": "DELEGATE", "inputs": [0], "outputs": [1]},
        {"index": 4, "op_name": "DELEGATE", "inputs": [2], "outputs": [3]},
    ]
    assert sorted(runtime_probe.running_ops(ops, [3])) == ["DELEGATE", "DELEGATE", "REDUCE_MAX"]


def test_inputs_of_both_precisions_are_the_same_images_and_no_two_alike() -> None:
    integers, floats = (runtime_probe.make_inputs((1, 30, 42, 3), dtype, 4, 0) for dtype in PRECISIONS)
    assert (integers.shape, integers.dtype, floats.dtype) == ((4, 1, 30, 42, 3), np.int8, np.float32)
    np.testing.assert_array_equal(integers, floats * 128)
    assert (integers.min(), integers.max()) == (-128, 127)
    assert len(np.unique(integers.reshape(4, -1), axis=0)) == 4
    steps = np.abs(np.diff(floats, axis=3)).mean(axis=(1, 2, 3, 4))
    assert (steps[1::2] < 0.7 * steps[::2]).all(), "patches: neighbours are more alike than in noise"
    with pytest.raises(ValueError, match="uint8"):
        runtime_probe.make_inputs((1, 4, 4, 3), np.uint8, 1, 0)


def write_index(folder: Path, fixtures: Path, **changes: Any) -> None:
    content = (fixtures / "tiny_int8.tflite").read_bytes()
    (folder / "net.tflite").write_bytes(content)
    entry = {"name": "net", "profile": "reference", "precision": "int8", "file": "net.tflite"}
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), **changes}
    artifacts.write_json(folder / "index.json", {"schema_version": 1, "models": [entry]})


def test_the_index_names_the_files(tmp_path: Path, fixtures: Path) -> None:
    write_index(tmp_path, fixtures)
    (only,) = runtime_proof.read_index(tmp_path)
    assert (only.name, only.profile, only.precision, only.path.name) == ("net", "reference", "int8", "net.tflite")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "is not the file that index.json names"),
        ({"file": "other.tflite"}, "is not the file that index.json names"),
        ({"profile": "xnnpack"}, "has no reference file of net in int8"),
        ({"file": 3}, "is no index"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    tmp_path: Path, fixtures: Path, changes: dict[str, Any], said: str
) -> None:
    write_index(tmp_path, fixtures, **changes)
    with pytest.raises(InputError, match=said):
        runtime_proof.read_index(tmp_path)


def test_what_arm_needs_is_said_in_one_line(
    tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_index(tmp_path, fixtures)
    monkeypatch.setattr(runtime_environments.shutil, "which", lambda name: None)
    monkeypatch.setattr(runtime_environments, "KEYRING", tmp_path / "missing.gpg")
    code = runtime_proof.main([str(tmp_path), str(tmp_path / "r.json"), str(tmp_path / "environments"), "--arm64"])
    assert code == 3
    assert capsys.readouterr().err == (
        "64-bit Arm needs an emulator: sudo apt-get install qemu-user-static mmdebstrap debian-archive-keyring\n"
    )
    assert not (tmp_path / "r.json").exists()


def test_arm_needs_root_until_its_python_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_environments.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(runtime_environments, "KEYRING", Path(__file__))
    monkeypatch.setattr(runtime_environments.os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFailure, match="run as root"):
        runtime_environments.check_arm64(tmp_path)
    (tmp_path / "arm64").mkdir()
    (tmp_path / "arm64" / runtime_environments.MARK).touch()
    runtime_environments.check_arm64(tmp_path)


def test_an_environment_is_kept_until_it_should_hold_something_else(tmp_path: Path) -> None:
    made = []

    def make() -> None:
        (tmp_path / "place").mkdir()
        made.append(1)

    for content in (("a==1",), ("a==1",), ("a==2",), ("a==2",)):
        runtime_environments._make_once(tmp_path / "place", content, make)
    assert len(made) == 2


def test_a_half_made_environment_is_not_kept(tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "place").mkdir()
        raise EnvironmentFailure("no network")

    with pytest.raises(EnvironmentFailure):
        runtime_environments._make_once(tmp_path / "place", ("a==1",), fail)
    runtime_environments._make_once(tmp_path / "place", ("a==1",), (tmp_path / "place").mkdir)
    assert (tmp_path / "place" / runtime_environments.MARK).is_file()


def test_a_failed_installation_is_told_with_its_last_line() -> None:
    program = "import sys; sys.exit('looking\\nno matching distribution')"
    with pytest.raises(EnvironmentFailure, match="cannot install it: no matching distribution"):
        runtime_environments._run([sys.executable, "-c", program], "install it")


@pytest.fixture(scope="module", params=["runtimes.json", "runtimes_arm64.json"])
def proof(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = artifacts.read_json(RESULTS / request.param)
    return result


def test_the_committed_proof_is_complete(proof: dict[str, Any]) -> None:
    models = {(entry["name"], entry["profile"], entry["precision"]) for entry in proof["models"]}
    assert {(profile, precision) for _, profile, precision in models} == {(p, q) for p in PROFILES for q in PRECISIONS}
    assert len(models) == 12
    arm = "emulator" in proof
    versions = set(runtime_environments.ARM64_VERSIONS if arm else runtime_environments.VERSIONS)
    litert = [row for row in proof["rows"] if row["runtime"] == LITERT and (row["architecture"] == "aarch64") == arm]
    assert {row["version"] for row in litert} == versions
    cpus = {row["cpu"] for row in litert}
    assert not arm or cpus == {f"qemu {core.name}" for core in runtime_environments.CORES}
    assert len(litert) == 12 * len(versions) * len(cpus)
    assert proof["minimum"] == runtime_proof.minimum(litert)


def test_the_committed_proof_names_no_machine(proof: dict[str, Any]) -> None:
    text = json.dumps(proof)
    assert not re.search(r"://|(?<![\w.])/(home|root|work|tmp|opt|usr|var)/", text)


def test_both_committed_proofs_are_of_the_same_files() -> None:
    native, arm = (artifacts.read_json(RESULTS / name)["models"] for name in ("runtimes.json", "runtimes_arm64.json"))
    assert native == arm


def test_int8_files_of_every_profile_compute_the_same_under_the_newest_and_compat_everywhere(
    proof: dict[str, Any],
) -> None:
    newest = max(runtime_environments.VERSIONS, key=runtime_proof.version_key)
    claimed = [
        row
        for row in proof["rows"]
        if row["precision"] == "int8" and (row["profile"] == "compat" or row["version"] == newest)
    ]
    assert claimed
    assert all(row["equal_to_reference"] for row in claimed)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_minimum_runtime_is_the_proved_one(profile: str) -> None:
    proved = artifacts.read_json(RESULTS / "runtimes.json")["minimum"][profile]["int8"]["one_partition"]
    assert MINIMUM_RUNTIME[profile] == f"{LITERT} {'.'.join(proved.split('.')[:2])}"
