"""Dataclasses from JSON: what fits is taken, all else is refused by its name."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from edgecbam import json_data


@dataclass(frozen=True)
class Part:
    size: int


@dataclass(frozen=True)
class Whole:
    name: str
    ratio: float
    parts: dict[str, Part]
    shape: tuple[int, ...]
    kind: Literal["a", "b"]
    scale: float | None
    note: Any
    on: bool = False


FIT: dict[str, Any] = {
    "name": "x",
    "ratio": 1,
    "parts": {"one": {"size": 3}},
    "shape": [1, 2],
    "kind": "b",
    "scale": None,
    "note": {"anything": [1]},
}


def test_what_fits_is_taken() -> None:
    made = json_data.build(Whole, json.loads(json.dumps(FIT)))
    assert made == Whole("x", 1.0, {"one": Part(3)}, (1, 2), "b", None, {"anything": [1]}, False)
    assert type(made.ratio) is float
    assert json_data.build(Whole, {**FIT, "scale": 0.5, "on": True}).scale == 0.5


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"name": 3}, r"Whole\.name is 3"),
        ({"name": None}, r"Whole\.name is None"),
        ({"ratio": True}, r"Whole\.ratio is True"),
        ({"ratio": float("nan")}, r"Whole\.ratio is not finite"),
        ({"ratio": 10**400}, r"Whole\.ratio is not finite"),
        ({"scale": "1"}, r"Whole\.scale is '1'"),
        ({"parts": []}, r"Whole\.parts is \[\]"),
        ({"parts": {"one": 3}}, r"Whole\.parts\['one'\] is no object"),
        ({"parts": {"one": {}}}, r"Whole\.parts\['one'\] lacks size"),
        ({"parts": {"one": {"size": 1.0}}}, r"Whole\.parts\['one'\]\.size is 1\.0"),
        ({"shape": {"0": 1}}, r"Whole\.shape is \{"),
        ({"shape": [1, True]}, r"Whole\.shape\[1\] is True"),
        ({"kind": "c"}, r"Whole\.kind is 'c'"),
        ({"kind": ["a"]}, r"Whole\.kind is \['a'\]"),
        ({"on": 1}, r"Whole\.on is 1"),
        ({"z": 1, "more": 1}, r"Whole has the unknown key 'more'"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ValueError, match=f"^{refusal}"):
        json_data.build(Whole, {**FIT, **changes})


@pytest.mark.parametrize("raw", [None, [], "x", 3])
def test_only_objects_are_taken(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"^Whole is no object$"):
        json_data.build(Whole, raw)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError, match=r"^Whole") as refused:
        json_data.build(Whole, {**FIT, "name": ["x" * 100_000]})
    assert len(str(refused.value)) < 100
