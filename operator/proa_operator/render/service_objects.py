"""Objects that a service has once, and those that each of its revisions has once."""

from __future__ import annotations

from proa_operator.render.claims import claims
from proa_operator.render.monitor import pod_monitors
from proa_operator.render.network import revision_policies, service_policies
from proa_operator.render.plain import plain
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings
from proa_operator.render.worker_pool import worker_pools


def service_objects(service: Service, *, settings: RenderSettings) -> list[JsonObject]:
    """NetworkPolicies, WorkerPools and PodMonitors, ready for server-side apply.

    The download Job (`download_objects`) is created once instead, and a pool's replicas (`worker_pool_replicas`) have
    a field manager of their own.
    """
    return plain(
        [
            *service_policies(service, settings),
            *worker_pools(service),
            *pod_monitors(service, settings),
        ]
    )


def revision_objects(service: Service, *, revision: str) -> list[JsonObject]:
    """NetworkPolicy and claims of one revision; `service.spec` is that revision's. Equal claims have equal names.

    Keep the objects of every revision that has groups: an old group may start again while the new one comes up.
    """
    return plain([*revision_policies(service, revision), *claims(service)])
