"""A report's profiles: what adds up, which ops are attention and which were not delegated; and who cannot tell."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecbam.benchmarks import attention_ops, profiles, report_schema
from edgecbam.benchmarks.child import Child
from edgecbam.errors import InputError
from edgecbam.runtimes import find

PLACE = {"model": "a.tflite", "runtime": "litert", "device": "cpu", "threads": 1}


def node(name: str, op: str, inputs: str, output: str) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": inputs.split(), "outputs": [output]}


# squeeze and excitation, whose third node is named so, between two convolutions
GRAPH = [
    node("first", "CONV_2D", "image", "x"),
    node("p", "MEAN", "x", "pooled"),
    node("block/se/reduce", "CONV_2D", "pooled", "hidden"),
    node("g", "LOGISTIC", "hidden", "gate"),
    node("s", "MUL", "x gate", "scaled"),
    node("last", "CONV_2D", "scaled", "y"),
]


def op(name: str, us: float, *nodes: int, kind: str = "Conv", where: str = "xnnpack") -> dict[str, Any]:
    return {"name": name, "op": kind, "us": us, "where": where, "nodes": list(nodes)}


def raw(*ops: Mapping[str, Any], graph: Sequence[Mapping[str, Any]] = GRAPH, **others: Any) -> dict[str, Any]:
    told = {"runs": 7, "delegate": "xnnpack", "resolution_us": 0.01, "graph": graph, "graph_reason": None}
    return {**told, "ops": list(ops), **others}


WHOLE = (
    op("first", 10, 0),
    op("p", 2, 1, kind="Mean"),
    op("r", 3, 2),
    op("g", 1, 3, kind="Sigmoid"),
    op("s", 4, 4, kind="MUL", where="cpu"),
    op("last", 20, 5),
)


def valid(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry, which the published schema must accept."""
    import jsonschema

    schema = report_schema.load()
    jsonschema.validate(entry, {**schema["$defs"]["profile"], "$defs": schema["$defs"]})
    return entry


def test_ops_are_listed_the_dearest_first_and_add_up() -> None:
    entry = valid(profiles.entry(PLACE, raw(*WHOLE), profiles.ATTENTION))
    assert [each["name"] for each in entry["ops"]] == ["last", "first", "s", "r", "p", "g"]
    assert entry["total_us"] == sum(each["us"] for each in entry["ops"]) == 40
    assert sum(each["share"] for each in entry["ops"]) == pytest.approx(1)
    assert sum(each["share"] for each in entry["by_op"]) == pytest.approx(1)
    assert entry["by_op"] == [
        {"op": "Conv", "count": 3, "us": 33, "share": 33 / 40},
        {"op": "MUL", "count": 1, "us": 4, "share": 0.1},
        {"op": "Mean", "count": 1, "us": 2, "share": 0.05},
        {"op": "Sigmoid", "count": 1, "us": 1, "share": 0.025},
    ]
    assert {key: entry[key] for key in PLACE} == PLACE
    assert (entry["status"], entry["reason"], entry["runs"], entry["resolution_us"]) == ("ok", "", 7, 0.01)


def test_what_was_not_delegated_has_its_cost() -> None:
    entry = profiles.entry(PLACE, raw(*WHOLE), profiles.ATTENTION)
    assert entry["not_delegated"] == {"count": 1, "us": 4, "share": 0.1, "ops": ["MUL"]}
    on_a_gpu = [op("a", 6, 0, where="cuda"), op("b", 1, 1, where="cpu", kind="Loop"), op("c", 1, 2, where="cpu")]
    entry = profiles.entry(PLACE, raw(*on_a_gpu, delegate="cuda"), profiles.ATTENTION)
    assert entry["not_delegated"] == {"count": 2, "us": 2, "share": 0.25, "ops": ["Conv", "Loop"]}
    assert profiles.entry(PLACE, raw(*WHOLE, delegate=None), profiles.ATTENTION)["not_delegated"] is None


def test_attention_is_found_by_name_and_by_place() -> None:
    entry = profiles.entry(PLACE, raw(*WHOLE), profiles.ATTENTION)
    assert entry["attention"] == {"us": 10, "share": 0.25}
    assert entry["attention_reason"] is None
    assert {each["name"] for each in entry["ops"] if each["attention"]} == {"p", "r", "g", "s"}
    assert all(each["attention"] is not None for each in entry["ops"])


def test_a_pattern_of_the_users_counts_alone() -> None:
    entry = profiles.entry(PLACE, raw(*WHOLE), "BLOCK/|^first$")
    assert entry["attention"] == {"us": 13, "share": 13 / 40}
    nameless = [{**each, "name": "" if each["name"] == "p" else each["name"]} for each in GRAPH]
    entry = valid(profiles.entry(PLACE, raw(*WHOLE, graph=nameless), "block/"))
    assert entry["attention"] == {"us": 3, "share": 3 / 40}
    assert {each["name"]: each["attention"] for each in entry["ops"]}["p"] is None
    assert entry["attention_reason"].startswith("not counted: 1 ops, 5.0 % of the time")
    entry = valid(profiles.entry(PLACE, raw(*WHOLE), "absent"))
    assert (entry["attention"], entry["attention_reason"]) == (None, "no op has a name that matches 'absent'")


def test_what_is_merged_with_something_else_is_not_counted() -> None:
    ops = [op("first and pool", 10, 0, 1), op("gate", 5, 2, 3, 4), op("layout", 2), op("last", 3, 5)]
    entry = valid(profiles.entry(PLACE, raw(*ops), profiles.ATTENTION))
    assert {each["name"]: each["attention"] for each in entry["ops"]} == {
        "first and pool": None,
        "gate": True,
        "layout": None,
        "last": False,
    }
    assert entry["attention"] == {"us": 5, "share": 0.25}
    assert entry["attention_reason"].startswith("not counted: 2 ops, 60.0 % of the time")


def test_a_share_of_ops_too_short_for_the_profiler_says_what_it_may_be() -> None:
    entry = valid(profiles.entry(PLACE, raw(*WHOLE, resolution_us=2.0), profiles.ATTENTION))
    low, high = 10 / (40 + 2 * 2), (10 + 4 * 2) / (40 + 4 * 2)  # two ops outside of it, four inside
    assert entry["attention"] == {"us": 10, "share": 0.25}
    assert entry["attention_reason"].endswith(f"the share lies between {100 * low:.0f} and {100 * high:.0f} %")
    sure = profiles.entry(PLACE, raw(*WHOLE, resolution_us=0.2), profiles.ATTENTION)
    assert sure["attention_reason"] is None


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (raw(*WHOLE, graph_reason="its ops have no names"), "its ops have no names"),
        (raw(op("first", 1, 0), graph=GRAPH[:1]), "there is no attention, or none that can be told"),
        (raw(op("s", 0, 4)), "all ops together take less than the profiler's resolution, 0.01 µs"),
    ],
)
def test_what_cannot_be_told_is_null_with_its_reason(told: Mapping[str, Any], reason: str) -> None:
    entry = valid(profiles.entry(PLACE, told, profiles.ATTENTION))
    assert entry["attention"] is None
    assert reason in entry["attention_reason"]
    assert all(each["attention"] is None for each in entry["ops"])
    assert entry["total_us"] == sum(each["us"] for each in entry["ops"])


def test_a_profile_that_could_not_be_had_says_why() -> None:
    entry = valid(profiles.failed(PLACE, "unsupported", "the runtime does not tell"))
    assert (entry["status"], entry["reason"], entry["ops"]) == ("unsupported", "the runtime does not tell", [])
    assert {*entry} == {*profiles.entry(PLACE, raw(*WHOLE), profiles.ATTENTION)}


def test_what_is_no_regular_expression_is_named() -> None:
    with pytest.raises(InputError, match=r"--attention '\(' is no regular expression"):
        profiles.pattern("(")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet/quant_stage1_block1_attention_channel_gate/Sigmoid", True),
        ("edgecbam/blocks0/joined", True),
        ("block1a_se_squeeze/Mean", True),
        ("blocks.0.0.se.conv_reduce", True),
        ("MobilenetV3/expanded_conv/squeeze_excite/AvgPool", True),
        ("Layer1/CBAM/SpatialGate/conv", True),
        ("features.1.SqueezeExcitation", True),
        ("transformer/self_attn/q", True),
        ("resnet/quant_stage1_block1_2_bn/FusedBatchNormV3", False),
        ("dense/MatMul", False),
        ("serving_default_image:0", False),
        ("squeeze/Squeeze", False),
        ("reset_gate", False),
    ],
)
def test_names_of_attention(name: str, expected: bool) -> None:
    found = attention_ops.by_name([node(name, "ADD", "x", "y")], profiles.pattern(profiles.ATTENTION))
    assert bool(found) is expected


def gated(*between: tuple[str, str, str], product: str = "Mul x gate", start: str = "image") -> list[dict[str, Any]]:
    """x = Conv(start); then what is given as (kind, inputs, output); then y = the product."""
    kind, inputs = product.split(" ", 1)
    nodes = [node("", "Conv", start, "x"), *(node("", *each) for each in between), node("", kind, inputs, "y")]
    return [*nodes, node("", "Conv", "y", "end")]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (gated(("ReduceMean", "x", "m"), ("Sigmoid", "m", "gate")), {1, 2, 3}),
        (gated(("GlobalMaxPool", "x", "m"), ("Sigmoid", "m", "gate"), product="Mul gate x"), {1, 2, 3}),
        (gated(("QLinearGlobalAveragePool", "x", "m"), ("QLinearSigmoid", "m", "gate"), product="QLinearMul x gate"),
         {1, 2, 3}),
        # an activation that was merged into a convolution, and a gate that is carried to the product
        (gated(("MEAN", "x", "m"), ("FusedConv Sigmoid", "m", "s"), ("DEPTH_TO_SPACE", "s", "d"),
               ("RESHAPE", "d", "gate")), {1, 2, 3, 4, 5}),
        # the map itself is converted on its way to the product
        (gated(("DequantizeLinear", "x", "r"), ("ReduceMax", "x", "m"), ("HardSigmoid", "m", "gate"),
               product="Mul r gate"), {1, 2, 3, 4}),
        # a zero point and a scale are constants, which are left out
        (gated(("Subtract", "x", "o"), ("Multiply", "o", "r"), ("ReduceMax", "x", "m"), ("Sigmoid", "m", "gate"),
               product="Multiply r gate"), {1, 2, 3, 4, 5}),
        # constants may have makers
        (gated(("Constant", "", "c"), ("Shape", "x", "n"), ("ReduceMean", "x c n", "m"), ("Sigmoid", "m", "gate")),
         {3, 4, 5}),
        # no attention: swish, a layer norm, a gated linear unit, a gate of another input or of an earlier map
        (gated(("Sigmoid", "x", "gate")), set()),
        (gated(("ReduceMean", "x", "m"), ("Rsqrt", "m", "gate")), set()),
        (gated(("Conv", "x", "c"), ("Sigmoid", "c", "gate")), set()),
        (gated(("ReduceMean", "other", "m"), ("Sigmoid", "m", "gate")), set()),
        (gated(("Conv", "x", "c"), ("ReduceMean", "x", "m"), ("Sigmoid", "m", "gate"), product="Mul c gate"), set()),
        (gated(("ReduceMean", "x", "m"), ("Sigmoid", "m", "gate"), product="Add x gate"), set()),
        (gated(product="Mul x x"), set()),
        ([], set()),
    ],
)  # fmt: skip
def test_a_gate_is_found_by_its_place(graph: list[dict[str, Any]], expected: set[int]) -> None:
    assert attention_ops.by_place(graph) == expected
    backwards = attention_ops.by_place(graph[::-1])  # the order in which nodes are listed does not count
    assert {len(graph) - 1 - index for index in backwards} == expected


def test_the_input_itself_may_be_gated() -> None:
    graph = [
        node("", "ReduceMean", "image", "m"),
        node("", "Sigmoid", "m", "gate"),
        node("", "Mul", "image gate", "y"),
    ]
    assert attention_ops.by_place(graph) == {0, 1, 2}


OUTSIDE = {
    "int8": 10,
    "uint8": 12,
    "fp32": 10,
}  # ops: 6 convolutions, 2 sums, the mean and the layer of the logits; and
# of uint8 one QUANTIZE at each end


@pytest.mark.parametrize("precision", list(OUTSIDE))
def test_every_op_of_an_exported_cbam_is_counted(trained_run: Path, precision: str) -> None:
    """By name and by place find the same, and the rest is what the network has without attention."""
    path = trained_run / "export" / f"model_{precision}.tflite"
    told = _profile("litert", path)
    graph, names = told["graph"], profiles.pattern(profiles.ATTENTION)
    named = attention_ops.by_name(graph, names)
    assert named == attention_ops.by_place(graph)
    assert len(graph) - len(named) == OUTSIDE[precision]
    assert sum(graph[index]["op"] == "MUL" for index in named) == 4  # two gates in each of two blocks
    entry = profiles.entry({**PLACE, "model": path.name}, told, profiles.ATTENTION)
    flags = [each["attention"] for each in entry["ops"]]
    assert None not in flags
    assert entry["not_delegated"]["ops"] == (["QUANTIZE"] if precision == "uint8" else [])
    sure = {index for each in told["ops"] if len(each["nodes"]) == 1 for index in each["nodes"]}
    computing = [index for index in named if graph[index]["op"] in ("CONV_2D", "MUL", "LOGISTIC", "MEAN", "REDUCE_MAX")]
    assert {*computing} <= sure


@pytest.mark.parametrize(("runtime", "convolution"), [("onnxruntime", "Conv"), ("openvino", "Convolution")])
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_gates_are_found_in_files_without_names(
    trained_run: Path, runtime: str, convolution: str, precision: str
) -> None:
    told = _profile(runtime, trained_run / "export" / f"model_{precision}.onnx")
    graph = told["graph"]
    assert attention_ops.by_name(graph, profiles.pattern(profiles.ATTENTION)) == set()
    found = attention_ops.by_place(graph)

    def counts(kind: str) -> tuple[int, int]:
        pattern = re.compile(rf"(QLinear|Fused)?{kind}( .*)?")
        matching = [index for index, each in enumerate(graph) if pattern.fullmatch(each["op"])]
        return len(matching), len(found & {*matching})

    assert counts("Sigmoid")[1] + counts(f"{convolution} Sigmoid")[1] == 4
    everywhere, inside = counts(convolution)
    assert everywhere - inside == 6
    assert inside >= 2 * (4 + 1)  # the layers of the MLP twice each, and the spatial convolution
    entry = profiles.entry({**PLACE, "runtime": runtime}, told, profiles.ATTENTION)
    assert entry["attention"] is not None
    assert entry["not_delegated"] is None
    if runtime == "onnxruntime":
        assert None not in [each["attention"] for each in entry["ops"]]  # each node that ran is one of the graph


def test_a_worker_tells_a_profile(fixtures: Path) -> None:
    task = {"model": str(fixtures / "tiny_split.tflite"), "runtime": "litert", "threads": 1, "seed": 1, "export": None}
    with Child(task) as child:
        child.hear(60)
        child.ask({"command": "open"}, 60)
        told = child.ask({"command": "profile", "runs": 5}, 60)["profile"]
    entry = valid(profiles.entry(PLACE, told, profiles.ATTENTION))
    assert [each["op"] for each in told["ops"]] == ["Multiply (ND)", "CUMSUM", "Multiply (ND)"]
    assert (entry["runs"], entry["not_delegated"]["count"], entry["not_delegated"]["ops"]) == (5, 1, ["CUMSUM"])


def _profile(runtime: str, path: Path) -> dict[str, Any]:
    adapter = find(runtime)
    assert adapter.profile is not None
    session = adapter.open(path)
    arrays = [np.zeros([abs(size) for size in info.shape], info.dtype) for info in session.inputs]
    session.close()
    return adapter.profile(path, 1, "cpu", arrays, 2)
