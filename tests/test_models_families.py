"""Every family builds, learns in all its parts and survives its file; shipped networks have their published sizes."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from edgecbam import models
from edgecbam.attention import ChannelMax
from edgecbam.errors import InputError
from edgecbam.models import table
from edgecbam.recipe import ModelConfig

ROOT = Path(__file__).parents[1]
OPEN = {"resnet": {"widths": (8, 16)}, "edge": {"widths": (8, 16), "blocks": (2, 2)}}
FAMILIES = sorted(models.FAMILIES)
STAGES = {"article": 4, "edge": 1, "mobilenetv2": 7, "resnet": 2, "resnet20": 3, "resnet32": 3} | dict.fromkeys(
    ("resnet18", "resnet34", "resnet50", "resnet50_keras"), 4
)


def small(family: str, **changes: Any) -> ModelConfig:
    """A narrow network of a family that takes images of 32x32, where the last map may be a single pixel."""
    config = ModelConfig(family=family, reduction_ratio=4, spatial_kernel=1, dropout=0.1)  # type: ignore[arg-type]
    sizes = OPEN.get(family, {"width": 0.125})
    return dataclasses.replace(config, **{**sizes, **changes})


def build(family: str, **changes: Any) -> Any:
    keras.utils.set_random_seed(5)
    return models.build(small(family, **changes), (32, 32, 3), 4)


def gates(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if layer.name.endswith("_gate")]


def path_of(model: Any) -> list[str]:
    """The names of the convolutions, pools and dense layers, and of the attention between them, each once in order."""
    wanted = keras.layers.Conv2D | keras.layers.Dense | keras.layers.MaxPooling2D | keras.layers.Multiply
    names = [layer.name for layer in model.layers if isinstance(layer, wanted)]
    parts = ["CBAM" if "attention" in name else name for name in names]
    return [name for name, _ in itertools.groupby(parts)]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """The networks of the recipes at their native sizes."""
    return table.networks()


def counts(model: Any) -> tuple[int, int]:
    """Trainable parameters: all, and those of attention."""
    attention = [layer for layer in model.layers if "attention" in layer.name]
    return table.trainable(model.layers), table.trainable(attention)


def test_resnet50_cbam_has_the_official_number_of_parameters(shipped: dict[str, Any]) -> None:
    assert counts(shipped["resnet50_cbam"]) == (28_089_624, 2_532_592)


@pytest.mark.parametrize(
    ("name", "without"),
    [("resnet18_cbam", 11_689_512), ("resnet34_cbam", 21_797_672), ("mobilenetv2_cbam", 3_504_872)],
)
def test_networks_without_attention_have_torchvisions_number(shipped: dict[str, Any], name: str, without: int) -> None:
    everything, attention = counts(shipped[name])
    assert everything - attention == without


def test_resnet20_has_the_size_of_the_paper_and_its_shortcuts(shipped: dict[str, Any]) -> None:
    """Counted by hand: stem, nine blocks, dense layer, and the two 1x1 shortcuts that the paper has not."""
    kernels = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    everything, attention = counts(shipped["resnet20_cbam"])
    assert everything - attention == kernels + norms + 64 * 10 + 10 + shortcuts


def test_the_articles_network_is_the_articles(shipped: dict[str, Any]) -> None:
    model = shipped["article_cbam"]
    assert path_of(model) == [
        *("stem_conv", "stem_pool", "CBAM", "stage1_conv1", "CBAM", "stage1_pool"),
        *("stage2_conv1", "CBAM", "stage2_conv2", "CBAM", "stage2_pool"),
        *("stage3_conv1", "CBAM", "stage3_conv2", "CBAM", "stage3_pool"),
        *("stage4_conv1", "CBAM", "stage4_conv2", "CBAM", "stage4_pool", "dense1", "dense2", "logits"),
    ]
    convolutions = [layer for layer in model.layers if layer.name.endswith(("conv", "conv1", "conv2"))]
    convolutions = [layer for layer in convolutions if "attention" not in layer.name]
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.output_shape[1] for layer in convolutions] == [112, 56, 28, 28, 14, 14, 7, 7]
    assert {layer.activation for layer in convolutions} == {keras.activations.relu}
    assert [model.get_layer(name).units for name in ("dense1", "dense2", "logits")] == [2048, 2048, 1000]
    assert model.get_layer("stage4_attention2_channel_mlp_hidden").filters == 512 // 16
    assert len(gates(model)) == 2 * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_family_learns_and_is_saved(family: str, tmp_path: Path) -> None:
    model = build(family, attention_init="open", attention_placement="stage", reduction_ratio=1)
    assert sum(isinstance(layer, ChannelMax) for layer in model.layers) == STAGES[family]
    # A spatial gate's gamma starts at 0, which lets no gradient through to its convolution in the first step.
    for layer in model.layers:
        if layer.name.endswith("spatial_bn"):
            layer.gamma.assign(tf.ones_like(layer.gamma))
    x = np.random.default_rng(0).normal(size=(6, 32, 32, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2, 3, 0, 1], logits))
    assert (logits.shape, logits.dtype) == ((6, 4), tf.float32)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    keras.optimizers.SGD(0.5).apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    still = [v.name for v, old in zip(variables, before, strict=True) if np.array_equal(v.numpy(), old)]
    assert still == []

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())


@pytest.mark.parametrize(("attention", "each"), [("none", 0), ("channel", 1), ("spatial", 1), ("article", 2)])
def test_every_layout_takes_every_attention(attention: str, each: int) -> None:
    for family in ("resnet", "article", "resnet18", "mobilenetv2", "edge"):
        model = build(family, attention=attention, attention_placement="stage")
        assert len(gates(model)) == each * STAGES[family], family


def test_attention_behind_the_last_block_of_each_stage() -> None:
    last = [name for name in gates(build("resnet34", attention_placement="stage")) if name.endswith("spatial_gate")]
    assert last == [f"stage{i}_block{n}_attention_spatial_gate" for i, n in ((1, 3), (2, 4), (3, 6), (4, 3))]


def test_attention_behind_every_block_is_the_default() -> None:
    blocks = {"resnet": 2, "resnet20": 9, "article": 8, "mobilenetv2": 17, "edge": 2}
    for family, places in blocks.items():
        assert len(gates(build(family, attention="spatial"))) == places, family


@pytest.mark.parametrize("family", ["resnet18", "mobilenetv2", "edge", "resnet"])
def test_attention_stands_between_the_last_batchnorm_and_the_addition(family: str) -> None:
    model = build(family)
    for layer in model.layers:
        if isinstance(layer, ChannelMax):
            channel_scale = layer.input.node.layer
            block = channel_scale.get_input_at(0)[0].node.layer
            assert isinstance(block, keras.layers.BatchNormalization), layer.name
            spatial_scale = model.get_layer(layer.name.replace("channel_max", "scale"))
            following = spatial_scale.outbound_nodes[0].layer
            widened = family in ("mobilenetv2", "edge") and not isinstance(following, keras.layers.Add)
            assert widened or isinstance(following, keras.layers.Add), layer.name


def test_halving_convolutions_of_the_official_layout_pad_all_sides_alike() -> None:
    model = build("resnet18", attention="none")
    for name, pad in (("stem", 3), ("stage2_block1_1", 1), ("stage3_block1_1", 1), ("stage4_block1_1", 1)):
        assert model.get_layer(f"{name}_pad").padding == ((pad, pad), (pad, pad))
        assert model.get_layer(f"{name}_conv").padding == "valid"


@pytest.mark.parametrize("side", [28, 32, 63, 64, 96, 127, 128, 224, 256])
def test_the_last_map_of_edge_has_4_to_8_pixels_at_any_size(side: int) -> None:
    config = ModelConfig(family="edge", widths=(8, 8, 8, 8), attention="none")
    last = models.build(config, (side, side, 3), 3).get_layer("last_relu").output_shape
    assert 4 <= last[1] <= 8


def test_edge_has_full_convolutions_early_and_attention_and_depthwise_ones_late() -> None:
    model = models.build(ModelConfig(family="edge", attention="cbam"), (32, 32, 3), 10)
    stage = {layer.name: int(layer.name[5]) for layer in model.layers if layer.name.startswith("stage")}
    late = {name for name in stage if "attention" in name or name.endswith("depthwise")}
    assert {stage[name] for name in late} == {3, 4}
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.ReLU) and layer.max_value]


def test_width_scales_to_multiples_of_eight() -> None:
    model = build("resnet18", width=0.3, attention="none")
    assert [model.get_layer(f"stage{i}_block1_1_conv").filters for i in (1, 2, 3, 4)] == [16, 40, 80, 152]
    assert build("resnet20", width=0.01, attention="none").get_layer("stem_conv").filters == 8


def test_widths_alone_give_one_block_a_stage_and_blocks_alone_keep_the_widths() -> None:
    one = models.build(ModelConfig(widths=(8, 8), reduction_ratio=4), (8, 8, 1), 2)
    assert [layer.name for layer in one.layers if layer.name.endswith("_add")] == [
        "stage1_block1_add",
        "stage2_block1_add",
    ]
    two = models.build(ModelConfig(blocks=(2, 1, 1)), (16, 16, 1), 2)
    assert two.get_layer("stage1_block2_1_conv").filters == 16
    with pytest.raises(InputError, match=r"model\.blocks has 2 stages but family resnet has 3: .*model\.widths"):
        models.build(ModelConfig(blocks=(2, 1)), (16, 16, 1), 2)


def test_a_regression_has_as_many_outputs_as_targets() -> None:
    model = models.build(small("resnet20"), (16, 16, 3), 1, task="regression")
    assert (model.output_shape, model.layers[-1].name) == ((None, 1), "logits")
    assert model.layers[-1].activation is keras.activations.linear
    with pytest.raises(InputError, match="at least one target"):
        models.build(small("resnet20"), (16, 16, 3), 0, task="regression")


@pytest.mark.parametrize(
    ("config", "side", "message"),
    [
        (
            ModelConfig(reduction_ratio=32),
            28,
            r"reduction_ratio 32 is larger than the 16 channels of stage1_block1_attention: give at most 16",
        ),
        (
            ModelConfig(family="resnet18"),
            32,
            r"spatial_kernel 7 is too large for the 2x2 map of stage3_block1_attention: .*give at most 3, or larger",
        ),
        (
            ModelConfig(family="mobilenetv2", attention="article", spatial_kernel=9),
            128,
            r"spatial_kernel 9 is too large for the 4x4 map of block_13_attention: .*give at most 7",
        ),
        (
            ModelConfig(family="resnet50"),
            31,
            r"images of 31x31 are too small for family resnet50, which needs 32x32 .*data\.height and data\.width",
        ),
        (
            ModelConfig(family="edge"),
            7,
            r"images of 7x7 are too small for 4 stages: use fewer model\.widths or a larger data\.height",
        ),
        (ModelConfig(family="article", widths=(8,)), 64, r"model\.widths has no place in family article.*model\.width"),
        (ModelConfig(family="resnet34", blocks=(1,)), 64, r"model\.blocks has no place in family resnet34"),
        (ModelConfig(family="resnet", width=0.5), 28, r"model\.width has no effect on family resnet: .*model\.widths"),
    ],
)
def test_what_cannot_be_built_is_refused(config: ModelConfig, side: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.build(config, (side, side, 3), 10)


def test_a_kernel_fits_as_long_as_each_of_its_weights_meets_a_pixel() -> None:
    assert models.build(ModelConfig(widths=(8,), spatial_kernel=7), (4, 4, 1), 2)
    with pytest.raises(InputError, match="too large for the 3x4 map"):
        models.build(ModelConfig(widths=(8,), spatial_kernel=7), (3, 4, 1), 2)


def test_depthwise_convolutions_cost_their_window() -> None:
    inputs = keras.Input((8, 8, 6))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(inputs))
    assert models.Cost.of(model) == models.Cost(macs=9 * 4 * 4 * 6, parameters=54)


def test_the_table_in_the_document_is_that_of_the_code(shipped: dict[str, Any]) -> None:
    document = (ROOT / "docs" / "models.md").read_text("utf-8")
    assert table.renew(document, table.block(shipped)) == document, "python -m edgecbam.models.table docs/models.md"
