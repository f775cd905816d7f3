"""The reference of the manifest as Markdown, from the types and rules: `python -m proa_operator.api.reference`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydantic.fields import FieldInfo

from proa_operator.api.noun import Noun
from proa_operator.api.rules import RULES, TRANSITION_RULES
from proa_operator.api.service import DisaggregatedService


def reference() -> str:
    """Two tables: every field with type, default and meaning; every rule between fields."""
    fields = _rows(DisaggregatedService, "", {})
    rules = [f"| `{rule.path}.{rule.field}` | {rule.message} |".replace("`.", "`") for rule in RULES]
    changes = [f"| `{rule.path}.{rule.field}` | {rule.message} |" for rule in TRANSITION_RULES]
    return "\n".join(
        [
            "| field | type | default | meaning |",
            "| --- | --- | --- | --- |",
            *fields,
            "",
            "| rule at | what must hold |",
            "| --- | --- |",
            *rules,
            *changes,
            "",
        ]
    )


def _rows(noun: type[Noun], prefix: str, shown: dict[type[Noun], str]) -> Iterator[str]:
    """One line for each field; a noun's fields are listed where it comes first and referred to later."""
    for field in noun.model_fields.values():
        path = f"{prefix}{field.alias}"
        child, is_array = _noun_in(field.annotation)
        before = shown.get(child) if child else None
        text = (field.description or "") + (f" Fields as in `{before}`." if before else "")
        yield f"| `{path}` | {_type(field.annotation)} | {_default(field, child)} | {text} |"
        if child is not None and before is None:
            shown[child] = path
            yield from _rows(child, f"{path}[]." if is_array else f"{path}.", shown)


def _noun_in(annotation: Any) -> tuple[type[Noun] | None, bool]:
    """The noun that a field holds, if any, and whether it is an array of them."""
    if isinstance(annotation, type) and issubclass(annotation, Noun):
        return annotation, False
    is_array = typing.get_origin(annotation) is tuple
    for part in typing.get_args(annotation):
        if isinstance(part, type) and issubclass(part, Noun):
            return part, is_array
    return None, False


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _type(next(part for part in parts if part is not type(None)))
    if origin is tuple:
        return f"array of {_type(parts[0])}"
    if origin is typing.Literal:
        return "text"
    if origin is dict:
        return "map"
    if issubclass(annotation, StrEnum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if issubclass(annotation, Noun):
        return "object"
    return {str: "text", int: "integer", bool: "boolean"}[annotation]


def _default(field: FieldInfo, child: type[Noun] | None) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if child is not None or value in (None, "", (), {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference(), end="")
