"""The default network: its size, its cost, where attention stands, and what cannot be built."""

import dataclasses

import numpy as np
import pytest
import tf_keras as keras

from edgecbam import models, recipe
from edgecbam.errors import InputError
from edgecbam.recipe import ModelConfig

TINY = ModelConfig(widths=(4, 8), blocks=(1, 1), reduction_ratio=2)


def default_model() -> keras.Model:
    return models.build(recipe.load("fashion_cbam").model, (28, 28, 1), 10)


def test_the_default_network_has_cbam_and_under_100_000_parameters() -> None:
    model = default_model()
    assert model.count_params() < 100_000
    assert any(layer.name.endswith("attention_spatial_gate") for layer in model.layers)


def test_attention_stands_before_the_residual_add() -> None:
    model = models.build(TINY, (8, 8, 1), 3)
    sources = [tensor.node.layer.name for tensor in model.get_layer("stage1_block1_add").input]
    assert sources[0] == "stage1_block1_attention_spatial_scale"
    before = model.get_layer("stage1_block1_attention_channel_avg_pool").input.node.layer.name
    assert before == "stage1_block1_2_bn"


@pytest.mark.parametrize(("attention", "gates"), [("none", 0), ("channel", 2), ("spatial", 2), ("cbam", 4)])
def test_attention_is_what_the_recipe_says(attention: str, gates: int) -> None:
    model = models.build(dataclasses.replace(TINY, attention=attention), (8, 8, 3), 3)
    assert sum(layer.name.endswith("gate") for layer in model.layers) == gates
    assert model.output_shape == (None, 3)


def test_cost_counts_by_hand() -> None:
    """One 3x3 convolution 1 -> 4 on 8x8, a block of two 4 -> 4, and a dense layer 4 -> 3."""
    model = models.build(ModelConfig(widths=(4,), blocks=(1,), attention="none"), (8, 8, 1), 3)
    assert models.Cost.of(model).macs == 64 * (9 * 1 * 4 + 2 * 9 * 4 * 4) + 4 * 3
    assert models.Cost.of(model).parameters == 9 * 4 + 2 * 9 * 16 + 3 * 4 * 4 + 4 * 3 + 3


def test_a_shared_layer_costs_twice() -> None:
    plain = models.Cost.of(models.build(dataclasses.replace(TINY, attention="none"), (8, 8, 1), 3))
    channel = models.Cost.of(models.build(dataclasses.replace(TINY, attention="channel"), (8, 8, 1), 3))
    assert channel.macs - plain.macs == 2 * (4 * 2 * 2) + 2 * (8 * 4 * 2)


def test_odd_sizes_work() -> None:
    model = models.build(TINY, (9, 7, 1), 3)
    assert model(np.zeros((2, 9, 7, 1), np.float32)).shape == (2, 3)


def test_too_many_stages_for_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"images of 2x2 are too small for 3 stages.*model\.widths"):
        models.build(ModelConfig(), (2, 2, 1), 3)


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="at least two classes"):
        models.build(TINY, (8, 8, 1), 1)
