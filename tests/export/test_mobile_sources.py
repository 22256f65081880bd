"""RUN/app/android and RUN/app/ios: what is generated is whole. Kotlin is compiled in tests/consumers/test_kotlin.py."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_swift

from edgecbam.export import mobile_sources

SWIFT = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))


def wrong(source: bytes) -> list[tuple[int, str]]:
    """Lines that are no Swift."""
    found = []
    nodes = [SWIFT.parse(source).root_node]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            found.append((node.start_point[0] + 1, node.type))
        nodes += node.children
    return sorted(found)


def generated(trained_run: Path, folder: Path, **changes: Any) -> Path:
    """A bundle's sources, with facts of the manifest changed."""
    told = json.loads((trained_run / "app" / "manifest.json").read_text())
    pack = json.loads((trained_run / "app" / "proof" / "proof.json").read_text())
    told = copy.deepcopy(told) | changes
    folder.mkdir()
    mobile_sources.write(folder, told, pack)
    return folder


REGRESSION = {
    "task": "regression",
    "target_mean": [1.5, -2e-7],
    "target_std": [0.25, 3e9],
    "image": {"height": 20, "width": 33, "resize": "stretch", "channels": 3},
    "name": "two\nlines */ @HEIGHT@",
}


@pytest.mark.parametrize("changes", [{}, REGRESSION], ids=["classes", "regression"])
def test_swift_parses_and_no_word_is_left(trained_run: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    app = generated(trained_run, tmp_path / "app", **changes)
    for folder, names in mobile_sources.FILES.items():
        assert sorted(path.name for path in (app / folder).iterdir()) == sorted(names)
    for path in sorted((app / "ios").iterdir()):
        assert wrong(path.read_bytes()) == []
    text = (app / "ios" / "Classifier.swift").read_text()
    if changes:
        assert "static let height = 20\n  public static let width = 33\n" in text
        assert "static let mean: [Float] = [1.5, -2e-07]\n" in text
        assert "static let std: [Float] = [0.25, 3000000000.0]\n" in text
        assert text.splitlines()[0].startswith("// two lines */ ")
    else:
        assert "static let scale: Float = 0.00390625\n  static let zeroPoint = -128\n" in text
    for path in app.rglob("Classifier*"):
        assert not any(word in path.read_text() for word in ("@WIDTH@", "@SCALE@", "@VALUE", "@ORDER", "@IMAGES@"))
        assert "Not compiled" in path.read_text(), "what was not tried is said"


def test_the_parser_finds_what_is_no_swift(trained_run: Path) -> None:
    source = (trained_run / "app" / "ios" / "Classifier.swift").read_bytes()
    assert wrong(source.replace(b"func classify(", b"func classify((")) != []
    assert wrong(source.replace(b"public struct Score", b"public strukt Score")) != []
