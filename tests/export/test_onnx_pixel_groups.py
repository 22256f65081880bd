"""Convolutions from few channels on groups of pixels: the same integers, for every size that users may have."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdq_graph import QdqGraph, operators, run

from edgecbam.export import onnx_passes
from edgecbam.export.onnx_passes import pixel_groups
from edgecbam.export.onnx_passes.pixel_groups import Grouping, group_pixels, grouped_kernel


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    channels: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    planes: bool = False
    bias: bool = True
    per_channel: bool = True
    batch: int = 1


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """As TensorFlow pads: more at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def build(case: Case) -> onnx.ModelProto:
    random = np.random.default_rng(case.height * 1000 + case.width)
    shape = (case.batch, case.channels, case.height, case.width)
    graph = QdqGraph(shape)
    x = graph.input
    if case.planes:  # as the two pools of CBAM are joined
        integers = [
            graph.op("Slice", [x[0], *(graph.constant(np.array([v])) for v in (c, c + 1, 1))])
            for c in range(case.channels)
        ]
        x = (graph.op("Concat", integers, axis=1), *x[1:])
    kernel = random.integers(-127, 128, (case.outputs, case.channels, case.kernel, case.kernel)).astype(np.int8)
    scales = 2.0 ** -random.integers(9, 12, case.outputs) if case.per_channel else 2.0**-10
    inputs = [graph.real(x), graph.weights(kernel, scales)]
    if case.bias:
        bias = random.integers(-3000, 3000, case.outputs).astype(np.int32)
        inputs.append(graph.weights(bias, np.float32(2.0**-5) * np.broadcast_to(scales, case.outputs)))
    pads = [same_pads(size, case.kernel, case.stride) for size in shape[2:]]
    convolved = graph.op(
        "Conv",
        inputs,
        kernel_shape=[case.kernel] * 2,
        strides=[case.stride] * 2,
        pads=[pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
    )
    return graph.model(graph.quantize(convolved, 2.0**-3, 100))


def images(case: Case) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.uniform(-4.2, 4.0, (case.batch, case.channels, case.height, case.width)).astype(np.float32)


def check(case: Case, grouped: bool = True) -> onnx.ModelProto:
    plain = build(case)
    made, rewrites = onnx_passes.rewrite(plain, [group_pixels])
    assert rewrites == ({"group_pixels": 1} if grouped else {})
    x = images(case)
    expected = run(plain, x)
    assert len(np.unique(expected)) > 8
    np.testing.assert_array_equal(run(made, x), expected)
    np.testing.assert_array_equal(run(made, x, "ORT_ENABLE_ALL"), expected)
    return made


@pytest.mark.parametrize("width", [7, 8, 14, 24, 30, 48, 64, 71, 75, 96, 100, 112])
def test_the_spatial_convolution_of_cbam(width: int) -> None:
    check(Case(9, width, 2, 1, kernel=7, planes=True))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_the_first_convolution_of_a_network(channels: int, stride: int, kernel: int) -> None:
    check(Case(12, 16, channels, 8, kernel, stride))


@given(
    st.builds(
        Case,
        height=st.integers(1, 9),
        width=st.integers(2, 40),
        channels=st.integers(1, 4),
        outputs=st.integers(1, 3),
        kernel=st.sampled_from([1, 3, 5, 7]),
        stride=st.integers(1, 2),
        planes=st.booleans(),
        bias=st.booleans(),
        per_channel=st.booleans(),
        batch=st.integers(1, 2),
    )
)
@settings(deadline=None, max_examples=60)
def test_any_thin_convolution_keeps_its_integers(case: Case) -> None:
    plain = build(case)
    made, _ = onnx_passes.rewrite(plain, [group_pixels])
    x = images(case)
    np.testing.assert_array_equal(run(made, x), run(plain, x))


@pytest.mark.parametrize(
    "case",
    [
        Case(9, 12, 5, 1),  # not few channels
        Case(9, 13, 3, 8),  # 13 pixels make no groups of the same size
        Case(40, 1, 2, 1),  # one pixel in a row
        Case(9, 131, 2, 1, kernel=7),  # a prime number of pixels, too many for one group
    ],
)
def test_what_does_not_pay_or_cannot_be_done_stays(case: Case) -> None:
    check(case, grouped=False)


def test_a_convolution_that_is_not_quantized_stays() -> None:
    model = build(Case(8, 8, 2, 1))
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[0] = "x"
    assert onnx_passes.rewrite(model, [group_pixels])[1] == {}


@pytest.mark.parametrize("attribute", [{"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}, {"group": 2}])
def test_other_kinds_of_convolution_stay(attribute: dict[str, object]) -> None:
    model = build(Case(8, 8, 4 if "group" not in attribute else 2, 2))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    kept = [entry for entry in node.attribute if entry.name not in attribute and entry.name != "pads"]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in attribute.items())])
    if "group" in attribute:
        kernel = next(t for t in model.graph.initializer if t.dims == [2, 2, 3, 3])
        kernel.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel)[:, :1], kernel.name))
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    assert onnx_passes.rewrite(model, [group_pixels])[1] == {}


def test_on_rows_nothing_is_moved() -> None:
    """ONNX Runtime needs no Transpose around the spatial convolution."""
    found = operators(check(Case(24, 96, 2, 1, kernel=7, planes=True)))
    assert "QLinearConv" in found
    assert not {"Conv", "Transpose"} & set(found)


def test_a_kernel_is_scattered_by_its_formula() -> None:
    kernel = np.arange(1, 15).reshape(1, 2, 1, 7)
    scattered, before, after = grouped_kernel(kernel, Grouping(4, 4), 1, 3, by_plane=True)
    assert (before, after) == (1, 1)
    assert scattered.shape == (4, 8, 1, 3)
    for p in range(4):
        for dx in range(7):
            group, i = divmod(p + dx - 3, 4)
            for c in range(2):
                assert scattered[p, 4 * c + i, 0, group + 1] == kernel[0, c, 0, dx]
    assert np.count_nonzero(scattered) == 4 * kernel.size


def test_groups_are_near_what_was_wanted() -> None:
    model = ir.from_proto(build(Case(9, 96, 2, 1, kernel=7, planes=True)))
    found = [pixel_groups._match(node) for node in model.graph if node.op_type == "Conv"]
    assert found[0] is not None
    assert pixel_groups.choose(found[0]) == Grouping(8, 32)
