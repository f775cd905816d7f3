"""Random rollouts of an operator that sees and writes late; each of its actions is judged by what it knows by then."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from proa_operator.plan.actions import Action, Route, Ungate, takes_away

from tests.unit import plan_late
from tests.unit.plan_fuzz import draw, play, world_of
from tests.unit.plan_invariants import Broken
from tests.unit.plan_late import LateWorld

NUM_ROLLOUTS = 36
NUM_PARTS = 9
SLOWEST = {"watch_seconds": 30.0, "act_seconds": 15.0}
SLOWEST_SEEDS = range(6, 16)
"""In some of these an operator that heeds no news goes wrong."""
FOUND = {
    "a probe begins at a prefill worker that has crashed unseen": (153, False),
    "the last decode worker has loaded again before it is taken out": (190, False),
    "a lost node is back before the group in its place starts": (18, True),
    "a revision that was passed over begins to serve beside two others": (296, True),
}
"""Rollouts that once went wrong, of many thousand: seed, and whether it is the slowest operator."""


def late_rollout(seed: int, *, is_careless: bool = False, is_slowest: bool = False) -> LateWorld:
    random, seconds = Random(seed), SLOWEST if is_slowest else {}
    world = world_of(draw(random, seed), seed, LateWorld, is_careless=is_careless, **seconds)
    play(world, random, seed)
    world.run(200.0)
    assert not world.plan().actions, f"seed {seed}: still busy with {world.plan().actions}"
    return world


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_rollouts_of_a_slow_operator(part: int) -> None:
    worlds = [late_rollout(seed) for seed in range(part, NUM_ROLLOUTS, NUM_PARTS)]
    assert sum(world.known.num_checks for world in worlds) > 1000
    assert sum(world.num_outdated for world in worlds) > 10


@pytest.mark.parametrize("seed", SLOWEST_SEEDS)
def test_even_slower_rollouts(seed: int) -> None:
    late_rollout(seed, is_slowest=True)


@pytest.mark.parametrize(("seed", "is_slowest"), FOUND.values(), ids=FOUND)
def test_rollouts_that_once_went_wrong(seed: int, is_slowest: bool) -> None:
    late_rollout(seed, is_slowest=is_slowest)


BLIND = {
    (190, False, "was the last decode worker"): lambda action: not isinstance(action, Route) and takes_away(action),
    (18, True, "pods hold devices, more than"): lambda action: not isinstance(action, Ungate) and takes_away(action),
}


@pytest.mark.parametrize(("found", "blind"), BLIND.items(), ids=["Route", "Ungate"])
def test_an_operator_that_heeds_no_news_of_one_kind_is_found_out(
    found: tuple[int, bool, str], blind: Callable[[Action], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed, is_slowest, message = found
    monkeypatch.setattr(plan_late, "takes_away", blind)
    with pytest.raises(Broken, match=message):
        late_rollout(seed, is_slowest=is_slowest)


def test_an_operator_that_heeds_no_news_is_found_out() -> None:
    assert sum(map(is_found_out, SLOWEST_SEEDS)) > 1


def is_found_out(seed: int) -> bool:
    try:
        late_rollout(seed, is_careless=True, is_slowest=True)
    except Broken:
        return True
    return False
