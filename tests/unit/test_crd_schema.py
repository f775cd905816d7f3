"""Structural schemas of small types, table by table; every refusal has a planted fault."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from proa_operator.api.noun import Count, Noun, Quantity
from proa_operator.crd.schema import SchemaError, structural
from pydantic import Field


class Colour(StrEnum):
    """Of a thing."""

    RED = "red"
    BLUE = "blue"


class Leaf(Noun):
    """A leaf."""

    size: Count = 3
    """Its size."""
    tags: tuple[str, ...] = ()
    """Its tags."""


class Tree(Noun):
    """A tree."""

    leaf: Leaf = Leaf()
    """Its leaf."""
    colour: Colour = Colour.RED
    """Its colour."""
    other: Leaf | None = None
    """Perhaps another leaf."""
    leaves: tuple[Leaf, ...] = ()
    """Many leaves."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Its labels."""
    room: Quantity = "1Gi"
    """Its room."""
    free: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
    """Anything."""


SIZE = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 3, "description": "Its size."}
TAGS = {"type": "array", "items": {"type": "string"}, "description": "Its tags."}
LEAF = {"type": "object", "properties": {"size": SIZE, "tags": TAGS}}
FIELDS = [
    ("leaf", LEAF | {"description": "Its leaf.", "default": {"size": 3}}),
    ("colour", {"type": "string", "enum": ["red", "blue"], "default": "red", "description": "Its colour."}),
    ("other", LEAF | {"description": "Perhaps another leaf."}),
    ("leaves", {"type": "array", "items": LEAF | {"description": "A leaf."}, "description": "Many leaves."}),
    ("labels", {"type": "object", "additionalProperties": {"type": "string"}, "description": "Its labels."}),
    (
        "room",
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?$",
            "minimum": 0,
            "default": "1Gi",
            "description": "Its room.",
        },
    ),
    ("free", {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "Anything."}),
]


@pytest.mark.parametrize(("name", "schema"), FIELDS, ids=[name for name, _ in FIELDS])
def test_schema_of_a_field(name: str, schema: dict[str, Any]) -> None:
    assert structural(Tree)["properties"][name] == schema


def test_every_field_is_in_the_table() -> None:
    schema = structural(Tree)
    assert list(schema["properties"]) == [name for name, _ in FIELDS]
    assert (schema["type"], schema["required"], schema["description"]) == ("object", ["free"], "A tree.")


class Bare(Noun):
    size: Count
    tags: tuple[Leaf, ...] = ()
    """Its tags."""


class BareInside(Noun):
    leaves: tuple[Bare, ...]
    """Many."""


class Choice(Noun):
    either: int | str
    """A number or a text."""


class Constant(Noun):
    kind: Literal["x"]
    """One word."""


class AnyMap(Noun):
    free: dict[str, Any]
    """Anything."""


class Above(Noun):
    size: Annotated[int, Field(gt=0)]
    """More than nothing."""


@pytest.mark.parametrize(
    ("noun", "said"),
    [
        (Bare, "Bare.size: has no description: write a docstring below the field"),
        (BareInside, "BareInside.leaves[].size: has no description"),
        (Choice, "Choice.either: a structural schema has no choice between types"),
        (Constant, "Constant.kind: a structural schema has no const"),
        (AnyMap, "AnyMap.free: a map of anything must say x-kubernetes-preserve-unknown-fields"),
        (Above, "Above.size: a structural schema has no exclusiveMinimum"),
    ],
)
def test_what_no_structural_schema_can_say(noun: type[Noun], said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        structural(noun)
    assert str(caught.value).startswith(said)
