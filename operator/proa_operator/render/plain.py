"""Objects without shared parts."""

from __future__ import annotations

from typing import Any

from proa_operator.render.service import JsonObject


def plain(objects: list[JsonObject]) -> list[JsonObject]:
    """A deep copy in which no two places are the same object: safe to change, and YAML without anchors."""
    return [_copy(found) for found in objects]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(part) for part in value]
    return value
