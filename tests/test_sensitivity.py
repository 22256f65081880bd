"""What layers cost in int8: a layer made bad is found, and the two ends are the networks that they stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam import api, artifacts, cli, quantization, sensitivity, training
from edgecbam.artifacts import Samples
from edgecbam.events import ignore

COUNT = 200
Load = Callable[[], Any]


@pytest.fixture(scope="module")
def samples(trained_run: Path) -> Samples:
    return artifacts.load_samples(trained_run / "export")


@pytest.fixture(scope="module")
def described(trained_run: Path) -> dict[str, Any]:
    return artifacts.load_manifest(trained_run / "export").preprocessing


@pytest.fixture(scope="module")
def load(trained_run: Path, described: dict[str, Any]) -> Load:
    def fresh() -> Any:
        model = quantization.make_quantizable(api.load_float(trained_run), quantization.input_range(described))
        model.load_weights(trained_run / "quantize" / api.QAT_FILE)
        return model

    return fresh


def measured(model: Any, samples: Samples, described: dict[str, Any]) -> dict[str, Any]:
    return sensitivity.measure(model, samples.images[:COUNT], samples.labels[:COUNT], described, ignore)


def test_the_ends_are_the_int8_and_the_float_network(
    load: Load, trained_run: Path, samples: Samples, described: dict[str, Any]
) -> None:
    model = load()
    plain = api.load_float(trained_run)
    for wrapper in quantization.wrapped(model):
        values = {quantization._suffix(variable): variable for variable in wrapper.weights}
        for variable in plain.get_layer(wrapper.layer.name).weights:
            variable.assign(values[quantization._suffix(variable)])
    reference = training.predict(plain, samples.images[:COUNT], described)
    found = measured(model, samples, described)
    labels, int8 = samples.labels[:COUNT], samples.keras_qat[:COUNT]
    assert found["images"] == COUNT
    assert found["int8_score"] == pytest.approx(np.mean(int8.argmax(axis=1) == labels))
    assert found["float_score"] == pytest.approx(np.mean(reference.argmax(axis=1) == labels))
    assert found["distance"] == pytest.approx(np.sqrt(np.mean((int8 - reference) ** 2)), rel=1e-3)
    assert found["distance"] > 0


def test_every_quantizer_belongs_to_one_layer(load: Load) -> None:
    model = load()
    quantized = [one for one in quantization.wrapped(model) if one._weight_vars or one._output_quantizers]
    switches = sensitivity._switches(model)
    held = [
        id(quantizer.kept_float)
        for one in quantized
        for quantizer in (*(q for _, q, _ in one._weight_vars), *one._output_quantizers)
    ]
    assert {id(switch) for switch in switches.values()} == set(held)
    kinds = {layer.name: layer.kinds for layer in switches}
    assert kinds["stem_conv"] == ("Conv2D", "BatchNormalization", "ReLU")
    assert kinds["logits"] == ("Dense",)
    assert len(kinds) == len(switches), "names are unique"
    assert any("attention" in name for name in kinds)


@pytest.mark.parametrize("name", ["stem_conv", "logits"])
def test_a_layer_with_a_bad_range_costs_most(
    load: Load, samples: Samples, described: dict[str, Any], name: str
) -> None:
    model = load()
    switches = sensitivity._switches(load())
    end = next(layer for layer in switches if layer.name == name)
    wrapper = next(
        one
        for one in quantization.wrapped(model)
        if quantization.range_variables(one) is not None
        and (one.layer.name == name or (name == "stem_conv" and one.layer.name == "stem_relu"))
    )
    variables = quantization.range_variables(wrapper)
    assert variables is not None
    for variable in variables.values():
        variable.assign(variable * 0.02)  # what is larger is cut off
    found = measured(model, samples, described)
    first = found["layers"][0]
    assert (first["name"], first["kinds"]) == (name, list(end.kinds))
    assert first["closer"] > 0.5
    assert first["low"] > 0, "the interval says that it costs accuracy"
    assert first["change"] == pytest.approx(first["score"] - found["int8_score"])
    assert found["int8_score"] < found["float_score"] - 0.05


def test_the_interval_is_that_of_paired_differences() -> None:
    labels = np.zeros(100, int)
    good, bad = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    everything = np.stack([good] * 80 + [bad] * 20)
    kept = np.stack([good] * 79 + [bad] * 16 + [good] * 5)  # one lost, five won
    cost = sensitivity._cost(kept, everything, kept, labels, sensitivity._classification)
    assert (cost.score, cost.change, cost.closer) == (0.84, pytest.approx(0.04), 1.0)
    half = 1.959964 * np.std([1] * 5 + [-1] + [0] * 94, ddof=1) / 10
    assert (cost.low, cost.high) == (pytest.approx(0.04 - half), pytest.approx(0.04 + half))


def test_a_regression_is_scored_by_its_error() -> None:
    targets = np.zeros((4, 2))
    everything, reference = np.full((4, 2), 2.0), np.full((4, 2), 1.0)
    cost = sensitivity._cost(np.full((4, 2), 1.5), everything, reference, targets, sensitivity._regression)
    assert (cost.score, cost.change, cost.closer) == (1.5, -0.5, 0.5)
    assert sensitivity._finite(cost)["low"] is None


def test_the_command_prints_a_table_and_writes_json(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(small_run), "--layers"]) == 0
    shown = capsys.readouterr().out
    told = json.loads((small_run / "explain" / "layers.json").read_text())
    assert " ".join(shown.splitlines()[0].split()) == "layer kept float top-1 points 95 % interval error less"
    assert told["layers"][0]["name"] in shown.splitlines()[1]
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert [row["closer"] for row in told["layers"]] == sorted((row["closer"] for row in told["layers"]), reverse=True)
    assert cli.main(["explain", str(small_run), "photo.jpg", "--layers"]) == 2
    assert "--layers takes neither images nor --out" in capsys.readouterr().err
    (small_run / "export" / "labels.txt").write_text("x\n")
    assert cli.main(["explain", str(small_run), "--layers"]) == 1
