"""Transfer learning: Keras' ImageNet weights for the families in Keras' layout, and what to freeze at first.

A file holds the weights of tf_keras.applications.MobileNetV2 or ResNet50 as ``save_weights("NAME.h5")`` writes them,
with or without their classifier. It fills the backbone. The classifier is filled where it has as many classes as the
network; else it stays fresh, and attention always does: a network with attention starts from the backbone's weights,
but not from its function, least of all with ``attention_init = "paper"``.

The weights expect the preprocessing that they were trained with, three channels each:

    mobilenetv2      (pixel - 127.5) / 127.5, RGB
    resnet50_keras   pixel - (103.939, 116.779, 123.68), BGR. The toolkit reads RGB, so the input channels of the first
                     convolution are turned round on loading, and the recipe says mean = [123.68, 116.779, 103.939],
                     std = [1, 1, 1].
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tf_keras as keras
from tf_keras.src.applications import mobilenet_v2, resnet  # where Keras keeps the addresses of its files

from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.recipe import ModelConfig

from .families import build

IMAGENET_CLASSES = 1000
MOBILENETV2_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
MOBILENETV2_SIDES = (96, 128, 160, 192, 224)
FIRST_CONVOLUTION = {"mobilenetv2": "Conv1", "resnet50_keras": "conv1_conv"}
HEAD = ("dense1", "dense2", "dropout", "logits")


@dataclass(frozen=True)
class _Saved:
    """The weights of one layer in a file, in the order of keras.layers.Layer.get_weights."""

    name: str
    weights: list[np.ndarray[Any, Any]]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape for array in self.weights]


def backbone_layers(model: Any) -> list[Any]:
    """The layers with weights that are neither attention nor head: what ``load_pretrained`` fills.

    Args:
        model: float keras.Model of ``build``, of any family.

    Returns:
        Layers in the order of the model.
    """
    return [
        layer for layer in model.layers if layer.weights and layer.name not in HEAD and "attention" not in layer.name
    ]


def freeze(model: Any) -> None:
    """Train the head and the attention only; BatchNorm of the backbone runs with its averages, unchanged.

    Whatever was traced or built for ``model.trainable_variables`` before (a tf.function, an optimizer) is to be made
    anew, here and after ``unfreeze``.
    """
    for layer in backbone_layers(model):
        layer.trainable = False


def unfreeze(model: Any) -> None:
    """Train everything."""
    for layer in backbone_layers(model):
        layer.trainable = True


def load_pretrained(model: Any, config: ModelConfig) -> tuple[str, ...]:
    """Fill a fresh network with the weights that ``config.weights`` names; nothing happens where it names none.

    Args:
        model: what ``build`` made of ``config``; changed in place, but only once the whole file has proven to fit.
        config: ``weights`` is the path of a file or ``imagenet``.

    Returns:
        Names of the filled layers; ``logits`` is among them where the file's classifier fits.

    Raises:
        InputError: the family takes no weights, the images are not in colour, or the file is none or does not fit; the
            message names the first layer that does not.
        EnvironmentFailure: the download failed.
    """
    if not config.weights:
        return ()
    if config.family not in FIRST_CONVOLUTION:
        raise InputError(
            f"model.weights: family {config.family} takes no weights of Keras: leave it empty, or set model.family to "
            f"one of {', '.join(FIRST_CONVOLUTION)}"
        )
    channels = model.input_shape[-1]
    if channels != 3:
        raise InputError(f"model.weights are for colour images, not {channels} channel: set data.channels to 3")
    path = _download(model, config) if config.weights == "imagenet" else _own(config.weights)
    saved = _read(path)
    backbone, head = _split(saved, path)
    pairs = _match(backbone, model, config, path)
    logits = model.get_layer("logits")
    if head is not None and head.shapes == [tuple(weight.shape) for weight in logits.weights]:
        pairs.append((logits, head))
    for layer, source in pairs:
        layer.set_weights(_in_rgb(source.weights) if layer.name == "conv1_conv" else source.weights)
    return tuple(layer.name for layer, _ in pairs)


def _own(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"model.weights: {text} names the home of an unknown user: give the whole path") from None


def _in_rgb(weights: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """The weights of a convolution over BGR images, [kh, kw, 3, out] and a bias, for RGB images."""
    kernel, *rest = weights
    return [np.ascontiguousarray(kernel[:, :, ::-1]), *rest]


def _download(model: Any, config: ModelConfig) -> Path:
    """Keras' own file in Keras' own cache: with the classifier where the network has 1000 outputs, else without."""
    top = model.output_shape[-1] == IMAGENET_CLASSES
    if config.family == "mobilenetv2":
        if config.width not in MOBILENETV2_WIDTHS:
            known = ", ".join(map(str, MOBILENETV2_WIDTHS))
            raise InputError(f"Keras has no ImageNet weights for model.width {config.width}: give one of {known}")
        height, width = model.input_shape[1:3]
        side = height if height == width and height in MOBILENETV2_SIDES else 224
        name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{config.width}_{side}{'' if top else '_no_top'}.h5"
        url, digest = mobilenet_v2.BASE_WEIGHT_PATH + name, None  # Keras has no hash for these
    else:
        if config.width != 1.0:
            raise InputError(f"Keras has no ImageNet weights for model.width {config.width}: set it to 1")
        name = f"resnet50_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
        hashes = resnet.WEIGHTS_HASHES["resnet50"]
        url, digest = resnet.BASE_WEIGHTS_PATH + name, hashes[0 if top else 1]
    try:
        return Path(keras.utils.get_file(name, url, cache_subdir="models", file_hash=digest))
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise EnvironmentFailure(
            f"the ImageNet weights cannot be downloaded ({' '.join(str(error).split())}): fetch {url} on a machine "
            "with a network and give the file as model.weights"
        ) from None


def _read(path: Path) -> list[_Saved]:
    """The layers with weights of a file in Keras' HDF5 layout, in its order."""
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)  # a whole model saved as .h5
            names = _strings(group, "layer_names")
            layers = [
                _Saved(name, [np.asarray(group[name][weight]) for weight in _strings(group[name], "weight_names")])
                for name in names
            ]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"model.weights: {path} cannot be read as Keras weights ({error})") from None
    layers = [layer for layer in layers if layer.weights]
    if not layers:
        raise InputError(f'model.weights: {path} holds no weights as model.save_weights("NAME.h5") writes them')
    return layers


def _strings(group: Any, name: str) -> list[str]:
    """A list of names in the attributes of an HDF5 group; Keras splits long ones into ``name0``, ``name1``, …"""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _split(saved: list[_Saved], path: Path) -> tuple[list[_Saved], _Saved | None]:
    """The backbone and the classifier, the one layer with a kernel [features, classes]."""
    dense = [layer for layer in saved if len(layer.shapes[0]) == 2]
    if len(dense) > 1:
        raise InputError(
            f"model.weights: {path} is of another architecture: {dense[0].name} and {dense[1].name} are both dense "
            "layers, and these families have one"
        )
    return [layer for layer in saved if len(layer.shapes[0]) != 2], dense[0] if dense else None


def _match(saved: list[_Saved], model: Any, config: ModelConfig, path: Path) -> list[tuple[Any, _Saved]]:
    """Each layer of the backbone with its saved weights, by name, or in order where the file has other names.

    Keras itself loads its files in order, and those of MobileNetV2 hold the names of an early version.
    """
    layers = {layer.name: layer for layer in backbone_layers(model)}
    by_name = {layer.name: layer for layer in saved}
    if layers.keys() <= by_name.keys():
        order = [name for name in by_name if name in layers]
        extra = [name for name in by_name if name not in layers]
        sources = [by_name[name] for name in order]
    else:
        # With attention in it the model is sorted otherwise; without, as Keras sorts its own.
        plain = dataclasses.replace(config, attention="none")
        order = [layer.name for layer in backbone_layers(build(plain, model.input_shape[1:], 2))]
        extra = [layer.name for layer in saved[len(order) :]]
        sources = saved[: len(order)]
    for name, source in zip(order, sources, strict=False):
        expected = [tuple(weight.shape) for weight in layers[name].weights]
        if source.shapes != expected:
            raise InputError(
                f"model.weights: {path} does not fit family {config.family} of width {config.width:g}: its layer "
                f"{source.name} holds {_text(source.shapes)}, but {name} has {_text(expected)}"
            )
    if len(sources) < len(order):
        raise InputError(f"model.weights: {path} ends before layer {order[len(sources)]} of family {config.family}")
    if extra:
        raise InputError(f"model.weights: {path} has a layer {extra[0]}, which family {config.family} has not")
    return [(layers[name], source) for name, source in zip(order, sources, strict=True)]


def _text(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)
