"""The test bed itself, tier (a): real API server, scheduler and controllers, and pods as kwok plays them."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.control_plane import ControlPlane

SECONDS = "testbed.proa.dev"
GATE = "proa.dev/routable"


@pytest.fixture(scope="module", autouse=True)
def gpu_node(api: ControlPlane) -> None:
    """One played node with 8 GPUs and one without."""
    api.nodes.add("bed-gpu", resources={"amd.com/gpu": 8, "amd.com/nic": 8}, labels={"bed": "gpu"})
    api.nodes.add("bed-cpu", labels={"bed": "cpu"})


def pod(name: str, namespace: str, *, gpus: int = 0, gates: tuple[str, ...] = (), **notes: str) -> dict[str, Any]:
    """A pod on the played nodes of this file; `notes` become annotations of the stages."""
    container: dict[str, Any] = {"name": "main", "image": "localhost/x:1"}
    if gpus:
        container["resources"] = {"limits": {"amd.com/gpu": gpus}}
    annotations = {f"{SECONDS}/{key.replace('_', '-')}": value for key, value in notes.items()}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 30}
    spec |= {"readinessGates": [{"conditionType": gate} for gate in gates]}
    if not gpus:
        spec["nodeSelector"] = {"bed": "cpu"}
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def condition(api: ControlPlane, namespace: str, name: str, kind: str) -> str:
    found = api.get("pod", name, namespace)["status"].get("conditions", [])
    return next((c["status"] for c in found if c["type"] == kind), "")


def reaches(api: ControlPlane, namespace: str, name: str, kind: str, value: str) -> None:
    what = f"{name}: {kind}={value}"
    api.until(lambda: condition(api, namespace, name, kind) == value, what=what, seconds=90)


def test_the_api_server_is_the_pinned_one(api: ControlPlane) -> None:
    assert "v1.36.3" in api.kubectl("version")


def test_a_pod_becomes_ready_on_the_address_it_asks_for(api: ControlPlane, namespace: str) -> None:
    api.apply(pod("p", namespace, pod_ip="127.0.0.7"))
    api.kubectl("wait", "pod/p", f"--namespace={namespace}", "--for=condition=Ready", "--timeout=50s")
    assert api.get("pod", "p", namespace)["status"]["podIP"] == "127.0.0.7"


def test_readiness_waits_for_its_time_and_for_the_gates(api: ControlPlane, namespace: str) -> None:
    api.apply([pod("slow", namespace, ready_seconds="600"), pod("gated", namespace, gates=(GATE,))])
    running = (f"--namespace={namespace}", "--for=jsonpath={.status.phase}=Running", "--timeout=50s")
    api.kubectl("wait", "pod/slow", *running)
    reaches(api, namespace, "gated", "ContainersReady", "True")
    assert condition(api, namespace, "gated", "Ready") == "False"
    assert condition(api, namespace, "slow", "ContainersReady") == "False"
    for value in ("True", "False"):
        patch = f'{{"status":{{"conditions":[{{"type":"{GATE}","status":"{value}"}}]}}}}'
        words = ("pod", "gated", f"--namespace={namespace}", "--subresource=status", f"--patch={patch}")
        api.kubectl("patch", *words)
        reaches(api, namespace, "gated", "Ready", value)


def test_a_crashing_pod_restarts_as_often_as_it_is_told(api: ControlPlane, namespace: str) -> None:
    api.apply(pod("c", namespace, crash_seconds="0", crash_times="2", restart_seconds="0", exit_code="137"))

    def restarted_twice() -> bool:
        status = api.get("pod", "c", namespace)["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 2 and status["ready"])

    api.until(restarted_twice, what="two restarts and readiness", seconds=90)
    ended = api.get("pod", "c", namespace)["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert ended["exitCode"] == 137


def test_a_deleted_pod_stays_for_its_stop_time(api: ControlPlane, namespace: str) -> None:
    api.apply([pod("quick", namespace), pod("slow", namespace, stop_seconds="600")])
    ready = ("--for=condition=Ready", "--timeout=50s", f"--namespace={namespace}")
    api.kubectl("wait", "pod/quick", "pod/slow", *ready)
    api.kubectl("delete", "pod", "slow", f"--namespace={namespace}", "--wait=false")
    api.kubectl("delete", "pod", "quick", f"--namespace={namespace}", "--timeout=50s", seconds=60)
    still = api.get("pod", "slow", namespace)
    assert "deletionTimestamp" in still["metadata"]
    assert condition(api, namespace, "slow", "Ready") == "True"
    api.kubectl("delete", "pod", "slow", f"--namespace={namespace}", "--grace-period=0", "--force")


def test_a_pod_without_its_image_says_so(api: ControlPlane, namespace: str) -> None:
    api.apply(pod("p", namespace, image_error="ImagePullBackOff"))

    def reason() -> str:
        statuses = api.get("pod", "p", namespace)["status"]["containerStatuses"]
        return str(statuses[0]["state"]["waiting"]["reason"])

    api.until(lambda: reason() == "ImagePullBackOff", what="the reason", seconds=90)


@pytest.mark.parametrize(("exit_code", "wanted"), [("0", "Complete"), ("1", "Failed")])
def test_a_job_ends_as_its_annotation_says(api: ControlPlane, namespace: str, exit_code: str, wanted: str) -> None:
    template = pod("unused", namespace, complete_seconds="0", exit_code=exit_code)
    template["spec"]["restartPolicy"] = "Never"
    body = {"metadata": {"annotations": template["metadata"]["annotations"]}, "spec": template["spec"]}
    metadata = {"name": "j", "namespace": namespace}
    spec = {"template": body, "backoffLimit": 0}
    api.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    api.kubectl("wait", "job/j", f"--namespace={namespace}", f"--for=condition={wanted}", "--timeout=50s")


def test_gpus_decide_where_a_pod_goes_and_that_it_waits(api: ControlPlane, namespace: str) -> None:
    api.apply([pod("a", namespace, gpus=6), pod("b", namespace, gpus=2)])
    ready = ("--for=condition=Ready", "--timeout=50s", f"--namespace={namespace}")
    api.kubectl("wait", "pod/a", "pod/b", *ready)
    assert {api.get("pod", name, namespace)["spec"]["nodeName"] for name in "ab"} == {"bed-gpu"}
    api.apply(pod("c", namespace, gpus=1))
    unschedulable = ("--for=condition=PodScheduled=False", "--timeout=50s", f"--namespace={namespace}")
    api.kubectl("wait", "pod/c", *unschedulable)
    api.kubectl("delete", "pod", "b", f"--namespace={namespace}", seconds=60)
    api.kubectl("wait", "pod/c", *ready)


def test_a_field_that_does_not_exist_is_refused(api: ControlPlane, namespace: str) -> None:
    wrong = pod("p", namespace)
    wrong["spec"]["typo"] = 1
    refused = api.tried_apply(wrong)
    assert refused.returncode != 0
    assert "spec.typo" in refused.stderr


def test_a_claim_is_bound_at_once(api: ControlPlane, namespace: str) -> None:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "5Gi"}}}
    metadata = {"name": "v", "namespace": namespace}
    api.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    claim = ("persistentvolumeclaim/v", f"--namespace={namespace}", "--for=jsonpath={.status.phase}=Bound")
    api.kubectl("wait", *claim, "--timeout=50s")


def test_the_audit_log_tells_who_was_refused(api: ControlPlane, namespace: str) -> None:
    config = api.service_account_kubeconfig(namespace, "default")
    refused = api.tried("kubectl", f"--kubeconfig={config}", "get", "secrets")
    assert "cannot list resource" in refused.stderr
    user = f"system:serviceaccount:{namespace}:default"
    (event,) = (e for e in api.audit() if e.user == user and e.resource == "secrets")
    assert (event.verb, event.code, event.namespace) == ("list", 403, namespace)
