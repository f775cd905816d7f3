"""Checks of a cluster: each a pure function of what was read from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from proa_operator.cli.operator_settings import choose, settings_of
from proa_operator.doctor.cluster_facts import ClusterFacts, Json
from proa_operator.doctor.finding import Finding, fail, ok, skip, warn
from proa_operator.doctor.node_resources import GPU, RDMA, amounts_text, has_gpu, lacks, names_text, offered
from proa_operator.errors import StartError

MIN_VERSION = (1, 31)
KINDS = ("disaggregatedservices", "workerpools", "performanceprofiles")
POD_SECURITY = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
UNSEEN = "not visible with your rights"
_INSTALL = "helm install proa charts/proa --namespace proa-system --create-namespace"


def cluster_findings(facts: ClusterFacts) -> list[Finding]:
    """All of them, in the order in which one would fix them."""
    return [check(facts) for check in CLUSTER_CHECKS]


def kubernetes(facts: ClusterFacts) -> Finding:
    """The chart refuses older versions as well."""
    check, numbers = "Kubernetes", re.match(r"v(\d+)\.(\d+)", facts.version)
    found = f"{facts.version} at {facts.server}"
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MIN_VERSION:
        return fail(check, found, f"upgrade the cluster to {'.'.join(map(str, MIN_VERSION))} or newer")
    return ok(check, found)


def crds(facts: ClusterFacts) -> Finding:
    """All three kinds in this version."""
    check, missing = "CRDs", [kind for kind in KINDS if kind not in facts.kinds]
    if missing:
        return fail(check, f"missing: {', '.join(missing)}", "helm upgrade --install proa-crds charts/proa-crds")
    return ok(check, f"{', '.join(KINDS)} in proa.dev/v1alpha1")


def operator(facts: ClusterFacts) -> Finding:
    """One operator looks after the namespace, and its pods are ready."""
    check = "Operator"
    if facts.operators is None:
        return skip(check, UNSEEN)
    if not facts.operators:
        return fail(check, "none is installed", _INSTALL)
    ready = [found for found in facts.operators if (found.get("status") or {}).get("readyReplicas", 0)]
    names = ", ".join(f"{found['metadata']['namespace']}/{found['metadata']['name']}" for found in facts.operators)
    if len(ready) < len(facts.operators):
        fix = "kubectl describe deployment, and the logs of its pods, tell why"
        return fail(check, f"{names}: {len(facts.operators) - len(ready)} without a ready pod", fix)
    try:
        chosen = choose(map(settings_of, facts.operators), facts.namespace)
    except StartError as error:
        return warn(check, f"{names}: {error}", "use the `proa` of the operator's version")
    if chosen is None:
        return fail(check, f"{names}, none for namespace {facts.namespace}", "add it to watchNamespaces of the chart")
    return ok(check, f"{names}, looks after namespace {facts.namespace}")


def rights(facts: ClusterFacts) -> Finding:
    """Yours, not the operator's."""
    check, refused = "Your rights", facts.refused_rights
    if not refused:
        return ok(check, f"enough for every command in namespace {facts.namespace}")
    found = "; ".join(f"{right.command}: {right}" for right in refused)
    fix = "ask for a RoleBinding to the cluster role edit, which the chart extends (rbac.aggregateToUserRoles)"
    return warn(check, f"missing in namespace {facts.namespace}: {found}", fix)


def device_plugin(facts: ClusterFacts) -> Finding:
    """Nodes offer their GPUs, and as many as they have."""
    check = "Device plugin"
    if facts.nodes is None:
        return skip(check, UNSEEN)
    broken = [_name(node) for node in facts.nodes if lacks(node, GPU)]
    offers = {_name(node): offered(node, GPU) for node in facts.nodes}
    silent = [_name(node) for node in facts.nodes if has_gpu(node) and not offers[_name(node)]]
    if silent := [name for name in silent if name not in broken]:
        fix = "install the AMD GPU operator or its device plugin, and look at the plugin's logs on the node"
        return fail(check, f"GPUs without a resource on {names_text(silent)}", fix)
    total = sum(offers.values(), Counter[str]())
    found = f"{amounts_text(total) or 'no GPU'} on {sum(map(bool, offers.values()))} of {len(offers)} nodes"
    if broken:
        fix = "dmesg and amd-smi on the node; services leave it by themselves"
        return warn(check, f"{found}; fewer than there are on {names_text(broken)}", fix)
    if not total:
        return skip(check, f"no GPU on {len(offers)} nodes: engines sim and native run on CPUs")
    return ok(check, found)


def rdma(facts: ClusterFacts) -> Finding:
    """Needed by profile Rdma only."""
    check = "RDMA resource"
    if facts.nodes is None:
        return skip(check, UNSEEN)
    total = sum((offered(node, RDMA) for node in facts.nodes), Counter[str]())
    if total:
        return ok(check, amounts_text(total))
    if not any(offered(node, GPU) for node in facts.nodes):
        return skip(check, "no node offers GPUs")
    fix = "install the network operator, and set devices.rdmaResource of the chart; without it KV blocks go by TCP"
    return warn(check, "no node offers one", fix)


def prometheus(facts: ClusterFacts) -> Finding:
    """Somebody collects the metrics, and the network policies let them."""
    check = "Prometheus"
    if "PodMonitor" not in facts.optional_kinds:
        fix = "install the Prometheus operator (its CRDs at least), or scrape the ports called metrics by annotation"
        return warn(check, "the cluster does not know PodMonitor", fix)
    if facts.prometheus_pods is None:
        return skip(check, UNSEEN)
    if not facts.prometheus_pods:
        fix = "install a Prometheus; its pods bear the label app.kubernetes.io/name=prometheus"
        return warn(check, "PodMonitor is known, but no pod is labelled as Prometheus", fix)
    if any(not _lets_scrape(found) for found in facts.operators or ()):
        fix = "set metrics.prometheus.namespaceLabels and podLabels of the chart"
        return warn(check, f"{facts.prometheus_pods} pods, but the network policies let nobody scrape", fix)
    return ok(check, f"{facts.prometheus_pods} pods, PodMonitor is known")


def storage(facts: ClusterFacts) -> Finding:
    """Downloaded models are kept in a claim that all groups share."""
    check = "Storage class"
    if facts.storage_classes is None:
        return skip(check, UNSEEN)
    notes = [(found, found["metadata"].get("annotations") or {}) for found in facts.storage_classes]
    default = [_name(found) for found, note in notes if note.get(DEFAULT_CLASS) == "true"]
    if default:
        return ok(check, f"{default[0]} is the default; models of several nodes need one with ReadWriteMany")
    known = names_text([_name(found) for found in facts.storage_classes]) if facts.storage_classes else "none"
    fix = "set spec.model.cache.storageClass for models that are downloaded, to one with ReadWriteMany"
    return warn(check, f"no default (there is: {known})", fix)


def pod_security(facts: ClusterFacts) -> Finding:
    """Profile Rdma asks for more than the levels restricted and baseline allow."""
    check = "Pod Security"
    if facts.namespace_labels is None:
        return skip(check, UNSEEN)
    level = facts.namespace_labels.get(POD_SECURITY, "privileged")
    if level == "privileged":
        return ok(check, f"namespace {facts.namespace} allows both profiles")
    return ok(check, f"namespace {facts.namespace} enforces {level}: security.profile Restricted only, Rdma is refused")


CLUSTER_CHECKS: tuple[Callable[[ClusterFacts], Finding], ...] = (
    kubernetes,
    crds,
    operator,
    rights,
    device_plugin,
    rdma,
    prometheus,
    storage,
    pod_security,
)


def _lets_scrape(deployment: Json) -> bool:
    """Settings that this version does not understand are the concern of another check."""
    try:
        return not settings_of(deployment).prometheus.is_empty
    except StartError:
        return True


def _name(found: Json) -> str:
    return str(found["metadata"]["name"])
