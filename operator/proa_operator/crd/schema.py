"""From a pydantic type to a structural OpenAPI v3 schema, as Kubernetes demands it of a CRD.

Every $ref is inlined, `X | None` becomes an optional X, and whatever Kubernetes would refuse or silently ignore is an
error here: the generated file must say all that the type says.
"""

from __future__ import annotations

from typing import Any

from proa_operator.api.noun import Noun

Schema = dict[str, Any]  # an OpenAPI schema: its keys are the standard's, not ours

_LIMITS = ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum")
_COPIED = frozenset({"type", "description", "format", "required", *_LIMITS})
_DROPPED = frozenset({"title", "$defs"})


class SchemaError(ValueError):
    """A type that no structural schema can be made from; the text names the field."""


def structural(noun: type[Noun]) -> Schema:
    """The schema of `noun`. SchemaError for what a structural schema cannot say, or for a field without description."""
    found = noun.model_json_schema(by_alias=True)
    schema = _inlined(found, found.get("$defs", {}), noun.__name__)
    _check_described(schema, noun.__name__)
    return schema


def _inlined(node: Schema, definitions: Schema, where: str) -> Schema:
    node = _without_null(_resolved(node, definitions), definitions, where)
    if node.get("x-kubernetes-int-or-string"):
        node = {"anyOf": [{"type": "integer"}, {"type": "string"}], **node}
        del node["type"]
    schema: Schema = {}
    for key, value in node.items():
        if key in _COPIED or key.startswith("x-kubernetes-") or (key == "anyOf" and "type" not in node):
            schema[key] = value
        elif key == "properties":
            schema[key] = {name: _inlined(part, definitions, f"{where}.{name}") for name, part in value.items()}
        elif key == "items":
            schema[key] = _inlined(value, definitions, f"{where}[]")
        elif key == "default":
            schema |= _default(value)
        elif key == "additionalProperties":
            schema |= _additional(value, node, definitions, where)
        elif key not in _DROPPED:
            raise SchemaError(f"{where}: a structural schema has no {key}: write the type without it")
    return schema


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """Words beside a $ref, such as the field's own description, win over the type's."""
    while "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        node = {**definitions[node["$ref"].removeprefix("#/$defs/")], **beside}
    return node


def _without_null(node: Schema, definitions: Schema, where: str) -> Schema:
    """`X | None` as X: Kubernetes drops a null as if the field were absent."""
    if "anyOf" not in node:
        return node
    choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    if len(choices) != 1 or len(node["anyOf"]) != 2:
        raise SchemaError(f"{where}: a structural schema has no choice between types: use one type, or one and None")
    beside = {key: value for key, value in node.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**_resolved(choices[0], definitions), **beside}


def _default(value: Any) -> Schema:
    """In full: the API server evaluates CEL rules on an object's default before it adds the defaults of its fields."""
    kept = _without_empty(value)
    return {} if kept in ([], {}) else {"default": kept}


def _without_empty(value: Any) -> Any:
    """Empty collections and null mean the same as absence, and would only fill the stored object."""
    if not isinstance(value, dict):
        return value
    kept = {key: _without_empty(part) for key, part in value.items()}
    return {key: part for key, part in kept.items() if part not in ([], {}, None)}


def _additional(value: Any, node: Schema, definitions: Schema, where: str) -> Schema:
    """Kubernetes has no `additionalProperties: false`: it prunes, or refuses when asked for strict validation."""
    if isinstance(value, dict):
        return {"additionalProperties": _inlined(value, definitions, f"{where}[]")}
    if value is True and not node.get("x-kubernetes-preserve-unknown-fields"):
        raise SchemaError(f"{where}: a map of anything must say x-kubernetes-preserve-unknown-fields")
    return {}


def _check_described(schema: Schema, where: str) -> None:
    for name, part in schema.get("properties", {}).items():
        if not part.get("description"):
            raise SchemaError(f"{where}.{name}: has no description: write a docstring below the field")
        _check_described(part, f"{where}.{name}")
        _check_described(part.get("items", {}), f"{where}.{name}[]")
