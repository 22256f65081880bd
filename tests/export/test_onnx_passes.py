"""Each graph pass on a small graph of its own: what it changes, and that the outputs stay what they should be."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from edgecbam.export import onnx_passes
from edgecbam.export.onnx_passes import Pass, maxima, means, pixel_blocks, shapes, unsigned

SCALE, ZERO = 0.05, -3


def make_model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: list[int],
    shape_out: list[int],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def rewritten(model: onnx.ModelProto, *passes: Pass) -> onnx.ModelProto:
    """The model after the passes, each of which found something to do."""
    made, rewrites = onnx_passes.rewrite(model, passes)
    assert set(rewrites) == {step.__name__ for step in passes}
    onnx.checker.check_model(made, full_check=True)
    return made


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def mean_model(scale_out: float, zero_point: int = ZERO) -> onnx.ModelProto:
    """Quantize, mean over 16 channels, quantize: the mean of CBAM's spatial attention."""
    constants = {"s": np.float32(SCALE), "z": np.int8(zero_point), "so": np.float32(scale_out)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["m"], axes=[1], keepdims=1),
        helper.make_node("QuantizeLinear", ["m", "so", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "so", "z"], ["y"]),
    ]
    return make_model(nodes, constants, [1, 16, 40, 40], [1, 1, 40, 40])


def lite_rt_mean(integers: np.ndarray, zero_point: int) -> np.ndarray:
    """What LiteRT's int8 MEAN over the channels gives: [1, h, w, c] int8 -> [1, h, w, 1] int8, one scale."""
    low, high = -(zero_point + 128) * SCALE, (127 - zero_point) * SCALE

    @tf.function(input_signature=[tf.TensorSpec(integers.shape, tf.float32)])
    def mean(x: tf.Tensor) -> tf.Tensor:
        x = tf.quantization.fake_quant_with_min_max_args(x, low, high)
        return tf.quantization.fake_quant_with_min_max_args(tf.reduce_mean(x, -1, keepdims=True), low, high)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([mean.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert source["quantization"][1] == target["quantization"][1] == zero_point
    interpreter.set_tensor(source["index"], integers.astype(np.int8))
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


@pytest.mark.parametrize("zero_point", [-24, 5, -3])
def test_average_integers_rounds_ties_as_lite_rt_does(zero_point: int) -> None:
    integers = np.random.default_rng(0).integers(-128, 128, (1, 16, 40, 40))
    expected = lite_rt_mean(integers.transpose(0, 2, 3, 1), zero_point).transpose(0, 3, 1, 2)
    x = ((integers - zero_point) * SCALE).astype(np.float32)
    model = mean_model(SCALE, zero_point)
    plain = np.rint(run(model, x) / SCALE) + zero_point
    assert (plain != expected).any()  # or there would be nothing to mend
    model = rewritten(model, means.average_integers)
    np.testing.assert_array_equal(np.rint(run(model, x) / SCALE) + zero_point, expected)
    model = rewritten(model, unsigned.unsigned_activations)
    np.testing.assert_array_equal(np.rint(run(model, x) / SCALE) + zero_point, expected)


@pytest.mark.parametrize("axes", [[2, 3], [1, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_pixels_becomes_the_pool_that_has_an_integer_kernel(axes: list[int], keepdims: int) -> None:
    constants = {"s": np.float32(SCALE), "so": np.float32(0.0313), "z": np.int8(ZERO), "axes": np.array(axes)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("ReduceMean", ["d", "axes"], ["m"], keepdims=keepdims),
        helper.make_node("QuantizeLinear", ["m", "so", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "so", "z"], ["y"]),
    ]
    sizes = [1, 6, 5, 7]
    kept = [1 if i in axes else n for i, n in enumerate(sizes) if keepdims or i not in axes]
    model = make_model(nodes, constants, sizes, kept, 18)
    x = np.random.default_rng(0).normal(0, 2, sizes).astype(np.float32)
    made = rewritten(model, means.average_integers)
    assert "GlobalAveragePool" in kinds(made)
    assert "ReduceMean" not in kinds(made)
    before, after = run(model, x), run(made, x)
    assert after.shape == before.shape
    assert np.abs(after - before).max() / 0.0313 < 1.01
    assert np.mean(after != before) < 0.2


def test_average_integers_keeps_another_scale_of_the_mean() -> None:
    x = np.random.default_rng(0).normal(0, 2, (1, 16, 40, 40)).astype(np.float32)
    model = mean_model(0.0313)
    before = run(model, x)
    model = rewritten(model, means.average_integers)
    steps = np.abs(run(model, x) - before) / 0.0313
    assert steps.max() < 1.01
    assert np.mean(steps > 0.5) < 0.005  # near ties alone


def test_unsigned_activations_keep_every_value_and_leave_weights_alone() -> None:
    weights = np.random.default_rng(1).integers(-127, 128, (4, 16, 1, 1)).astype(np.int8)
    constants = {
        "s": np.float32(SCALE),
        "z": np.int8(ZERO),
        "w": weights,
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    model = make_model(nodes, constants, [1, 16, 5, 5], [1, 4, 5, 5])
    x = np.random.default_rng(2).normal(0, 3, (1, 16, 5, 5)).astype(np.float32)
    before = run(model, x)
    model = rewritten(model, unsigned.unsigned_activations)
    np.testing.assert_array_equal(run(model, x), before)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    types = [(node.op_type, values[node.input[2]].dtype.name) for node in model.graph.node if node.op_type != "Conv"]
    assert sorted(types) == [
        ("DequantizeLinear", "int8"),  # the weights
        ("DequantizeLinear", "uint8"),
        ("DequantizeLinear", "uint8"),
        ("QuantizeLinear", "uint8"),
        ("QuantizeLinear", "uint8"),
    ]


def relu_model(zero_point: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return make_model(nodes, {"s": np.float32(SCALE), "z": zero_point}, [1, 50], [1, 50])


@pytest.mark.parametrize(
    ("zero_point", "left"), [(np.uint8(0), 0), (np.int8(-128), 0), (np.uint8(1), 1), (np.int8(-127), 1)]
)
def test_a_relu_goes_only_where_the_clamp_does_its_work(zero_point: np.ndarray, left: int) -> None:
    model = relu_model(zero_point)
    x = np.linspace(-5, 5, 50, dtype=np.float32)[None]
    before = run(model, x)
    model, rewrites = onnx_passes.rewrite(model, [unsigned.drop_clamped_relus])
    assert kinds(model).count("Relu") == left == 1 - rewrites.get("drop_clamped_relus", 0)
    np.testing.assert_array_equal(run(model, x), before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("kind", ["ReduceMax", "GlobalMaxPool", "MaxPool"])
def test_maxima_of_integers_are_maxima(kind: str, opset: int, dtype: type) -> None:
    attributes = {"MaxPool": {"kernel_shape": [2, 3]}, "ReduceMax": {"axes": [1]}}.get(kind, {})
    constants = {"s": np.float32(SCALE), "z": dtype(5)}
    inputs = ["d"]
    if kind == "ReduceMax" and opset == 18:
        constants["axes"] = np.array(attributes.pop("axes"), np.int64)
        inputs.append("axes")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node(kind, inputs, ["m"], **attributes),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]
    shape = {"ReduceMax": [1, 1, 6, 9], "GlobalMaxPool": [1, 4, 1, 1], "MaxPool": [1, 4, 5, 7]}[kind]
    model = make_model(nodes, constants, [1, 4, 6, 9], shape, opset)
    x = np.random.default_rng(3).normal(0, 3, (1, 4, 6, 9)).astype(np.float32)
    before = run(model, x)
    model = rewritten(model, maxima.maximum_of_integers)
    np.testing.assert_array_equal(run(model, x), before)
    assert kinds(model) == [
        "QuantizeLinear",
        "ReduceMax" if kind == "GlobalMaxPool" else kind,
        "DequantizeLinear",
    ]


def test_a_maximum_that_changes_its_scale_stays() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("ReduceMax", ["d"], ["m"], axes=[1]),
        helper.make_node("QuantizeLinear", ["m", "so", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "so", "z"], ["y"]),
    ]
    constants = {"s": np.float32(SCALE), "so": np.float32(0.07), "z": np.uint8(5)}
    model = make_model(nodes, constants, [1, 4, 6, 9], [1, 1, 6, 9])
    assert onnx_passes.rewrite(model, [maxima.maximum_of_integers])[1] == {}


@pytest.mark.parametrize(("channels", "height", "width"), [(16, 5, 7), (3, 1, 1), (64, 8, 8)])
def test_a_float_mean_by_product_is_the_mean(channels: int, height: int, width: int) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)]
    model = make_model(nodes, {}, [1, channels, height, width], [1, 1, height, width])
    x = np.random.default_rng(4).normal(1, 3, (1, channels, height, width)).astype(np.float32)
    made = rewritten(model, means.average_by_product)
    assert "ReduceMean" not in kinds(made)
    np.testing.assert_allclose(run(made, x), x.mean(1, keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("planes", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width", "kernel"), [(16, 12, 7), (13, 9, 7), (8, 30, 3), (28, 28, 5)])
def test_a_float_convolution_to_one_channel_on_blocks(
    planes: bool, bias: bool, height: int, width: int, kernel: int
) -> None:
    random = np.random.default_rng(6)
    constants = {"w": random.normal(0, 0.2, (1, 2, kernel, kernel)).astype(np.float32)}
    nodes, x = [], "x"
    if planes:
        for index in range(2):
            constants |= {f"a{index}": np.array([index]), f"b{index}": np.array([index + 1]), "one": np.array([1])}
            nodes.append(helper.make_node("Slice", ["x", f"a{index}", f"b{index}", "one"], [f"p{index}"]))
        nodes.append(helper.make_node("Concat", ["p0", "p1"], ["joined"], axis=1))
        x = "joined"
    if bias:
        constants["bias"] = np.array([0.7], np.float32)
    nodes.append(helper.make_node("Conv", [x, "w", *(["bias"] if bias else [])], ["y"], pads=[kernel // 2] * 4))
    model = make_model(nodes, constants, [2, 2, height, width], [2, 1, height, width])
    model = onnx.shape_inference.infer_shapes(model)
    images = random.normal(size=(2, 2, height, width)).astype(np.float32)
    made = rewritten(model, pixel_blocks.convolve_blocks)
    assert {"SpaceToDepth", "DepthToSpace"} <= set(kinds(made))
    np.testing.assert_allclose(run(made, images), run(model, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "channels", "side", "attributes"),
    [(2, 2, 16, {}), (1, 5, 16, {}), (1, 2, 7, {}), (1, 2, 16, {"strides": [2, 2]}), (1, 2, 16, {"pads": [0] * 4})],
)
def test_other_float_convolutions_stay(outputs: int, channels: int, side: int, attributes: dict[str, object]) -> None:
    weights = np.ones((outputs, channels, 7, 7), np.float32)
    settings = {"pads": [3] * 4, **attributes}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **settings)
    size = {"strides": (side + 1) // 2, "pads": side - 6}.get(next(iter(attributes), ""), side)
    model = make_model([node], {"w": weights}, [1, channels, side, side], [1, outputs, size, size])
    assert onnx_passes.rewrite(model, [pixel_blocks.convolve_blocks])[1] == {}


def test_layers_that_share_weights_get_weights_of_their_own() -> None:
    constants = {
        "s": np.float32(SCALE),
        "z": np.uint8(100),
        "w": np.arange(-8, 8).reshape(4, 4, 1, 1).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    nodes = [helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0)]
    x = "x"
    for name in "ab":
        nodes += [
            helper.make_node("QuantizeLinear", [x, "s", "z"], [f"q{name}"]),
            helper.make_node("DequantizeLinear", [f"q{name}", "s", "z"], [f"d{name}"]),
            helper.make_node("Conv", [f"d{name}", "wd"], [f"c{name}"]),
        ]
        x = f"c{name}"
    nodes += [helper.make_node("QuantizeLinear", [x, "s", "z"], ["qo"])]
    nodes += [helper.make_node("DequantizeLinear", ["qo", "s", "z"], ["y"])]
    model = make_model(nodes, constants, [1, 4, 3, 3], [1, 4, 3, 3])
    images = np.random.default_rng(7).normal(size=(1, 4, 3, 3)).astype(np.float32)
    made, _ = onnx_passes.rewrite(model, [])
    producers = {output: node for node in made.graph.node for output in node.output}
    read = [producers[node.input[1]] for node in made.graph.node if node.op_type == "Conv"]
    assert len({node.output[0] for node in read}) == len({node.input[0] for node in read}) == 2
    assert len({node.input[2] for node in read}) == 2
    np.testing.assert_array_equal(run(made, images), run(model, images))


def test_reshapes_merge_and_those_that_do_nothing_go() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["r"]),
        helper.make_node("Reshape", ["r", "b"], ["t"]),
        helper.make_node("Reshape", ["t", "b"], ["u"]),
        helper.make_node("Relu", ["u"], ["y"]),
    ]
    constants = {"a": np.array([1, 6, 4]), "b": np.array([1, 3, 8])}
    model = make_model(nodes, constants, [1, 2, 12], [1, 3, 8])
    x = np.random.default_rng(5).normal(size=(1, 2, 12)).astype(np.float32)
    made = rewritten(model, shapes.free_batch, shapes.merge_reshapes)
    assert kinds(made) == ["Reshape", "Relu"]
    np.testing.assert_array_equal(run(made, x), run(model, x))


def test_a_reshape_that_mixes_the_batch_in_is_left_alone() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["r"]),
        helper.make_node("Reshape", ["r", "b"], ["t"]),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    model = make_model(nodes, {"a": np.array([2, 12]), "b": np.array([0, 3, 4])}, [1, 24], [2, 3, 4])
    x = np.arange(-12, 12, dtype=np.float32)[None]
    before = run(model, x)
    made, _ = onnx_passes.rewrite(model, [shapes.free_batch, shapes.merge_reshapes])
    np.testing.assert_array_equal(run(made, x), before)


def test_the_ends_are_renamed_everywhere() -> None:
    model = relu_model(np.uint8(0))
    onnx_passes.rename_ends(model, "image", "logits")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [session.get_inputs()[0].name, session.get_outputs()[0].name] == ["image", "logits"]


def test_equal_graphs_in_another_order_become_equal_bytes() -> None:
    first, second = mean_model(SCALE), mean_model(SCALE)
    nodes = list(second.graph.node)
    del second.graph.node[:]
    for node in nodes:
        node.input[:] = [name if name in ("x", "s", "z", "so") else f"{name}_other" for name in node.input]
        node.output[:] = [name if name == "y" else f"{name}_other" for name in node.output]
    second.graph.node.extend(nodes)
    second.graph.node[0].domain = ""
    constants = list(second.graph.initializer)[::-1]
    del second.graph.initializer[:]
    second.graph.initializer.extend(constants)
    assert first.SerializeToString() != second.SerializeToString()
    x = np.random.default_rng(0).normal(size=(1, 16, 40, 40)).astype(np.float32)
    before = run(first, x)
    for model in (first, second):
        onnx_passes.order_and_number(model)
        onnx.checker.check_model(model, full_check=True)
    assert first.SerializeToString() == second.SerializeToString()
    np.testing.assert_array_equal(run(first, x), before)
    assert [node.name for node in first.graph.node][:2] == ["QuantizeLinear_0", "DequantizeLinear_0"]
