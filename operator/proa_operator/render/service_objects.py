"""Objects that a service has once, whatever its revisions and groups."""

from __future__ import annotations

from proa_operator.render.claims import claims
from proa_operator.render.monitor import pod_monitors
from proa_operator.render.network import service_policies
from proa_operator.render.plain import plain
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings
from proa_operator.render.worker_pool import worker_pools


def service_objects(service: Service, *, settings: RenderSettings) -> list[JsonObject]:
    """NetworkPolicies, claims, WorkerPools and PodMonitors, ready for server-side apply.

    The download Job (`download_objects`) is created once instead, and a pool's replicas (`worker_pool_replicas`) have
    a field manager of their own.
    """
    return plain(
        [
            *service_policies(service, settings),
            *claims(service),
            *worker_pools(service),
            *pod_monitors(service, settings),
        ]
    )
