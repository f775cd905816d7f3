"""The revisions of a service as rows: what changed with each, and how it went. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proa_operator import names
from proa_operator.cli.errors import NotFound
from proa_operator.errors import UserError
from proa_operator.names import Role
from proa_operator.render import StoredRevision, read_revision

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One ControllerRevision."""

    number: int
    revision: str
    state: str
    """Failed, Target, Serving or nothing."""
    started: str
    """RFC 3339."""
    available: str
    """When it first served with all its groups, RFC 3339; empty if it never did."""
    groups: str
    """Routable of existing groups, such as "prefill 1/2, decode 0/1"."""
    changed: tuple[str, ...]
    """Fields that differ from the revision before, as FIELD: OLD -> NEW."""
    failed: str
    """Why it was given up."""


def revision_rows(stored: Iterable[Json], status: Json) -> tuple[RevisionRow, ...]:
    """Oldest first. RenderError for a ControllerRevision that is not one of Proa's."""
    bodies = sorted(stored, key=lambda body: body["revision"])
    read = [read_revision(body) for body in bodies]
    before: list[StoredRevision | None] = [None, *read]
    counts = {found["name"]: found for found in status.get("revisions") or ()}
    return tuple(
        _row(revision, previous, body, counts.get(revision.revision, {}), status.get("revision", ""))
        for revision, previous, body in zip(read, before, bodies, strict=False)
    )


def _row(
    revision: StoredRevision, previous: StoredRevision | None, body: Json, counts: Json, target: str
) -> RevisionRow:
    groups = [
        f"{role.value} {found['routable']}/{found['replicas']}" for role in Role if (found := counts.get(role.value))
    ]
    is_target = revision.revision == target
    state = "Failed" if revision.failed else "Target" if is_target else "Serving" if groups else ""
    return RevisionRow(
        number=revision.number,
        revision=revision.revision,
        state=state,
        started=revision.started_at,
        available=_available(body),
        groups=", ".join(groups),
        changed=changes(previous.part, revision.part) if previous else (),
        failed=revision.failed,
    )


def _available(body: Json) -> str:
    noted = (body["metadata"].get("annotations") or {}).get(names.AVAILABLE_ANNOTATION)
    if not noted:
        return ""
    return datetime.fromtimestamp(json.loads(noted)["at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def changes(before: Json, after: Json) -> tuple[str, ...]:
    """Leaves that differ, as FIELD: OLD -> NEW; nothing for a restart with the same spec."""
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    return tuple(
        f"{field}: {_short(old.get(field))} -> {_short(new.get(field))}"
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field)
    )


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(path, value)]
    return [leaf for name, item in value.items() for leaf in _leaves(item, f"{path}.{name}" if path else name)]


def _short(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


def find(stored: Iterable[Json], wanted: str, *, name: str) -> Json:
    """The revision with that name, the start of it, or that number. NotFound, or UserError when several match."""
    bodies = list(stored)
    found = [body for body in bodies if str(body["revision"]) == wanted]
    found = found or [body for body in bodies if read_revision(body).revision.startswith(wanted)]
    known = ", ".join(f"{body['revision']} ({read_revision(body).revision})" for body in bodies)
    if not found:
        raise NotFound(f"service {name} has no revision {wanted}: it has {known}")
    if len(found) > 1:
        raise UserError(f"{wanted} is the start of several revisions of {name}: it has {known}")
    return found[0]


def previous_good(stored: Iterable[Json], *, name: str) -> Json:
    """The latest before the present one that served with all its groups and did not fail. NotFound without any."""
    *earlier, _ = sorted(stored, key=lambda body: body["revision"]) or [{}]
    for body in reversed(earlier):
        if not read_revision(body).failed and _available(body):
            return body
    raise NotFound(f"service {name} has no earlier revision that served: give one with --to (proa rollout {name})")
