"""Gates and pools on planes: the same integers, whatever the map; and the ops that ONNX Runtime makes of them."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdq_graph import QdqGraph, operators, run

from edgecbam.export import onnx_passes
from edgecbam.export.onnx_passes import maxima, means, planes, shapes

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
GATE = (2.0**-8, 0)


def gated(shape: tuple[int, ...], spatial: bool, gate_first: bool = False) -> onnx.ModelProto:
    """x * gate, with a gate that comes from x itself."""
    graph = QdqGraph(shape)
    pool = {"axes": [1], "keepdims": 1} if spatial else {"axes": [2, 3], "keepdims": 1}
    gate = graph.quantize(graph.op("ReduceMax", [graph.real(graph.input)], **pool), *GATE)
    factors = [graph.real(graph.input), graph.real(gate)]
    return graph.model(graph.quantize(graph.op("Mul", factors[:: -1 if gate_first else 1]), 2.0**-6, 120))


def pooled(shape: tuple[int, ...], kind: str, axes: list[int]) -> onnx.ModelProto:
    graph = QdqGraph(shape)
    result = graph.op(kind, [graph.real(graph.input)], axes=axes, keepdims=1)
    return graph.model(graph.quantize(result, 2.0**-5, 131))


def check(model: onnx.ModelProto, passes: list[Any], name: str, levels: tuple[str, ...] = LEVELS) -> onnx.ModelProto:
    made, rewrites = onnx_passes.rewrite(model, passes)
    assert rewrites.get(name) == 1
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(0, 0.7, shape).astype(np.float32)
    expected = run(model, x)
    assert len(np.unique(expected)) > 1
    for level in levels:
        np.testing.assert_array_equal(run(made, x, level), expected, err_msg=level)
    return made


@pytest.mark.parametrize("shape", [(1, 16, 28, 28), (1, 3, 7, 5), (2, 8, 6, 6)])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("gate_first", [False, True])
def test_gates_on_planes(shape: tuple[int, ...], spatial: bool, gate_first: bool) -> None:
    made = check(gated(shape, spatial, gate_first), [planes.gate_planes], "gate_planes")
    found = operators(made)
    assert "QLinearMul" in found
    assert "Mul" not in found


@pytest.mark.parametrize("shape", [(1, 16, 28, 28), (1, 3, 7, 5), (2, 8, 6, 6)])
def test_channel_maxima_on_planes(shape: tuple[int, ...]) -> None:
    passes = [maxima.maximum_of_integers, planes.pool_planes]
    made = check(pooled(shape, "ReduceMax", [1]), passes, "pool_planes")
    assert "MaxPool" in [node.op_type for node in made.graph.node]


@pytest.mark.parametrize("shape", [(1, 16, 28, 28), (1, 4, 7, 5), (2, 8, 6, 6)])
def test_channel_means_on_planes(shape: tuple[int, ...]) -> None:
    exact, _ = onnx_passes.rewrite(pooled(shape, "ReduceMean", [1]), [means.average_integers])
    made = check(exact, [planes.pool_planes], "pool_planes")
    found = operators(made)
    assert "QLinearGlobalAveragePool" in found
    assert "ReduceMean" not in found


@pytest.mark.parametrize("shape", [(1, 16, 28, 28), (1, 3, 7, 5)])
def test_maxima_over_pixels_on_planes(shape: tuple[int, ...]) -> None:
    passes = [maxima.maximum_of_integers, planes.reduce_planes]
    made = check(pooled(shape, "ReduceMax", [2, 3]), passes, "reduce_planes")
    assert "DequantizeLinear" not in operators(made)[1:-1]


@given(st.tuples(st.integers(1, 2), st.integers(2, 9), st.integers(2, 9), st.integers(1, 9)), st.booleans())
@settings(deadline=None, max_examples=30)
def test_any_map_keeps_its_integers(shape: tuple[int, ...], spatial: bool) -> None:
    x = np.random.default_rng(0).normal(0, 0.7, shape).astype(np.float32)
    for model in (gated(shape, spatial), pooled(shape, "ReduceMax", [1]), pooled(shape, "ReduceMax", [2, 3])):
        every = [maxima.maximum_of_integers, planes.gate_planes, planes.pool_planes, planes.reduce_planes]
        made, _ = onnx_passes.rewrite(model, [*every, shapes.merge_reshapes])
        np.testing.assert_array_equal(run(made, x), run(model, x))


@pytest.mark.parametrize("axes", [[2], [0, 1], [1, 2, 3]])
def test_reductions_over_other_axes_stay(axes: list[int]) -> None:
    model = pooled((1, 4, 6, 5), "ReduceMax", axes)
    passes = [maxima.maximum_of_integers, planes.pool_planes, planes.reduce_planes]
    assert set(onnx_passes.rewrite(model, passes)[1]) == {"maximum_of_integers"}


def test_a_map_of_one_row_or_channel_stays() -> None:
    assert onnx_passes.rewrite(gated((1, 4, 1, 9), False), [planes.gate_planes])[1] == {}
    model = pooled((1, 1, 6, 5), "ReduceMax", [1])
    assert set(onnx_passes.rewrite(model, [maxima.maximum_of_integers, planes.pool_planes])[1]) <= {
        "maximum_of_integers"
    }


def test_a_product_of_two_maps_stays() -> None:
    graph = QdqGraph((1, 4, 6, 5))
    squared = graph.op("Mul", [graph.real(graph.input), graph.real(graph.input)])
    model = graph.model(graph.quantize(squared, 2.0**-3, 100))
    assert onnx_passes.rewrite(model, [planes.gate_planes])[1] == {}
