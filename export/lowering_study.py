"""The networks of `make bench-lowering`: without CBAM, with CBAM as trained, and with CBAM lowered.

    python -m edgecbam.export.lowering_study OUT [--only NAME]

Nothing is trained: how long a network takes does not depend on what it has learned. What decides is done as for a
real one: BatchNorm is estimated on images, the spatial gates vary (a freshly built one is 1/2 everywhere), and int8
files have calibrated ranges. The lowered files are compared with the plain ones before they may be measured, which
benchmarks/lowering.py does; the two meet in OUT/index.json.
"""

import dataclasses
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgecbam import artifacts, attention, metrics, models, quantization, requantization, runtimes
from edgecbam.errors import GateFailed
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import ModelConfig

from . import lowering, study_command, tflite

Attention = Literal["none", "cbam"]
INDEX_FILE = "index.json"
CLASSES = 10
INPUT_RANGE = (-1.0, 127 / 128)  # of a pixel under the default normalisation
BATCHES, BATCH = 3, 8
CHECKED = 8  # synthetic images, and as many of uniform noise
MAX_RELATIVE_ERROR = 1e-5  # a float32 sum in another order


@dataclass(frozen=True)
class Network:
    """A network to study, for images [height, width, 3].

    With ``blocks`` it is the residual network of models.py; without, one CBAM on one map of ``widths[0]`` channels.
    """

    name: str
    height: int
    width: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Form:
    """One way to make a file of a network."""

    attention: Attention
    profile: str


FORMS = {"none": Form("none", "xnnpack"), "plain": Form("cbam", "reference"), "lowered": Form("cbam", "xnnpack")}
MAPS = (
    (1, 1, 16),
    (7, 7, 64),
    (7, 7, 512),
    (14, 14, 32),
    (14, 14, 256),
    (28, 28, 16),
    (30, 40, 24),
    (56, 56, 64),
    (75, 75, 16),
    (71, 71, 12),
    (224, 224, 16),
)
NETWORKS = (
    Network("resnet 16/32/64 at 96x96", 96, 96, (16, 32, 64), (2, 2, 2)),
    Network("resnet 32/64/128 at 96x96", 96, 96, (32, 64, 128), (2, 2, 2)),
    Network("resnet 16/32/64 at 224x224", 224, 224, (16, 32, 64), (2, 2, 2)),
    Network("resnet-20 at 32x32", 32, 32, (16, 32, 64), (3, 3, 3)),
    *(Network(f"map {h}x{w}x{c}", h, w, (c,)) for h, w, c in MAPS),
)


def study(networks: Sequence[Network], out: Path, on_event: OnEvent = ignore) -> None:
    """Write the six files of every network and ``index.json`` into a folder.

    Raises:
        GateFailed: a lowered file does not compute what the plain one does; there is no index then.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / INDEX_FILE).unlink(missing_ok=True)
    entries = []
    for network in networks:
        on_event(Event("lowering_study", message=network.name))
        entries.append(_study_one(network, out))
    artifacts.write_json(out / INDEX_FILE, {"schema_version": 1, "networks": entries})


def build(network: Network, with_attention: Attention) -> Any:
    """The network as a keras.Model with weights that depend on its name alone.

    Args:
        network: what to build.
        with_attention: ``"cbam"`` or ``"none"``.
    """
    import tf_keras as keras

    seed = zlib.crc32(network.name.encode())
    keras.utils.set_random_seed(seed)
    config = dataclasses.replace(ModelConfig(), attention=with_attention)
    if network.blocks:
        config = dataclasses.replace(config, widths=network.widths, blocks=network.blocks)
        model = models.build(config, (network.height, network.width, 3), CLASSES)
    else:
        model = _build_map(network, config)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.name.endswith("_spatial_bn"):
            layer.gamma.assign([random.choice([-1.0, 1.0]) * random.uniform(0.5, 1.5)])
    quantization.reestimate_batchnorm(model, calibration_batches(network))
    return model


def images(random: np.random.Generator, count: int, network: Network) -> np.ndarray:
    """Smooth noise with a little grain, as model inputs: float32 [count, height, width, 3] within INPUT_RANGE."""
    import tensorflow as tf

    shape = (count, network.height, network.width, 3)
    coarse = random.normal(size=(count, network.height // 4 + 1, network.width // 4 + 1, 3))
    smooth = tf.image.resize(coarse, shape[1:3], "bicubic").numpy()
    return np.asarray(np.clip(0.6 * smooth + 0.1 * random.normal(size=shape), *INPUT_RANGE), np.float32)


def check(network: Network, folder: Path, files: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Compare the lowered files with the plain ones on images of two kinds.

    Args:
        network: whose files they are.
        folder: where they lie.
        files: file name by dtype and form.

    Returns:
        ``images``, and the largest ``float32_relative_error`` of an image; int8 outputs were all equal.

    Raises:
        GateFailed: int8 outputs differ, float32 ones by more than MAX_RELATIVE_ERROR, or all images give the same.
    """
    random = np.random.default_rng(1)
    noise = random.uniform(*INPUT_RANGE, (CHECKED, network.height, network.width, 3))
    inputs = np.concatenate([images(random, CHECKED, network), noise])
    for dtype, names in files.items():
        plain, lowered = (_outputs(folder / names[form], inputs) for form in ("plain", "lowered"))
        if not np.any(plain != plain[0]):
            raise GateFailed(f"{network.name}: {dtype} says the same of every image, so that equality proves nothing")
        if dtype == "int8":
            if not np.array_equal(plain, lowered):
                differing = int(np.sum(np.any(plain != lowered, axis=1)))
                raise GateFailed(f"{network.name}: int8, lowered, differs on {differing} of {len(inputs)} images")
            continue
        error = max(metrics.relative_error(a, b) for a, b in zip(lowered, plain, strict=True))
        if not error <= MAX_RELATIVE_ERROR:
            raise GateFailed(f"{network.name}: float32, lowered, differs by {error:.2g} of the largest logit")
    return {"images": len(inputs), "int8": "equal", "float32_relative_error": error}


def _study_one(network: Network, out: Path) -> dict[str, Any]:
    stem = re.sub("[^a-z0-9]+", "_", network.name)
    files: dict[str, dict[str, str]] = {}
    rewrites: dict[str, dict[str, int]] = {}
    maps: list[list[int]] = []
    sources: dict[str, dict[str, bytes]] = {}
    for with_attention in get_args(Attention):
        model = build(network, with_attention)
        maps += [list(layer.output.shape[1:]) for layer in model.layers if layer.name.endswith("_spatial_scale")]
        sources[with_attention] = convert(model, calibration_batches(network))
    for form, how in FORMS.items():
        for dtype, source in sources[how.attention].items():
            result = lowering.lower(source, how.profile, network.name)
            content = tflite.with_io(result.content, "int8") if dtype == "int8" else result.content
            name = f"{stem}_{dtype}_{form}.tflite"
            artifacts.write_whole(out / name, content)
            files.setdefault(dtype, {})[form] = name
            if form == "lowered":
                rewrites[dtype] = result.rewrites
    return {
        "name": network.name,
        "kind": "network" if network.blocks else "map",
        "height": network.height,
        "width": network.width,
        "maps": maps,
        "files": files,
        "rewrites": rewrites,
        "check": check(network, out, files),
    }


def _build_map(network: Network, config: ModelConfig) -> Any:
    import tf_keras as keras

    inputs = keras.Input((network.height, network.width, 3), name="image")
    x = keras.layers.Conv2D(network.widths[0], 1, use_bias=False, name="stem_conv")(inputs)
    x = keras.layers.BatchNormalization(epsilon=1e-5, name="stem_bn")(x)
    if config.attention == "cbam":
        x = attention.cbam(x, ratio=config.reduction_ratio, kernel=config.spatial_kernel, name="attention")
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x))


def calibration_batches(network: Network) -> list[np.ndarray]:
    """The images that BatchNorm and the ranges are set on: BATCHES times float32 [BATCH, height, width, 3]."""
    random = np.random.default_rng(0)
    return [images(random, BATCH, network) for _ in range(BATCHES)]


def convert(model: Any, batches: list[np.ndarray]) -> dict[str, bytes]:
    """The .tflite files by dtype; int8 with float32 ends still. The model is overwritten by quantization."""
    floats = tflite.float32(model)
    quantized = quantization.make_quantizable(model, INPUT_RANGE)
    quantization.recompute_ranges(quantized, model, batches)
    requantization.limit(quantized)
    return {"int8": tflite.quantized(quantized), "float32": floats}


def _outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    """What LiteRT answers, as it lies in the output tensor: [images, classes]."""
    session = runtimes.find("litert").open(path, threads=1)
    try:
        tensor = session.inputs[0]
        return np.concatenate([session.run([runtimes.to_input(image[None], tensor)])[0] for image in inputs])
    finally:
        session.close()


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    study_command.main("lowering_study", __doc__, NETWORKS, study, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
