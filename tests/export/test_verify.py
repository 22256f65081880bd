"""Every gate passes on a good export and fails on the file that is broken in its way."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from edgecbam import artifacts
from edgecbam.artifacts import Samples
from edgecbam.errors import GateFailed, InputError
from edgecbam.export import verify
from edgecbam.recipe import VerifyConfig

CONFIG = VerifyConfig(max_accuracy_drop=0.02, min_qat_agreement=0.98)  # as the shared run is verified
Resign = Callable[[Path, str], None]


@pytest.fixture
def export(small_run: Path) -> Path:
    return small_run / "export"


def failed(folder: Path, config: VerifyConfig = CONFIG) -> set[str]:
    return set(verify.check(folder, config).failed())


def change_samples(folder: Path, **arrays: np.ndarray) -> Samples:
    samples = dataclasses.replace(artifacts.load_samples(folder), **arrays)
    artifacts.write_samples(folder, samples)
    return samples


def edit_tflite(path: Path, change: Callable[[schema.ModelT], None]) -> None:
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def test_a_good_export_passes_every_gate(export: Path) -> None:
    result = verify.check(export, CONFIG)
    assert result.passed, result.failed()
    assert [gate.name for gate in result.gates] == ["digests", *(gate.__name__ for gate in verify.GATES)]
    assert result.images == 300
    assert set(result.accuracy) == {*artifacts.load_manifest(export).files, "keras_float", "keras_qat"}
    assert all(0.3 < value <= 1.0 for value in result.accuracy.values())


def test_an_altered_file_is_found_and_not_run(export: Path) -> None:
    content = bytearray((export / "model_int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (export / "model_int8.onnx").write_bytes(bytes(content))
    with pytest.raises(GateFailed, match=r"model_int8\.onnx was altered.*edgecbam export"):
        verify.check(export, CONFIG)


def test_a_missing_file_is_named(export: Path) -> None:
    (export / "model_fp16.tflite").unlink()
    with pytest.raises(GateFailed, match=r"model_fp16\.tflite is missing"):
        verify.check(export, CONFIG)


@pytest.mark.parametrize("name", ["keras_float", "keras_qat"])
def test_a_constant_reference_is_refused(export: Path, name: str) -> None:
    constant = np.tile(np.arange(10, dtype=np.float32), (300, 1))
    change_samples(export, **{name: constant})
    assert "reference_speaks" in failed(export)


def test_a_reference_of_one_class_is_refused(export: Path) -> None:
    logits = artifacts.load_samples(export).keras_qat.copy()
    logits[:, 3] += 1000.0
    change_samples(export, keras_qat=logits)
    assert "reference_speaks" in failed(export)


def test_a_reference_with_nan_is_refused(export: Path) -> None:
    logits = artifacts.load_samples(export).keras_float.copy()
    logits[5, 5] = np.nan
    change_samples(export, keras_float=logits)
    assert "reference_speaks" in failed(export)


def scale_bias(factor: float) -> Callable[[schema.ModelT], None]:
    """Multiply the bias of the last layer, which drives logits to the ends of their range."""

    def change(model: schema.ModelT) -> None:
        graph = model.subgraphs[0]
        bias = graph.tensors[graph.operators[-1].inputs[2]]
        buffer = model.buffers[bias.buffer]
        values = np.frombuffer(bytes(buffer.data), np.int32) * factor
        buffer.data = list(np.clip(values, -(2**31), 2**31 - 1).astype(np.int32).tobytes())

    return change


def test_saturated_logits_are_refused(export: Path, resign: Resign) -> None:
    edit_tflite(export / "model_int8.tflite", scale_bias(1e5))
    resign(export, "model_int8.tflite")
    assert "not_saturated" in failed(export)


def test_a_file_with_float_tensors_is_no_int8_file(export: Path, resign: Resign) -> None:
    shutil.copy(export / "model_dynamic.tflite", export / "model_uint8.tflite")
    resign(export, "model_uint8.tflite")
    assert "int8_only" in failed(export)


def test_another_number_of_partitions_is_refused(export: Path) -> None:
    assert failed(export, dataclasses.replace(CONFIG, partitions=3)) == {"partitions"}
    assert failed(export, dataclasses.replace(CONFIG, partitions=0)) == set()


def test_an_op_outside_the_delegate_is_refused(export: Path, resign: Resign) -> None:
    """A lone int8 RELU is one that XNNPACK leaves to the plain kernel."""

    def split(model: schema.ModelT) -> None:
        graph = model.subgraphs[0]
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
        code.version = 1
        model.operatorCodes.append(code)
        relu, tensor = schema.OperatorT(), schema.TensorT.InitFromObj  # the copy below is the output
        del tensor
        position = next(i for i, op in enumerate(graph.operators) if b"stem" in graph.tensors[op.outputs[0]].name)
        source = graph.operators[position].outputs[0]
        import copy

        clone = copy.deepcopy(graph.tensors[source])
        clone.name = b"lone_relu"
        graph.tensors.append(clone)
        relu.opcodeIndex = len(model.operatorCodes) - 1
        relu.inputs, relu.outputs = [source], [len(graph.tensors) - 1]
        for op in graph.operators[position + 1 :]:
            op.inputs = [len(graph.tensors) - 1 if i == source else i for i in op.inputs]
        graph.operators.insert(position + 1, relu)

    edit_tflite(export / "model_int8.tflite", split)
    resign(export, "model_int8.tflite")
    result = {gate.name: gate for gate in verify.check(export, CONFIG).gates}
    assert not result["partitions"].passed
    assert "RELU" in result["partitions"].detail


def shift_initializer(path: Path, size: int) -> None:
    """Move the largest float initializer of an ONNX file a little."""
    model = onnx.load(path)
    tensors = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    largest = max(tensors, key=lambda t: numpy_helper.to_array(t).size)
    value = numpy_helper.to_array(largest) * 1.05
    largest.CopyFrom(numpy_helper.from_array(value.astype(np.float32), largest.name))
    assert value.size > size
    onnx.save(model, path)


def test_float_files_must_agree_with_keras(export: Path, resign: Resign) -> None:
    shift_initializer(export / "model_fp32.onnx", 100)
    resign(export, "model_fp32.onnx")
    assert failed(export) == {"float_parity"}


def test_fp16_must_agree_with_keras(export: Path) -> None:
    samples = artifacts.load_samples(export)
    swapped = np.roll(samples.keras_float, 1, axis=0)
    change_samples(export, keras_float=swapped)
    assert {"fp16_agreement", "float_parity"} <= failed(export)


def test_int8_must_agree_with_qat(export: Path) -> None:
    samples = artifacts.load_samples(export)
    swapped = samples.keras_qat.copy()
    swapped[:20] = np.roll(swapped[:20], 1, axis=1)
    change_samples(export, keras_qat=swapped)
    assert failed(export) == {"qat_agreement"}


def test_uint8_must_equal_int8(export: Path, resign: Resign) -> None:
    edit_tflite(export / "model_uint8.tflite", change_last_weight)
    resign(export, "model_uint8.tflite")
    assert failed(export) == {"uint8_equals_int8"}


def change_last_weight(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    dense = next(op for op in reversed(graph.operators) if len(op.inputs) == 3)
    buffer = model.buffers[graph.tensors[dense.inputs[1]].buffer]
    values = np.frombuffer(bytes(buffer.data), np.int8).copy()
    values[:16] = -values[:16]
    buffer.data = list(values.tobytes())


def test_onnx_must_stay_within_one_lsb(export: Path, resign: Resign) -> None:
    model = onnx.load(export / "model_int8.onnx")
    producer = {output: node for node in model.graph.node for output in node.output}
    last = producer["logits"]
    while last.op_type != "QuantizeLinear":
        last = producer[last.input[0]]
    zero = next(t for t in model.graph.initializer if t.name == last.input[2])
    moved = numpy_helper.to_array(zero) + np.uint8(2)
    name = "moved_zero_point"
    model.graph.initializer.append(numpy_helper.from_array(moved, name))
    last.input[2] = name
    onnx.save(model, export / "model_int8.onnx")
    resign(export, "model_int8.onnx")
    result = verify.check(export, CONFIG)
    assert set(result.failed()) == {"onnx_parity"}
    assert next(gate for gate in result.gates if gate.name == "onnx_parity").value in (2, 3)


def test_accuracy_must_not_drop(export: Path) -> None:
    """Labels that are what the float model says make every int8 error count."""
    samples = artifacts.load_samples(export)
    logits = samples.keras_float.copy()
    logits[:12] = np.eye(10)[(np.argmax(samples.keras_qat[:12], axis=1) + 1) % 10] * 50
    change_samples(export, keras_float=logits, labels=np.argmax(logits, axis=1).astype(np.int64))
    assert "accuracy_drop" in failed(export)


def test_one_image_is_always_allowed() -> None:
    assert verify._allowed(0.005, 40) == 1
    assert verify._allowed(0.005, 2000) == 10
    assert verify._allowed(0.0, 2000) == 1


def test_a_manifest_that_lists_too_little_is_refused(export: Path) -> None:
    manifest = artifacts.load_manifest(export)
    files = {name: entry for name, entry in manifest.files.items() if name != "model_int8.onnx"}
    artifacts.write_manifest(export, dataclasses.replace(manifest, files=files))
    with pytest.raises(InputError, match=r"does not list model_int8\.onnx"):
        verify.check(export, CONFIG)
