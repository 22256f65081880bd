"""ONNX Runtime on a GPU: its CUDA, TensorRT and WebGPU execution providers, one runtime each.

ONNX Runtime falls back to the CPU where a provider cannot start, and node by node where a provider lacks a kernel, in
both cases without an error. So ``open`` looks at which providers a session really has, and ``placement`` runs the model
once in a session with a trace and counts the nodes of each provider. A few small nodes on the CPU, such as those that
compute shapes, are usual and shown; a session whose convolutions or matrix products run there is refused.

An ``invoke`` ends when the outputs lie in host memory. Left on the device, they may not be there yet: with WebGPU
``synchronize_outputs`` returns before the work is done. Inputs are copied to the device by ``prepare``.

float32 is float32: CUDA and TensorRT would otherwise multiply in TensorFloat-32 on GPUs that have it.

The wheels onnxruntime, onnxruntime-gpu and onnxruntime-webgpu all install the module onnxruntime, over one another.
Which of them is really there, the module's own files tell.

CUDA and TensorRT are untested: none of the machines that edgecbam is tested on has an NVIDIA GPU.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.runtimes import gpus, native_log, onnx_file
from edgecbam.runtimes.session import (
    CannotRun,
    Runtime,
    Session,
    Shapes,
    TensorInfo,
    check_arrays,
    check_device,
    check_file,
    check_shapes,
    check_threads,
    one_line,
)
from edgecbam.runtimes.onnx_runtime import DTYPES, tensor_info

CPU = "CPUExecutionProvider"
# Kinds of nodes that do the bulk of the arithmetic: on the CPU, none of these may be.
HEAVY = ("Conv", "Gemm", "MatMul", "Attention", "Einsum", "LSTM", "GRU", "RNN")
UNTESTED = "untested: no machine at hand has had such a GPU"
_KERNEL = "_kernel_time"
_BUILD = re.compile(r"^package_name\s*=\s*'([^']+)'", re.MULTILINE)
_MISSING_LIBRARY = re.compile(r"error: (?P<library>\S+): cannot open shared object file")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
