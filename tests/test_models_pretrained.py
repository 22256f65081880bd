"""Keras' weights in our networks: files that the tests make with tf_keras.applications, and files that do not fit."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tf_keras as keras

from edgecbam import models
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.recipe import ModelConfig

MOBILENET = ModelConfig(family="mobilenetv2", width=0.35, attention="none", spatial_kernel=1, reduction_ratio=4)
SHAPE = (32, 32, 3)


def randomise(model: Any) -> None:
    """Weights and statistics at random, so that no layer can take another's place unseen."""
    rng = np.random.default_rng(3)
    for variable in model.variables:
        if "moving_variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif "moving_mean" in variable.name or "beta" in variable.name or "bias" in variable.name:
            variable.assign(rng.normal(0.0, 0.1, variable.shape))


@pytest.fixture(scope="module")
def application() -> Any:
    keras.utils.set_random_seed(2)
    model = keras.applications.MobileNetV2(SHAPE, alpha=0.35, weights=None, classes=7)
    randomise(model)
    return model


@pytest.fixture(scope="module")
def file(application: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.h5"
    application.save_weights(path)
    return path


def loaded(path: Path | str, classes: int = 7, **changes: Any) -> tuple[Any, tuple[str, ...]]:
    config = dataclasses.replace(MOBILENET, weights=str(path), **changes)
    model = models.build(config, SHAPE, classes)
    return model, models.load_pretrained(model, config)


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (n, *SHAPE)).astype(np.float32)


def features(model: Any, layer: str) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer(layer).output)(images()))


def test_our_network_computes_what_the_application_does(application: Any, file: Path) -> None:
    model, filled = loaded(file)
    expected = features(application, "global_average_pooling2d")
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(features(model, "features"), expected, atol=1e-4)
    np.testing.assert_allclose(keras.activations.softmax(model(images())), application(images()), atol=1e-5)
    assert filled[-1] == "logits"
    assert list(filled[:-1]) == [layer.name for layer in models.backbone_layers(model)]
    assert [(w.name, w.shape) for w in model.weights[:-2]] == [(w.name, w.shape) for w in application.weights[:-2]]


def test_another_number_of_classes_leaves_the_head_fresh(application: Any, file: Path) -> None:
    model, filled = loaded(file, classes=3)
    assert "logits" not in filled
    expected = features(application, "global_average_pooling2d")
    np.testing.assert_allclose(features(model, "features"), expected, atol=1e-4)


def test_a_file_without_a_top_and_with_old_names_is_loaded_in_its_order(
    application: Any, tmp_path: Path, file: Path
) -> None:
    headless = keras.applications.MobileNetV2(SHAPE, alpha=0.35, weights=None, include_top=False)
    headless.set_weights([weight.numpy() for weight in application.weights[:-2]])
    headless.save_weights(tmp_path / "no_top.h5")
    with h5py.File(tmp_path / "no_top.h5", "r+") as saved:
        names = list(saved.attrs["layer_names"])
        for name in names:
            saved.move(name, f"old_{name}")
        saved.attrs["layer_names"] = [f"old_{name}" for name in names]
    expected = loaded(file, attention="cbam")[0]
    model, filled = loaded(tmp_path / "no_top.h5", attention="cbam")
    assert "logits" not in filled
    for layer, twin in zip(models.backbone_layers(model), models.backbone_layers(expected), strict=True):
        for weight, other in zip(layer.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)


def test_attention_stays_fresh_and_the_backbone_is_the_files(application: Any, file: Path) -> None:
    model, filled = loaded(file, attention="article", attention_init="open", attention_placement="stage")
    assert not any("attention" in name for name in filled)
    for layer in models.backbone_layers(model):
        for weight, other in zip(layer.get_weights(), application.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(weight, other)
    outputs = [layer for layer in model.layers if layer.name.endswith("mlp_output")]
    assert len(outputs) == 7
    assert {float(layer.bias[0]) for layer in outputs} == {2.0}


def test_a_whole_model_saved_as_h5_serves_too(application: Any, file: Path, tmp_path: Path) -> None:
    with h5py.File(file) as weights, h5py.File(tmp_path / "model.h5", "w") as whole:
        group = whole.create_group("model_weights")
        for name in weights:
            weights.copy(name, group)
        for name, value in weights.attrs.items():
            group.attrs[name] = value
    model, _ = loaded(tmp_path / "model.h5")
    np.testing.assert_array_equal(model.get_layer("Conv1").kernel, application.get_layer("Conv1").kernel)


def test_resnet50_of_keras_computes_the_same_on_rgb_images(tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    application = keras.applications.ResNet50(False, weights=None, input_shape=SHAPE, pooling="avg")
    randomise(application)
    application.save_weights(tmp_path / "resnet50.h5")
    config = ModelConfig(family="resnet50_keras", attention="none", weights=str(tmp_path / "resnet50.h5"))
    model = models.build(config, SHAPE, 3)
    assert [(w.name, w.shape) for w in model.weights[:-2]] == [(w.name, w.shape) for w in application.weights]
    assert len(models.load_pretrained(model, config)) == len(models.backbone_layers(model)) == 106
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype(np.float32)
    expected = application(keras.applications.resnet.preprocess_input(pixels.copy())).numpy()
    ours = pixels - np.array([123.68, 116.779, 103.939], np.float32)  # the recipe's mean and std
    actual = keras.Model(model.input, model.get_layer("features").output)(ours).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_only_head_and_attention_train_while_the_backbone_is_frozen(file: Path) -> None:
    model, _ = loaded(file, classes=3, attention="cbam")
    everything = len(model.trainable_variables)
    models.freeze(model)
    assert all("attention" in v.name or "logits" in v.name for v in model.trainable_variables)
    fresh = [layer for layer in model.layers if "attention" in layer.name or layer.name == "logits"]
    assert len(model.trainable_variables) == sum(len(layer.trainable_weights) for layer in fresh) > 2
    norm = model.get_layer("bn_Conv1")
    mean = norm.moving_mean.numpy()
    model(images(), training=True)
    np.testing.assert_array_equal(norm.moving_mean, mean)
    models.unfreeze(model)
    assert len(model.trainable_variables) == everything
    model(images(), training=True)
    assert not np.array_equal(norm.moving_mean, mean)


def test_without_weights_nothing_happens() -> None:
    model = models.build(MOBILENET, SHAPE, 3)
    before = model.get_weights()
    assert models.load_pretrained(model, MOBILENET) == ()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_a_file_of_another_width_is_refused_by_its_first_layer_and_changes_nothing(tmp_path: Path) -> None:
    keras.applications.MobileNetV2(SHAPE, alpha=0.5, weights=None, include_top=False).save_weights(tmp_path / "w.h5")
    config = dataclasses.replace(MOBILENET, weights=str(tmp_path / "w.h5"))
    model = models.build(config, SHAPE, 3)
    before = model.get_weights()
    with pytest.raises(InputError, match=r"of width 0\.35: its layer \S+ holds \S+, but \S+ has"):
        models.load_pretrained(model, config)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_files_that_are_no_weights_of_the_family_are_refused(file: Path, tmp_path: Path) -> None:
    model = models.build(MOBILENET, SHAPE, 3)

    def load(path: Path) -> None:
        models.load_pretrained(model, dataclasses.replace(MOBILENET, weights=str(path)))

    other = keras.Sequential([keras.layers.Conv2D(4, 3, name="mine", input_shape=SHAPE)])
    other.save_weights(tmp_path / "other.h5")
    with pytest.raises(InputError, match=r"its layer mine holds 3x3x3x4, 4, but Conv1 has 3x3x3x16$"):
        load(tmp_path / "other.h5")
    other.save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(InputError, match=r'holds no weights as model\.save_weights\("NAME\.h5"\) writes them'):
        load(tmp_path / "new.weights.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.h5 cannot be read as Keras weights"):
        load(tmp_path / "text.h5")
    with pytest.raises(InputError, match=r"there is no file nowhere\.h5"):
        load(Path("nowhere.h5"))
    dense = keras.Sequential([keras.layers.Dense(4, input_shape=(2,), name="a"), keras.layers.Dense(4, name="b")])
    dense.save_weights(tmp_path / "dense.h5")
    with pytest.raises(InputError, match="a and b are both dense layers"):
        load(tmp_path / "dense.h5")
    (tmp_path / "short.h5").write_bytes(file.read_bytes())
    with h5py.File(tmp_path / "short.h5", "r+") as saved:
        saved.attrs["layer_names"] = saved.attrs["layer_names"][:6]
    with pytest.raises(InputError, match="ends before layer expanded_conv_project of family mobilenetv2"):
        load(tmp_path / "short.h5")
    (tmp_path / "long.h5").write_bytes(file.read_bytes())
    with h5py.File(tmp_path / "long.h5", "r+") as saved:
        saved.copy("Conv1", "Conv9")
        saved.attrs["layer_names"] = [*saved.attrs["layer_names"], "Conv9"]
    with pytest.raises(InputError, match="has a layer Conv9, which family mobilenetv2 has not"):
        load(tmp_path / "long.h5")


def test_weights_for_a_family_without_and_for_grey_images_are_refused(file: Path) -> None:
    config = ModelConfig(weights=str(file))
    with pytest.raises(InputError, match=r"family resnet takes no weights of Keras: .*mobilenetv2, resnet50_keras"):
        models.load_pretrained(models.build(config, (28, 28, 1), 3), config)
    grey = dataclasses.replace(MOBILENET, weights=str(file))
    with pytest.raises(InputError, match=r"for colour images, not 1 channel: set data\.channels to 3"):
        models.load_pretrained(models.build(grey, (32, 32, 1), 3), grey)


@pytest.mark.parametrize(
    ("outputs", "url"),
    [
        (3, r"mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0\.35_224_no_top\.h5"),
        (1000, r"mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0\.35_224\.h5"),
    ],
)
def test_imagenet_weights_are_kerass_own_and_a_failed_download_says_where_they_are(
    outputs: int, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(url: str, *_: Any, **__: Any) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr("tf_keras.src.utils.data_utils.urlretrieve", unreachable)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = dataclasses.replace(MOBILENET, weights="imagenet")
    model = models.build(config, SHAPE, outputs)
    with pytest.raises(EnvironmentFailure, match=rf"cannot be downloaded \(.*fetch https://\S+{url} on a machine"):
        models.load_pretrained(model, config)


def test_the_download_of_resnet50_names_its_hash(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    asked: dict[str, Any] = {}

    def get_file(name: str, url: str, **options: Any) -> str:
        asked.update(name=name, url=url, **options)
        return str(file)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    config = ModelConfig(family="resnet50_keras", attention="none", weights="imagenet")
    model = models.build(config, SHAPE, 3)
    with pytest.raises(InputError, match="does not fit family resnet50_keras of width 1: its layer Conv1 holds"):
        models.load_pretrained(model, config)
    assert asked["name"] == "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert asked["file_hash"] == "4d473c1dd8becc155b73f8504c6f6626"
    narrow = dataclasses.replace(config, width=0.5)
    with pytest.raises(InputError, match=r"no ImageNet weights for model\.width 0\.5: set it to 1"):
        models.load_pretrained(model, narrow)
    odd = dataclasses.replace(MOBILENET, width=0.6, weights="imagenet")
    with pytest.raises(InputError, match=r"no ImageNet weights for model\.width 0\.6: give one of 0\.35, 0\.5"):
        models.load_pretrained(model, odd)
