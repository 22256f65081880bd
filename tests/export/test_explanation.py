"""``edgecbam explain``: the gates that it shows are those of the network, in float and in int8, for every family."""

import json
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from PIL import Image

from edgecbam import api, artifacts, cli, preprocessing, runtimes
from edgecbam.errors import GateFailed, InputError
from edgecbam.export import explanation, gates, tflite
from tests.export.families import CASES, exported


@pytest.fixture
def photos(trained_run: Path, tmp_path: Path) -> list[Path]:
    samples = artifacts.load_samples(trained_run / "export").images
    paths = [tmp_path / f"photo {number}.png" for number in range(3)]
    for path, image in zip(paths, samples, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def keras_gates(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.name.endswith("_gate") and "attention" in layer.name]


def test_float_gates_are_those_of_keras(trained_run: Path, photos: list[Path]) -> None:
    import edgecbam.models  # noqa: F401  registers the layer classes

    model = keras.models.load_model(trained_run / "train" / "model.keras", compile=False)
    layers = keras_gates(model)
    described = artifacts.load_manifest(trained_run / "export").preprocessing
    pixels = np.stack([preprocessing.load_image(photo, described) for photo in photos])
    wanted = keras.Model(model.input, [layer.output for layer in layers])(preprocessing.normalize(pixels, described))
    found = explanation.explain(trained_run / "export", photos)
    for index, one in enumerate(found):
        np.testing.assert_array_equal(one.pixels, pixels[index])
        assert [f"{seen.gate.block}_{seen.gate.kind}_gate" for seen in one.seen] == [layer.name for layer in layers]
        for seen, values in zip(one.seen, wanted, strict=True):
            np.testing.assert_allclose(seen.float_values, np.squeeze(values[index]), atol=1e-4)
            assert np.abs(seen.int8_values - seen.float_values).max() < 0.25
            steps = seen.int8_values * 256
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_outputs_are_those_of_the_files(trained_run: Path, photos: list[Path]) -> None:
    folder = trained_run / "export"
    described = artifacts.load_manifest(folder).preprocessing
    session = runtimes.find("litert").open(folder / "model_int8.tflite", threads=1)
    for one, photo in zip(explanation.explain(folder, photos), photos, strict=True):
        x = preprocessing.normalize(preprocessing.load_image(photo, described)[None], described)
        raw = session.run([runtimes.to_input(x, session.inputs[0])])[0]
        np.testing.assert_array_equal(one.outputs["int8"], runtimes.to_real(raw, session.outputs[0])[0])


@pytest.mark.parametrize("name", CASES)
def test_gates_are_found_in_every_family_and_the_outputs_stay(name: str, tmp_path: Path) -> None:
    made = exported(name)
    names = [layer.name for layer in keras_gates(made.float_model)]
    x = np.random.default_rng(0).integers(-128, 128, (1, CASES[name].side, CASES[name].side, 3)).astype(np.int8)
    for content, image in ((made.int8, x), (tflite.float32(made.float_model), x.astype(np.float32) / 128)):
        exposed, found = gates.expose(content, name)
        kinds = [
            gate.block + ("" if one.endswith(f"{gate.block}_gate") else f"_{gate.kind}") + "_gate"
            for gate, one in zip(found, names, strict=True)
        ]
        assert sorted(kinds) == sorted(names)
        results = []
        for each in (content, exposed):
            (tmp_path / "model.tflite").write_bytes(each)
            session = runtimes.find("litert").open(tmp_path / "model.tflite", threads=1)
            results.append(session.run([image]))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        assert len(results[1]) == 1 + len(names)


def test_figures_of_a_gate() -> None:
    gate = gates.Gate("block", "channel")
    seen = explanation.Seen(gate, np.float32([0.5, 0.0]), np.float32([0.5, 3 / 256]))
    assert seen.worst_steps == pytest.approx(3)
    assert seen.cosine == pytest.approx(0.5 / np.hypot(0.5, 3 / 256))
    nothing = np.zeros(2, np.float32)
    assert explanation.Seen(gate, nothing, nothing).cosine == 1
    assert explanation.Seen(gate, nothing, np.ones(2, np.float32)).cosine == 0


def test_pictures_and_figures_are_written(
    trained_run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    words = ["explain", str(trained_run), *map(str, photos), "--out", str(out)]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if "pictures" not in line)
    assert lines[0].split() == ["block", "gate", "mean", "cosine", "steps"]
    assert lines[-1] == f"pictures: {out}"
    told = json.loads((out / "explain.json").read_text())
    assert told["images"] == {f"{number:03}.png": str(photo) for number, photo in enumerate(photos, start=1)}
    assert {(row["block"], row["kind"]) for row in told["gates"]} == {
        (f"stage{stage}_block1_attention", kind) for stage in (1, 2) for kind in ("channel", "spatial")
    }
    assert all(0.9 < row["cosine"] <= 1 + 1e-9 and 0 < row["worst_steps"] < 64 for row in told["gates"])
    pictures = {name: (out / name).read_bytes() for name in told["images"]}
    assert len(set(pictures.values())) == 3
    for name in pictures:
        with Image.open(out / name) as picture:
            assert picture.size[0] > 600
            assert picture.size[1] > 400
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told["gates"]
    assert {name: (out / name).read_bytes() for name in pictures} == pictures


def test_names_are_no_formulas_and_may_be_in_any_script(trained_run: Path, photos: list[Path], tmp_path: Path) -> None:
    strange = tmp_path / "猫 $\\frac{1}{$.png"
    photos[0].rename(strange)
    assert api.explain(trained_run, [strange], tmp_path / "out")
    assert (tmp_path / "out" / "001.png").stat().st_size > 1000


def test_bad_input(small_run: Path, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        api.explain(small_run, [*photos, tmp_path / "missing.png"])
    with pytest.raises(InputError, match="give at least one image"):
        api.explain(small_run, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder with --out"):
        api.explain(small_run, photos, tmp_path / "file")
    assert not (small_run / "explain").exists()
    altered = bytearray((small_run / "export" / "model_int8.tflite").read_bytes())
    altered[-1] ^= 1
    (small_run / "export" / "model_int8.tflite").write_bytes(bytes(altered))
    with pytest.raises(GateFailed, match="was altered"):
        api.explain(small_run, photos)


def test_a_network_without_attention_has_nothing_to_explain(small_run: Path, photos: list[Path]) -> None:
    made = exported("edge, none")
    assert gates.expose(made.int8, "it") == (made.int8, ())
    for name, content in (("model_int8", made.int8), ("model_fp32", tflite.float32(made.float_model))):
        (small_run / "export" / f"{name}.tflite").write_bytes(content)
    folder = small_run / "export"
    manifest = artifacts.read_json(folder / "manifest.json")
    manifest["preprocessing"] |= {"height": 32, "width": 32, "channels": 3}
    manifest["classes"] = manifest["classes"][:4]
    for file in manifest["files"].values():
        file["output"]["shape"] = [1, 4]
    artifacts.write_json(folder / "manifest.json", manifest)
    with pytest.raises(InputError, match="has a network without attention"):
        explanation.explain(folder, photos)
