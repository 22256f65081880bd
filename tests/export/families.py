"""Tiny networks of every family, trained for a moment on images of four kinds, quantized and exported."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edgecbam import models, quantization, requantization
from edgecbam.export import lowering, tflite
from edgecbam.recipe import ModelConfig

PIXELS = (-1.0, 127.0 / 128.0)
CLASSES = 4
BATCH = 32


@dataclass(frozen=True)
class Case:
    """What to build, for square images of ``side`` pixels, and how many steps to train it."""

    config: ModelConfig
    side: int
    steps: int = 0


def case(family: Any, side: int, steps: int = 0, **settings: Any) -> Case:
    """A case with attention after each stage at most, and a window that fits the last map."""
    config = ModelConfig(family=family, reduction_ratio=4, attention_placement="stage", spatial_kernel=3)
    return Case(replace(config, **settings), side, steps)


CASES = {
    "article": case("article", 64, width=0.125, attention_init="open"),
    "article, the article's": case("article", 64, width=0.125, attention_init="open", attention="article"),
    "resnet": case("resnet", 32, widths=(8, 16), blocks=(1, 1), spatial_kernel=7),
    "resnet18": case("resnet18", 64, 15, width=0.125),
    "resnet50_keras": case("resnet50_keras", 64, 50, width=0.125),
    "mobilenetv2": case("mobilenetv2", 64, 50, width=0.25),
    "edge": case("edge", 32, 15, widths=(8, 16, 16), blocks=(1, 1, 2), spatial_kernel=7),
    "edge, the article's": case("edge", 32, 15, widths=(8, 16), blocks=(1, 1), spatial_kernel=7, attention="article"),
    "edge, none": case("edge", 32, 15, widths=(8, 16), blocks=(1, 1), attention="none"),
    "edge, channel": case("edge", 32, 15, widths=(8, 16), blocks=(1, 1), attention="channel"),
    "edge, spatial": case("edge", 32, 15, widths=(8, 16), blocks=(1, 1), attention="spatial"),
}
# Longer, or made of the same pieces: resnet20 of resnet's blocks, resnet50 of resnet18's padding and resnet50_keras'
# bottlenecks.
SAME_PIECES = {"resnet20", "resnet32", "resnet34", "resnet50"}


@dataclass(frozen=True)
class Exported:
    """A quantized network: Keras' models and the files, int8 with float32 ends (``plain``) and as it is shipped."""

    float_model: Any
    qat_model: Any
    plain: bytes
    int8: bytes
    rewrites: dict[str, int]


def images(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images on the grid of pixels, float32 [n, side, side, 3], and their classes int64 [n]."""
    patterns = np.random.default_rng(7).uniform(-1, 1, (CLASSES, 4, 4, 3))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    smooth = tf.image.resize(patterns, (side, side)).numpy()[labels]
    noisy = smooth * rng.uniform(0.5, 1, (count, 1, 1, 1)) + rng.normal(0, 0.3, smooth.shape)
    return (np.clip(np.round(noisy * 128), -128, 127) / 128).astype(np.float32), labels


@functools.cache
def exported(name: str) -> Exported:
    """Build, train, quantize and export a case; once for all tests of a session."""
    one = CASES[name]
    keras.utils.set_random_seed(1)
    model = models.build(one.config, (one.side, one.side, 3), CLASSES)
    for layer in model.layers:  # spatial gates that do something, also where they are hardly trained
        if layer.name.endswith(("spatial_bn", "attention_bn")):
            layer.gamma.assign([0.7])
    x, labels = images(16 * BATCH, one.side, seed=1)
    _train(model, x, labels, one.steps, tf.function)
    parts = np.split(x, 16)[:4]
    quantization.reestimate_batchnorm(model, parts)
    quantized = quantization.make_quantizable(model, PIXELS)
    quantization.calibrate(quantized, model, parts)
    _train(quantized, x, labels, 1, lambda step: step)
    quantization.recompute_ranges(quantized, model, parts)
    requantization.limit(quantized)
    plain = tflite.quantized(quantized)
    lowered = lowering.lower(plain, "xnnpack")
    tflite.check_requantization(lowered.content, name)
    int8 = tflite.with_io(lowered.content, "int8")
    return Exported(model, quantized, plain, int8, lowered.rewrites)


def _train(model: Any, x: np.ndarray, labels: np.ndarray, steps: int, compile_step: Any) -> None:
    optimizer = keras.optimizers.legacy.Adam(3e-3 if steps > 1 else 1e-5)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(batch: Any, targets: Any) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(targets, model(batch, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    run = compile_step(step)
    for index in range(steps):
        start = index * BATCH % len(x)
        run(tf.constant(x[start : start + BATCH]), tf.constant(labels[start : start + BATCH]))
