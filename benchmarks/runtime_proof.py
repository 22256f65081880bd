"""Which runtime each file needs, proved by running it under every version of a list.

    python -m edgecbam.benchmarks.runtime_proof MODELS RESULT.json ENVIRONMENTS [--arm64]

MODELS is what export/runtime_models.py wrote; ENVIRONMENTS keeps the environments from run to run. Every file runs on
the same inputs under each version of ai-edge-litert, on one thread, and under tflite-micro. With --arm64 the runs are
emulated, which says what a version computes and how it splits a file on such a processor, but not how fast.
"""

import argparse
import base64
import functools
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam import artifacts
from edgecbam.errors import EdgeCbamError, EnvironmentFailure, InputError
from edgecbam.events import Event, OnEvent, ignore

from . import environment, runtime_environments
from .runtime_environments import (
    ARM64_VERSIONS,
    CORES,
    LITERT,
    MICRO,
    MICRO_VERSION,
    NEEDS,
    PYTHON,
    VERSIONS,
    Environment,
)

INDEX_FILE = "index.json"
PROBE = Path(__file__).with_name("runtime_probe.py")
REFERENCE = "reference"  # the profile that changes nothing
INPUTS, EMULATED_INPUTS = 20, 8
SEED = 0
TIMEOUT_S = 1800.0

Row = dict[str, Any]
Answers = Mapping[Environment, Mapping[str, Mapping[str, Any]]]  # of the probe, by the name of the file


@dataclass(frozen=True)
class Model:
    """An entry of the index: one network in one profile and precision."""

    name: str
    profile: str
    precision: str
    path: Path
    sha256: str


def read_index(folder: Path) -> list[Model]:
    """The files to prove; raises InputError where ``index.json`` or a file is missing, or is not what it should be."""
    path = folder / INDEX_FILE
    raw = artifacts.read_json(path)
    try:
        models = [
            Model(entry["name"], entry["profile"], entry["precision"], folder / entry["file"], entry["sha256"])
            for entry in raw["models"]
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no index of files to prove ({error!r}): make it again") from None
    for model in models:
        if not model.path.is_file() or artifacts.sha256_file(model.path) != model.sha256:
            raise InputError(f"{model.path} is not the file that {path.name} names: make both again")
        if not any(_is_reference_of(other, model) for other in models):
            raise InputError(f"{path} has no {REFERENCE} file of {model.name} in {model.precision}: make it again")
    return models


def ask(place: Environment, models: Sequence[Model], inputs: int, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Run the probe in an environment.

    Args:
        place: where.
        models: files to run.
        inputs: how many inputs each runs on.
        timeout_s: after which the probe has failed.

    Returns:
        The probe's answer by the name of the file. Where the process dies, each file is asked for alone, and the
        answer of the one that kills it has the status ``"crash"`` or ``"timeout"``.

    Raises:
        EnvironmentFailure: the environment holds another version than it should.
    """
    command = [*place.command, "-P", str(PROBE), "--inputs", str(inputs), "--seed", str(SEED)]
    command += [str(model.path) for model in models]
    variables = {**os.environ, **dict(place.variables)}
    if "PYTHONPATH" not in dict(place.variables):
        variables.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(command, capture_output=True, env=variables, timeout=timeout_s, check=False)
        answer = json.loads(done.stdout)
        held, files = (answer["runtime"], answer["version"]), {model.path.name: model for model in models}
        found = {name: dict(answer["files"][name]) for name in files}
    except subprocess.TimeoutExpired:
        failure = {"status": "timeout", "reason": f"no answer within {timeout_s:g} s"}
    except (ValueError, KeyError, TypeError):
        failure = {"status": "crash", "reason": _epitaph(done.returncode, done.stderr)}
    else:
        if held != (place.runtime, place.version):
            raise EnvironmentFailure(f"the environment of {place.name} holds {' '.join(held)}: remove its folder")
        return found
    if len(models) == 1:
        return {models[0].path.name: failure}
    return {name: answer for model in models for name, answer in ask(place, [model], inputs, timeout_s).items()}


def rows(models: Sequence[Model], answers: Answers, newest: Environment) -> list[Row]:
    """One row for each file in each environment.

    Args:
        models: the files.
        answers: of the probe, for all files in every environment.
        newest: the environment that the others are compared with.

    Raises:
        EnvironmentFailure: two answers are of other inputs, or all outputs of a file are the same, so that comparing
            them proves nothing.
    """
    _check(models, answers)
    found = []
    for place, files in answers.items():
        for model in models:
            answer = files[model.path.name]
            reference = next(other for other in models if _is_reference_of(other, model))
            found.append(
                {
                    "model": model.name,
                    "profile": model.profile,
                    "precision": model.precision,
                    "runtime": place.runtime,
                    "version": place.version,
                    "architecture": place.architecture,
                    "cpu": place.cpu,
                    "status": answer["status"],
                    "reason": _without_paths(answer["reason"]),
                    **{key: answer.get(key) for key in ("partitions", "outside", "arena_bytes", "outputs_sha256")},
                    **_compare("reference", answer, files[reference.path.name]),
                    **_compare("newest", answer, answers[newest][model.path.name]),
                }
            )
    return found


def minimum(found: Sequence[Row]) -> dict[str, dict[str, dict[str, str | None]]]:
    """By profile and precision, the versions of ai-edge-litert from which on a claim holds for every file.

    Args:
        found: rows.

    Returns:
        ``one_partition``: the oldest version from which on every newer one that was tested runs the files in one
        partition with nothing outside. ``equal_to_reference``: the same for outputs of the same bytes as the reference
        profile's under the same version. None where the newest does not.
    """
    claims: dict[str, Callable[[Row], bool]] = {
        "one_partition": lambda row: row["status"] == "ok" and row["partitions"] == 1 and not row["outside"],
        "equal_to_reference": lambda row: row["equal_to_reference"] is True,
    }
    result: dict[str, dict[str, dict[str, str | None]]] = {}
    litert = [row for row in found if row["runtime"] == LITERT]
    for profile, precision in sorted({(row["profile"], row["precision"]) for row in litert}):
        chosen = [row for row in litert if (row["profile"], row["precision"]) == (profile, precision)]
        result.setdefault(profile, {})[precision] = {name: _oldest(chosen, holds) for name, holds in claims.items()}
    return result


def run(models: Sequence[Model], environments: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Prove files on this machine's processor; the result as JSON values.

    Args:
        models: the files.
        environments: folder that keeps the environments.
        on_event: told of every environment.

    Raises:
        EnvironmentFailure: an environment cannot be made, or see ``rows``.
    """
    native = _make_native(environments)
    places = [native(LITERT, version) for version in VERSIONS] + [native(MICRO, MICRO_VERSION)]
    answers = _ask_all(places, models, INPUTS, on_event)
    newest = max((place for place in places if place.runtime == LITERT), key=lambda place: version_key(place.version))
    found = rows(models, answers, newest)
    return {**_head("make prove-runtimes", models, INPUTS), "rows": found, "minimum": minimum(found)}


def run_arm64(models: Sequence[Model], environments: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Prove files on emulated 64-bit Arm processors; arguments, value and errors as for ``run``.

    The newest version on this machine's processor runs along, to compare with. It has no say in ``minimum``.
    """
    runtime_environments.check_arm64(environments)
    newest = _make_native(environments)(LITERT, max(VERSIONS, key=version_key))
    places = [
        runtime_environments.make_arm64(environments, version, core) for core in CORES for version in ARM64_VERSIONS
    ]
    found = rows(models, _ask_all([newest, *places], models, EMULATED_INPUTS, on_event), newest)
    return {
        **_head("make prove-runtimes-arm64", models, EMULATED_INPUTS),
        "emulator": runtime_environments.emulator(),
        "rows": found,
        "minimum": minimum([row for row in found if row["architecture"] == "aarch64"]),
    }


def version_key(version: str) -> tuple[int, ...]:
    """Sorts versions by age: 2.10 after 2.9."""
    return tuple(int(part) for part in version.split("."))


def _make_native(environments: Path) -> Callable[[str, str], Environment]:
    here = {"architecture": platform.machine(), "cpu": environment.describe([])["cpu"]}
    return functools.partial(runtime_environments.make_native, environments, **here)


def _ask_all(places: Iterable[Environment], models: Sequence[Model], inputs: int, on_event: OnEvent) -> Answers:
    answers = {}
    for place in places:
        on_event(Event("runtime_proof", message=place.name))
        answers[place] = ask(place, models, inputs)
    return answers


def _head(command: str, models: Sequence[Model], inputs: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "command": command,
        "environment": environment.describe([]),
        "python": "{}.{}".format(*PYTHON),  # of the environments, and what they hold beside the runtime
        "packages": {runtime: list(packages) for runtime, packages in NEEDS.items()},
        "inputs": inputs,
        "seed": SEED,
        "models": [
            {"name": model.name, "profile": model.profile, "precision": model.precision, "sha256": model.sha256}
            for model in models
        ],
    }


def _is_reference_of(other: Model, model: Model) -> bool:
    return (other.name, other.precision, other.profile) == (model.name, model.precision, REFERENCE)


def _check(models: Sequence[Model], answers: Answers) -> None:
    for model in models:
        sane = {place: files[model.path.name] for place, files in answers.items()}
        sane = {place: answer for place, answer in sane.items() if answer["status"] == "ok"}
        if len({answer["inputs_sha256"] for answer in sane.values()}) > 1:
            raise EnvironmentFailure(f"{model.path.name} ran on other inputs from environment to environment")
        for place, answer in sane.items():
            outputs = _outputs(answer)
            if not np.any(outputs != outputs[0]):
                raise EnvironmentFailure(
                    f"{model.path.name} says the same of every input under {place.name}: equality proves nothing"
                )


def _outputs(answer: Mapping[str, Any]) -> np.ndarray:
    """[inputs, classes]"""
    raw = answer["outputs"]
    return np.frombuffer(base64.b64decode(raw["base64"]), raw["dtype"]).reshape(raw["shape"])


def _compare(name: str, answer: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Same bytes or not, and the largest difference: int8 in LSB, float32 relative to the largest logit.

    All None where one of the two did not run.
    """
    result: dict[str, Any] = {f"equal_to_{name}": None, f"lsb_to_{name}": None, f"relative_to_{name}": None}
    if answer["status"] != "ok" or other["status"] != "ok":
        return result
    outputs, expected = _outputs(answer), _outputs(other)
    result[f"equal_to_{name}"] = outputs.dtype == expected.dtype and outputs.tobytes() == expected.tobytes()
    difference = float(np.max(np.abs(outputs.astype(np.float64) - expected.astype(np.float64))))
    if expected.dtype.kind == "i":
        result[f"lsb_to_{name}"] = int(difference)
    else:
        result[f"relative_to_{name}"] = difference / float(np.max(np.abs(expected)))
    return result


def _oldest(found: Sequence[Row], holds: Callable[[Row], bool]) -> str | None:
    """The oldest version from which on all rows hold."""
    oldest = None
    for version in sorted({row["version"] for row in found}, key=version_key, reverse=True):
        if not all(holds(row) for row in found if row["version"] == version):
            break
        oldest = version
    return oldest


def _epitaph(code: int, stderr: bytes) -> str:
    how = f"exit code {code}"
    if code < 0 and -code in {number.value for number in signal.Signals}:
        how = signal.Signals(-code).name
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return f"died ({how})" + (f": {lines[-1].strip()[:200]}" if lines else "")


def _without_paths(reason: str | None) -> str | None:
    """A result can be published: it names no folder of the machine."""
    return None if reason is None else re.sub(r"(?<![\w.])(/[^\s'\":,;)]+)+/", "", reason)


def _say(event: Event) -> None:
    sys.stderr.write(f"{event.message}\n")


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgecbam.benchmarks.runtime_proof", description=__doc__)
    parser.add_argument("models", type=Path, help="what edgecbam.export.runtime_models wrote")
    parser.add_argument("result", type=Path, help="the JSON file to write")
    parser.add_argument("environments", type=Path, help="folder that keeps the environments")
    parser.add_argument("--arm64", action="store_true", help="on emulated 64-bit Arm processors")
    options = parser.parse_args(arguments)
    try:
        models = read_index(options.models)
        result = (run_arm64 if options.arm64 else run)(models, options.environments, _say)
        options.result.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(options.result, result)
    except EdgeCbamError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
