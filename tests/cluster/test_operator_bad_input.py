"""What neither schema nor rules can know: each such input becomes a condition whose message tells the fix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from tests.cluster.operator_checks import SETTLE_SECONDS, service
from tests.cluster.operator_process import Doubles, Operator, sim_service

CHART = "charts/proa"
NAMESPACE = "bad-input"
PLACE = f"--namespace={NAMESPACE}"
GPUS: Document = {"product": "MI300X", "gpusPerPod": 8}

# name: (changes of the spec, condition, its status, its reason, words of the message)
CASES: dict[str, tuple[Document, str, str, str, str]] = {
    "no-gpu": (
        {"accelerator": GPUS, "pools.parallelism": {"tp": 8}},
        *("CapacityAvailable", "False", "NoNodeFits"),
        "needs a healthy node with 8 free amd.com/gpu for each pod: add nodes, or lower the replicas",
    ),
    "no-label": (
        {"placement": {"requireLabels": {"zone": "nowhere"}}},
        *("CapacityAvailable", "False", "NoNodeFits"),
        "add nodes, or lower the replicas, or relax spec.placement",
    ),
    "no-claim": (
        {"model": {"uri": "pvc://weights/tiny", "name": "tiny-moe"}},
        *("CapacityAvailable", "False", "Unschedulable"),
        'persistentvolumeclaim "weights" not found): make the claim, or correct spec.model.uri',
    ),
    "no-image": (
        {"pools.podTemplate": {"metadata": {"annotations": {"testbed.proa.dev/image-error": "ImagePullBackOff"}}}},
        *("Degraded", "True", "ImagePullError"),
        "cannot pull its image: check spec.engine.image and pull secrets",
    ),
    "no-privilege": (
        {"security": {"profile": "Rdma"}},
        *("Degraded", "True", "PodSecurity"),
        "use spec.security.profile Restricted, or raise the namespace's level",
    ),
    "no-route": (
        {"gateway": {"httpRoute": {"gateway": "front"}}},
        *("Degraded", "True", "SpecRefused"),
        "spec.gateway.httpRoute: the cluster has no HTTPRoute; install the Gateway API's CRDs, or remove the field",
    ),
    "no-transport": (
        {"kvTransfer": {"backend": "nixl", "leaseSeconds": 5}},
        *("Degraded", "True", "SpecRefused"),
        "spec.kvTransfer.backend: engine sim moves KV blocks by tcp, not by nixl; set auto or tcp",
    ),
    "no-drafts": (
        {"pools.speculative": {"mtp": 1}},
        *("Degraded", "True", "SpecRefused"),
        "spec.pools.decode.speculative.mtp: engine sim plays the speeds of a profile and would ignore this; set 0",
    ),
    "no-encryption": (
        {"security": {"mtls": True}},
        *("Degraded", "True", "SpecRefused"),
        "spec.security.mtls: is not available yet; set false and keep networkPolicy Strict",
    ),
    "no-prometheus": (
        {"autoscaling": {"mode": "Active", "prefill": {"min": 1, "max": 2}, "decode": {"min": 1, "max": 2}}},
        *("MetricsFresh", "False", "MetricsMissing"),
        "no Prometheus: set PROA_PROMETHEUS_URL (value metrics.prometheus.url of the chart)",
    ),
    "no-monitor": (
        {},
        *("ScrapingUnavailable", "True", "NobodyScrapes"),
        "the cluster has no kind PodMonitor: install the CRDs of the Prometheus operator",
    ),
}


def _case(doubles: Doubles, name: str, changes: Document) -> Document:
    """`pools.X` changes X of both pools."""
    document = sim_service(doubles, name=name)
    for path, value in changes.items():
        group, _, field = path.partition(".")
        if field:
            for pool in document["spec"][group].values():
                pool[field] = value
        else:
            document["spec"][path] = value
    return document


@pytest.fixture(scope="module")
def operator(api: ControlPlane, doubles: Doubles) -> Iterator[Operator]:
    """One namespace of the restricted level, with all cases at once, and their operator with its chart's rights."""
    api.kubectl("create", "namespace", NAMESPACE)
    api.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    api.helm("install", "proa", CHART, PLACE, f"--set=watchNamespaces[0]={NAMESPACE}")
    account = api.service_account_kubeconfig(NAMESPACE, "proa")
    scraper = json.dumps({"podLabels": {"app": "x"}})
    with Operator(api, NAMESPACE, kubeconfig=account, PROA_PROMETHEUS_SELECTOR=scraper) as found:
        api.apply([_case(doubles, name, changes) for name, (changes, *_) in CASES.items()], PLACE)
        yield found
    api.helm("uninstall", "proa", PLACE)
    api.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _condition(api: ControlPlane, name: str, kind: str) -> Document:
    conditions: list[Document] = service(api, NAMESPACE, name).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {})


def _says(api: ControlPlane, name: str, kind: str, status: str, reason: str) -> Any:
    found = _condition(api, name, kind)
    return found if (found.get("status"), found.get("reason")) == (status, reason) else None


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_a_condition_that_tells_the_fix(api: ControlPlane, name: str) -> None:
    _, kind, status, reason, words = CASES[name]
    try:
        found = api.until(
            partial(_says, api, name, kind, status, reason), what=f"{kind}={reason} of {name}", seconds=SETTLE_SECONDS
        )
    except BedError as error:
        raise BedError(f"{error}\n{json.dumps(service(api, NAMESPACE, name).get('status'), indent=1)}") from None
    assert words in found["message"]
    assert found["observedGeneration"] == 1


@pytest.mark.usefixtures("operator")
def test_a_gateway_without_its_image_tells_the_fix(api: ControlPlane) -> None:
    """Last, for it spoils a service. Nobody owns the annotation, so the operator leaves it in the Deployment."""
    broken = {"metadata": {"annotations": {"testbed.proa.dev/image-error": "ErrImagePull"}}}
    patch = json.dumps({"spec": {"template": broken}})
    gateway = ("get", "deployment", "no-monitor-gateway", PLACE)
    api.until(lambda: api.kubectl(*gateway), what="the gateway's Deployment", seconds=SETTLE_SECONDS)
    api.kubectl("patch", *gateway[1:], "--type=merge", f"--patch={patch}")
    told = partial(_says, api, "no-monitor", "Degraded", "True", "ImagePullError")
    found = api.until(told, what="ImagePullError of the gateway", seconds=SETTLE_SECONDS)
    assert "pod no-monitor-gateway-" in found["message"]
    assert "check the chart's values image and image.pullSecrets" in found["message"]
