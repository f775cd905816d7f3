"""The published rivals against their formulas, and the limits of the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from proa_operator.simulate.need import Need
from proa_operator.simulate.policies.dynamo import DynamoClassic, DynamoLoad
from proa_operator.simulate.policies.hpa import Behavior, Hpa, KedaSlo, desired
from proa_operator.simulate.policies.knative import Apa, Kpa
from proa_operator.simulate.policies.oracle import planned
from proa_operator.simulate.policies.policy import Slo, Targets
from proa_operator.simulate.policies.proa import histogram_of, signals_of
from proa_operator.simulate.policies.wva import WvaSaturation, WvaTokens

from tests.unit.simulate_fakes import COST, LIMITS, observation, view

SLO = Slo(ttft_seconds=2.0, itl_seconds=0.05)


@pytest.mark.parametrize(
    ("current", "ratio", "expected"),
    [(4, 1.0, 4), (4, 1.09, 4), (4, 1.2, 5), (4, 0.5, 2), (4, 0.01, 1), (3, 2.0, 6)],
)
def test_hpa_formula(current: int, ratio: float, expected: int) -> None:
    assert desired(current, ratio) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([(0, 6)], [6]),
        ([(0, 9)], [8]),  # at most twice, or four more, in 15 s
        ([(0, 4), (15, 2), (30, 2)], [4, 4, 4]),  # the largest of the last 300 s
        ([(0, 2), (301, 2)], [2, 2]),
    ],
)
def test_hpa_windows_and_rates(wanted: list[tuple[float, int]], expected: list[int]) -> None:
    behavior = Behavior()
    assert [behavior.settle(now, 4, want) for now, want in wanted] == expected


def test_hpa_grows_a_busy_pool_only() -> None:
    busy = observation(prefill=view(busy=1.0), decode=view(busy=0.7))
    assert Hpa().decide(busy) == Targets(prefill=6, decode=4)


def test_keda_takes_an_outage_for_idleness() -> None:
    """No latency samples: the ratio is 0, as published, and the pool shrinks."""
    policy = KedaSlo(SLO)
    assert policy.decide(observation()).decode == 3


def test_keda_grows_by_the_ratio() -> None:
    slow = replace(observation(), ttft_seconds=np.full(50, 2.0))
    policy = KedaSlo(SLO)
    seen = [policy.decide(replace(slow, now=600.0 + 15 * tick)).prefill for tick in range(3)]
    assert seen[-1] == 8  # ceil(4 * 1 / 0.55), at once, for the window holds nothing less


def test_aibrix_kpa_halves_an_overloaded_pool() -> None:
    """Eight groups at 1.5 times the target: the mean does not know how many there are."""
    overloaded = view(ready=8, target=8, running=8 * 1.5 * 7.0)
    assert Kpa(10, is_mean=True).decide(observation(decode=overloaded)).decode == 4
    assert Kpa(10, is_mean=False).decide(observation(decode=overloaded)).decode == 12


def test_apa_halves_when_low_and_its_window_shrinks_faster() -> None:
    policy = Apa(10)
    low = observation(decode=view(ready=8, target=8, running=8.0))
    assert policy.decide(low).decode == 4
    later = replace(low, now=610.0, decode=view(ready=8, target=8, running=8 * 6.0))
    assert policy.decide(later).decode == 4  # the least of 300 s, although half would be too few now


def test_wva_v1_steps_by_one_and_waits_for_transitions() -> None:
    full, moving = view(kv_usage=0.75), view(kv_usage=0.75, starting=1, target=5)
    assert WvaSaturation().decide(observation(decode=full)).decode == 5
    assert WvaSaturation().decide(observation(decode=moving)).decode == 5
    assert WvaSaturation().decide(observation(decode=view(kv_usage=0.1))).decode == 3


def test_wva_v2_sizes_by_tokens() -> None:
    some = np.full(10, 1000)
    cost = replace(COST, kv_cache_tokens=100_000, max_batch_tokens=8192)
    used = replace(observation(decode=view(kv_usage=0.8)), finished_prompt_tokens=some, finished_output_tokens=some)
    assert WvaTokens(cost).decide(used).decode == 5


def test_dynamo_classic_sees_completions_only() -> None:
    """Ten a second arrive and one ends: the demand is one a second (dynamo#8861)."""
    plain = replace(
        observation(),
        arrived_prompt_tokens=np.full(600, 1000),
        finished_prompt_tokens=np.full(60, 1000),
        finished_output_tokens=np.full(60, 100),
        ttft_seconds=np.full(60, 30.0),
    )
    assert DynamoClassic(COST, SLO).decide(plain).prefill == 1


def test_dynamo_load_moves_by_one() -> None:
    backlog = replace(observation(), backlog_tokens=1_000_000, prefilled=10, prefill_seconds=10.0)
    assert DynamoLoad(COST, SLO).decide(backlog).prefill == 5


def test_oracle_starts_ahead_and_shrinks_slowly() -> None:
    wanted = np.concatenate([np.full(100, 1.0), np.full(100, 8.0), np.full(400, 1.0)])
    plan = planned(Need(prefill=wanted, decode=np.ones(600)), 50.0, LIMITS, 1.0, 1.0)
    first = int(np.argmax(plan.prefill == 8))
    assert first <= 100 + 3 - 50 / 5  # need is smoothed over three bins on both sides
    downs = np.flatnonzero(np.diff(plan.prefill) < 0)
    assert (np.diff(downs) >= 120 / 5).all()
    assert (-np.diff(plan.prefill)[downs] <= np.maximum(1, plan.prefill[downs] // 4)).all()
    assert plan.decode.max() == 1


def test_signals_for_the_solver() -> None:
    seen = replace(
        observation(),
        arrived_prompt_tokens=np.array([100, 300]),
        arrived_cached_tokens=np.array([0, 100]),
        finished_prompt_tokens=np.array([100, 120, 4000]),
        finished_output_tokens=np.array([10, 30, 50]),
        prefilled=4,
        prefill_seconds=2.0,
        ttft_seconds=np.array([1.0]),
    )
    signals = signals_of(seen, 95.0)
    assert (signals.hit_rate, signals.prefill_mean, signals.ttft_p, signals.itl_p) == (0.25, 0.5, 1.0, None)
    assert signals.arrivals_per_second == pytest.approx(2 / 60)
    assert [(bucket.prompt_tokens, bucket.output_tokens) for bucket in histogram_of(seen)] == [(110, 20), (4000, 50)]
