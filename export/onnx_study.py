"""The files of `make bench-onnx`: what ONNX Runtime gets from edgecbam, and what it gets otherwise.

    python -m edgecbam.export.onnx_study OUT [--only NAME]

The networks are three of lowering_study.py, with CBAM and without. Each becomes an .onnx file in every way of VARIANTS,
and the .tflite file that LiteRT runs fastest. All are compared with each other before they may be measured, which
benchmarks/onnx_files.py does; the two meet in OUT/index.json.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgecbam import artifacts, metrics, runtimes
from edgecbam.errors import EnvironmentFailure, GateFailed
from edgecbam.events import Event, OnEvent, ignore
from edgecbam.recipe import ExportConfig

from . import lowering, lowering_study, onnx_alternatives, onnx_model, study_command, tflite
from .lowering_study import Attention, Network

INDEX_FILE = "index.json"
CHECKED, BATCH = 1000, 100  # images, and how many are made at once
MAX_LSB = 1
MIN_AGREEMENT = 0.999
MAX_RELATIVE_ERROR = 1e-4
NETWORKS = tuple(
    network
    for network in lowering_study.NETWORKS
    if network.name in ("resnet 16/32/64 at 96x96", "resnet 32/64/128 at 96x96", "resnet-20 at 32x32")
)
VARIANTS = {
    "fp32_tf2onnx": "tf2onnx's conversion of the float32 .tflite file",
    "fp32": "ours",
    "int8_tf2onnx": "tf2onnx's conversion of the int8 .tflite file",
    "int8_as_written": "ours with attention as trained, the profile reference",
    "int8": "ours",
    "int8_quantize_static": "ONNX Runtime's post-training quantization of fp32_tf2onnx",
    "int8_tflite": "what LiteRT runs",
}
WITH_ATTENTION = {
    "int8_reduced": "ours with weights of 7 bits",
    "int8_opset13": "ours",
    "int8_opset18": "ours",
    "int8_opset21": "ours, through onnx's converter of opsets",
}
OPSETS = (13, 18)  # of export.onnx_opset; the files are of 17 otherwise
LATER_OPSET = 21
# Networks whose int8 files differ by more: LiteRT adds in fixed point, ONNX Runtime in float. The difference is told.
DIFFERS = ("resnet-20 at 32x32",)
# They must compute what LiteRT computes; what the others differ by is only told.
AS_LITERT = ("int8", "int8_opset13", "int8_opset18", "int8_opset21")


@dataclass(frozen=True)
class Made:
    """The files of a network by variant, what the passes did for ``fp32`` and ``int8``, and why a variant is not there.

    Attributes:
        files: content by variant.
        rewrites: by variant, how often each pass found something to do.
        left_out: reason by variant.
    """

    files: dict[str, bytes]
    rewrites: dict[str, dict[str, int]]
    left_out: dict[str, str]


def study(networks: Sequence[Network], out: Path, on_event: OnEvent = ignore) -> None:
    """Write the files of every network and ``index.json`` into a folder.

    Raises:
        GateFailed: a file does not compute what it should; there is no index then.
        EnvironmentFailure: tf2onnx failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / INDEX_FILE).unlink(missing_ok=True)
    entries = []
    for network in networks:
        on_event(Event("onnx_study", message=network.name))
        entries.append(_study_one(network, out))
    variants = VARIANTS | WITH_ATTENTION
    artifacts.write_json(out / INDEX_FILE, {"schema_version": 1, "variants": variants, "networks": entries})


def make(network: Network, with_attention: Attention) -> Made:
    """All files of a network; raises EnvironmentFailure where tf2onnx fails."""
    model = lowering_study.build(network, with_attention)
    batches = lowering_study.calibration_batches(network)
    sources = lowering_study.convert(model, batches)
    floats, int8 = sources["float32"], sources["int8"]

    def ours(settings: ExportConfig) -> tuple[onnx_model.Converted, onnx_model.Converted]:
        return onnx_model.convert(floats, int8, settings)

    settings = ExportConfig()
    our_float, our_int8 = ours(settings)
    raw_float, raw_int8 = onnx_model.run_tf2onnx([floats, int8], settings.onnx_opset)
    files = {
        "fp32_tf2onnx": raw_float.SerializeToString(),
        "fp32": our_float.model.SerializeToString(),
        "int8_tf2onnx": raw_int8.SerializeToString(),
        "int8_as_written": ours(ExportConfig(profile="reference"))[1].model.SerializeToString(),
        "int8": our_int8.model.SerializeToString(),
        "int8_quantize_static": onnx_alternatives.quantize_static(raw_float.SerializeToString(), batches),
        "int8_tflite": tflite.with_io(lowering.lower(int8, settings.profile, network.name).content, "int8"),
    }
    left_out = {}
    if with_attention == "cbam":
        files["int8_reduced"] = onnx_alternatives.reduce_range(files["int8"])
        for opset in OPSETS:
            files[f"int8_opset{opset}"] = ours(ExportConfig(onnx_opset=opset))[1].model.SerializeToString()
        try:
            files[f"int8_opset{LATER_OPSET}"] = onnx_alternatives.at_opset(files["int8"], LATER_OPSET)
        except EnvironmentFailure as error:
            left_out[f"int8_opset{LATER_OPSET}"] = str(error)
    rewrites = {"fp32": our_float.rewrites, "int8": our_int8.rewrites}
    return Made(files, rewrites, left_out)


def check(network: Network, where: str, folder: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """Compare the files with each other on CHECKED images.

    Args:
        network: whose files they are.
        where: what to call them in an error.
        folder: where they lie.
        files: file name by variant.

    Returns:
        ``images``; ``classes``, how many of them are chosen; of the float variant ``relative_error``, the largest of an
        image; of each int8 variant ``lsb``, the largest difference from LiteRT in steps of its output, ``beyond``, how
        many logits differ by more than MAX_LSB, ``as_litert``, the share of images of the same class, where two
        classes within one step count as equal, and ``as_float``, the share with the class of fp32_tf2onnx. A network
        that is not trained chooses one class whatever it sees: classes are those of the logits less their mean.

    Raises:
        GateFailed: a file of AS_LITERT (of no network in DIFFERS) or the float one differs by too much, or all images
            give the same.
    """
    random = np.random.default_rng(1)
    inputs = np.concatenate([lowering_study.images(random, BATCH, network) for _ in range(CHECKED // BATCH)])
    found: dict[str, Any] = {"images": len(inputs)}
    expected, scale, zero_point = _litert(folder / files["int8_tflite"], inputs)
    floats = _outputs("onnxruntime", folder / files["fp32_tf2onnx"], inputs)
    usual, usual_float = expected.mean(axis=0), floats.mean(axis=0)
    found["classes"] = len(np.unique(np.argmax(expected - usual, axis=1)))
    if found["classes"] < 2 or not np.any(floats != floats[0]):
        raise GateFailed(f"{where}: every image gets the same answer, so that equality proves nothing")
    for variant in files:
        if variant == "fp32_tf2onnx":
            continue
        if variant == "int8_tflite":
            found[variant] = {"as_float": metrics.agreement(expected - usual, floats - usual_float)}
            continue
        outputs = _outputs("onnxruntime", folder / files[variant], inputs)
        if variant == "fp32":
            error = max(metrics.relative_error(a, b) for a, b in zip(outputs, floats, strict=True))
            found[variant] = {"relative_error": error}
            if not error <= MAX_RELATIVE_ERROR:
                raise GateFailed(f"{where}: {variant} differs by {error:.2g} of the largest logit")
            continue
        integers = np.rint(outputs / scale + zero_point).astype(np.int64)
        errors = metrics.lsb_error(integers, expected)
        lsb, agreement = int(errors.max()), metrics.agreement(integers - usual, expected - usual, tie=1)
        found[variant] = {
            "lsb": lsb,
            "beyond": int(np.sum(errors > MAX_LSB)),
            "as_litert": agreement,
            "as_float": metrics.agreement(outputs - (usual - zero_point) * scale, floats - usual_float),
        }
        held = lsb <= MAX_LSB and agreement >= MIN_AGREEMENT
        if variant in AS_LITERT and not held and network.name not in DIFFERS:
            same = f"{agreement:.2%} of {len(inputs)} images"
            raise GateFailed(f"{where}: {variant} differs from LiteRT by {lsb} LSB and agrees on {same}")
    return found


def _study_one(network: Network, out: Path) -> dict[str, Any]:
    stem = re.sub("[^a-z0-9]+", "_", network.name)
    entry: dict[str, Any] = {"name": network.name, "height": network.height, "width": network.width}
    for with_attention in get_args(Attention):
        made = make(network, with_attention)
        names = {}
        for variant, content in made.files.items():
            names[variant] = f"{stem}_{with_attention}_{variant}.{'tflite' if variant == 'int8_tflite' else 'onnx'}"
            artifacts.write_whole(out / names[variant], content)
        checked = check(network, f"{network.name}, {with_attention}", out, names)
        values = {"files": names, "left_out": made.left_out, "rewrites": made.rewrites, "check": checked}
        for key, value in values.items():
            entry.setdefault(key, {})[with_attention] = value
    return entry


def _litert(path: Path, inputs: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Integers [images, classes] of an int8 .tflite file, with their scale and zero point."""
    session = runtimes.find("litert").open(path, threads=1)
    scale, zero_point = session.outputs[0].scale, session.outputs[0].zero_point
    session.close()
    if scale is None or zero_point is None:
        raise GateFailed(f"{path} has no integer output")
    return _outputs("litert", path, inputs), scale, zero_point


def _outputs(runtime: str, path: Path, inputs: np.ndarray) -> np.ndarray:
    """What a file answers, as it lies in the output tensor: [images, classes]."""
    session = runtimes.find(runtime).open(path, threads=1)
    try:
        tensor = session.inputs[0]
        return np.concatenate([session.run([runtimes.to_input(image[None], tensor)])[0] for image in inputs])
    finally:
        session.close()


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    study_command.main("onnx_study", __doc__, NETWORKS, study, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
