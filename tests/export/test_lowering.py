"""The lowering computes what the plain file computes: the same bytes in int8, the same values in float32."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from edgecbam import api, artifacts, models, quantization, recipe, requantization, runtimes
from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.export import lowering, onnx_model, tflite, tflite_file
from edgecbam.export.lowering import blocks, channel_pools, channel_scale, clamps
from edgecbam.export.tflite_graph import TfliteGraph
from edgecbam.recipe import ModelConfig
from tests.export.attention_file import Attention, write

MAPS = [
    (1, 1),
    (7, 7),
    (8, 8),
    (14, 14),
    (28, 28),
    (30, 40),
    (56, 56),
    (75, 75),
    (71, 13),
    (1, 90),
    (90, 1),
    (224, 224),
]
CHANNELS = (1, 2, 3, 16, 24, 64, 130)
PROFILES = ("xnnpack", "compat")


class Litert:
    """A .tflite file opened in LiteRT."""

    def __init__(self, content: bytes, folder: Path, name: str) -> None:
        path = folder / f"{name}.tflite"
        path.write_bytes(content)
        self.session = runtimes.find("litert").open(path, threads=1)

    def run(self, array: np.ndarray) -> np.ndarray:
        return self.session.run([array])[0].copy()

    @property
    def partitions(self) -> int:
        return int(self.session.placement()["xnnpack_partitions"])


def inputs(case: Attention, count: int = 3) -> list[np.ndarray]:
    """Random maps: noise over the whole range, and smooth ones whose neighbouring pixels are alike."""
    rng = np.random.default_rng(case.seed + 1)
    shape = (1, case.height, case.width, case.channels)
    noise = [rng.integers(-128, 128, shape) for _ in range(count - 1)]
    smooth = np.cumsum(np.cumsum(rng.integers(-3, 4, shape), axis=1), axis=2)
    arrays = [*noise, np.clip(smooth, -128, 127)]
    return [a.astype(np.int8) if case.dtype == "INT8" else (a / 32).astype(np.float32) for a in arrays]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", MAPS, ids=lambda size: f"{size[0]}x{size[1]}")
def test_int8_gives_the_same_bytes_on_every_map(size: tuple[int, int], profile: str, tmp_path: Path) -> None:
    for channels, zero_point in itertools.product(CHANNELS, (-14, 9)):
        if size[0] * size[1] * channels > 1e6:
            continue
        case = Attention(*size, channels, zero_point=zero_point, seed=channels)
        content = write(case)
        lowered = lowering.lower(content, profile)
        assert lowered.rewrites.get("convolve_blocks", 0) == (size != (1, 1))
        plain, cheap = Litert(content, tmp_path, "plain"), Litert(lowered.content, tmp_path, "lowered")
        assert cheap.partitions == 1
        outputs = []
        for array in inputs(case):
            outputs.append(plain.run(array))
            np.testing.assert_array_equal(cheap.run(array), outputs[-1])
        if size != (1, 1):
            assert len(np.unique(outputs)) > 2  # a constant would agree with anything


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", MAPS, ids=lambda size: f"{size[0]}x{size[1]}")
def test_float_stays_within_a_hundred_thousandth(size: tuple[int, int], profile: str, tmp_path: Path) -> None:
    for channels in CHANNELS:
        if size[0] * size[1] * channels > 1e6:
            continue
        case = Attention(*size, channels, "FLOAT32", seed=channels)
        content = write(case)
        lowered = lowering.lower(content, profile)
        plain, cheap = Litert(content, tmp_path, "plain"), Litert(lowered.content, tmp_path, "lowered")
        assert cheap.partitions == 1
        for array in inputs(case):
            expected = plain.run(array)
            assert np.abs(cheap.run(array) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kernel", [1, 3, 5, 9, 11, 31])
@pytest.mark.parametrize("size", [(7, 7), (12, 18), (33, 21)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_kernel_size_is_exact(size: tuple[int, int], kernel: int, tmp_path: Path) -> None:
    case = Attention(*size, 8, kernel=kernel, seed=kernel)
    content = write(case)
    lowered = lowering.lower(content, "xnnpack").content
    plain, cheap = Litert(content, tmp_path, "plain"), Litert(lowered, tmp_path, "lowered")
    for array in inputs(case):
        np.testing.assert_array_equal(cheap.run(array), plain.run(array))


def test_the_block_kernel_computes_the_convolution() -> None:
    rng = np.random.default_rng(0)
    for size, channels in ((1, 1), (3, 2), (7, 2), (9, 1)):
        kernel = rng.integers(-9, 10, (size, size, channels))
        image = rng.integers(-9, 10, (8, 12, channels))
        expected = convolve(image, kernel)
        blocked = image.reshape(2, 4, 3, 4, channels).transpose(0, 2, 1, 3, 4).reshape(2, 3, -1)
        scattered = blocks.block_kernel(kernel).transpose(1, 2, 3, 0)
        result = np.stack([convolve(blocked, scattered[..., o]) for o in range(16)], axis=-1)
        pixels = result.reshape(2, 3, 4, 4).transpose(0, 2, 1, 3).reshape(8, 12)
        np.testing.assert_array_equal(pixels, expected)
        matrix = blocks.matrix_kernel(kernel, 8, 12)
        np.testing.assert_array_equal((matrix @ image.ravel()).reshape(8, 12), expected)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """SAME convolution of [h, w, c] with [k, k, c]: [h, w]."""
    radius = len(kernel) // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
    return np.asarray(np.einsum("hwcyx,yxc->hw", windows, kernel))


def test_what_does_not_pay_is_left_alone() -> None:
    def applied(case: Attention) -> set[str]:
        return set(lowering.lower(write(case), "xnnpack").rewrites)

    always = {"convolve_blocks", "drop_redundant_relus"}
    narrow = {"spread_gates", "average_by_convolution", "maximum_over_leading_axis"}
    assert applied(Attention(28, 28, 16)) == always | narrow
    assert applied(Attention(28, 28, 64)) == always | narrow - {"maximum_over_leading_axis"}
    assert applied(Attention(28, 28, 128)) == always
    assert applied(Attention(7, 7, 16)) == always
    assert applied(Attention(28, 28, 16, "FLOAT32")) == {"spread_gates", "maximum_over_leading_axis", "convolve_blocks"}
    assert applied(Attention(100, 100, 16, "FLOAT32")) == {"spread_gates", "convolve_blocks"}


def test_an_odd_zero_point_keeps_its_mean() -> None:
    assert (
        "average_by_convolution" not in lowering.lower(write(Attention(28, 28, 16, zero_point=9)), "xnnpack").rewrites
    )
    assert "average_by_convolution" in lowering.lower(write(Attention(28, 28, 15, zero_point=9)), "xnnpack").rewrites


@pytest.mark.parametrize("channels", [2, 3, 8, 12, 16, 24, 48, 63, 64])
def test_rounding_is_predicted_for_every_sum(channels: int, tmp_path: Path) -> None:
    """The runtime itself is asked for the mean of every sum that can occur, by MEAN and by convolution."""
    totals = np.arange(-128 * channels, 127 * channels + 1)
    rows = -(-len(totals) // 96)
    totals = np.pad(totals, (0, rows * 96 - len(totals)))
    shares, rest = np.divmod(totals, channels)
    pixels = shares[:, None] + (np.arange(channels) < rest[:, None])
    array = pixels.astype(np.int8).reshape(1, rows, 96, channels)
    for zero_point in (-128, -14, 9):
        content = write(Attention(rows, 96, channels, zero_point=zero_point))
        graph = TfliteGraph(content, "plain")
        mean = next(op for op in graph.graph.operators if graph.kind(op) == "MEAN" and graph.axes(op) == (3,))
        graph.graph.operators = [mean]
        graph.graph.inputs, graph.graph.outputs = mean.inputs[:1].copy(), mean.outputs.copy()
        plain = graph.to_bytes()
        forced = TfliteGraph(plain, "forced")
        channel_pools._replace_mean(forced, forced.graph.operators[0], "forced")
        by_mean = Litert(plain, tmp_path, "mean").run(array)
        by_convolution = Litert(forced.to_bytes(), tmp_path, "convolution").run(array)
        same = bool(np.array_equal(by_mean, by_convolution))
        assert same == channel_pools.rounds_alike(channels, 0.04, zero_point)
        assert same == (zero_point % 2 == 0 or channels % 2 == 1)


def test_passes_leave_other_ops_alone() -> None:
    """Shapes and options that a pass was not made for: reductions of several axes, batches, strides, other types."""
    content = write(Attention(28, 28, 16))
    graph = TfliteGraph(content, "strided")
    for op in graph.graph.operators:
        if graph.kind(op) == "CONV_2D":
            op.builtinOptions.strideH = 2
    assert blocks.convolve_blocks(graph) == 0
    graph = TfliteGraph(content, "batch")
    for tensor in graph.graph.tensors:
        if len(tensor.shape) == 4:
            tensor.shape = np.array([2, *tensor.shape[1:]], np.int32)
    passes = (
        blocks.convolve_blocks,
        channel_scale.spread_gates,
        channel_pools.average_by_convolution,
        channel_pools.maximum_over_leading_axis,
        channel_pools.maximum_by_pooling,
    )
    assert [step(graph) for step in passes] == [0] * 5
    graph = TfliteGraph(content, "clamped above zero")
    for op in graph.graph.operators:
        if graph.kind(op) == "ADD":
            graph.set_quantization(int(op.outputs[0]), 0.05, -100)
    assert clamps.drop_redundant_relus(graph) == 0


def test_nothing_unused_is_left_in_the_file() -> None:
    case = Attention(28, 28, 16)
    lowered = TfliteGraph(lowering.lower(write(case), "xnnpack").content, "lowered")
    read = {int(tensor) for op in lowered.graph.operators for tensor in op.inputs}
    made = {int(tensor) for op in lowered.graph.operators for tensor in op.outputs}
    assert read | made == set(range(len(lowered.graph.tensors)))
    assert {op.opcodeIndex for op in lowered.graph.operators} == set(range(len(lowered.model.operatorCodes)))
    used = {tensor.buffer for tensor in lowered.graph.tensors}
    assert used | {0} == set(range(len(lowered.model.buffers)))


def test_the_reference_profile_changes_nothing_and_unknown_ones_are_named() -> None:
    content = write(Attention(8, 8, 4))
    assert lowering.lower(content, "reference") == lowering.Lowered(content, {})
    with pytest.raises(InputError, match="no export profile 'gpu': known are xnnpack, compat, reference"):
        lowering.lower(content, "gpu")
    with pytest.raises(InputError, match=r"photo\.jpg is no \.tflite file"):
        lowering.lower(b"\xff\xd8\xff\xe0 a photo", "xnnpack", "photo.jpg")


def small_network(gamma: float) -> tuple[Any, Any, np.ndarray]:
    """A float network whose spatial gates do something, its quantization-aware twin, and 16 images."""
    keras.utils.set_random_seed(1)
    config = ModelConfig(widths=(8, 16), blocks=(1, 1), reduction_ratio=4)
    twin = models.build(config, (22, 18, 3), 5)
    for layer in twin.layers:
        if layer.name.endswith("spatial_bn"):
            layer.gamma.assign([gamma])
    images = np.random.default_rng(3).uniform(-1, 127 / 128, (16, 22, 18, 3)).astype(np.float32)
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.recompute_ranges(model, twin, [images])
    return twin, model, images


def test_every_consumer_computes_the_same_from_the_lowered_files(tmp_path: Path) -> None:
    """ONNX Runtime and OpenVINO, from .onnx and .tflite. For tflite-micro see benchmarks/results/runtimes.json.

    OpenVINO rounds a mean and a convolution each in its own way, so 1 LSB is allowed there.
    """
    twin, model, images = small_network(0.8)
    float_file, int8_file = tflite.float32(twin), tflite.quantized(model)
    scales = TfliteGraph(tflite.with_io(int8_file, "int8"), "int8")
    found_scale = scales.quantization(int(scales.graph.outputs[0]))
    assert found_scale is not None
    outputs: dict[str, dict[str, np.ndarray]] = {}
    for profile in lowering.PROFILES:
        float_onnx, int8_onnx = onnx_model.convert(float_file, int8_file, recipe.ExportConfig(profile=profile))
        assert bool(int8_onnx.rewrites) == (profile != "reference")
        files = {
            "float.onnx": float_onnx.model.SerializeToString(),
            "int8.onnx": int8_onnx.model.SerializeToString(),
            "int8.tflite": tflite.with_io(lowering.lower(int8_file, profile).content, "int8"),
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
            for runtime in ("onnxruntime", "openvino") if name.endswith(".onnx") else ("openvino",):
                session = runtimes.find(runtime).open(tmp_path / name, threads=1)
                integers = session.inputs[0].dtype == "int8"
                arrays = (np.rint(images * 128) if integers else images).astype(session.inputs[0].dtype)
                outputs.setdefault(f"{runtime} {name}", {})[profile] = np.concatenate(
                    [session.run([array[None]])[0] for array in arrays]
                )
    assert len(outputs) == 5
    for consumer, by_profile in outputs.items():
        plain = by_profile.pop("reference")
        assert len(np.unique(plain)) > 20
        for profile, found in by_profile.items():
            if "float" in consumer:
                assert np.abs(found - plain).max() <= 1e-5 * np.abs(plain).max(), (consumer, profile)
            elif consumer.startswith("openvino"):
                step = 1.0 if consumer.endswith(".tflite") else float(found_scale[0][0])
                assert np.abs(found.astype(np.float64) - plain).max() <= 1.01 * step, (consumer, profile)
            else:
                np.testing.assert_array_equal(found, plain, err_msg=f"{consumer} {profile}")


@pytest.mark.parametrize("gamma", [0.8, -0.8])
def test_a_converted_network_keeps_its_bytes(gamma: float, tmp_path: Path) -> None:
    """Through Keras, fake quantization and the converter, with BatchNorm gammas of both signs and every precision."""
    twin, model, images = small_network(gamma)
    files = {
        "int8": tflite.with_io(tflite.quantized(model), "int8"),
        "float32": tflite.float32(twin),
        "float16": tflite.float16(twin),
        "dynamic": tflite.dynamic_range(twin),
    }
    for name, content in files.items():
        for profile in PROFILES:
            lowered = lowering.lower(content, profile)
            assert lowered.rewrites["convolve_blocks"] == 2, name
            plain, cheap = Litert(content, tmp_path, "plain"), Litert(lowered.content, tmp_path, "lowered")
            for image in images:
                array = runtimes.to_input(image[None], plain.session.inputs[0])
                expected, found = plain.run(array), cheap.run(array)
                if name == "int8":
                    np.testing.assert_array_equal(found, expected)
                else:  # dynamic range rounds activations on the fly, where the 7th digit may decide
                    tolerance = 1e-3 if name == "dynamic" else 1e-5
                    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max(), name


def test_profiles_of_a_trained_run_give_the_same_bytes(small_run: Path, tmp_path: Path) -> None:
    """After real QAT: plain, compat and xnnpack on all test images of the run."""
    samples = artifacts.load_samples(small_run / "export")
    manifest = artifacts.load_manifest(small_run / "export")
    assert manifest.profile == "xnnpack"
    assert manifest.files["model_int8.tflite"].rewrites["convolve_blocks"] == 2
    files = {"xnnpack": (small_run / "export" / "model_int8.tflite").read_bytes()}
    api.export(small_run, settings=("export.profile=reference",))
    assert recipe.from_toml((small_run / "recipe.toml").read_text()).export.profile == "reference"
    manifest = artifacts.load_manifest(small_run / "export")
    assert manifest.profile == "reference"
    assert {str(file.rewrites) for file in manifest.files.values()} == {"{}"}
    files["reference"] = (small_run / "export" / "model_int8.tflite").read_bytes()
    assert api.verify(small_run).passed
    assert tflite_file.read(files["reference"], "reference").ops.get("SPACE_TO_DEPTH") is None
    files["compat"] = lowering.lower(files["reference"], "compat").content
    outputs = {}
    for profile, content in files.items():
        litert = Litert(content, tmp_path, profile)
        pixels = (samples.images.astype(np.int16) - 128).astype(np.int8)
        outputs[profile] = np.concatenate([litert.run(image[None]) for image in pixels])
    np.testing.assert_array_equal(outputs["xnnpack"], outputs["reference"])
    np.testing.assert_array_equal(outputs["compat"], outputs["reference"])


def test_a_run_takes_no_other_setting_at_its_export(small_run: Path) -> None:
    before = (small_run / "recipe.toml").read_bytes()
    for setting, message in (
        ("train.epochs=3", "an existing run can only be given another export.KEY=VALUE"),
        ("export.profile=fastest", "export.profile = 'fastest' is not known"),
        ("export.profil=compat", "unknown key export.profil: did you mean export.profile"),
    ):
        with pytest.raises(InputError, match=message):
            api.export(small_run, settings=(setting,))
    assert (small_run / "recipe.toml").read_bytes() == before
    assert artifacts.is_fresh(small_run, "export")


def degenerate_network() -> tuple[Any, np.ndarray]:
    """A network where BatchNorm blows up a channel that is almost constant, in front of an output that is too."""
    keras.utils.set_random_seed(1)
    config = ModelConfig(widths=(8,), blocks=(1,), reduction_ratio=4)
    twin = models.build(config, (12, 12, 3), 4)
    twin.get_layer("stage1_block1_attention_spatial_bn").gamma.assign([0.7])
    norm = twin.get_layer("stage1_block1_2_bn")
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma * 40, beta, mean, np.zeros_like(variance)])
    twin.get_layer("stage1_block1_2_conv").kernel.assign(twin.get_layer("stage1_block1_2_conv").kernel * 1e-6)
    kernel = twin.get_layer("stage1_block1_2_conv").kernel.numpy()
    kernel[1, 1, 0, 0] = 5.0  # one channel reads one input of the block alone, which its ReLU keeps at zero
    twin.get_layer("stage1_block1_2_conv").kernel.assign(kernel)
    first = twin.get_layer("stage1_block1_1_conv")
    weights = first.kernel.numpy()
    weights[..., 0] = 0.0
    first.kernel.assign(weights)
    images = np.random.default_rng(5).uniform(-1, 127 / 128, (16, 12, 12, 3)).astype(np.float32)
    return twin, images


def test_a_degenerate_convolution_is_widened_named_and_exported(tmp_path: Path) -> None:
    twin, images = degenerate_network()
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.calibrate(model, twin, [images])
    refused = tflite.with_io(tflite.quantized(model), "int8")
    with pytest.raises(runtimes.CannotRun):
        Litert(refused, tmp_path, "refused")
    with pytest.raises(InputError, match=r"model_int8.tflite: LiteRT cannot run the layer .*stage1_block1_2.* 256 is"):
        tflite.check_requantization(refused, "model_int8.tflite")
    widened = requantization.limit(model)
    assert next(iter(widened)) == "stage1_block1_2_conv"
    assert widened["stage1_block1_2_conv"] > 256
    assert max(requantization.scales(model).values()) <= requantization.MAX_SCALE
    content = tflite.with_io(tflite.quantized(model), "int8")
    tflite.check_requantization(content, "model_int8.tflite")
    for profile in lowering.PROFILES:
        litert = Litert(lowering.lower(content, profile).content, tmp_path, profile)
        assert litert.partitions == 1
        for image in images:
            array = runtimes.to_input(image[None], litert.session.inputs[0])
            raw = litert.run(array)
            real = runtimes.to_real(raw, litert.session.outputs[0])
            scale = litert.session.outputs[0].scale
            assert scale is not None
            assert np.abs(real - model(image[None]).numpy()).max() <= 2.01 * scale


def test_an_empty_or_broken_range_is_refused() -> None:
    twin, images = degenerate_network()
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.calibrate(model, twin, [images])
    (logits,) = (w for w in quantization.wrapped(model) if w.layer.name == "logits")
    variables = quantization.range_variables(logits)
    assert variables is not None
    for low, high in ((0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        variables["min_var"].assign(low)
        variables["max_var"].assign(high)
        with pytest.raises(EnvironmentFailure, match=r"an activation range is .* wide"):
            requantization.limit(model)


def test_requantization_scales_are_those_of_the_file() -> None:
    keras.utils.set_random_seed(1)
    config = ModelConfig(widths=(8,), blocks=(1,), reduction_ratio=4)
    twin = models.build(config, (12, 12, 3), 4)
    twin.get_layer("stage1_block1_attention_spatial_bn").gamma.assign([0.7])
    images = np.random.default_rng(5).uniform(-1, 127 / 128, (16, 12, 12, 3)).astype(np.float32)
    quantization.reestimate_batchnorm(twin, [images])
    model = quantization.make_quantizable(twin, (-1.0, 127 / 128))
    quantization.recompute_ranges(model, twin, [images])
    predicted = requantization.scales(model)
    found = TfliteGraph(tflite.quantized(model), "file").requantization_scales()
    assert len(predicted) == 7  # stem, two of the block, two of the MLP, the spatial one, logits; no shortcut
    for scale in predicted.values():
        assert min(abs(scale / other - 1) for other in found.values()) < 1e-3
