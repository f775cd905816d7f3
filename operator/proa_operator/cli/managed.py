"""The part of a live object that some field managers own: what they last applied. Pure.

Source: kubernetes.io, "Server-Side Apply", and the format FieldsV1 of metadata.managedFields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]


def applied_part(live: Json, managers: Iterable[str]) -> dict[str, Any]:
    """Fields that the managers have applied, with today's values; names and kind of the object always."""
    meta = live["metadata"]
    part: dict[str, Any] = {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": meta["name"], **({"namespace": meta["namespace"]} if "namespace" in meta else {})},
    }
    wanted = set(managers)
    for entry in meta.get("managedFields") or ():
        if entry.get("manager") in wanted and entry.get("operation") == "Apply":
            part = _merged(part, _project(live, entry.get("fieldsV1") or {}))
    return part


def _project(value: Any, fields: Json) -> Any:
    """`fields` empty: all of `value`."""
    inner = {key: sub for key, sub in fields.items() if key != "."}
    if not inner:
        return value if not fields else type(value)()
    if isinstance(value, Mapping):
        named = {key.removeprefix("f:"): sub for key, sub in inner.items() if key.startswith("f:")}
        return {name: _project(value[name], sub) for name, sub in named.items() if name in value}
    if isinstance(value, list):
        return [_project(item, sub) for item in value if (sub := _of_item(item, inner)) is not None]
    return value


def _of_item(item: Any, fields: Json) -> Json | None:
    """The fields of a list's item: of `k:{...}` its keys, of `v:...` itself. None: not owned."""
    for key, sub in fields.items():
        kind, _, text = key.partition(":")
        if kind == "v" and item == json.loads(text):
            return {}
        if kind == "k" and isinstance(item, Mapping):
            wanted = json.loads(text)
            if all(name in item and item[name] == value for name, value in wanted.items()):
                return sub if sub.keys() - {"."} else {f"f:{name}": {} for name in wanted}
    return None


def _merged(one: Any, other: Any) -> Any:
    """Both parts of one object, which agree wherever they overlap."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = {name: _merged(one[name], other[name]) if name in other else one[name] for name in one}
        return both | {name: item for name, item in other.items() if name not in one}
    return other
