"""Child objects beside the groups: applied when they should change, put back when gone, removed when orphaned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from proa_operator import names
from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan import topology
from proa_operator.plan.actions import Apply, Delete, EventType, Note, Scale
from proa_operator.plan.renderer import Objects, key_of
from proa_operator.plan.situation import Situation
from proa_operator.plan.step import Steps

WORKER_POOL = "WorkerPool"
OF_GROUPS = ("Service", "PodDisruptionBudget", "NetworkPolicy")
"""Kinds that a group has under its own name, besides the StatefulSet."""
OF_SERVICE = ("HTTPRoute", "NetworkPolicy", "PodDisruptionBudget")
"""Kinds that a spec may stop asking for. Claims and finished Jobs stay: a model is not downloaded twice."""


def rendered(situation: Situation) -> Objects:
    """All objects of the service and of its revisions, and the gateway's once it may follow the target."""
    observed, renderer = situation.observed, situation.renderer
    revisions = dict.fromkeys([situation.target, *situation.revisions_with_groups()])
    found = [renderer.service(observed)]
    found += [renderer.policies(observed, situation.specs[name], revision=name) for name in revisions]
    if gateway_may_follow(situation):
        found.append(renderer.gateway(observed, situation.specs[situation.growing]))
    return tuple({key_of(item): item for objects in found for item in objects}.values())


def digest(objects: Objects) -> str:
    """Kept in the status: equal digests need no Apply."""
    text = json.dumps(objects, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep(situation: Situation, objects: Objects) -> Steps:
    """Apply what changed or is missing; WorkerPools get their numbers; the model's Job is made once."""
    observed = situation.observed
    if observed.is_resync or observed.status.get("rendered") != digest(objects):
        yield Apply(objects=objects)
    elif missing := _missing(situation, objects):
        yield Apply(objects=missing)
    if jobs := _missing(situation, situation.renderer.download(observed)):
        yield Apply(objects=jobs)
    yield from _scale(situation)
    yield from _mend_groups(situation)


def sweep(situation: Situation, objects: Objects) -> Steps:
    """Delete what belongs to groups, revisions and pools that are no more, and what is not in `objects` any more."""
    service = re.escape(situation.observed.service.metadata.name)
    group = re.compile(rf"{service}-[0-9a-f]{{8}}-(prefill|decode)-[0-9]{{3}}")
    policy = re.compile(rf"{service}-([0-9a-f]{{8}})-kv")
    groups = {standing.group.name for standing in situation.standings}
    revisions = {situation.asked, situation.target, *situation.revisions_with_groups()}
    pools = {
        names.pool_name(situation.observed.service.metadata.name, role) for role in topology.roles_of(situation.spec)
    }
    unwanted = _unwanted(situation, objects)
    for kind, name in sorted(child for child in situation.observed.present if child[1] not in groups):
        is_of_group = kind in OF_GROUPS and group.fullmatch(name)
        of_revision = policy.fullmatch(name) if kind == "NetworkPolicy" else None
        is_of_revision = of_revision is not None and of_revision[1] not in revisions
        is_of_pool = kind == WORKER_POOL and name not in pools
        if is_of_group or is_of_revision or is_of_pool or (kind, name) in unwanted:
            yield Delete(kind=kind, name=name)


def _unwanted(situation: Situation, objects: Objects) -> frozenset[tuple[str, str]]:
    """Nothing while no objects are rendered, and nothing of a gateway that does not follow the target yet."""
    if not objects:
        return frozenset()
    wanted = {key_of(item) for item in objects}
    gateway = names.gateway_name(situation.observed.service.metadata.name)
    is_held = not gateway_may_follow(situation)
    present = (child for child in situation.observed.present if child[0] in OF_SERVICE)
    return frozenset(child for child in present if child not in wanted and not (is_held and child[1] == gateway))


def gateway_may_follow(situation: Situation) -> bool:
    """A gateway serves one topology. It changes over when the new one can carry at least what the old one carries."""
    gateway = situation.observed.gateway
    wanted = situation.specs[situation.growing].topology
    if gateway is None or gateway.topology is wanted:
        return True
    by_topology = {
        kind: situation.capacity(
            standing
            for standing in situation.standings
            if standing.is_ready and situation.specs[standing.group.revision].topology is kind
        )
        for kind in Topology
    }
    return by_topology[wanted] >= by_topology[gateway.topology]


def _missing(situation: Situation, objects: Iterable[dict[str, object]]) -> Objects:
    return tuple(item for item in objects if key_of(item) not in situation.observed.present)


def _scale(situation: Situation) -> Steps:
    """Only when the manifest's own number changes: anything else would undo `kubectl scale` and the autoscaler."""
    for role, replicas in topology.replicas_of(situation.spec).items():
        pool = situation.observed.pools.get(role)
        if pool is None or pool.declared != replicas:
            yield Scale(role=role, replicas=replicas)
            if pool is not None and pool.replicas != replicas:
                text = f"pool {Role(role).value}: {pool.replicas} -> {replicas} groups, as the manifest says"
                yield Note(type=EventType.NORMAL, reason="Scaled", message=text)


def _mend_groups(situation: Situation) -> Steps:
    """A group's Service, PDB or policy that someone deleted."""
    present = situation.observed.present
    for standing in situation.standings:
        group = standing.group
        is_whole = all((kind, group.name) in present for kind in OF_GROUPS[: 3 if group.num_pods > 1 else 2])
        if is_whole or group.is_deleting:
            continue
        objects = situation.renderer.group(
            situation.observed,
            situation.specs[group.revision],
            revision=group.revision,
            role=group.role,
            index=group.index,
        )
        missing = tuple(item for item in _missing(situation, objects) if item["kind"] in OF_GROUPS)
        if missing:
            yield Apply(objects=missing)
