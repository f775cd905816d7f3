"""Differences between the objects of a cluster and those of a manifest, as unified diffs. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from proa_operator import names
from proa_operator.cli.managed import applied_part

MANAGERS = (names.MANAGER, names.REPLICAS_MANAGER)
_SHELL_NOTES = (names.APPLIED_ANNOTATION, names.DECLARED_ANNOTATION, names.MEMO_ANNOTATION)

Json = Mapping[str, Any]
Key = tuple[str, str]


class Change(StrEnum):
    """What would happen to an object."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One object that is not as the manifest wants it."""

    change: Change
    kind: str
    name: str
    note: str = ""
    lines: tuple[str, ...] = ()
    """Unified diff, from the cluster's object to the manifest's; empty for what only comes or goes."""


def object_differences(rendered: Iterable[Json], live: Mapping[Key, Json]) -> Iterator[Difference]:
    """Of each rendered object: added in full, or what the operator would write."""
    for wanted in rendered:
        key = wanted["kind"], wanted["metadata"]["name"]
        body = live.get(key)
        before = bare(applied_part(body, MANAGERS)) if body is not None else None
        found = difference(key, before, bare(wanted))
        if found is not None:
            yield found


def difference(key: Key, before: Json | None, after: Json, *, note: str = "") -> Difference | None:
    """None when nothing differs."""
    change = Change.ADDED if before is None else Change.CHANGED
    lines = unified(before, after, f"{key[0]} {key[1]}")
    return Difference(change=change, kind=key[0], name=key[1], note=note, lines=lines) if lines else None


def unified(before: Json | None, after: Json, title: str) -> tuple[str, ...]:
    """With three lines of context."""
    old = _lines(before) if before is not None else []
    labels = (f"{title} (cluster)", f"{title} (manifest)")
    return tuple(difflib.unified_diff(old, _lines(after), *labels, lineterm=""))


def without_revision(value: Any, revision: str) -> Any:
    """The same objects of two revisions differ in names and labels: both are read with the word REVISION instead."""
    if isinstance(value, str):
        return value.replace(revision, "REVISION")
    if isinstance(value, Mapping):
        return {key: without_revision(item, revision) for key, item in value.items()}
    return [without_revision(item, revision) for item in value] if isinstance(value, list | tuple) else value


def _lines(item: Json) -> list[str]:
    text: str = yaml.safe_dump(item, sort_keys=True, width=1000)
    return text.splitlines()


_DEFAULTED = {"fieldRef": ("apiVersion", "v1"), "resourceFieldRef": ("divisor", "0")}
"""Fields that are owned as a whole, with a part that the API server fills in."""


def bare(item: Json) -> dict[str, Any]:
    """Without what the API server and the shell add: owners have the uid of a service that may not be there yet."""
    meta = {name: value for name, value in item["metadata"].items() if name != "ownerReferences"}
    notes = {name: text for name, text in (meta.pop("annotations", None) or {}).items() if name not in _SHELL_NOTES}
    found: dict[str, Any] = _undefaulted({**item, "metadata": {**meta, **({"annotations": notes} if notes else {})}})
    return found


def _undefaulted(value: Any) -> Any:
    if isinstance(value, list):
        return [_undefaulted(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: _undefaulted(item) for name, item in value.items()}
    for name, (field, default) in _DEFAULTED.items():
        if isinstance(found.get(name), dict) and found[name].get(field) == default:
            found[name] = {key: item for key, item in found[name].items() if key != field}
    return found
