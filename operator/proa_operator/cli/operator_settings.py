"""How the operator of a cluster renders: read from its Deployment, as its own process reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator import names
from proa_operator.cli.cluster import Cluster
from proa_operator.cli.render_settings import chart_defaults
from proa_operator.cluster.discover import Discovered, discover
from proa_operator.cluster.errors import Refused
from proa_operator.cluster.kinds import DEPLOYMENT
from proa_operator.errors import StartError
from proa_operator.render import RenderSettings
from proa_operator.settings import Settings

SELECTOR = f"{names.NAME_LABEL}=proa,{names.COMPONENT_LABEL}=operator"
CONTAINER = "operator"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorView:
    """What is known of the operator that looks after a namespace."""

    render: RenderSettings
    discovered: Discovered
    note: str = ""
    """Why the settings are only the chart's defaults; empty when they are the operator's own."""


async def operator_of(cluster: Cluster) -> OperatorView:
    """Raises what the API client raises; a missing operator is a note."""
    discovered = await discover(cluster.api, (cluster.namespace,))
    has_monitors = "PodMonitor" in discovered.optional_kinds
    has_routes = "HTTPRoute" in discovered.optional_kinds
    try:
        deployments = await cluster.all(DEPLOYMENT, "", SELECTOR)
    except Refused:
        return _default(discovered, "may not look for the operator's Deployment")
    try:
        settings = choose(map(settings_of, deployments), cluster.namespace)
    except StartError as error:
        return _default(discovered, f"the operator's settings are of another version ({error})")
    if settings is None:
        return _default(discovered, f"no operator looks after namespace {cluster.namespace}")
    render = settings.render(has_pod_monitors=has_monitors, has_http_routes=has_routes)
    return OperatorView(render=render, discovered=discovered)


def settings_of(deployment: Json) -> Settings:
    """From the environment of its container. StartError when this version does not understand it."""
    meta = deployment["metadata"]
    fields = {"metadata.namespace": meta["namespace"], "metadata.name": meta["name"]}
    environment: dict[str, str] = {}
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for item in container.get("env") or () if container["name"] == CONTAINER else ():
            field = ((item.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath", "")
            environment[item["name"]] = item.get("value") or fields.get(field, "")
    return Settings.from_environment(environment)


def choose(found: Iterable[Settings], namespace: str) -> Settings | None:
    """The operator that watches the namespace by name, else one that watches all."""
    known = list(found)
    by_name = [settings for settings in known if namespace in settings.namespaces]
    everywhere = [settings for settings in known if not settings.namespaces]
    return next(iter([*by_name, *everywhere]), None)


def _default(discovered: Discovered, why: str) -> OperatorView:
    settings = chart_defaults(
        has_pod_monitors="PodMonitor" in discovered.optional_kinds,
        has_http_routes="HTTPRoute" in discovered.optional_kinds,
    )
    return OperatorView(render=settings, discovered=discovered, note=f"{why}: images and settings are the chart's")
