"""A rule between fields: the same condition as CEL for the API server and as a predicate for `proa up`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from proa_operator.api.noun import Noun
from proa_operator.api.service import DisaggregatedService


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition on the object at `path`: dotted YAML names from the root, "" for the root itself."""

    path: str
    field: str
    """Field below `path` that the user changes to obey."""
    cel: str
    """`self` is the object at `path`. Not evaluated where that object is absent."""
    holds: Callable[[Any], bool]
    """The same as `cel`, on the Python object at `path`."""
    message: str
    """What must hold, and the fix."""
    is_cluster_only: bool = False
    """Local mode allows what this rule forbids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRule:
    """One condition on a change of the object at `path`: CEL knows the stored object as `oldSelf`."""

    path: str
    field: str
    cel: str
    holds: Callable[[Any, Any], bool]
    """The same as `cel`, on (stored object, new object)."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A rule that a manifest breaks."""

    field: str
    """Full path of the field to change."""
    message: str


def breaches(root: Noun, rules: Iterable[Rule], *, is_local: bool = False) -> Iterator[Breach]:
    """The rules that `root` breaks, in their order; `is_local` leaves out those of the cluster."""
    for rule in rules:
        subject = _at(root, rule.path)
        applies = subject is not None and not (is_local and rule.is_cluster_only)
        if applies and not rule.holds(subject):
            yield Breach(field=_joined(rule.path, rule.field), message=rule.message)


def transition_breaches(
    old: DisaggregatedService, new: DisaggregatedService, rules: Iterable[TransitionRule]
) -> Iterator[Breach]:
    """The rules that the change from `old` to `new` breaks."""
    for rule in rules:
        before, after = _at(old, rule.path), _at(new, rule.path)
        if before is not None and after is not None and not rule.holds(before, after):
            yield Breach(field=_joined(rule.path, rule.field), message=rule.message)


def _joined(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _at(root: Noun, path: str) -> Any:
    found: Any = root
    for yaml_name in filter(None, path.split(".")):
        if found is None:
            return None
        found = _child(found, yaml_name)
    return found


def _child(parent: Noun, yaml_name: str) -> Any:
    for name, field in type(parent).model_fields.items():
        if field.alias == yaml_name:
            return getattr(parent, name)
    raise ValueError(f"a rule names the field {yaml_name}, which {type(parent).__name__} does not have")
