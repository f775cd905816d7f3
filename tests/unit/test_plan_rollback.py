"""A bad revision is taken back by itself, a good one never, and a change of mind deletes nothing that serves."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Delete
from proa_operator.plan.state import Observed

from tests.unit.plan_fakes import FakeRenderer, service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Behaviour, World, gpu_nodes, is_settled, settled_at

ONE, TWO = "bundled://one", "bundled://two"
PATIENCE = 600
PERIOD = 15.0


def installed(**fields: object) -> World:
    world = World(service(model=ONE, **fields), watchers=[Invariants()], period=PERIOD)  # type: ignore[arg-type]
    assert world.run(600, until=lambda: is_settled(world))
    return world


def revision(world: World, model: str) -> str:
    spec = world.service.spec
    asked = spec.model_copy(update={"model": spec.model.model_copy(update={"uri": model})})
    return world.renderer.revision_of(asked, template_version=None, restart="")


def has_failed(world: World) -> bool:
    known = world.revisions.get(revision(world, TWO))
    return known is not None and bool(known.failed)


def condition(world: World, kind: str) -> dict[str, str]:
    return next(found for found in world.status["conditions"] if found["type"] == kind)


BROKEN = {
    "pods that say nothing": Behaviour(is_silent=True),
    "pods that load and never become ready": Behaviour(is_broken=True),
    "probe transfers that fail": Behaviour(fails_probes=True),
}


@pytest.mark.parametrize("behaviour", BROKEN.values(), ids=BROKEN)
def test_no_progress_rolls_back_within_deadline_and_one_period(behaviour: Behaviour) -> None:
    rollout = {"noProgressSeconds": PATIENCE}
    world = installed(rollout=rollout)
    world.behaviours[TWO] = behaviour
    begun = world.now
    world.change(service(model=TWO, rollout=rollout))
    assert world.run(
        10_000, until=lambda: bool(world.revisions[revision(world, TWO)].failed) if world.now > begun else False
    )
    assert world.now - begun <= PATIENCE + PERIOD + 1.3 * behaviour.start_seconds + 10
    assert "no progress for 600 s" in world.revisions[revision(world, TWO)].failed
    old = revision(world, ONE)
    assert world.run(600, until=lambda: settled_at(world, old, {Role.PREFILL: 2, Role.DECODE: 2}))
    world.run(30)
    assert not world.plan().actions
    assert condition(world, "RolledBack")["status"] == "True"
    assert condition(world, "Available")["status"] == "True"


def test_crash_loop_rolls_back_long_before_the_deadline() -> None:
    world = installed(rollout={"noProgressSeconds": 100_000})
    world.behaviours[TWO] = Behaviour(start_seconds=60, crash_after=10)
    world.change(service(model=TWO, rollout={"noProgressSeconds": 100_000}))
    assert world.run(1000, until=lambda: "crashed 6 times" in world.revisions[revision(world, TWO)].failed)


NUMBERS = {
    "error rate": (Behaviour(error_rate=0.1), "10.0% of its requests failed"),
    "TTFT": (Behaviour(ttft_seconds=0.2), "2.00 times the old revision's"),
}


@pytest.mark.parametrize(("behaviour", "text"), NUMBERS.values(), ids=NUMBERS)
def test_bad_numbers_roll_back(behaviour: Behaviour, text: str) -> None:
    world = installed(prefill=4, decode=4)
    world.behaviours[TWO] = replace(behaviour, start_seconds=120)
    world.change(service(prefill=4, decode=4, model=TWO))
    assert world.run(5000, until=lambda: text in world.revisions[revision(world, TWO)].failed)
    old = revision(world, ONE)
    assert world.run(2000, until=lambda: settled_at(world, old, {Role.PREFILL: 4, Role.DECODE: 4}))


@pytest.mark.parametrize("error_rate", [0.1, 0.0])
def test_one_pair_is_judged_while_it_serves_already(error_rate: float) -> None:
    """It is available with its first group, long before enough requests have ended."""
    world = installed(prefill=1, decode=1)
    world.behaviours[TWO] = Behaviour(error_rate=error_rate)
    world.change(service(prefill=1, decode=1, model=TWO))
    assert world.run(1800, until=lambda: has_failed(world)) == bool(error_rate)
    world.run(600)
    assert settled_at(world, revision(world, ONE if error_rate else TWO), {Role.PREFILL: 1, Role.DECODE: 1})


def test_numbers_that_turn_bad_much_later_roll_nothing_back() -> None:
    world = installed(prefill=1, decode=1)
    world.change(service(prefill=1, decode=1, model=TWO))
    world.run(2500)
    world.behaviours[TWO] = Behaviour(error_rate=1.0)
    world.run(600)
    assert not world.revisions[revision(world, TWO)].failed


def test_pause_leaves_all_as_it_is() -> None:
    rollout = {"noProgressSeconds": PATIENCE, "onFailure": "Pause"}
    world = installed(rollout=rollout)
    world.behaviours[TWO] = Behaviour(is_silent=True)
    world.change(service(model=TWO, rollout=rollout))
    assert world.run(2000, until=lambda: has_failed(world))
    groups = set(world.sets)
    world.run(3000)
    assert set(world.sets) == groups
    assert condition(world, "Progressing")["reason"] == "Paused"


def paused(nodes: int = 0, **fields: object) -> World:
    """The new revision never becomes ready, and stays as it is."""
    rollout = {"noProgressSeconds": PATIENCE, "onFailure": "Pause"}
    shape: dict[str, object] = {"accelerator": {"product": "MI300X", "gpusPerPod": 8}} if nodes else {}
    first = service(model=ONE, rollout=rollout, **shape, **fields)
    world = World(first, nodes=gpu_nodes(nodes) if nodes else None, watchers=[Invariants()], period=PERIOD)
    assert world.run(600, until=lambda: is_settled(world))
    world.behaviours[TWO] = Behaviour(is_silent=True)
    world.change(service(model=TWO, rollout=rollout, **shape, **fields))
    assert world.run(2000, until=lambda: has_failed(world))
    world.run(60)
    return world


def serving(world: World) -> dict[str, str]:
    """Revision of each group that is routed."""
    return {pod.set_name: world.sets[pod.set_name].revision for pod in world.pods.values() if pod.is_routable}


@pytest.mark.parametrize(("wanted", "served"), [(4, 4), (2, 2), (1, 1)])
def test_pause_scales_the_good_revision_and_keeps_the_failed_one_to_look_at(wanted: int, served: int) -> None:
    world = paused()
    failed = {owner.name for owner in world.sets.values() if owner.revision == revision(world, TWO)}
    world.scale(Role.DECODE, wanted)
    world.run(300)
    decode = [found for name, found in serving(world).items() if "-decode-" in name]
    assert decode == [revision(world, ONE)] * served
    assert failed
    assert failed <= set(world.sets)


def test_pause_spares_a_failed_group_that_serves_within_the_surge() -> None:
    rollout = {"onFailure": "Pause"}
    world = installed(prefill=4, decode=4, rollout=rollout)
    world.behaviours[TWO] = Behaviour(error_rate=0.1, start_seconds=120)
    world.change(service(prefill=4, decode=4, model=TWO, rollout=rollout))
    assert world.run(5000, until=lambda: has_failed(world))
    world.run(600)
    before = serving(world)
    assert sorted(before.values()) == sorted([revision(world, ONE)] * 6 + [revision(world, TWO)] * 4)
    world.run(600)
    assert serving(world) == before
    world.scale(Role.DECODE, 2)
    world.run(600)
    left = [name for name in serving(world) if "-decode-" in name]
    assert 2 <= len(left) <= 3
    assert not world.plan().actions


def test_pause_moves_groups_off_a_bad_node() -> None:
    world = paused(nodes=8)
    node = next(pod.node for pod in world.pods.values() if pod.is_routable)
    world.set_node(node, is_unschedulable=True)
    world.run(300)
    assert not [pod for pod in world.pods.values() if pod.node == node and pod.is_routable]
    assert sorted(serving(world).values()) == [revision(world, ONE)] * 4


@pytest.mark.parametrize("seed", range(3))
def test_random_scaling_and_bad_nodes_in_a_pause_break_no_invariant_and_come_to_rest(seed: int) -> None:
    chance = random.Random(seed)
    world = paused(nodes=chance.choice([5, 8]), prefill=chance.randint(1, 2), decode=chance.randint(1, 2))
    for _ in range(6):
        if chance.random() < 0.5:
            world.scale(chance.choice(list(Role)), chance.randint(1, 3))
        else:
            world.set_node(chance.choice(sorted(world.nodes or ())), is_unschedulable=chance.random() < 0.5)
        world.run(chance.uniform(5, 200))
    for node in list(world.nodes or ()):
        world.set_node(node, is_unschedulable=False)
    world.run(600)
    assert not world.plan().actions


def test_first_install_never_rolls_back() -> None:
    world = World(service(model=ONE, rollout={"noProgressSeconds": 60}), behaviours={ONE: Behaviour(is_silent=True)})
    world.run(5000)
    assert not any(known.failed for known in world.revisions.values())
    assert condition(world, "Available")["reason"] == "NoPairs"


def test_slow_start_with_progress_is_no_failure() -> None:
    rollout = {"noProgressSeconds": 1000}
    world = installed(rollout=rollout)
    world.behaviours[TWO] = Behaviour(start_seconds=5000)
    world.change(service(model=TWO, rollout=rollout))
    assert world.run(30_000, until=lambda: is_settled(world))
    assert not any(known.failed for known in world.revisions.values())


@pytest.mark.parametrize("after", [1.0, 10.0, 40.0, 70.0, 100.0])
def test_revert_midway_deletes_nothing_that_serves_the_old_revision(after: float) -> None:
    world = installed(prefill=3, decode=3)
    old = revision(world, ONE)
    world.change(service(prefill=3, decode=3, model=TWO))
    world.run(after)
    serving = {
        owner.name
        for owner in world.sets.values()
        if owner.revision == old and owner.memo.drain is None and not owner.is_deleting
    }
    world.change(service(prefill=3, decode=3, model=ONE))
    start = len(world.log)
    assert world.run(3000, until=lambda: is_settled(world))
    deleted = {action.name for action in world.log[start:] if isinstance(action, Delete)}
    assert not serving & deleted
    assert serving <= set(world.sets)


def test_failed_revision_that_is_asked_for_again_gets_another_chance() -> None:
    rollout = {"noProgressSeconds": PATIENCE}
    world = installed(rollout=rollout)
    world.behaviours[TWO] = Behaviour(is_silent=True)
    world.change(service(model=TWO, rollout=rollout))
    new = revision(world, TWO)
    assert world.run(2000, until=lambda: has_failed(world))
    world.change(service(model=ONE, rollout=rollout))
    assert world.run(600, until=lambda: is_settled(world))
    world.behaviours[TWO] = Behaviour()
    world.change(service(model=TWO, rollout=rollout))
    assert world.run(600, until=lambda: is_settled(world))
    assert world.revisions[new].failed == ""


class UpgradedRenderer(FakeRenderer):
    """A newer operator: a new revision would get another digest."""

    def revision_of(self, spec, *, template_version, restart):  # type: ignore[no-untyped-def]
        return super().revision_of(spec, template_version=template_version or 2, restart=restart)


def test_operator_upgrade_alone_rolls_nothing() -> None:
    world = installed()
    world.renderer = UpgradedRenderer()
    world.run(60)
    assert len(world.revisions) == 1
    assert not world.plan().actions


def test_restart_annotation_rolls_the_same_spec() -> None:
    world = installed()
    seen = world.observe()
    asked: Observed = replace(seen, restart="2026-11-24T07:00:00Z")
    actions = [type(action).__name__ for action in replace_plan(world, asked)]
    assert actions[0] == "StartRevision"
    assert "Apply" in actions


def replace_plan(world: World, observed: Observed) -> tuple[object, ...]:
    from proa_operator.plan.plan import plan

    return plan(observed, world.settings, world.renderer).actions


def test_history_keeps_five_revisions() -> None:
    world = installed(prefill=1, decode=1)
    for number in range(8):
        world.change(service(prefill=1, decode=1, model=f"bundled://{number}"))
        assert world.run(2000, until=lambda: is_settled(world))
    world.run(60)
    assert sorted(known.number for known in world.revisions.values()) == [5, 6, 7, 8, 9]


def test_followers_that_report_no_load_do_not_hide_progress() -> None:
    """Only the leader of a group over several nodes is asked."""
    shape = {"pools": {"prefill": {"nodesPerGroup": 2}}, "rollout": {"noProgressSeconds": 1000}}
    world = installed(**shape)
    world.are_followers_silent = True
    world.behaviours[TWO] = Behaviour(start_seconds=5000)
    world.change(service(model=TWO, **shape))  # type: ignore[arg-type]
    assert world.run(30_000, until=lambda: is_settled(world))
    assert not any(known.failed for known in world.revisions.values())
