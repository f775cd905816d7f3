"""Settings of the renderer without an operator to ask: the defaults of the chart."""

from __future__ import annotations

from importlib.metadata import version

from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.render import RenderSettings

OPERATOR_LABELS = {
    names.NAME_LABEL: "proa",
    "app.kubernetes.io/instance": "proa",
    names.COMPONENT_LABEL: "operator",
}
OPERATOR_NAMESPACE = "proa-system"


def chart_defaults(
    *, operator_image: str = "", engine_image: str = "", has_pod_monitors: bool = True, has_http_routes: bool = True
) -> RenderSettings:
    """As `helm install proa charts/proa -n proa-system` sets them; an image that is given wins.

    Kinds of other projects (PodMonitor, HTTPRoute) count as installed: what is rendered is to be read first.
    """
    tag = version("proa")
    own = engine_image or f"proa-worker-cpu:{tag}"
    images = {EngineType.NATIVE: own, EngineType.SIM: own}
    return RenderSettings(
        operator_image=operator_image or f"proa-operator:{tag}",
        engine_images=images | ({EngineType.VLLM: engine_image} if engine_image else {}),
        operator_namespace=OPERATOR_NAMESPACE,
        operator_labels=OPERATOR_LABELS,
        has_pod_monitors=has_pod_monitors,
        has_http_routes=has_http_routes,
    )
