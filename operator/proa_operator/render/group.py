"""Objects of one group: StatefulSet, headless Service, PDB."""

from __future__ import annotations

from proa_operator.api.engine import EngineType
from proa_operator.api.security import NetworkPolicy
from proa_operator.names import WORKER_PORTS, Role
from proa_operator.render.merge import merge_template
from proa_operator.render.metadata import Group, child
from proa_operator.render.network import group_policy
from proa_operator.render.plain import plain
from proa_operator.render.pod import worker_template
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings


def group_objects(
    service: Service, *, revision: str, role: Role | str, index: int, settings: RenderSettings
) -> list[JsonObject]:
    """All objects of a group, ready for server-side apply. RenderError for a spec that cannot be rendered."""
    group = Group(service=service, revision=revision, role=Role(role), index=index)
    objects = [_headless_service(group), _disruption_budget(group), _stateful_set(group, settings)]
    has_peers = service.pool(group.role).nodes_per_group > 1 and service.spec.engine.type is not EngineType.SIM
    if has_peers and service.spec.security.network_policy is NetworkPolicy.STRICT:
        objects.append(group_policy(group))
    return plain(objects)


def _stateful_set(group: Group, settings: RenderSettings) -> JsonObject:
    pool = group.service.pool(group.role)
    where = f"spec.pools.{group.role.value}.podTemplate"
    stateful_set = child(group.service, "apps/v1", "StatefulSet", group.name, labels=group.labels)
    stateful_set["spec"] = {
        "serviceName": group.name,
        "replicas": pool.nodes_per_group,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": group.selector},
        "template": merge_template(worker_template(group, settings), pool.pod_template, where=where),
    }
    return stateful_set


def _headless_service(group: Group) -> JsonObject:
    """Names for the pods, also before they are Ready: peers must find each other to become so."""
    service = child(group.service, "v1", "Service", group.name, labels=group.labels)
    service["spec"] = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": group.selector,
        "ports": [{"name": port.value, "port": number} for port, number in WORKER_PORTS.items()],
    }
    return service


def _disruption_budget(group: Group) -> JsonObject:
    """An eviction is refused: the operator moves the group when its node is cordoned.

    NOTE: a group that drains is not Ready, for its routing is off. With AlwaysAllow it would be evicted at work.
    """
    budget = child(group.service, "policy/v1", "PodDisruptionBudget", group.name, labels=group.labels)
    budget["spec"] = {
        "maxUnavailable": 0,
        "unhealthyPodEvictionPolicy": "IfHealthyBudget",
        "selector": {"matchLabels": group.selector},
    }
    return budget
