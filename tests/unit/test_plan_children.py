"""Objects beside the groups, WorkerPool numbers, routes, conditions and the status."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_operator.api.engine import EngineType
from proa_operator.api.status import ServiceStatus
from proa_operator.names import Role
from proa_operator.plan.actions import Apply, Delete, Route, Scale, StartRevision
from proa_operator.plan.memo import Drain, DrainPhase, GroupMemo, Restart, Why
from proa_operator.plan.plan import plan
from proa_operator.plan.renderer import ClusterRenderer, key_of
from proa_operator.plan.state import JobState, Refusal, RouteReason
from proa_operator.render import RenderSettings

from tests.unit.plan_fakes import FakeRenderer, service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Behaviour, World, is_settled, settled_at

P, D = Role.PREFILL, Role.DECODE


def installed(**fields: Any) -> World:
    world = World(service(**fields), watchers=[Invariants(), has_valid_status])
    assert world.run(600, until=lambda: is_settled(world))
    world.run(30)
    return world


def has_valid_status(world: World, action: object) -> None:
    """As the CRD's schema has it."""
    if world.status:
        ServiceStatus.model_validate_json(json.dumps(world.status))


def condition(world: World, kind: str) -> dict[str, str]:
    return next(found for found in world.status["conditions"] if found["type"] == kind)


LOST = [
    ("Deployment", "s-gateway"),
    ("WorkerPool", "s-prefill"),
    ("Service", "s-4040bcb5-decode-001"),
    ("PodDisruptionBudget", "s-4040bcb5-prefill-000"),
    ("NetworkPolicy", "s-4040bcb5-kv"),
]


@pytest.mark.parametrize(("kind", "name"), LOST)
def test_a_deleted_child_comes_back(kind: str, name: str) -> None:
    world = installed()
    world.present.remove((kind, name))
    (action,) = world.plan().actions
    assert isinstance(action, Apply)
    assert [key_of(item) for item in action.objects] == [(kind, name)]


ORPHANS = [
    ("Service", "s-4040bcb5-decode-007"),
    ("PodDisruptionBudget", "s-00000000-prefill-000"),
    ("NetworkPolicy", "s-00000000-kv"),
    ("NetworkPolicy", "s-engine"),
    ("HTTPRoute", "s-gateway"),
    ("PodDisruptionBudget", "s-old"),
]


@pytest.mark.parametrize(("kind", "name"), ORPHANS)
def test_orphans_go_and_nothing_else(kind: str, name: str) -> None:
    world = installed()
    world.present |= {(kind, name), ("Service", "s-gateway"), ("PersistentVolumeClaim", "s-x"), ("Secret", "s-x")}
    assert world.plan().actions == (Delete(kind=kind, name=name),)


def keeps_children(world: World, action: object) -> None:
    """A Service or PDB is deleted only while there is no StatefulSet of its name."""
    if isinstance(action, Delete) and action.kind in ("Service", "PodDisruptionBudget"):
        assert action.name not in world.sets, f"{action} hits a new group"


def test_a_new_group_under_an_old_name_keeps_its_own_children() -> None:
    world = installed(prefill=2, decode=2, rollout={"maxSurgeGroups": 0, "maxUnavailableGroups": 1})
    world.watchers.append(keeps_children)
    for owner in list(world.sets.values()):
        owner.is_drain_requested = True
        assert world.run(300, until=lambda: not any(owner.is_drain_requested for owner in world.sets.values()))
        assert world.run(300, until=lambda: is_settled(world))
        assert owner.name in world.sets


def test_a_resync_repeats_every_apply() -> None:
    world = installed()
    made = plan(replace(world.observe(), is_resync=True), world.settings, world.renderer)
    (action,) = made.actions
    assert isinstance(action, Apply)
    assert len(action.objects) == 4


def test_manual_scale_is_kept_until_the_manifest_changes_its_own_number() -> None:
    world = installed()
    world.scale(P, 4)
    revision = next(iter(world.revisions))
    assert world.run(200, until=lambda: settled_at(world, revision, {P: 4, D: 2}))
    world.change(service(slo={"ttftMs": 400}))
    world.run(60)
    assert settled_at(world, revision, {P: 4, D: 2})
    world.change(service(prefill=3))
    assert Scale(role=P, replicas=3) in world.plan().actions
    assert world.run(200, until=lambda: is_settled(world))


def test_a_service_without_a_group_does_not_serve() -> None:
    world = World(service())
    assert plan(world.observe(), world.settings, world.renderer).status["columns"]["state"] == "Pending"
    asleep = World(service(prefill=0, decode=0))
    assert plan(asleep.observe(), asleep.settings, asleep.renderer).status["columns"]["state"] == "Asleep"


def test_held_prefill_has_no_partner_yet() -> None:
    """The new decode starts late: the new prefill must not be routed before it."""
    world = installed(prefill=2, decode=2)
    world.change(service(prefill=2, decode=2, model="bundled://two"))
    assert world.run(600, until=lambda: is_settled(world))
    routed: dict[str, list[str]] = {}
    for action in world.log:
        if isinstance(action, Route) and action.is_routable:
            routed.setdefault(action.pod[2:10], []).append(action.pod.split("-")[2])
    assert all(roles[0] == "decode" for roles in routed.values())


def test_a_pod_whose_probe_fails_is_never_routed_and_says_so() -> None:
    world = World(service(model="bundled://bad"), behaviours={"bundled://bad": Behaviour(fails_probes=True)})
    world.run(300)
    assert not any(isinstance(action, Route) and action.is_routable for action in world.log)
    assert {pod.route_reason for pod in world.pods.values()} == {RouteReason.PROBE_FAILED}
    assert condition(world, "Degraded")["reason"] == "ProbeFailed"
    assert condition(world, "Available")["message"].endswith("waits for its probe transfer")


TROUBLES = {
    "image": ("waiting_reason", "ImagePullBackOff", "ImagePullError", "check spec.engine.image"),
    "crash": ("waiting_reason", "CrashLoopBackOff", "CrashLoopBackOff", "see its logs"),
}


@pytest.mark.parametrize(("field", "value", "reason", "text"), TROUBLES.values(), ids=TROUBLES)
def test_degraded_names_the_fix(field: str, value: str, reason: str, text: str) -> None:
    world = installed()
    seen = world.observe()
    sick = replace(seen.groups[0], pods=tuple(replace(pod, **{field: value}) for pod in seen.groups[0].pods))
    status = plan(replace(seen, groups=(sick, *seen.groups[1:])), world.settings, world.renderer).status
    found = next(found for found in status["conditions"] if found["type"] == "Degraded")
    assert (found["status"], found["reason"]) == ("True", reason)
    assert text in found["message"]


def test_a_refused_write_is_told() -> None:
    world = installed()
    refusal = Refusal(reason="PodSecurity", message="the namespace forbids the profile: set security.profile")
    status = plan(replace(world.observe(), refusals=(refusal,)), world.settings, world.renderer).status
    found = next(found for found in status["conditions"] if found["type"] == "Degraded")
    assert (found["reason"], found["message"]) == (refusal.reason, refusal.message)


def test_a_spec_that_cannot_be_rendered_changes_nothing_and_says_why() -> None:
    world = installed()
    world.change(service(model="bundled://two"))
    world.renderer = FakeRenderer(refused=("spec.security.mtls: is not available yet; set false",))
    world.run(100)
    assert len(world.revisions) == 1
    assert len(world.pods) == 4
    assert condition(world, "Progressing")["reason"] == "SpecRefused"
    assert condition(world, "Available")["status"] == "True"
    assert world.status["columns"]["state"] == "Refused"


def test_first_install_of_a_spec_that_cannot_be_rendered() -> None:
    world = World(service(), renderer=FakeRenderer(refused=("spec.engine.image: give one",)))
    world.run(60)
    assert not world.log
    assert "spec.engine.image" in condition(world, "Degraded")["message"]


def test_an_old_group_starts_again_while_the_new_model_is_downloaded() -> None:
    world = World(service(model="hf://org/a"))
    world.run(5)
    world.job = JobState(is_done=True)
    assert world.run(200, until=lambda: is_settled(world))
    old = next(iter(world.revisions))
    world.change(service(model="hf://org/b"))
    world.run(10)
    world.lose_pod(next(iter(world.pods.values())))
    world.run(100)
    routed = [pod for pod in world.pods.values() if pod.is_routable and pod.protocol == old]
    assert len(routed) == 4
    assert all(pod.is_gated for pod in world.pods.values() if pod.protocol != old)


def test_transition_times_stay_until_the_status_of_a_condition_changes() -> None:
    world = installed()
    before = {found["type"]: found["lastTransitionTime"] for found in world.status["conditions"]}
    world.run(500)
    assert before == {found["type"]: found["lastTransitionTime"] for found in world.status["conditions"]}


def test_the_status_is_equal_at_rest() -> None:
    world = installed()
    first = world.plan().status
    world.now += 1000
    assert world.plan().status == first


moments = st.floats(min_value=0, max_value=2e9)
uids = st.frozensets(st.text("abcdef0123456789-", min_size=1, max_size=36), max_size=4)
drains = st.builds(
    Drain,
    phase=st.sampled_from(DrainPhase),
    since=moments,
    why=st.sampled_from(Why),
    idle_since=st.none() | moments,
)
memos = st.builds(
    GroupMemo,
    members=uids,
    admitted_at=st.none() | moments,
    served_at=st.none() | moments,
    drain=st.none() | drains,
    restart=st.none() | st.builds(Restart, count=st.integers(1, 99), at=moments, why=st.sampled_from(Why), doomed=uids),
)


@given(memos)
def test_a_memo_survives_its_annotation(memo: GroupMemo) -> None:
    assert GroupMemo.from_text(memo.to_text()) == memo


@pytest.mark.parametrize("text", ["", "[]", "3", '{"drain":{}}', '{"drain":{"phase":"x","since":1,"why":"y"}}', "{"])
def test_a_broken_memo_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"memo|JSON|Expecting|valid"):
        GroupMemo.from_text(text)


SETTINGS = RenderSettings(
    operator_image="operator",
    engine_images=dict.fromkeys(EngineType, "worker"),
    operator_namespace="proa",
    operator_labels={"app": "proa"},
)


def rendered(world: World) -> Any:
    """The world at rest, seen by an operator that renders the real objects."""
    renderer = ClusterRenderer(settings=SETTINGS)
    seen = world.observe()
    name = renderer.revision_of(seen.service.spec, template_version=None, restart="")
    old = seen.revisions[0]
    groups = tuple(replace(group, revision=name, name=group.name.replace(old.name, name)) for group in seen.groups)
    seen = replace(seen, revisions=(replace(old, name=name),), groups=groups, status={}, present=frozenset())
    for _ in range(3):
        made = plan(seen, world.settings, renderer)
        applied = {key_of(item) for action in made.actions for item in getattr(action, "objects", ())}
        seen = replace(seen, status=made.status, present=seen.present | applied)
    return seen, renderer


def test_real_objects_come_to_rest_too_and_cost_less_than_two_milliseconds() -> None:
    world = World(service(prefill=8, decode=8))
    assert world.run(600, until=lambda: is_settled(world))
    seen, renderer = rendered(world)
    times = []
    for _ in range(20):
        begun = time.process_time()
        made = plan(seen, world.settings, renderer)
        times.append(time.process_time() - begun)
    assert not made.actions
    assert min(times) < 0.006, "measured 0.0011; three times the limit for slower machines"


def test_real_first_plan() -> None:
    world = World(service(), renderer=ClusterRenderer(settings=SETTINGS))
    actions = world.plan().actions
    assert isinstance(actions[0], StartRevision)
    kinds = [item["kind"] for action in actions if isinstance(action, Apply) for item in action.objects]
    assert {"StatefulSet", "Service", "PodDisruptionBudget", "Deployment", "WorkerPool", "NetworkPolicy"} <= set(kinds)
    assert kinds.count("StatefulSet") == 4
