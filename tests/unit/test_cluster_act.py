"""Actions become the right requests, needless ones are left out, and refusals are kept."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator import names
from proa_operator.cluster import kinds
from proa_operator.cluster.act import Actor, Scope
from proa_operator.cluster.cache import Cache, Stored
from proa_operator.cluster.errors import Conflict, Gone, Refused
from proa_operator.cluster.events import QUIET_SECONDS, Events
from proa_operator.cluster.pods import ungate_patch
from proa_operator.cluster.status import StatusWriter
from proa_operator.cluster.touched import touched_at
from proa_operator.cluster.worker_admin import WorkerAdmin
from proa_operator.cluster.workers import Workers
from proa_operator.names import Role
from proa_operator.plan import actions as todo
from proa_operator.plan.memo import GroupMemo
from proa_operator.plan.state import RouteReason

from tests.unit.cluster_api import FakeApi
from tests.unit.cluster_objects import REVISION, SERVICE_UID, meta, owned, pod_body, service_body, set_body

GROUP = f"tiny-{REVISION}-decode-000"


class Shell:
    """The writers around a fake API server."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.api = FakeApi()
        self.cache = Cache(lambda _: None)
        self.workers = Workers(WorkerAdmin(), lambda: self.now, lambda _: None)
        api: Any = self.api
        self.actor = Actor(api, self.cache, self.workers, Events(api), lambda: self.now)
        self.statuses = StatusWriter(api, self.cache)
        self.put(service_body())

    def put(self, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            self.cache.put(kinds.KINDS[body["kind"]], self.api.seed(body))

    @property
    def service(self) -> Stored:
        found = self.cache.get(kinds.SERVICE, "default", "tiny")
        assert found is not None
        return found

    @property
    def scope(self) -> Scope:
        return Scope.of(self.service, self.cache.children(("default", "tiny")))

    async def act(self, *actions: todo.Action) -> list[tuple[str, str, str]]:
        self.api.calls.clear()
        self.api.bodies.clear()
        for action in actions:
            await self.actor.act(action, self.scope)
        return self.api.calls


@pytest.fixture
def shell() -> Shell:
    return Shell()


def budget(limit: int = 0) -> dict[str, Any]:
    head = {"name": "tiny-gateway", "namespace": "default", "labels": {"proa.dev/service": "tiny"}}
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {**head, "ownerReferences": owned()},
        "spec": {"maxUnavailable": limit},
    }


async def test_an_object_is_applied_once(shell: Shell) -> None:
    apply = todo.Apply(objects=(budget(),))
    assert await shell.act(apply) == [("apply", "PodDisruptionBudget", "tiny-gateway")]
    assert await shell.act(apply) == []
    assert len(await shell.act(todo.Apply(objects=(budget(1),)))) == 1


async def test_an_object_of_an_earlier_owner_is_applied_again(shell: Shell) -> None:
    await shell.act(todo.Apply(objects=(budget(),)))
    foreign = shell.api.objects["PodDisruptionBudget", "tiny-gateway"]
    foreign["metadata"] = {**foreign["metadata"], "resourceVersion": "900", "ownerReferences": []}
    shell.put(foreign)
    assert len(await shell.act(todo.Apply(objects=(budget(),)))) == 1


async def test_what_others_wrote_is_put_right_once(shell: Shell) -> None:
    await shell.act(todo.Apply(objects=(budget(),)))
    edited = shell.api.objects["PodDisruptionBudget", "tiny-gateway"]
    managers = [
        {"manager": "proa-operator", "operation": "Apply", "time": "2026-01-31T00:00:01Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-01-31T00:00:02Z"},
    ]
    edited["metadata"] = {**edited["metadata"], "resourceVersion": "900", "managedFields": managers}
    shell.put(edited)
    assert len(await shell.act(todo.Apply(objects=(budget(),)))) == 1
    assert await shell.act(todo.Apply(objects=(budget(),))) == []


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("proa-operator", "Apply", "1", "")], ""),
        ([("proa-operator", "Apply", "2", ""), ("kubectl", "Update", "1", "")], ""),
        ([("proa-operator", "Apply", "1", ""), ("kubectl", "Update", "2", "")], "2"),
        ([("proa-operator", "Apply", "1", ""), ("kubectl", "Update", "2", "status")], ""),
        ([("proa-operator", "Apply", "1", ""), ("kube-controller-manager", "Update", "2", "")], ""),
        ([("proa-operator", "Apply", "1", ""), (names.MARKS_MANAGER, "Update", "2", "")], ""),
        ([("kubectl", "Update", "2", "")], ""),
    ],
)
def test_touched_by_whom_and_when(entries: list[tuple[str, str, str, str]], expected: str) -> None:
    names = ("manager", "operation", "time", "subresource")
    fields = [dict(zip(names, entry, strict=True)) for entry in entries]
    assert touched_at({"managedFields": fields}) == expected


@pytest.mark.parametrize(
    ("error", "reason", "fix"),
    [
        (
            Refused(403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted"'),
            "PodSecurity",
            "profile Restricted",
        ),
        (Refused(403, "Forbidden", "exceeded quota: q"), "QuotaExceeded", "raise the namespace's quota"),
        (Refused(403, "Forbidden", 'User "op" cannot patch'), "Forbidden", "upgrade the chart"),
        (Refused(422, "Invalid", "spec.x: bad"), "Refused", "spec.x: bad"),
        (Gone(404, "NotFound", "no such resource"), "MissingKind", "install its CRD"),
    ],
)
async def test_a_refusal_is_kept_until_the_write_succeeds(shell: Shell, error: Any, reason: str, fix: str) -> None:
    shell.api.refusals["PodDisruptionBudget", "tiny-gateway"] = error
    with pytest.raises(type(error)):
        await shell.act(todo.Apply(objects=(budget(),)))
    (refusal,) = shell.actor.applier.refusals(("default", "tiny"))
    assert refusal.reason == reason
    assert fix in refusal.message
    shell.api.refusals.clear()
    await shell.act(todo.Apply(objects=(budget(),)))
    assert shell.actor.applier.refusals(("default", "tiny")) == ()


async def test_deletes_name_the_uid_that_was_seen_and_take_gone_for_done(shell: Shell) -> None:
    shell.put(set_body())
    delete = todo.Delete(kind="StatefulSet", name=GROUP)
    assert await shell.act(delete) == [("delete", "StatefulSet", GROUP)]
    assert shell.api.bodies == [f"uid-{GROUP}"]
    assert (shell.cache.children(("default", "tiny")), await shell.act(delete)) == ([], [])


async def test_routes_are_conditions_with_the_uid_as_precondition(shell: Shell) -> None:
    shell.put(pod_body(loaded=True))
    route = todo.Route(pod=f"{GROUP}-0", is_routable=True, reason=RouteReason.ROUTABLE)
    assert await shell.act(route) == [("strategic", "Pod", f"{GROUP}-0/status")]
    (body,) = shell.api.bodies
    (condition,) = body["status"]["conditions"]
    assert body["metadata"] == {"uid": f"uid-{GROUP}-0"}
    assert (condition["type"], condition["status"], condition["reason"]) == ("proa.dev/routable", "True", "Routable")
    assert condition["lastTransitionTime"] == "1970-01-01T00:16:40Z"


async def test_what_is_not_in_the_cache_is_a_conflict(shell: Shell) -> None:
    with pytest.raises(Conflict, match="Pod unknown is not in the cache"):
        await shell.act(todo.Ungate(group=GROUP, pods=("unknown",)))


@pytest.mark.parametrize(("gates", "last"), [(["proa.dev/gang"], "remove"), (["proa.dev/gang", "quota"], "replace")])
def test_only_our_gate_comes_off_and_only_if_the_gates_are_as_seen(shell: Shell, gates: list[str], last: str) -> None:
    body = pod_body()
    body["spec"]["schedulingGates"] = [{"name": gate} for gate in gates]
    shell.put(body)
    patch = ungate_patch(shell.scope.child(kinds.POD, f"{GROUP}-0"))
    assert [step["op"] for step in patch] == ["test", "test", last]
    assert patch[1]["value"] == body["spec"]["schedulingGates"]
    assert patch[2].get("value") in (None, [{"name": "quota"}])


def test_nodes_to_avoid_narrow_every_term_of_the_affinity(shell: Shell) -> None:
    term = {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["x"]}]}
    required = {"nodeSelectorTerms": [term, term]}
    body = pod_body(gated=True)
    body["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    shell.put(body)
    patch = ungate_patch(shell.scope.child(kinds.POD, f"{GROUP}-0"), avoid=["n2", "n1"])
    (value,) = [step["value"] for step in patch if step["path"] == "/spec/affinity"]
    terms = value["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    avoided = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("n1", "n2")]
    assert terms == [{**term, "matchFields": avoided}] * 2


async def test_marks_and_scale(shell: Shell) -> None:
    notes = {"metadata": meta(f"tiny-{REVISION}", labels={"proa.dev/revision": REVISION}, ownerReferences=owned())}
    shell.put(set_body(), {"kind": "ControllerRevision", **notes, "revision": 1, "data": {}})
    pool = meta("tiny-decode", ownerReferences=owned())
    shell.put({"kind": "WorkerPool", "metadata": pool, "spec": {"service": "tiny", "role": "decode"}})
    calls = await shell.act(
        todo.Remember(group=GROUP, memo=GroupMemo(admitted_at=3.0)),
        todo.MarkFailed(revision=REVISION, reason="never ready"),
        todo.MarkAvailable(revision=REVISION, at=9.0, sizes={Role.DECODE: 2}),
        todo.Scale(role=Role.DECODE, replicas=4),
    )
    assert [verb for verb, _, _ in calls] == ["merge", "merge", "merge", "apply"]
    memo, failed, available, scale = shell.api.bodies
    assert memo["metadata"]["annotations"] == {names.MEMO_ANNOTATION: '{"admittedAt":3.0}'}
    assert failed["metadata"]["annotations"] == {"proa.dev/failed": "never ready"}
    assert available["metadata"]["annotations"] == {names.AVAILABLE_ANNOTATION: '{"at": 9.0, "sizes": {"decode": 2}}'}
    assert (scale["spec"], scale["metadata"]["annotations"]) == ({"replicas": 4}, {names.DECLARED_ANNOTATION: "4"})


async def test_a_restarted_revision_gets_its_number_and_loses_the_mark_of_its_failure_at_once(shell: Shell) -> None:
    """Its data are immutable, and another version of the operator would write others."""
    failed = meta(f"tiny-{REVISION}", ownerReferences=owned(), annotations={"proa.dev/failed": "x"})
    shell.put({"kind": "ControllerRevision", "metadata": failed, "revision": 1, "data": {}})
    begun = {"name": f"tiny-{REVISION}", "annotations": {names.STARTED_ANNOTATION: "now"}}
    again = {"kind": "ControllerRevision", "metadata": begun, "revision": 2, "data": {"other": 1}}
    calls = await shell.act(todo.StartRevision(revision=REVISION, number=2, at=5.0, objects=(again,)))
    assert [verb for verb, _, _ in calls] == ["merge"]
    stored = shell.api.objects["ControllerRevision", f"tiny-{REVISION}"]
    assert stored["metadata"]["annotations"] == {names.STARTED_ANNOTATION: "now"}
    assert (stored["revision"], stored["data"]) == (2, {})


async def test_the_same_event_is_written_once_in_a_while(shell: Shell) -> None:
    note = todo.Note(type=todo.EventType.NORMAL, reason="Routable", message="group x serves")
    assert len(await shell.act(note, note)) == 1
    shell.now += QUIET_SECONDS
    (body,) = shell.api.bodies
    assert body["involvedObject"]["uid"] == SERVICE_UID
    shell.api.refusals["Event", body["metadata"]["name"]] = Conflict(409, "AlreadyExists", "it is there")
    await shell.act(note)  # the fake refuses the patch too, which holds up nothing
    assert [verb for verb, _, _ in shell.api.calls] == ["create", "merge"]


async def test_a_status_is_written_when_it_says_something_new(shell: Shell) -> None:
    for status in ({"revision": "a"}, {"revision": "a"}, {"revision": "b"}):
        await shell.statuses.write(shell.scope, status)
    assert [call for call in shell.api.calls if call[1] == "DisaggregatedService"] == [
        ("json", "DisaggregatedService", "tiny/status")
    ] * 2
    assert shell.api.bodies[0][0] == {"op": "test", "path": "/metadata/uid", "value": SERVICE_UID}


async def test_a_status_that_the_schema_prunes_is_written_once(shell: Shell) -> None:
    await shell.statuses.write(shell.scope, {"revision": "a", "unknown": 1})
    shell.put(service_body(version=900, status={"revision": "a"}))
    shell.statuses._told[SERVICE_UID] = (shell.statuses._told[SERVICE_UID][0], _digest_of({"revision": "a"}))
    shell.api.calls.clear()
    await shell.statuses.write(shell.scope, {"revision": "a", "unknown": 1})
    assert shell.api.calls == []


def _digest_of(status: dict[str, Any]) -> str:
    from proa_operator.cluster.status import _digest

    return _digest(status)
