"""All children of a service for one revision, as the operator would make them at its first rollout."""

from __future__ import annotations

from proa_operator import render
from proa_operator.names import Role
from proa_operator.render import JsonObject, RenderError, RenderSettings, Service
from proa_operator.render.worker_pool import WORKER_POOL

NO_UID = ""
"""Uid of a service that is in no cluster."""


def children(service: Service, *, revision: str, settings: RenderSettings) -> list[JsonObject]:
    """In the order of creation, with as many groups as the manifest says. RenderError when something is refused."""
    if found := render.refusals(service, settings=settings):
        raise RenderError("\n".join(str(refusal) for refusal in found))
    return [*beside_groups(service, revision=revision, settings=settings), *groups(service, revision, settings)]


def beside_groups(service: Service, *, revision: str, settings: RenderSettings) -> list[JsonObject]:
    """Everything but the groups and the ControllerRevision."""
    return [
        *(_with_replicas(service, item) for item in render.service_objects(service, settings=settings)),
        *render.revision_objects(service, revision=revision),
        *render.download_objects(service, settings=settings),
        *render.gateway_objects(service, settings=settings),
    ]


def groups(service: Service, revision: str, settings: RenderSettings) -> list[JsonObject]:
    """Objects of every group."""
    return [
        item
        for role in service.roles
        for index in range(service.pool(role).replicas)
        for item in render.group_objects(service, revision=revision, role=role, index=index, settings=settings)
    ]


def _with_replicas(service: Service, item: JsonObject) -> JsonObject:
    """A WorkerPool with the number that the operator writes at creation, by another field manager."""
    if item["kind"] != WORKER_POOL:
        return item
    replicas = render.worker_pool_replicas(service, Role(item["spec"]["role"]))["spec"]["replicas"]
    return {**item, "spec": {**item["spec"], "replicas": replicas}}
