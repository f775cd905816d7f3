"""What the chart tells the renderer about the cluster and this installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proa_operator.api.engine import EngineType


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSelector:
    """Pods by the labels of their namespace and their own; no labels at all select nothing."""

    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    pod_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """No labels."""
        return not (self.namespace_labels or self.pod_labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSettings:
    """Values of the chart. Equal settings and spec give equal objects."""

    operator_image: str
    """Runs the gateway and the model download."""
    engine_images: Mapping[EngineType, str]
    """Image of each engine, where spec.engine.image is empty."""
    operator_namespace: str
    operator_labels: Mapping[str, str]
    """Labels of the operator's pods: the only ones that may reach the admin port."""
    prometheus: PodSelector = PodSelector()
    """May scrape metrics; empty lets nobody."""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    has_pod_monitors: bool = False
    """The cluster knows PodMonitor."""
    has_http_routes: bool = False
    """The cluster knows HTTPRoute."""
    is_cluster_wide: bool = False
    """The operator watches all namespaces: the chart made a ClusterRole for gateways, instead of a Role in each."""
    bundled_models: str = "/opt/proa/models"
    """Folder of the bundled models inside an engine image."""
    download_env: Mapping[str, str] = field(default_factory=dict)
    """Mirror and proxies of model downloads: HF_ENDPOINT, HTTPS_PROXY, HTTP_PROXY, NO_PROXY."""
    download_ca: str = ""
    """ConfigMap in each service's namespace whose key ca.crt has the authorities that downloads trust."""
    rdma_resource: str = ""
    """Extended resource of a RDMA device, such as amd.com/nic; profile Rdma asks for one for each rail."""
    device_groups: tuple[int, ...] = (44, 109)
    """Supplementary groups that own GPU devices on the nodes: video and render."""
