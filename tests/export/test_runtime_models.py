"""The files of `make prove-runtimes`: all there, lowered as their profile says, and readable by the proof."""

import pytest

from edgecbam.benchmarks import runtime_proof
from edgecbam.benchmarks.runtime_proof import Model
from edgecbam.export import lowering, runtime_models, tflite_file
from edgecbam.export.lowering_study import Network

TINY = Network("tiny 8 at 16x16", 16, 16, (8,), (1,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Model]:
    """Files of one tiny network by profile and precision, as the proof reads them."""
    out = tmp_path_factory.mktemp("models")
    runtime_models.make([TINY], out)
    models = runtime_proof.read_index(out)
    assert {path.name for path in out.iterdir()} == {model.path.name for model in models} | {"index.json"}
    return {(model.profile, model.precision): model for model in models}


def test_there_is_a_file_for_every_profile_and_precision(made: dict[tuple[str, str], Model]) -> None:
    assert set(made) == {(profile, precision) for profile in lowering.PROFILES for precision in ("int8", "float32")}
    assert {model.name for model in made.values()} == {TINY.name}


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_each_file_is_lowered_as_its_profile_says(made: dict[tuple[str, str], Model], precision: str) -> None:
    paths = {profile: made[profile, precision].path for profile in lowering.PROFILES}
    ops = {profile: tflite_file.read(path.read_bytes(), path.name).ops for profile, path in paths.items()}
    assert "SPACE_TO_DEPTH" not in ops["reference"]
    assert ops["reference"]["REDUCE_MAX"] == 2
    assert "SPACE_TO_DEPTH" in ops["xnnpack"]
    assert "REDUCE_MAX" not in ops["compat"]


def test_the_networks_are_two_of_which_one_does_not_divide_into_blocks() -> None:
    assert [(network.height, network.width) for network in runtime_models.NETWORKS] == [(32, 32), (30, 42)]
