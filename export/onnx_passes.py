"""Small graph passes over tf2onnx's output that make an int8 ONNX file compute what the int8 .tflite computes.

Each pass changes one thing of a ModelProto in place and says why. The quantized form is QDQ: QuantizeLinear and
DequantizeLinear around float ops, which a runtime may fuse into integer kernels
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from collections import defaultdict
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

MEANS = ("ReduceMean", "GlobalAveragePool")


class Graph:
    """Look-ups over a graph that are valid until its nodes change."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.producer = {output: node for node in self.graph.node for output in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.input:
                self.consumers[name].append(node)

    def add_constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add an initializer under a free name that begins with ``name``; returns the name."""
        free = name
        while free in self.constants:
            free += "_"
        self.constants[free] = np.asarray(value)
        self.graph.initializer.append(numpy_helper.from_array(self.constants[free], free))
        return free


def rename_ends(model: ModelProto, input_name: str, output_name: str) -> None:
    """Name the single input and the single output, such as ``image`` and ``logits``."""
    names = {model.graph.input[0].name: input_name, model.graph.output[0].name: output_name}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        value.name = names.get(value.name, value.name)


def average_integers(model: ModelProto) -> None:
    """Average the integers themselves, so that ties round as they do in LiteRT.

    A mean over 2^k values that keeps their scale ends exactly half-way between two integers in one case of 2^k. LiteRT
    then rounds the mean of the stored integers, zero point included, half to even; a mean of dequantized values is off
    by float rounding and breaks such ties at random. DequantizeLinear with scale 1 keeps the sum exact, QuantizeLinear
    takes the quotient of the two scales, and where input and output share scale and zero point both have zero point 0.
    """
    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type not in MEANS:
            continue
        before, after = graph.producer.get(node.input[0]), graph.consumers[node.output[0]]
        if before is None or before.op_type != "DequantizeLinear":
            continue
        if len(after) != 1 or after[0].op_type != "QuantizeLinear":
            continue
        scale_in, scale_out = graph.constants[before.input[1]], graph.constants[after[0].input[1]]
        zero_in, zero_out = graph.constants[before.input[2]], graph.constants[after[0].input[2]]
        name = node.output[0]
        zero_name = before.input[2]
        if scale_in == scale_out and zero_in == zero_out:
            zero_name = graph.add_constant(f"{name}_zero", np.zeros_like(zero_in))
            after[0].input[2] = zero_name
        integers = helper.make_node(
            "DequantizeLinear",
            [before.input[0], graph.add_constant(f"{name}_unit", np.float32(1.0)), zero_name],
            [f"{name}_integers"],
        )
        model.graph.node.insert(list(model.graph.node).index(node), integers)
        node.input[0] = integers.output[0]
        after[0].input[1] = graph.add_constant(f"{name}_quotient", np.float32(scale_out / scale_in))
    _drop_unused(model)


def unsigned_activations(model: ModelProto) -> None:
    """Store activations as uint8, the zero point moved by 128: the same real numbers in the type that fuses on x86."""
    graph = Graph(model)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in graph.constants:
            continue
        zero_point = graph.constants[node.input[2]]
        if zero_point.dtype == np.int8:
            shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            node.input[2] = graph.add_constant(f"{node.output[0]}_zero_point", shifted)
    del model.graph.value_info[:]  # the recorded int8 types are no longer true
    _drop_unused(model)


def drop_clamped_relus(model: ModelProto) -> None:
    """Remove each Relu that is only quantized with the lowest integer as zero point: the clamp does its work."""
    graph = Graph(model)
    kept = []
    replaced: dict[str, str] = {}
    for node in model.graph.node:
        users = graph.consumers[node.output[0]] if node.op_type == "Relu" else []
        if users and all(_clamps_at_zero(user, graph) for user in users):
            replaced[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _clamps_at_zero(node: NodeProto, graph: Graph) -> bool:
    if node.op_type != "QuantizeLinear":
        return False
    zero_point = graph.constants[node.input[2]]
    return bool(zero_point == np.iinfo(zero_point.dtype).min)


def order_and_number(model: ModelProto) -> None:
    """Order nodes and initializers by how the output depends on them, and name them by that order: ``Conv_3``.

    tf2onnx's names are joined from those of TFLite; they make up almost half of a small int8 file. After this pass
    equal graphs have equal bytes.
    """
    graph = Graph(model)
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    nodes: list[NodeProto] = []
    names: dict[str, str] = {"": ""}  # an input that is left out has the empty name
    count: dict[str, int] = defaultdict(int)
    waiting = [(value.name, False) for value in reversed(model.graph.output)]
    while waiting:  # depth first, inputs before the node; a loop, as a deep network would exhaust the recursion limit
        name, inputs_done = waiting.pop()
        node = graph.producer.get(name)
        if node is None or (name in names and not inputs_done):
            continue
        if not inputs_done:
            waiting.append((name, True))
            waiting.extend((source, False) for source in reversed(node.input))
            continue
        if name in names:
            continue
        label = f"{node.op_type}_{count[node.op_type]}"
        count[node.op_type] += 1
        for index, output in enumerate(node.output):
            suffix = f"_{index}" if index else ""
            names[output] = output if output in ends else f"{label}{suffix}"
        for index, source in enumerate(node.input):
            if source in graph.constants and source not in names:
                names[source] = f"{label}_input_{index}"
        node.name = label
        if not node.domain:
            node.ClearField("domain")  # tf2onnx sets the default domain on some nodes and leaves it out on others
        attributes = sorted(node.attribute, key=lambda attribute: str(attribute.name))
        del node.attribute[:]
        node.attribute.extend(attributes)
        nodes.append(node)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [tensors[old] for old in names if old in tensors]
    for tensor in constants:
        tensor.name = names[tensor.name]
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def _drop_unused(model: ModelProto) -> None:
    """Remove nodes and initializers that nothing reads."""
    outputs = {value.name for value in model.graph.output}
    while True:
        read = outputs | {name for node in model.graph.node for name in node.input}
        kept: list[Any] = [node for node in model.graph.node if any(name in read for name in node.output)]
        if len(kept) == len(model.graph.node):
            break
        del model.graph.node[:]
        model.graph.node.extend(kept)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
