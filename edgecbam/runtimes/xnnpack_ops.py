"""Which op of a .tflite model each op of XNNPACK comes from.

LiteRT's profiler names an op inside XNNPACK by its kind alone, such as "Convolution (NHWC, F32) IGEMM". But XNNPACK
runs the ops of a partition in the model's own order, and of each kind of the model's ops it is known what XNNPACK
makes: one op, or several, or none where it merges the op into another. So the list of the model's ops and the list of
XNNPACK's are read beside each other, as a regular expression and a text. Where more than one reading is possible, an op
of XNNPACK has several origins; where none is, nothing is said at all.

The table below was found by running the ops; tests/runtimes/test_profiles_runtime.py runs exported networks again.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Part:
    """Ops of XNNPACK that one op of the model becomes: one of ``kinds``, perhaps none, perhaps several in a row."""

    kinds: frozenset[str]
    optional: bool = False
    repeated: bool = False


def _one(*kinds: str) -> _Part:
    return _Part(frozenset(kinds))


def _maybe(*kinds: str) -> _Part:
    return _Part(frozenset(kinds), optional=True)


def _any_number(*kinds: str) -> _Part:
    return _Part(frozenset(kinds), optional=True, repeated=True)


_CLAMP = _maybe("Clamp")  # an activation that XNNPACK did not merge into the op
_QUANTIZED_INPUT = _maybe("Convert")  # float activations for weights of 8 bits
_SHAPED = _maybe("Static Reshape", "Static Expand Dims", "Fuse Dims", "Split Dims", "Copy")
_PRODUCT_OF_MATRICES = ("Fully Connected", "Dynamic Fully Connected", "Batch Matrix Multiply")

_PATTERNS: dict[str, tuple[_Part, ...]] = {
    "ABS": (_one("Abs"),),
    "ADD": (_one("Add"), _CLAMP),
    "AVERAGE_POOL_2D": (_one("Average Pooling"), _CLAMP),
    "BATCH_MATMUL": (_QUANTIZED_INPUT, _one(*_PRODUCT_OF_MATRICES)),
    "CAST": (_maybe("Convert"),),
    "CEIL": (_one("Ceiling"),),
    "CONCATENATION": (_any_number("Copy"), _CLAMP),
    "CONV_2D": (_QUANTIZED_INPUT, _one("Convolution", "Fully Connected"), _CLAMP),
    "COS": (_one("Cosine"),),
    "DEPTHWISE_CONV_2D": (_QUANTIZED_INPUT, _one("Convolution"), _CLAMP),
    "DEPTH_TO_SPACE": (_one("Depth To Space"),),
    "DEQUANTIZE": (_maybe("Convert"),),
    "DIV": (_one("Divide"), _CLAMP),
    "ELU": (_one("ELU"),),
    "EXP": (_one("Exp"),),
    "EXPAND_DIMS": (_SHAPED,),
    "FLOOR": (_one("Floor"),),
    "FULLY_CONNECTED": (_maybe("Static Reshape"), _QUANTIZED_INPUT, _one(*_PRODUCT_OF_MATRICES), _CLAMP),
    "GELU": (_one("GELU", "ApproxGELU"),),
    "HARD_SWISH": (_one("HardSwish"),),
    "LEAKY_RELU": (_one("LeakyReLU"),),
    "LOG": (_one("Log"),),
    "LOGISTIC": (_one("Sigmoid"),),
    "MAXIMUM": (_one("Maximum"),),
    "MAX_POOL_2D": (_one("Max Pooling"), _CLAMP),
    "MEAN": (_one("Mean"), _maybe("Static Reshape")),  # the reshape where the dimensions are not kept
    "MINIMUM": (_one("Minimum"),),
    "MUL": (_one("Multiply"), _CLAMP),
    "NEG": (_one("Negate"),),
    "PAD": (_maybe("Constant Pad"),),  # may be merged into a convolution
    "POW": (_one("Power"),),
    "PRELU": (_one("PReLU"),),
    "QUANTIZE": (_maybe("Convert"),),
    "REDUCE_MAX": (_one("Reduce Max"), _maybe("Static Reshape")),
    "REDUCE_MIN": (_one("Reduce Min"), _maybe("Static Reshape")),
    "RELU": (_CLAMP,),
    "RELU6": (_CLAMP,),
    "RELU_0_TO_1": (_CLAMP,),
    "RELU_N1_TO_1": (_CLAMP,),
    "RESHAPE": (_SHAPED,),
    "RESIZE_BILINEAR": (_one("Resize Bilinear"),),
    "ROUND": (_one("Bankders Rounding"),),  # sic
    "RSQRT": (_one("Reciprocal Square Root"),),
    "SIGN": (_one("Sign"),),
    "SIN": (_one("Sine"),),
    "SLICE": (_one("Slice"),),
    "SOFTMAX": (_one("Softmax"),),
    "SPACE_TO_DEPTH": (_one("Space To Depth"),),
    "SPLIT": (_any_number("Copy", "Slice"),),
    "SQRT": (_one("Square Root"),),
    "SQUARE": (_one("Square"),),
    "SQUARED_DIFFERENCE": (_one("Squared Difference"),),
    "SQUEEZE": (_SHAPED,),
    "STRIDED_SLICE": (_one("Slice"),),
    "SUB": (_one("Subtract"), _CLAMP),
    "SUM": (_one("Sum"), _maybe("Static Reshape")),
    "TANH": (_one("TanH"),),
    "TRANSPOSE": (_one("Transpose"),),
    "TRANSPOSE_CONV": (_QUANTIZED_INPUT, _one("Deconvolution"), _CLAMP),
}


def origins(model_ops: Sequence[str], xnnpack_ops: Sequence[str]) -> list[list[int]]:
    """The positions in ``model_ops`` that each of ``xnnpack_ops`` may come from.

    Args:
        model_ops: kinds of the ops of one partition, such as ``"CONV_2D"``, in the model's order.
        xnnpack_ops: what XNNPACK ran for it, as its profile names them, in order.

    Raises:
        ValueError: they cannot be read beside each other; says where.
    """
    unknown = sorted({op for op in model_ops if op not in _PATTERNS})
    if unknown:
        raise ValueError(f"what XNNPACK makes of {', '.join(unknown)} is not known")
    kinds = [op.split(" (")[0] for op in xnnpack_ops]
    parts = [(index, part) for index, op in enumerate(model_ops) for part in _PATTERNS[op]]
    before = _reachable([part for _, part in parts], kinds)
    after = _reachable([part for _, part in reversed(parts)], kinds[::-1])
    count = len(parts)
    if count not in before[-1]:
        stuck = max((i for i, states in enumerate(before) if states), default=0)
        what = f"its op {stuck + 1}, {kinds[stuck]}," if stuck < len(kinds) else "that it ends where it does"
        raise ValueError(f"XNNPACK's ops do not follow from the model's in their order: {what} cannot be explained")
    found = []
    for i, kind in enumerate(kinds):
        sources = set()
        for state in before[i]:
            if state == count or kind not in parts[state][1].kinds:
                continue
            # the rest must fit too: parts are counted from the other end in ``after``
            rest = after[len(kinds) - i - 1]
            if count - state - 1 in rest or (parts[state][1].repeated and count - state in rest):
                sources.add(parts[state][0])
        found.append(sorted(sources))
    return found


def _reachable(parts: Sequence[_Part], kinds: Sequence[str]) -> list[set[int]]:
    """For each number of kinds read from the start: how many parts may be done with; of a repeated one, all but it."""
    states = _skip({0}, parts)
    reached = [states]
    for kind in kinds:
        after = set()
        for state in states:
            if state < len(parts) and kind in parts[state].kinds:
                after.add(state + 1)
                if parts[state].repeated:
                    after.add(state)
        states = _skip(after, parts)
        reached.append(states)
    return reached


def _skip(states: set[int], parts: Sequence[_Part]) -> set[int]:
    """The states and those behind optional parts."""
    reached = set()
    for start in states:
        state = start
        while state not in reached:
            reached.add(state)
            if state < len(parts) and parts[state].optional:
                state += 1
    return reached
