"""Converts .tflite files to ONNX in a process of its own: ``tf2onnx_worker.py OPSET IN OUT [IN OUT …]``.

tf2onnx lets the hash values of strings decide which of several equal graphs it makes. Started with PYTHONHASHSEED=0, it
makes the same one every time.
"""

import sys
import warnings


def main(arguments: list[str]) -> None:
    """Convert every pair of paths."""
    opset, paths = int(arguments[0]), arguments[1:]
    warnings.simplefilter("ignore")  # tf2onnx reads the file with an interpreter that TensorFlow calls deprecated
    import tf2onnx

    for source, target in zip(paths[::2], paths[1::2], strict=True):
        tf2onnx.convert.from_tflite(source, opset=opset, output_path=target)


if __name__ == "__main__":
    main(sys.argv[1:])
