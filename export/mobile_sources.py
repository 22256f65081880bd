"""``RUN/app/android`` and ``RUN/app/ios``: a class that takes an image and gives the classes, and its test.

Made of the templates Classifier.kt, ClassifierTest.kt, Classifier.swift and ClassifierTests.swift: plain text in which
words between two @ are replaced. Labels are read from labels.txt when the app runs, so that no name is ever code.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from edgecbam import artifacts

FILES = {
    "android": ("Classifier.kt", "ClassifierTest.kt"),
    "ios": ("Classifier.swift", "ClassifierTests.swift"),
}
MODEL = "model_int8.tflite"
_WORD = re.compile("@([A-Z_]+)@")


def write(app: Path, told: Mapping[str, Any], pack: Mapping[str, Any]) -> None:
    """Write both folders.

    Args:
        app: the folder of the bundle.
        told: its manifest.
        pack: the content of its proof.json.
    """
    words = _words(told, pack)
    for folder, names in FILES.items():
        (app / folder).mkdir()
        for name in names:
            text = (resources.files(__package__) / "templates" / name).read_text("utf-8")
            artifacts.write_whole(app / folder / name, _WORD.sub(lambda found: words[found[1]], text))


def _words(told: Mapping[str, Any], pack: Mapping[str, Any]) -> dict[str, str]:
    image, end = told["image"], told["files"][MODEL]["output"]
    proof = pack["models"][MODEL]
    classes = told["task"] == "classification"
    crop = image["resize"] == "crop"
    mean, std = (told["target_mean"], told["target_std"]) if not classes else ([], [])
    kotlin, swift = "(answer[index] - ZERO_POINT) * SCALE", "Float(Int(answer[index]) - Self.zeroPoint) * Self.scale"
    return {
        "NAME": " ".join(told["name"].split()),
        "HEIGHT": str(image["height"]),
        "WIDTH": str(image["width"]),
        "SCALE": repr(float(end["scale"])),
        "ZERO_POINT": str(end["zero_point"]),
        "MEANING": "the probability of the class" if classes else "the value in the units of the targets",
        "ORDER_IN_WORDS": "All classes, the likeliest first" if classes else "All values, in the order of labels.txt",
        "FIT_IN_WORDS": "the largest centred part of that shape" if crop else "all of the image",
        "VALUE": kotlin if classes else f"{kotlin} * STD[index] + MEAN[index]",
        "VALUE_SWIFT": swift if classes else f"{swift} * Self.std[index] + Self.mean[index]",
        "ORDER": ".sortedByDescending { it.value }" if classes else "",
        "ORDER_SWIFT": ".sorted { $0.value > $1.value }" if classes else "",
        "STATISTICS_KOTLIN": "".join(
            f"        private val {name} = floatArrayOf({', '.join(f'{float(value)!r}f' for value in values)})\n"
            for name, values in (("MEAN", mean), ("STD", std))
            if values
        ),
        "STATISTICS_SWIFT": "".join(
            f"  static let {name}: [Float] = [{', '.join(repr(float(value)) for value in values)}]\n"
            for name, values in (("mean", mean), ("std", std))
            if values
        ),
        "ACROSS_KOTLIN": "min(width.toDouble(), WIDTH.toDouble() / HEIGHT * height)" if crop else "width.toDouble()",
        "DOWN_KOTLIN": "min(height.toDouble(), width / (WIDTH.toDouble() / HEIGHT))" if crop else "height.toDouble()",
        "ACROSS_SWIFT": (
            "min(Double(width), Double(Self.width) / Double(Self.height) * Double(height))" if crop else "Double(width)"
        ),
        "DOWN_SWIFT": (
            "min(Double(height), Double(width) / (Double(Self.width) / Double(Self.height)))"
            if crop
            else "Double(height)"
        ),
        "IMAGES": str(pack["images"]),
        "TOLERANCE": str(proof["tolerance"]),
        "SOURCE_HEIGHT": str(pack["fitting"]["shape"][0]),
        "SOURCE_WIDTH": str(pack["fitting"]["shape"][1]),
    }
