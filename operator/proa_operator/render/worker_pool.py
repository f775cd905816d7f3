"""WorkerPools: one for each role, with the /scale subresource."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.service import API_VERSION
from proa_operator.names import Role
from proa_operator.render.metadata import child
from proa_operator.render.service import JsonObject, Service

WORKER_POOL = "WorkerPool"


def worker_pools(service: Service) -> list[JsonObject]:
    """Without spec.replicas, which belongs to whoever scales: apply these at any time."""
    return [_pool(service, role, {"service": service.name, "role": role.value}) for role in service.roles]


def worker_pool_replicas(service: Service, role: Role) -> JsonObject:
    """Only spec.replicas, as the user's manifest has it.

    Apply it with field manager REPLICAS_MANAGER, at creation and when the manifest's own number changes, never
    otherwise: it would undo `kubectl scale`. One manager for both parts would drop the number at its next apply.
    """
    pool = _pool(service, role, {"replicas": service.pool(role).replicas})
    pool["metadata"] = {"name": pool["metadata"]["name"], "namespace": service.namespace}
    return pool


def _pool(service: Service, role: Role, spec: JsonObject) -> JsonObject:
    name = names.pool_name(service.name, role)
    pool = child(service, API_VERSION, WORKER_POOL, name, labels={names.ROLE_LABEL: role.value})
    pool["spec"] = spec
    return pool
