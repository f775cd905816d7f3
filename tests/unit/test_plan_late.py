"""Random rollouts of an operator that sees and writes late; each of its actions is judged by what it knows by then."""

from __future__ import annotations

from random import Random

import pytest

from tests.unit.plan_fuzz import draw, play, world_of
from tests.unit.plan_invariants import Broken
from tests.unit.plan_late import LateWorld

NUM_ROLLOUTS = 40
NUM_PARTS = 10
SLOWEST = {"watch_seconds": 30.0, "act_seconds": 15.0}
SLOWEST_SEEDS = range(6, 16)
"""In some of these an operator that heeds no news goes wrong."""


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


def test_an_operator_that_heeds_no_news_is_found_out() -> None:
    assert sum(map(is_found_out, SLOWEST_SEEDS)) > 1


def is_found_out(seed: int) -> bool:
    try:
        late_rollout(seed, is_careless=True, is_slowest=True)
    except Broken:
        return True
    return False
