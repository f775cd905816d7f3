"""From the cache to the planner's view."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proa_operator import names
from proa_operator.api.service import Topology
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.observe import Surroundings, observe
from proa_operator.cluster.read import Reader
from proa_operator.cluster.workers import ProbeOutcome
from proa_operator.names import Role
from proa_operator.plan.memo import NOTHING, GroupMemo
from proa_operator.plan.state import GatewayState, Observed, PoolState, ProbeResult, RouteReason
from proa_operator.render import RenderError

from tests.unit.cluster_objects import REVISION, meta, owned, pod_body, service_body, set_body

LOADED_SINCE = "2026-01-31T00:01:00Z"
NOW = Surroundings(now=100.0)


def observed(*bodies: dict[str, Any], around: Surroundings = NOW, service: dict[str, Any] | None = None) -> Observed:
    cache = Cache(lambda _: None)
    cache.put(kinds.SERVICE, service or service_body())
    for body in bodies:
        cache.put(kinds.KINDS[body["kind"]], body)
    stored = cache.get(kinds.SERVICE, "default", "tiny")
    assert stored is not None
    return observe(stored, cache.children(("default", "tiny")), around, Reader())


def test_a_group_is_its_set_with_its_pods() -> None:
    memo = GroupMemo(admitted_at=5.0)
    notes = {names.MEMO_ANNOTATION: memo.to_text(), names.DRAIN_ANNOTATION: "yes"}
    (group,) = observed(set_body(notes=notes), pod_body(node="n0", loaded=True, routable="True")).groups
    assert (group.role, group.revision, group.index, group.num_pods) == (Role.DECODE, REVISION, 0, 1)
    assert (group.memo, group.is_drain_requested, group.is_deleting) == (memo, True, False)
    (pod,) = group.pods
    assert (pod.is_loaded, pod.is_routable, pod.route_reason, pod.node) == (True, True, RouteReason.ROUTABLE, "n0")


def test_pods_without_their_set_are_a_group_that_goes() -> None:
    (group,) = observed(pod_body()).groups
    assert (group.is_deleting, group.num_pods, group.memo) == (True, 1, NOTHING)


@pytest.mark.parametrize("memo", ["{", "[]", '{"drain": {}}'])
def test_an_edited_memo_counts_as_none(memo: str) -> None:
    (group,) = observed(set_body(notes={names.MEMO_ANNOTATION: memo})).groups
    assert group.memo == NOTHING


def test_children_of_another_owner_are_not_seen() -> None:
    foreign = set_body()
    foreign["metadata"]["ownerReferences"][0]["uid"] = "an earlier service of that name"
    assert observed(foreign).groups == ()
    assert observed(foreign).present == frozenset()


@pytest.mark.parametrize(
    ("loaded_since", "result"), [(LOADED_SINCE, ProbeResult.PASSED), ("earlier", ProbeResult.UNKNOWN)]
)
def test_a_probe_counts_for_one_life_of_the_containers(loaded_since: str, result: ProbeResult) -> None:
    outcome = ProbeOutcome(result=ProbeResult.PASSED, loaded_since=loaded_since, ended_at=9.0)
    name = pod_body()["metadata"]["uid"]
    around = Surroundings(now=100.0, probes={name: outcome})
    assert observed(set_body(), pod_body(loaded=True), around=around).groups[0].pods[0].probe is result


def test_an_object_that_only_looks_like_a_child_is_ignored() -> None:
    odd = set_body()
    del odd["metadata"]["labels"]["proa.dev/revision"]
    assert observed(odd).groups == ()


def test_a_reason_that_others_wrote_counts_as_none() -> None:
    body = pod_body(routable="True")
    body["status"]["conditions"][-1]["reason"] = "BecauseISaySo"
    assert observed(body).groups[0].pods[0].route_reason is None


@pytest.mark.parametrize(("status", "unrouted_at"), [("True", None), ("False", 1769817660.0)])
def test_since_when_a_pod_is_not_routable(status: str, unrouted_at: float | None) -> None:
    body = pod_body(routable=status)
    body["status"]["conditions"][-1]["lastTransitionTime"] = LOADED_SINCE
    assert observed(body).groups[0].pods[0].unrouted_at == unrouted_at


def pool_body(**spec: Any) -> dict[str, Any]:
    notes = {names.DECLARED_ANNOTATION: "2"}
    whole = {"service": "tiny", "role": "decode", **spec}
    return {
        "kind": "WorkerPool",
        "metadata": meta("tiny-decode", annotations=notes, ownerReferences=owned()),
        "spec": whole,
    }


def test_a_pool_counts_once_it_has_a_number() -> None:
    assert observed(pool_body()).pools == {}
    assert observed(pool_body(replicas=3)).pools == {Role.DECODE: PoolState(role=Role.DECODE, replicas=3, declared=2)}


@pytest.mark.parametrize(
    ("args", "available", "expected"),
    [
        (["--prefill-selector"], 2, GatewayState(topology=Topology.DISAGGREGATED, num_ready=2, is_rolled=True)),
        (["--selector"], 1, GatewayState(topology=Topology.AGGREGATED, num_ready=2, is_rolled=False)),
    ],
)
def test_the_gateway_is_read_from_its_deployment(args: list[str], available: int, expected: GatewayState) -> None:
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
    body = {
        "kind": "Deployment",
        "metadata": meta("tiny-gateway", ownerReferences=owned()),
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"args": args}]}}},
        "status": {**status, "availableReplicas": available},
    }
    assert observed(body).gateway == expected


@pytest.mark.parametrize(
    ("conditions", "is_done", "failed"),
    [
        ([], False, ""),
        ([{"type": "Complete", "status": "True"}], True, ""),
        ([{"type": "Failed", "status": "False"}], False, ""),
        (
            [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "x"}],
            False,
            "PodFailurePolicy: x",
        ),
    ],
)
def test_a_job_is_done_or_failed_by_its_conditions(conditions: list[Any], is_done: bool, failed: str) -> None:
    body = {"kind": "Job", "metadata": meta("job", ownerReferences=owned()), "status": {"conditions": conditions}}
    job = observed(body).job
    assert job is not None
    assert (job.is_done, job.failed) == (is_done, failed)


def test_a_failed_download_speaks_for_itself() -> None:
    failed = [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 2"}]
    job = {"kind": "Job", "metadata": meta("job", ownerReferences=owned()), "status": {"conditions": failed}}
    state = {"terminated": {"exitCode": 2, "message": "some log\nerror: no such model; check spec.model.uri\n"}}
    labels = {"app.kubernetes.io/component": "model-download"}
    pod = {
        "kind": "Pod",
        "metadata": meta("job-x", labels=labels),
        "spec": {"containers": []},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "download", "state": state}]},
    }
    found = observed(job, pod).job
    assert found is not None
    assert found.failed == "error: no such model; check spec.model.uri"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ({"waiting": {"reason": "ContainerCreating"}}, "", ""),
        ({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "ImagePullBackOff", "no such image"),
        ({"running": {}}, "", ""),
    ],
)
def test_a_container_that_waits_says_why(status: dict[str, Any], reason: str, message: str) -> None:
    body = pod_body(containerStatuses=[{"name": "worker", "state": status, "restartCount": 2}])
    pod = observed(body).groups[0].pods[0]
    assert (pod.waiting_reason, pod.waiting_message, pod.num_restarts) == (reason, message, 2)


def test_the_last_words_of_a_crashed_container_explain_its_back_off() -> None:
    said = {"terminated": {"message": "loading\nerror: no such model: set spec.model.uri\n"}}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    body = pod_body(containerStatuses=[{"name": "worker", "state": state, "lastState": said}])
    assert observed(body).groups[0].pods[0].waiting_message == "error: no such model: set spec.model.uri"


def test_a_service_of_an_older_schema_is_refused_with_the_fix() -> None:
    with pytest.raises(RenderError, match=r"spec\.oldField: .*; correct the field and apply the manifest again"):
        observed(service=service_body(oldField=1))


def test_status_and_restart_come_from_the_object() -> None:
    body = service_body(status={"revision": REVISION})
    body["metadata"]["annotations"] = {"proa.dev/restart": "now"}
    found = observed(service=body)
    assert (found.status, found.restart, found.generation) == ({"revision": REVISION}, "now", 1)
    assert json.dumps(found.status)
