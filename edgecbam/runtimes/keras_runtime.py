"""Keras 2 (tf_keras) on TensorFlow: .keras files, the float network that the other files were made from.

An ``invoke`` calls one TensorFlow graph, made for the shapes of the inputs. On a CPU it is done when the call returns;
on a GPU, where it is not, an ``invoke`` ends when the outputs lie in host memory. float32 is float32: TensorFlow would
otherwise multiply in TensorFloat-32 on GPUs that have it. An op without a GPU kernel fails there and does not move to
the CPU. The GPU is untested: no machine that edgecbam has been tested on has an NVIDIA GPU.

TensorFlow's threads and GPUs are settled once for a process, when it first computes something.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecbam.errors import EnvironmentFailure, InputError
from edgecbam.runtimes import keras_file
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

# Whoever names our layers needs them registered. They stand above this folder, whose modules therefore cannot import
# them; a file that names them does.
OUR_LAYERS = "edgecbam.models"
_PRECISIONS = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}

Forward = Callable[..., list[Any]]  # tensors of all inputs -> tensors of all outputs


class _KerasSession:
    """A model with its weights on the device, and one graph for each choice of shapes."""

    def __init__(self, tensorflow: Any, model: Any, threads: int, gpu: str | None, graph: bool, shapes: Shapes) -> None:
        self._tf = tensorflow
        self._model = model
        self._threads = threads
        self._gpu = gpu
        self._graph = graph
        self._graphs: dict[tuple[tuple[int, ...], ...], Forward] = {}
        self._forward: Forward | None = None
        self._held: list[Any] = []
        self._given: list[Any] = []
        self.inputs = tuple(_info(name, tensor) for name, tensor in zip(model.input_names, model.inputs, strict=True))
        self.outputs = tuple(
            _info(name, tensor) for name, tensor in zip(model.output_names, model.outputs, strict=True)
        )
        likely = [_likely(info, shapes) for info in self.inputs]
        if all(shape is not None for shape in likely):
            self._forward = self._made_for(tuple(shape for shape in likely if shape is not None))

    def _made_for(self, shapes: tuple[tuple[int, ...], ...]) -> Forward:
        """The forward pass as a graph for these shapes of the inputs."""
        tf, model = self._tf, self._model

        def forward(*tensors: Any) -> list[Any]:
            return list(tf.nest.flatten(model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)))

        if not self._graph:
            return forward
        if shapes not in self._graphs:
            wanted = [tf.TensorSpec(s, info.dtype) for s, info in zip(shapes, self.inputs, strict=True)]
            with tf.device(self._device()):
                self._graphs[shapes] = tf.function(forward).get_concrete_function(*wanted)
        return self._graphs[shapes]

    def _device(self) -> str:
        return "/CPU:0" if self._gpu is None else "/GPU:0"

    def prepare(self, arrays: Sequence[np.ndarray]) -> None:
        checked = check_arrays(self.inputs, arrays)
        try:
            self._forward = self._made_for(tuple(array.shape for array in checked))
        except (self._tf.errors.OpError, ValueError, TypeError) as error:
            raise CannotRun(f"TensorFlow cannot run the model with these shapes: {one_line(error)}") from error
        with self._tf.device(self._device()):  # a constant may share the array's memory, its copy does not
            self._held = [self._tf.identity(self._tf.constant(np.array(array))) for array in checked]

    def invoke(self) -> None:
        assert self._forward is not None, "prepare comes first"
        try:
            if self._gpu is None:
                self._given = self._forward(*self._held)
            else:
                with self._tf.device("/GPU:0"):
                    self._given = self._forward(*self._held)
                for tensor in self._given:
                    tensor.numpy()  # waits for it
        except self._tf.errors.OpError as error:
            raise CannotRun(f"TensorFlow cannot run the model: {one_line(error)}") from error

    def outputs_now(self) -> list[np.ndarray]:
        return [np.array(tensor.numpy()) for tensor in self._given]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.prepare(arrays)
        self.invoke()
        return self.outputs_now()

    def placement(self) -> dict[str, Any]:
        """``placed_on``: the devices that hold the weights and, after an inference, its outputs."""
        places = {str(variable.device) for variable in self._model.variables}
        places |= {str(tensor.backing_device) for tensor in self._given}
        placed_on = sorted({self._tf.DeviceSpec.from_string(place).device_type.lower() for place in places if place})
        return {
            "device": ", ".join(placed_on) or ("cpu" if self._gpu is None else "gpu"),
            "placed_on": placed_on,
            **({} if self._gpu is None else {"adapter": self._gpu, "software": False}),
            "threads": self._threads,
            "inter_op_threads": int(self._tf.config.threading.get_inter_op_parallelism_threads()),
            "precision": _precision(self._model),
            "file_precision": _weights(self._model),
            "kernels": "a TensorFlow graph" if self._graph else "TensorFlow's ops one by one, without a graph",
            "tensorflow": str(self._tf.__version__),
        }

    def close(self) -> None:
        self._model = self._forward = None
        self._graphs, self._held, self._given = {}, [], []


def open_model(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """Open a .keras file, to run as a graph on ``threads`` threads; see Opener for the errors.

    Where only the first dimension of the inputs is free, as Keras leaves it, the graph is made for a batch of 1, and
    ``prepare`` makes another one where it gets another batch.

    Raises:
        EnvironmentFailure: TensorFlow already runs in this process with other threads or devices.
    """
    return _open(model, threads, device, shapes, graph=True)


def open_reference(model: Path, threads: int = 1, device: str = "cpu", shapes: Shapes | None = None) -> Session:
    """As ``open_model``, but op by op, so that no graph is rewritten."""
    return _open(model, threads, device, shapes, graph=False)


def _open(model: Path, threads: int, device: str, shapes: Shapes | None, graph: bool) -> Session:
    check_threads(threads)
    check_device(KERAS, device)
    check_file(model, KERAS.formats)
    content = keras_file.read(model)
    _refuse(model, content)
    keras = KERAS.load()
    tf = importlib.import_module("tensorflow")
    gpu = _settle(tf, threads, device)
    if content.ours:
        importlib.import_module(OUR_LAYERS)
    with tf.device("/CPU:0" if gpu is None else "/GPU:0"):
        loaded = _load(keras, model)
        infos = [_info(name, tensor) for name, tensor in zip(loaded.input_names, loaded.inputs, strict=True)]
        return _KerasSession(tf, loaded, threads, gpu, graph, check_shapes(infos, shapes))


def _refuse(model: Path, content: keras_file.KerasContent) -> None:
    """Raise CannotRun where a sound file needs what is not to be had here."""
    if content.code:
        raise CannotRun(f"{model.name} has a Lambda layer, which is Python code: edgecbam runs none from a model file")
    if content.foreign:
        raise CannotRun(
            f"{model.name} needs {', '.join(content.foreign)}: of a file edgecbam makes only Keras' and its own layers "
            "that compute and do nothing else"
        )
    if not content.keras_version.startswith("2."):
        raise CannotRun(
            f"{model.name} was written by Keras {content.keras_version}: the runtime keras reads those of Keras 2 "
            "(tf_keras); export it to .tflite or .onnx"
        )


def _settle(tf: Any, threads: int, device: str) -> str | None:
    """Settle threads and device for this process; returns the GPU's name, None for the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise CannotRun(
            "TensorFlow finds no GPU here: it needs an NVIDIA GPU, its driver, Linux, "
            "and the libraries of pip install 'tensorflow[and-cuda]'"
        )
    chosen = gpus[:1] if device == "gpu" else []
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise EnvironmentFailure(
            f"TensorFlow already runs in this process with other threads or devices: open the model in a fresh process "
            f"({one_line(error)})"
        ) from None
    if not chosen:
        return None
    tf.config.set_soft_device_placement(False)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return str(tf.config.experimental.get_device_details(chosen[0]).get("device_name") or chosen[0].name)


def _load(keras: Any, model: Path) -> Any:
    try:
        loaded = keras.models.load_model(model, compile=False, safe_mode=True)
    except Exception as error:  # of many kinds: h5py's, those of the layers' constructors, and OSError
        if "Could not locate" in str(error) or "Unknown" in str(error):
            raise CannotRun(f"Keras cannot run {model.name}: {one_line(error)}") from error
        raise InputError(f"{model} is damaged or not readable by Keras 2: {one_line(error)}") from None
    if not loaded.inputs or not loaded.outputs:
        raise CannotRun(f"{model.name} does not say what its inputs are: only functional and sequential models do")
    return loaded


def _info(name: str, tensor: Any) -> TensorInfo:
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    return TensorInfo(name, shape, np.dtype(tensor.dtype.as_numpy_dtype).name)


def _likely(info: TensorInfo, shapes: Shapes) -> tuple[int, ...] | None:
    """The shape that an input will have: as given, or with a batch of 1; None where more than the batch is free."""
    shape = shapes.get(info.name, (1, *info.shape[1:]) if info.shape[:1] == (-1,) else info.shape)
    return None if -1 in shape else tuple(shape)


def _precision(model: Any) -> str:
    """What the layers compute in."""
    found = {str(layer.compute_dtype) for layer in model.layers if layer.weights}
    return ", ".join(sorted(_PRECISIONS.get(name, name) for name in found)) or "f32"


def _weights(model: Any) -> str:
    """What the weights are kept in: ``"float16"`` where one is of 16 bits, else ``"float32"``."""
    found = {variable.dtype.name for variable in model.variables}
    return "float16" if found & {"float16", "bfloat16"} else "float32"


KERAS = Runtime(
    name="keras",
    package="tensorflow",
    module="tf_keras",
    extra="train",
    formats=(".keras",),
    open=open_model,
    devices=("cpu", "gpu"),
    reference=open_reference,
)
