"""Which ops of a network are its attention: by their names, and by where they stand.

By name: an op whose name, or that of a tensor it makes, matches a regular expression. The layers of edgecbam are called
``…_attention_…`` in a .tflite file, and ``edgecbam/…`` where its lowering has rewritten them; the other words are those
of common libraries.

By place: many files keep no names of layers (those that edgecbam writes as .onnx among them), but a gate shows in the
graph. Attention of the kind of squeeze-and-excitation and CBAM multiplies a map by a gate that is made of the same map:

    x ──┬──────────────────────────────────── product
        └── pooled ── … ── sigmoid ── spread ────┘

So a product is a gate's where one factor comes straight from x, the other from a sigmoid, at most rearranged or
requantized since, and where the way from x to that sigmoid reduces: a mean, a maximum or a pool. x is the last op that
everything in the product passes through. The product and all between it and x are attention. x * sigmoid(x) has
nothing that reduces and is none; neither is the attention of transformers, which has no gate.
"""

import graphlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

# How layers of attention are called: by edgecbam, by Keras' applications, by timm and torchvision
PATTERN = (
    r"cbam|attention|attn|squeeze[-_]?(and[-_]?)?excit|(channel|spatial)[-_]?gate|(^|[/._])(se|eca|gct|bam)([/._]|$)"
)

_NOTHING = -1  # no node, and no input either
_PRODUCTS = ("mul", "multiply", "qlinearmul")
_SUMS = ("add", "sub", "subtract")
_SIGMOIDS = ("logistic", "sigmoid")
_SHAPES = ("rank", "shape", "shapeof", "size")  # what they give depends on no value, so they begin anew
_REDUCING = ("mean", "reduce", "sum", "pool")
# They rearrange, spread or convert what they are given. With a constant, products and sums do so too.
_CARRYING = (
    "batchtospace",
    "broadcast",
    "cast",
    "convert",
    "copy",
    "depthtospace",
    "dequantize",
    "expand",
    "fakequantize",
    "flatten",
    "identity",
    "interpolate",
    "memcpy",
    "pad",
    "quantize",
    "reorder",
    "reshape",
    "resize",
    "slice",
    "spacetodepth",
    "squeeze",
    "stridedslice",
    "tile",
    "transpose",
    "unsqueeze",
)

Node = Mapping[str, Any]  # name, op, inputs, outputs: see Profiler


def by_name(graph: Sequence[Node], pattern: re.Pattern[str]) -> set[int]:
    """Positions of the nodes whose names match."""
    return {index for index, node in enumerate(graph) if pattern.search(node["name"])}


def by_place(graph: Sequence[Node]) -> set[int]:
    """Positions of the nodes that make a gate, and of the products with it."""
    sources = _sources(graph)
    gateway = _gateways(sources)
    found: set[int] = set()
    for node in sources:
        if _kind(graph[node]) not in _PRODUCTS or len(sources[node]) != 2 or gateway[node] == _NOTHING:
            continue
        start = gateway[node]
        first, second = sources[node]
        for straight, gate in ((first, second), (second, first)):
            if _carried(graph, sources, straight, start) != start:
                continue
            end = _carried(graph, sources, gate, start)
            if end == start or not any(word in _kind(graph[end]) for word in _SIGMOIDS):
                continue
            between = _between(sources, end, start)
            if any(word in _kind(graph[each]) for each in between for word in _REDUCING):
                found |= {node, *_between(sources, node, start)}
    return found


def _sources(graph: Sequence[Node]) -> dict[int, tuple[int, ...]]:
    """For each node that depends on an input of the network: what it takes from, sources first.

    A node is a position in ``graph``; an input of the network is a negative number below _NOTHING.
    """
    maker = {tensor: index for index, node in enumerate(graph) for tensor in node["outputs"]}
    inputs: dict[str, int] = {}
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for index, node in enumerate(graph):
        sorter.add(index, *(maker[tensor] for tensor in node["inputs"] if tensor in maker))
    sources: dict[int, tuple[int, ...]] = {}
    for index in sorter.static_order():
        takes = []
        for tensor in graph[index]["inputs"]:
            if tensor not in maker:
                takes.append(inputs.setdefault(tensor, _NOTHING - 1 - len(inputs)))
            elif maker[tensor] in sources:  # else it is made of constants alone
                takes.append(maker[tensor])
        if takes and _kind(graph[index]) not in _SHAPES:
            sources[index] = tuple(takes)
    return sources


def _gateways(sources: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """For each node the last one that everything it is made of passes through: its immediate dominator.

    _NOTHING where there is none, because it is made of several inputs.
    """
    gateway: dict[int, int] = {}
    depth = {_NOTHING: 0}
    for node, takes in sources.items():
        for source in takes:
            if source < _NOTHING:
                gateway[source], depth[source] = _NOTHING, 1
        common = takes[0]
        for other in takes[1:]:
            while common != other:
                if depth[common] >= depth[other]:
                    common = gateway[common]
                else:
                    other = gateway[other]
        gateway[node] = common
        depth[node] = depth[common] + 1
    return gateway


def _carried(graph: Sequence[Node], sources: Mapping[int, Sequence[int]], node: int, start: int) -> int:
    """Back from a node over those that only carry what they are given: the first that does more, or ``start``."""
    while node != start and len(sources[node]) == 1 and _carries(_kind(graph[node])):
        node = sources[node][0]
    return node


def _carries(kind: str) -> bool:
    return kind in (*_PRODUCTS, *_SUMS) or any(kind.removeprefix("qlinear").startswith(word) for word in _CARRYING)


def _between(sources: Mapping[int, Sequence[int]], end: int, start: int) -> set[int]:
    """The nodes that ``end`` is made of, back to ``start``; without both."""
    found: set[int] = set()
    waiting = list(sources[end])
    while waiting:
        node = waiting.pop()
        if node not in found and node != start:
            found.add(node)
            waiting += sources[node]
    return found


def _kind(node: Node) -> str:
    """The kind of a node as the lists above spell it: SPACE_TO_DEPTH and SpaceToDepth are the same."""
    return str(node["op"]).replace("_", "").lower()
