"""Converts .tflite files to ONNX in a process of its own: ``tf2onnx_worker.py OPSET IN OUT [IN OUT …]``.

tf2onnx's optimizer walks over sets of nodes and of names, and their order decides which of several equivalent graphs it
makes. Started with PYTHONHASHSEED=0, and with nodes hashed by the order of their creation instead of by their address,
it makes the same graph every time.
"""

import itertools
import sys
import warnings
from typing import Any


def main(arguments: list[str]) -> None:
    """Convert every pair of paths."""
    opset, paths = int(arguments[0]), arguments[1:]
    warnings.simplefilter("ignore")  # tf2onnx reads the file with an interpreter that TensorFlow calls deprecated
    import tf2onnx

    _hash_by_creation(tf2onnx.graph.Node)
    for source, target in zip(paths[::2], paths[1::2], strict=True):
        tf2onnx.convert.from_tflite(source, opset=opset, output_path=target)


def _hash_by_creation(cls: Any) -> None:
    numbers = itertools.count()
    make = cls.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        self._creation_number = next(numbers)
        make(self, *arguments, **options)

    cls.__init__ = init
    cls.__hash__ = lambda self: self._creation_number


if __name__ == "__main__":
    main(sys.argv[1:])
