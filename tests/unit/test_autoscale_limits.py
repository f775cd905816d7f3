"""What bounds both pools together while they grow and shrink each at its own pace: GPUs and the ratio."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from proa_operator.autoscale.act import Reason, act
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.memory import Memory, remembered
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.signals import PoolSignals
from proa_operator.autoscale.solve import grown_within, solve

from tests.unit.autoscale_cases import PERIOD, config, signals, wish_of
from tests.unit.test_autoscale_solve import demand

Pair = tuple[int, int]


def bounded(max_gpus: int = 8, ratio: tuple[float, float] = (0.125, 8.0), *, is_aggregated: bool = False) -> Config:
    """Groups of one GPU."""
    base = config(is_aggregated=is_aggregated)
    pool = replace(base.limits.prefill, gpus_per_group=1)
    limits = replace(base.limits, prefill=pool, decode=pool, max_gpus=max_gpus, ratio_min=ratio[0], ratio_max=ratio[1])
    return replace(base, limits=limits)


def acted(wish: Pair, roomy: Pair, start: Pair, settings: Config, num_periods: int = 200) -> list[tuple[Pair, Reason]]:
    """Every wish the same, each decision carried out at once."""
    memory, size, seen = Memory(since=0.0), start, []
    for idx in range(num_periods):
        newest = wish_of(idx * PERIOD, *wish, *wish, *roomy)
        memory = replace(memory, wishes=remembered(memory.wishes, newest, settings.policy))
        targets, memory, reason = act(memory, signals(newest.at, 1.0, *size), settings)
        size = (targets.prefill, targets.decode)
        seen.append((size, reason))
    return seen


@pytest.mark.parametrize("roomy", [(2, 6), (3, 5)])
def test_a_pool_grows_into_the_gpus_that_the_other_one_frees(roomy: Pair) -> None:
    seen = [size for size, _ in acted((2, 6), roomy, (6, 2), bounded())]
    assert max(map(sum, seen)) == 8
    assert seen[-1] == (2, 6)
    assert all(old[0] >= new[0] and old[1] <= new[1] for old, new in pairwise(seen))


def test_more_gpus_than_allowed_are_given_back() -> None:
    seen = [size for size, _ in acted((2, 6), (3, 5), (6, 6), bounded())]
    assert max(map(sum, seen)) == 12
    assert seen[-1] == (2, 6)


def test_without_a_limit_both_pools_grow_at_once() -> None:
    sizes = [size for size, reason in acted((2, 6), (2, 6), (6, 2), bounded(0)) if reason is Reason.UP]
    assert sizes[0] == (6, 6)


@pytest.mark.parametrize(
    ("wanted", "present", "max_gpus", "ratio", "grown"),
    [
        ((4, 4), (1, 1), 8, (0.125, 8.0), (4, 4)),
        ((6, 6), (6, 2), 8, (0.125, 8.0), (6, 2)),  # nothing fits
        ((6, 6), (5, 2), 8, (0.125, 8.0), (5, 3)),
        ((6, 6), (1, 1), 8, (0.125, 8.0), (4, 4)),
        ((6, 3), (1, 1), 6, (0.125, 8.0), (4, 2)),
        ((6, 6), (8, 4), 8, (0.125, 8.0), (8, 4)),  # more than allowed already
        ((2, 8), (2, 2), 0, (0.5, 2.0), (2, 4)),
        ((8, 2), (2, 2), 0, (0.5, 2.0), (4, 2)),
        ((2, 8), (1, 8), 0, (0.5, 2.0), (2, 8)),  # still outside, and closer
        ((1, 8), (1, 6), 0, (0.5, 2.0), (1, 6)),
        ((2, 6), (0, 0), 4, (0.125, 8.0), (1, 3)),
        ((2, 6), (0, 0), 1, (0.125, 8.0), (0, 0)),
    ],
)
def test_growth_ends_where_the_limits_do(
    wanted: Pair, present: Pair, max_gpus: int, ratio: tuple[float, float], grown: Pair
) -> None:
    assert grown_within(wanted, present, bounded(max_gpus, ratio)) == grown


def test_one_pool_grows_as_far_as_the_gpus_go() -> None:
    settings = bounded(5, is_aggregated=True)
    assert grown_within((1, 8), (1, 2), settings) == (1, 4)
    assert grown_within((1, 8), (1, 6), settings) == (1, 6)
    assert grown_within((1, 4), (1, 2), settings) == (1, 4)


@pytest.mark.parametrize(
    ("max_gpus", "placeable", "least", "decode", "binding"),
    [
        (0, None, 1, 7, None),
        (8, None, 1, 7, None),
        (4, None, 1, 3, "autoscaling.maxGPUs"),
        (4, 0, 1, 1, "placement"),
        (1, None, 2, 2, "autoscaling.maxGPUs"),  # the minimum stays
    ],
)
def test_one_pool_keeps_to_the_gpus(
    max_gpus: int, placeable: int | None, least: int, decode: int, binding: str | None
) -> None:
    settings = bounded(max_gpus, is_aggregated=True)
    limits = replace(settings.limits, decode=replace(settings.limits.decode, min=least))
    seen = replace(signals(), decode=PoolSignals(desired=1, ready=1, placeable=placeable))
    found = solve(demand(13.0), GroupModel(), replace(settings, limits=limits), seen)
    assert (found.prefill, found.decode, found.binding) == (1, decode, binding)
