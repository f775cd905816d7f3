"""What is said of a pod that the scheduler finds no node for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from proa_operator.cluster.facts import Membership
from proa_operator.cluster.trim_pod import pod_facts
from proa_operator.plan.plan import plan

from tests.unit.plan_fakes import service
from tests.unit.plan_world import World, is_settled

CLAIM = 'persistentvolumeclaim "weights" not found'


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (f"0/2 nodes are available: {CLAIM}", "make the claim, or correct spec.model.uri"),
        ("0/2 nodes are available: 2 Insufficient cpu", "add nodes, or lower the replicas, or relax spec.placement"),
        ("", "finds no node: add nodes"),
    ],
)
def test_the_fix_follows_the_schedulers_words(words: str, fix: str) -> None:
    world = World(service())
    assert world.run(600, until=lambda: is_settled(world))
    observed = world.observe()
    first, *others = observed.groups
    lost = replace(first.pods[0], node="", unschedulable_since=world.now, unschedulable_message=words)
    observed = replace(observed, groups=(replace(first, pods=(lost,)), *others))
    conditions = plan(observed, world.settings, world.renderer).status["conditions"]
    (found,) = [one for one in conditions if one["type"] == "CapacityAvailable"]
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert words in found["message"]
    assert fix in found["message"]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"status": "False", "reason": "Unschedulable", "message": f"0/2: {CLAIM}. not found"}, f"0/2: {CLAIM}"),
        ({"status": "False", "reason": "Unschedulable", "message": "x" * 999}, "x" * 200),
        ({"status": "False", "reason": "SchedulingGated", "message": "x"}, ""),
        ({"status": "True", "message": "x"}, ""),
    ],
)
def test_of_the_schedulers_words_the_first_sentence_is_kept(condition: dict[str, str], kept: str) -> None:
    body = {
        "metadata": {"name": "p-0", "labels": {}},
        "spec": {"containers": []},
        "status": {"conditions": [{"type": "PodScheduled", **condition}]},
    }
    member = Membership(group="p", revision="0", role="prefill", index=0)
    facts = pod_facts(body, member)
    assert facts.unschedulable_message == kept
    assert (facts.unschedulable_since is not None) is bool(kept)
