"""PodMonitors for the Prometheus operator."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.autoscaling import Mode
from proa_operator.names import Component, Port
from proa_operator.render.metadata import child, component_selector
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

_SERIES_LABELS = {
    "service": names.SERVICE_LABEL,
    "role": names.ROLE_LABEL,
    "revision": names.REVISION_LABEL,
    "group": names.GROUP_LABEL,
}
"""Label of every series, as dashboards, rules and the autoscaler ask for it -> label of the pod."""
# vLLM's own server answers `vllm_` for `vllm:` in the OpenMetrics format (prometheus/client_python issue 1177).
VLLM_NAMES: JsonObject = {
    "sourceLabels": ["__name__"],
    "regex": "vllm_(.+)",
    "targetLabel": "__name__",
    "replacement": "vllm:$1",
}
_UNDERSCORES = str.maketrans("./-", "___")


def pod_monitors(service: Service, settings: RenderSettings) -> list[JsonObject]:
    """One for workers and one for gateways; none where the cluster does not know the kind."""
    if not settings.has_pod_monitors:
        return []
    return [_monitor(service, component) for component in (Component.WORKER, Component.GATEWAY)]


def unscraped(service: Service, settings: RenderSettings) -> str:
    """Why nobody scrapes a service although the chart or the autoscaler counts on it, with the fix; or empty."""
    if settings.prometheus.is_empty:
        if service.spec.autoscaling.mode is Mode.DISABLED:
            return ""
        return (
            "the autoscaler needs metrics, and the network policies let nobody scrape: set the chart's "
            "metrics.prometheus to the labels of your Prometheus, or set spec.autoscaling.mode Disabled"
        )
    if settings.has_pod_monitors:
        return ""
    return (
        "the cluster has no kind PodMonitor: install the CRDs of the Prometheus operator (it is looked for every "
        f"10 minutes), or let Prometheus scrape port {Port.METRICS.value} of pods with the label {names.SERVICE_LABEL}"
    )


def _monitor(service: Service, component: Component) -> JsonObject:
    selector = component_selector(service, component)
    name = names.monitor_name(service.name, component)
    monitor = child(service, "monitoring.coreos.com/v1", "PodMonitor", name, labels=selector)
    monitor["spec"] = {
        "selector": {"matchLabels": selector},
        "podMetricsEndpoints": [
            {
                "port": Port.METRICS.value,
                "interval": "15s",
                "relabelings": _relabelings(),
                "metricRelabelings": [VLLM_NAMES],
            }
        ],
    }
    return monitor


def _relabelings() -> list[JsonObject]:
    """Prometheus spells a pod's label with underscores; a label that a pod lacks (a gateway has no role) stays away."""
    meta = {
        label: "__meta_kubernetes_pod_label_" + pod.translate(_UNDERSCORES) for label, pod in _SERIES_LABELS.items()
    }
    return [{"sourceLabels": [source], "targetLabel": label} for label, source in meta.items()]
