"""ReLUs without effect: where the zero point is the smallest integer, the clamp of int8 is the ReLU.

XNNPACK runs an elementwise op with a fused ReLU as two ops, the second a pass over the whole map.
"""

from edgecbam.export.tflite_graph import TfliteGraph

ELEMENTWISE = ("ADD", "MUL", "SUB")
RELU = 1  # ActivationFunctionType in schema.fbs
NONE = 0


def drop_redundant_relus(graph: TfliteGraph) -> int:
    """Take the fused ReLU from elementwise int8 ops whose output has zero point -128; returns how many."""
    count = 0
    for op in graph.graph.operators:
        if graph.kind(op) not in ELEMENTWISE or op.builtinOptions is None:
            continue
        output = int(op.outputs[0])
        quantization = graph.quantization(output)
        if op.builtinOptions.fusedActivationFunction != RELU or graph.dtype(output) != "INT8" or quantization is None:
            continue
        if int(quantization[1][0]) == -128:
            op.builtinOptions.fusedActivationFunction = NONE
            count += 1
    return count
