"""The two charts on a real API server: installing, rights, two tenants, upgrading, removing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from tests.cluster.kinds import await_kinds, foreign_kind, is_listed

ROOT = Path(__file__).parents[2]
CHART, CRDS = str(ROOT / "charts" / "proa"), str(ROOT / "charts" / "proa-crds")
SCENARIOS = sorted((ROOT / "charts" / "proa" / "ci").glob("*.yaml"))
NAMESPACED = "--set=rbac.mode=Namespaced"
PROMETHEUS_KINDS = ("PodMonitor", "PrometheusRule")


@pytest.fixture(scope="module", autouse=True)
def crds(api: ControlPlane) -> None:
    api.helm("upgrade", "--install", "proa-crds", CRDS, "--take-ownership")
    await_kinds(api)


@pytest.fixture
def release(api: ControlPlane, namespace: str) -> Iterator[str]:
    """A namespace whose releases `proa` and `other` are removed at the end."""
    yield namespace
    for name in ("proa", "other"):
        api.helm("uninstall", name, f"--namespace={namespace}", "--ignore-not-found")


@pytest.fixture(scope="module")
def prometheus_kinds(api: ControlPlane) -> Iterator[None]:
    """A cluster that knows the kinds of the Prometheus operator."""
    for kind in PROMETHEUS_KINDS:
        api.apply(foreign_kind(kind, "monitoring.coreos.com"))
        api.until(partial(is_listed, api, kind, "monitoring.coreos.com"), what=f"the kind {kind}", seconds=90)
    yield
    api.kubectl("delete", "crd", *(f"{kind.lower()}s.monitoring.coreos.com" for kind in PROMETHEUS_KINDS))


def _install(api: ControlPlane, namespace: str, *flags: str, name: str = "proa") -> str:
    return api.helm("install", name, CHART, f"--namespace={namespace}", *flags)


def _may(api: ControlPlane, verb: str, what: str, operator: str, namespace: str) -> bool:
    resource, _, part = what.partition("/")
    who = (f"--as=system:serviceaccount:{operator}:proa", f"--namespace={namespace}", f"--subresource={part}")
    return api.tried("kubectl", "auth", "can-i", verb, resource, *who).returncode == 0


def _proa_objects(api: ControlPlane, namespace: str) -> list[str]:
    """Everything of release `proa` in a namespace, and of it in the cluster."""
    label = f"--selector=app.kubernetes.io/instance=proa,helm.sh/chart=proa-{_version()}"
    kinds = "deploy,svc,sa,role,rolebinding,pdb,netpol"
    own = api.kubectl("get", kinds, f"--namespace={namespace}", label, "--output=name").split()
    wide = api.kubectl("get", "clusterrole,clusterrolebinding", label, "--output=name").split()
    return own + [name for name in wide if namespace in name or name.endswith("proa-gateway")]


def _version() -> str:
    return (ROOT / "charts" / "proa" / "Chart.yaml").read_text().partition("\nversion: ")[2].split()[0]


@pytest.mark.parametrize("values", SCENARIOS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("prometheus_kinds")
def test_every_scenario_installs_and_goes(api: ControlPlane, release: str, values: Path) -> None:
    spaces = json.dumps([release]) if "two-namespaces" in values.stem else "[]"
    said = _install(api, release, f"--values={values}", "--set-json", f"watchNamespaces={spaces}")
    assert f"helm test proa --namespace {release}" in said
    assert len(_proa_objects(api, release)) >= 7
    api.helm("uninstall", "proa", f"--namespace={release}", "--wait")
    assert _proa_objects(api, release) == []


@pytest.mark.parametrize(
    ("verb", "what", "here", "elsewhere"),
    [
        ("list", "pods", True, False),
        ("patch", "pods/status", True, False),
        ("patch", "dsvc/status", True, False),
        ("patch", "dsvc", False, False),
        ("create", "statefulsets", True, False),
        ("create", "rolebindings", True, False),
        ("create", "roles", False, False),
        ("get", "secrets", False, False),
        ("create", "pods", False, False),
        ("create", "pods/exec", False, False),
        ("list", "nodes", False, False),
        ("create", "leases", True, False),
        ("list", "leases", False, False),
    ],
)
def test_rights_of_a_tenant(api: ControlPlane, tenant: str, verb: str, what: str, here: bool, elsewhere: bool) -> None:
    assert _may(api, verb, what, tenant, tenant) is here
    assert _may(api, verb, what, tenant, "default") is elsewhere


@pytest.fixture(scope="module")
def tenant(api: ControlPlane) -> Iterator[str]:
    """A namespace with an operator of its own."""
    name = "crd-tenant"
    _install(api, name, "--create-namespace", NAMESPACED)
    yield name
    api.helm("uninstall", "proa", f"--namespace={name}")
    api.kubectl("delete", "namespace", name, "--wait=false")


def test_the_cluster_mode_sees_nodes_and_every_namespace(api: ControlPlane, release: str) -> None:
    _install(api, release)
    assert _may(api, "watch", "nodes", release, "default")
    assert _may(api, "create", "statefulsets", release, "kube-public")
    assert not _may(api, "get", "secrets", release, release)
    assert not _may(api, "create", "leases", release, "default")


def test_two_tenants_share_nothing(api: ControlPlane, tenant: str, release: str) -> None:
    _install(api, release, NAMESPACED)
    assert not _may(api, "list", "pods", release, tenant)
    assert not _may(api, "list", "pods", tenant, release)


def test_a_second_operator_for_a_namespace_is_refused(api: ControlPlane, release: str) -> None:
    _install(api, release, NAMESPACED)
    done = api.tried("helm", "install", "other", CHART, f"--namespace={release}", NAMESPACED)
    assert done.returncode != 0
    assert 'Role "proa-gateway"' in done.stderr
    assert "invalid ownership metadata" in done.stderr


def test_a_gateway_binding_needs_no_right_to_bind(api: ControlPlane, tenant: str) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "x-gateway", "namespace": tenant},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "proa-gateway"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": tenant}],
    }
    api.apply(binding, f"--as=system:serviceaccount:{tenant}:proa")
    wider = {**binding, "metadata": {"name": "wide", "namespace": tenant}}
    wider["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    done = api.tried_apply(wider, f"--as=system:serviceaccount:{tenant}:proa")
    assert "attempting to grant RBAC permissions not currently held" in done.stderr


@pytest.mark.parametrize(
    ("role", "verb", "what", "may"),
    [
        ("view", "list", "disaggregatedservices.proa.dev", True),
        ("view", "create", "disaggregatedservices.proa.dev", False),
        ("edit", "create", "disaggregatedservices.proa.dev", True),
        ("edit", "patch", "workerpools.proa.dev/scale", True),
        ("edit", "create", "workerpools.proa.dev", False),
        ("edit", "patch", "disaggregatedservices.proa.dev/status", False),
        ("admin", "delete", "performanceprofiles.proa.dev", True),
    ],
)
def test_users_get_rights_with_the_usual_roles(
    api: ControlPlane, seeing: str, role: str, verb: str, what: str, may: bool
) -> None:
    binding = ("create", "rolebinding", f"{role}-{verb}-{what.replace('/', '-')}", f"--namespace={seeing}")
    api.kubectl(*binding, f"--clusterrole={role}", f"--user={role}")
    resource, _, part = what.partition("/")
    asked = ("auth", "can-i", verb, resource, f"--subresource={part}", f"--as={role}", f"--namespace={seeing}")
    if may:
        api.until(lambda: api.kubectl(*asked), what=f"{role} may {verb} {what}", seconds=90)
    else:
        assert api.tried("kubectl", *asked).returncode != 0


@pytest.fixture(scope="module")
def seeing(api: ControlPlane) -> Iterator[str]:
    """A namespace whose operator sees nodes, and whose users get rights on Proa's kinds."""
    name = "crd-seeing"
    _install(api, name, "--create-namespace", f"--set=watchNamespaces[0]={name}")
    yield name
    api.helm("uninstall", "proa", f"--namespace={name}")
    api.kubectl("delete", "namespace", name, "--wait=false")


def test_upgrade_changes_rights(api: ControlPlane, release: str) -> None:
    _install(api, release, NAMESPACED)
    api.helm("upgrade", "proa", CHART, f"--namespace={release}", "--set=rbac.mode=Cluster")
    assert _may(api, "list", "nodes", release, "default")
    api.helm("rollback", "proa", "1", f"--namespace={release}")
    assert not _may(api, "list", "nodes", release, "default")


def test_removing_the_kinds_chart_keeps_kinds_and_services(api: ControlPlane, namespace: str) -> None:
    api.kubectl("apply", f"--namespace={namespace}", f"--filename={ROOT / 'examples' / 'tiny.yaml'}")
    api.helm("uninstall", "proa-crds")
    assert api.get("dsvc", "tiny", namespace)["spec"]["model"]["name"] == "tiny-moe"
    api.helm("install", "proa-crds", CRDS)
    assert api.get("dsvc", "tiny", namespace)["spec"]["model"]["name"] == "tiny-moe"
