"""Frozen dataclasses of numbers to JSON and back, without loss: a float is written so that it reads back the same."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from proa_operator.errors import UserError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Plain JSON of a dataclass, tuple, number, text or None. ValueError for a number that JSON does not have."""
    kind: Any = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        return value
    if kind is tuple:
        return [to_json(item) for item in value]
    if names := _names(kind):
        return {name: to_json(getattr(value, name)) for name in names}
    return str(value) if isinstance(value, StrEnum) else value


def from_json(kind: type[T], found: Any, where: str) -> T:
    """The inverse of `to_json`. UserError names the place below `where` that does not fit."""
    read: T = _read(kind, found, where)
    return read


def _read(kind: Any, found: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(part for part in typing.get_args(kind) if part is not type(None))
        return None if found is None else _read(inner, found, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), found, where)
    if is_dataclass(kind):
        return _dataclass(kind, found, where)
    return _leaf(kind, found, where)


def _dataclass(kind: Any, found: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(found, dict) or found.keys() != hints.keys():
        raise UserError(f"{where}: these fields are needed, and no other: {', '.join(hints)}")
    return kind(**{name: _read(hint, found[name], f"{where}.{name}") for name, hint in hints.items()})


def _tuple(kinds: tuple[Any, ...], found: Any, where: str) -> Any:
    if not isinstance(found, list):
        raise UserError(f"{where}: a list is needed")
    of_each = [kinds[0]] * len(found) if len(kinds) == 2 and kinds[1] is Ellipsis else list(kinds)
    if len(of_each) != len(found):
        raise UserError(f"{where}: {len(of_each)} values are needed")
    return tuple(
        _read(kind, item, f"{where}[{idx}]") for idx, (kind, item) in enumerate(zip(of_each, found, strict=True))
    )


def _leaf(kind: Any, found: Any, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if found not in set(kind):
            raise UserError(f"{where}: {found!r} is not one of {', '.join(kind)}")
        return kind(found)
    # an int stays one where a float is expected: it equals the float, and is written back as it was read
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(found, allowed) or (isinstance(found, bool) and kind is not bool):
        raise UserError(f"{where}: {found!r} is not of type {kind.__name__}")
    return found


@cache
def _names(kind: type) -> tuple[str, ...]:
    """Fields of a dataclass; none of anything else."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
