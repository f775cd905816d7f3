"""Sizes for a demand, the bound that stands in the way, and the time that it takes."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel, Track
from proa_operator.autoscale.signals import LengthBucket, PoolSignals
from proa_operator.autoscale.solve import BINDINGS, need_of, predict, solve

from tests.unit.autoscale_cases import LENGTHS, SPEED, config, signals


def demand(rate: float, *lengths: LengthBucket, hit_rate: float = 0.0) -> Demand:
    return Demand(requests_per_second=rate, hit_rate=hit_rate, lengths=lengths or LENGTHS)


def solved(rate: float, settings: Config) -> tuple[int, int, str | None]:
    found = solve(demand(rate), GroupModel(), settings, signals())
    return found.prefill, found.decode, found.binding


def test_no_load_needs_nothing_but_the_minimum() -> None:
    assert solved(0.0, config(least=0)) == (0, 0, None)
    assert solved(0.0, config(least=2)) == (2, 2, None)


def test_the_need_meets_both_objectives_and_one_group_less_does_not() -> None:
    settings = config(most=64)
    for rate in (2.0, 8.0, 20.0, 60.0):
        need = need_of(demand(rate), GroupModel(), settings)
        enough = predict(demand(rate), GroupModel(), settings, need.prefill, need.decode)
        assert enough.ttft_seconds is not None
        assert enough.ttft_seconds <= settings.slo.ttft_seconds * 1.001
        assert enough.itl_seconds is not None
        assert enough.itl_seconds <= settings.slo.itl_seconds * 1.02
        if need.prefill > 1:
            less = predict(demand(rate), GroupModel(), settings, need.prefill - 1, need.decode)
            assert less.ttft_seconds is None or less.ttft_seconds > settings.slo.ttft_seconds


def test_the_need_grows_with_the_load_and_with_slower_groups() -> None:
    settings = config(most=64)
    needs = [need_of(demand(float(rate)), GroupModel(), settings) for rate in range(1, 60)]
    for less, more in itertools.pairwise(needs):
        assert less.prefill <= more.prefill
        assert less.decode <= more.decode
    slow = GroupModel(prefill=Track(work=2.0), decode=Track(work=1.6))
    slower = need_of(demand(20.0), slow, settings)
    assert slower.prefill > needs[19].prefill
    assert slower.decode > needs[19].decode


def test_a_cached_prefix_saves_prefill_only() -> None:
    settings = config(most=64)
    cold, warm = (need_of(demand(20.0, hit_rate=rate), GroupModel(), settings) for rate in (0.0, 0.8))
    assert warm.prefill < cold.prefill
    assert warm.decode == cold.decode


def test_long_prompts_do_not_hide_in_the_mean() -> None:
    settings = config(most=64)
    short = LengthBucket(prompt_tokens=200.0, output_tokens=100.0, weight=0.9)
    long = LengthBucket(prompt_tokens=4000.0, output_tokens=100.0, weight=0.1)
    middle = LengthBucket(prompt_tokens=580.0, output_tokens=100.0, weight=1.0)
    mixed = need_of(demand(10.0, short, long), GroupModel(), settings)
    assert mixed.prefill > need_of(demand(10.0, middle), GroupModel(), settings).prefill


def test_a_slow_wire_needs_more_groups() -> None:
    settings = config(most=64)
    slow = replace(settings, prefill=replace(SPEED, transfer_bytes_per_second=0.5e9))
    fast_need, slow_need = (need_of(demand(20.0), GroupModel(), one) for one in (settings, slow))
    assert slow_need.decode > fast_need.decode
    assert slow_need.decode >= 20.0 * 1000 * 100_000 / 0.5e9 / 0.8
    assert predict(demand(20.0), GroupModel(), slow, 20, 3).ttft_seconds is None


@pytest.mark.parametrize(
    ("binding", "change"),
    [
        ("autoscaling.prefill.max", {"prefill_max": 1}),
        ("autoscaling.decode.max", {"decode_max": 1}),
        ("autoscaling.maxGPUs", {"max_gpus": 24}),
        ("autoscaling.ratio", {"ratio_min": 4.0, "ratio_max": 4.0, "prefill_max": 7}),
        ("placement", {"placeable": 0}),
        ("slo.ttftMs", {"ttft": 0.05}),
        ("slo.itlMs", {"itl": 0.01}),
    ],
)
def test_the_bound_that_binds_is_named(binding: str, change: dict[str, float]) -> None:
    settings = config(most=64)
    limits = settings.limits
    limits = replace(
        limits,
        prefill=replace(limits.prefill, max=int(change.get("prefill_max", 64))),
        decode=replace(limits.decode, max=int(change.get("decode_max", 64))),
        ratio_min=change.get("ratio_min", limits.ratio_min),
        ratio_max=change.get("ratio_max", limits.ratio_max),
        max_gpus=int(change.get("max_gpus", 0)),
    )
    slo = replace(settings.slo, ttft_seconds=change.get("ttft", 1.0), itl_seconds=change.get("itl", 0.05))
    settings = replace(settings, limits=limits, slo=slo)
    placeable = 0 if "placeable" in change else None
    seen = replace(signals(), prefill=PoolSignals(desired=1, ready=1, placeable=placeable))
    found = solve(demand(20.0), GroupModel(), settings, seen)
    assert found.binding == binding
    assert binding in BINDINGS
    assert 1 <= found.prefill <= limits.prefill.max
    assert 1 <= found.decode <= limits.decode.max


def test_what_does_not_fit_is_served_as_far_as_it_goes() -> None:
    settings = config(most=64)
    tight = replace(settings, limits=replace(settings.limits, max_gpus=40))
    found = solve(demand(40.0), GroupModel(), tight, signals())
    assert found.prefill + found.decode == 5
    assert found.prefill > 1
    assert found.decode > 1


def test_the_ratio_raises_the_pool_that_lags() -> None:
    settings = config(most=64)
    even = replace(settings, limits=replace(settings.limits, ratio_min=1.0, ratio_max=1.0))
    need = need_of(demand(20.0), GroupModel(), even)
    found = solve(demand(20.0), GroupModel(), even, signals())
    assert found.prefill == found.decode == max(need.prefill, need.decode)


def test_one_pool_serves_both_phases() -> None:
    settings = replace(config(most=64), is_aggregated=True)
    seen = replace(signals(), prefill=PoolSignals(desired=1, ready=1))
    few, many = (solve(demand(rate), GroupModel(), settings, seen) for rate in (2.0, 20.0))
    assert few.prefill == many.prefill == 1
    assert many.decode > few.decode


@pytest.mark.parametrize("rate", [0.5, 20.0, 400.0, 5000.0])
def test_a_solution_for_64_by_64_takes_less_than_a_millisecond(rate: float) -> None:
    settings = config(most=64)
    settings = replace(settings, limits=replace(settings.limits, max_gpus=512))
    took = []
    for _ in range(20):
        started = time.process_time()
        solve(demand(rate), GroupModel(), settings, signals())
        took.append(time.process_time() - started)
    assert min(took) < 0.001
