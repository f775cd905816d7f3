"""PodMonitors for the Prometheus operator."""

from __future__ import annotations

from proa_operator import names
from proa_operator.names import Component, Port
from proa_operator.render.metadata import child, component_selector
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

_JOINED_LABELS = [names.SERVICE_LABEL, names.ROLE_LABEL, names.REVISION_LABEL, names.GROUP_LABEL]


def pod_monitors(service: Service, settings: RenderSettings) -> list[JsonObject]:
    """One for workers and one for gateways; none where the cluster does not know the kind."""
    if not settings.has_pod_monitors:
        return []
    return [_monitor(service, component) for component in (Component.WORKER, Component.GATEWAY)]


def _monitor(service: Service, component: Component) -> JsonObject:
    selector = component_selector(service, component)
    name = names.monitor_name(service.name, component)
    monitor = child(service, "monitoring.coreos.com/v1", "PodMonitor", name, labels=selector)
    monitor["spec"] = {
        "selector": {"matchLabels": selector},
        "podTargetLabels": _JOINED_LABELS,
        "podMetricsEndpoints": [{"port": Port.METRICS.value, "interval": "15s"}],
    }
    return monitor
