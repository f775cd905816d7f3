"""What would change in a cluster if a manifest were applied: the service, its objects, its groups. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator.cli.cluster import Children
from proa_operator.cli.diff_view import (
    MANAGERS,
    Change,
    Difference,
    Json,
    Key,
    bare,
    difference,
    object_differences,
    without_revision,
)
from proa_operator.cli.managed import applied_part
from proa_operator.cli.observed import Sight
from proa_operator.names import Role
from proa_operator.plan import objects
from proa_operator.plan.renderer import ClusterRenderer
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.situation import Situation, situation_of
from proa_operator.plan.standing import Standing
from proa_operator.render import RenderError, RenderSettings, Service
from proa_operator.render.worker_pool import WORKER_POOL

STATEFUL_SET = "StatefulSet"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffView:
    """All differences."""

    service: str
    revision: str
    """The one that the manifest asks for."""
    replaces: str
    """The revision whose groups would roll; empty when none would."""
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


def differences(sight: Sight, settings: RenderSettings, notes: tuple[str, ...] = ()) -> DiffView:
    """RenderError when the operator would refuse the manifest."""
    situation = situation_of(sight.observed, PlanSettings(), ClusterRenderer(settings=settings))
    if situation.refusals:
        raise RenderError("\n".join(situation.refusals))
    live = {key: body for key, body in sight.found.bodies.items() if _is_owned(body, sight)}
    wanted = [_with_replicas(item, situation) for item in _rendered(situation)]
    replaced = _replaced(situation)
    return DiffView(
        service=sight.observed.service.metadata.name,
        revision=situation.asked,
        replaces=replaced,
        differences=(
            *_service(sight),
            *object_differences(wanted, live),
            *_pools_gone(wanted, live),
            *_groups(situation, live, replaced),
        ),
        notes=notes,
    )


def _is_owned(body: Json, sight: Sight) -> bool:
    owners = body["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == sight.observed.uid for owner in owners)


def _rendered(situation: Situation) -> list[dict[str, Any]]:
    return [*objects.rendered(situation), *situation.renderer.download(situation.observed)]


def _with_replicas(item: dict[str, Any], situation: Situation) -> dict[str, Any]:
    """A pool keeps the number that somebody scaled it to, unless the manifest's own number changes."""
    if item["kind"] != WORKER_POOL:
        return item
    return {**item, "spec": {**item["spec"], "replicas": situation.desired.get(Role(item["spec"]["role"]), 0)}}


def _service(sight: Sight) -> Iterator[Difference]:
    """The manifest itself, all defaults filled in on both sides."""
    meta, spec = sight.observed.service.metadata, sight.observed.service.spec
    after = {"spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True)}
    before = None if sight.is_new else {"spec": _stored_spec(sight.found)}
    found = difference(("DisaggregatedService", meta.name), before, after)
    if found is not None:
        yield found


def _stored_spec(found: Children) -> Json:
    assert found.body is not None
    return Service.of(found.body).spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _pools_gone(wanted: list[dict[str, Any]], live: Mapping[Key, Json]) -> Iterator[Difference]:
    """A change of topology takes a pool away."""
    kept = {item["metadata"]["name"] for item in wanted if item["kind"] == WORKER_POOL}
    for kind, name in live:
        if kind == WORKER_POOL and name not in kept:
            yield Difference(change=Change.REMOVED, kind=kind, name=name, note="with its groups, once others serve")


def _replaced(situation: Situation) -> str:
    """The revision with the most groups, if it is not the one that is asked for."""
    sizes = {name: len(situation.of(name)) for name in situation.revisions_with_groups()}
    if not sizes or situation.asked in sizes:
        return ""
    return max(sizes, key=lambda name: sizes[name])


def _groups(situation: Situation, live: Mapping[Key, Json], replaced: str) -> Iterator[Difference]:
    for role, desired in situation.desired.items():
        staying = [found for found in situation.of(situation.asked, role) if not found.is_leaving]
        if situation.asked in situation.revisions_with_groups():
            yield from _resized(role, desired, staying)
        elif desired:
            old = situation.of(replaced, role) if replaced else []
            yield from _first_group(situation, role, old[0] if old else None, live, desired)


def _resized(role: Role, desired: int, staying: list[Standing]) -> Iterator[Difference]:
    """Groups of the same revision come or go."""
    more = desired - len(staying)
    if more > 0:
        note = f"{_groups_text(more)} more, like those that serve"
        yield Difference(change=Change.ADDED, kind=STATEFUL_SET, name=f"(pool {role.value})", note=note)
    elif more < 0:
        note = f"{_groups_text(-more)} fewer: the one with the least work drains first"
        yield Difference(change=Change.REMOVED, kind=STATEFUL_SET, name=f"(pool {role.value})", note=note)


def _groups_text(number: int) -> str:
    return "1 group" if number == 1 else f"{number} groups"


def _first_group(
    situation: Situation, role: Role, old: Standing | None, live: Mapping[Key, Json], desired: int
) -> Iterator[Difference]:
    """Objects of one group of the new revision, beside those of the group of the same index that it replaces."""
    spec, index = situation.specs[situation.target], 0 if old is None else old.group.index
    rendered = situation.renderer.group(situation.observed, spec, revision=situation.asked, role=role, index=index)
    note = f"{desired} groups like this one" if desired > 1 else ""
    for item in rendered:
        body = live.get((item["kind"], old.group.name)) if old is not None else None
        before, after = None, bare(item)
        if body is not None and old is not None:
            before = without_revision(bare(applied_part(body, MANAGERS)), old.group.revision)
            after = without_revision(after, situation.asked)
        found = difference((item["kind"], item["metadata"]["name"]), before, after, note=note)
        if found is not None:
            yield found
