"""Runs in build/mediapipe-env, which has MediaPipe and not edgecbam.

python mediapipe_reader.py classify MODEL IMAGES.npz OUT.json     rgb [n, h, w, 3] uint8
python mediapipe_reader.py files MODEL OUT.json IMAGE...          decoded and resized by MediaPipe
python mediapipe_reader.py version
python mediapipe_reader.py write PLAIN.tflite OUT.tflite LABEL... metadata by MediaPipe's own schema
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any


def classifier(model: str) -> Any:
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

    options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), max_results=-1)
    return ImageClassifier.create_from_options(options)


def scores(reader: Any, image: Any) -> dict[str, float]:
    return {found.category_name: found.score for found in reader.classify(image).classifications[0].categories}


def classify(model: str, images: str, out: str) -> None:
    import mediapipe as mp
    import numpy as np

    reader = classifier(model)
    pixels = np.load(images)["rgb"]
    found = [scores(reader, mp.Image(image_format=mp.ImageFormat.SRGB, data=one)) for one in pixels]
    Path(out).write_text(json.dumps(found))


def files(model: str, out: str, *images: str) -> None:
    import mediapipe as mp

    reader = classifier(model)
    Path(out).write_text(json.dumps([scores(reader, mp.Image.create_from_file(image)) for image in images]))


def write(plain: str, out: str, *labels: str) -> None:
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as m
    from mediapipe.tasks.metadata import schema_py_generated as t

    image, properties, content = m.TensorMetadataT(), m.ImagePropertiesT(), m.ContentT()
    properties.colorSpace = m.ColorSpaceType.RGB
    content.contentPropertiesType, content.contentProperties = m.ContentProperties.ImageProperties, properties
    unit, options = m.ProcessUnitT(), m.NormalizationOptionsT()
    options.mean, options.std = [100.0, 110.0, 120.0], [50.0]
    unit.optionsType, unit.options = m.ProcessUnitOptions.NormalizationOptions, options
    image.name, image.content, image.processUnits = "theirs", content, [unit]
    file = m.AssociatedFileT()
    file.name, file.type = "names.txt", m.AssociatedFileType.TENSOR_AXIS_LABELS
    output = m.TensorMetadataT()
    output.associatedFiles = [file]
    graph = m.SubGraphMetadataT()
    graph.inputTensorMetadata, graph.outputTensorMetadata = [image], [output]
    model = m.ModelMetadataT()
    model.name, model.subgraphMetadata = "somebody else's", [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"M001")
    parsed = t.ModelT.InitFromPackedBuf(Path(plain).read_bytes(), 0)
    entry, buffer = t.MetadataT(), t.BufferT()
    entry.name, entry.buffer, buffer.data = b"TFLITE_METADATA", len(parsed.buffers), list(bytes(builder.Output()))
    parsed.metadata, parsed.buffers = [*(parsed.metadata or []), entry], [*parsed.buffers, buffer]
    builder = flatbuffers.Builder(0)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    Path(out).write_bytes(bytes(builder.Output()))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("names.txt", "\n".join(labels))


def version() -> None:
    import mediapipe

    sys.stdout.write(f"{mediapipe.__version__}\n")


if __name__ == "__main__":
    {"classify": classify, "files": files, "write": write, "version": version}[sys.argv[1]](*sys.argv[2:])
