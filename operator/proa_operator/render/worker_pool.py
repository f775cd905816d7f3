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
    return [_pool(service, role) for role in service.roles]


def worker_pool_replicas(service: Service, role: Role) -> JsonObject:
    """The pool with spec.replicas as the user's manifest has it.

    Apply it with field manager REPLICAS_MANAGER, at creation and when the manifest's own number changes, never
    otherwise: it would undo `kubectl scale`. With one manager for both, the next apply would drop the number.
    """
    pool = _pool(service, role)
    pool["spec"]["replicas"] = service.pool(role).replicas
    return pool


def _pool(service: Service, role: Role) -> JsonObject:
    name = names.pool_name(service.name, role)
    pool = child(service, API_VERSION, WORKER_POOL, name, labels={names.ROLE_LABEL: role.value})
    pool["spec"] = {"service": service.name, "role": role.value}
    return pool
