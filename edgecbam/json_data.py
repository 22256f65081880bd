"""Dataclasses from JSON that somebody else may have written: every value of the type that its field says."""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

Data = TypeVar("Data")


def build(cls: type[Data], raw: Any) -> Data:
    """Make a dataclass of a JSON object.

    Args:
        cls: its fields may be of str, int, float, bool, None or a union with it, ``dict[str, …]``, ``tuple[…, ...]``,
            ``Any``, Literal, and other such dataclasses. A float field takes a whole number too.
        raw: what ``json.loads`` gave.

    Raises:
        ValueError: naming the key that is missing, unknown or of another type; also of a float that is not finite.
    """
    return typing.cast(Data, _object(cls, raw, cls.__name__))


def _object(cls: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is no object")
    hints = typing.get_type_hints(cls)
    needed = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    for key in sorted(needed - raw.keys()):
        raise ValueError(f"{where} lacks {key}")
    for key in sorted(raw.keys() - hints.keys()):
        raise ValueError(f"{where} has the unknown key {key!r:.40}")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _value(next(part for part in parts if part is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(parts[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _value(parts[1], item, f"{where}[{key!r:.40}]") for key, item in value.items()}
    if origin is typing.Literal and isinstance(value, str) and value in parts:
        return value
    if hint is Any:
        return value
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if not math.isfinite(number):  # Python's JSON knows NaN and Infinity
            raise ValueError(f"{where} is not finite")
        return number
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r:.40}")
