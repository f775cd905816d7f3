"""The simulator against closed forms, and its bookkeeping of groups."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from proa_operator.simulate.run import simulate
from proa_operator.simulate.traffic import Fault, Traffic

from tests.unit.simulate_fakes import COST, Scripted, setting, traffic


def poisson(rate: float, count: int, prompt_tokens: np.ndarray) -> Traffic:
    gaps = np.random.default_rng(1).exponential(1 / rate, count)
    return traffic(np.cumsum(gaps).tolist(), prompt_tokens.tolist(), [1] * count)


def mean_wait(requests: Traffic, groups: int) -> float:
    """Mean time in the prefill queue: TTFT less the prompt's own step and one decode step."""
    outcome = simulate(setting(requests, prefill=groups, decode=8, end_seconds=1e9), Scripted(period_seconds=1e6))
    own = requests.prompt_tokens * COST.token_seconds
    return float(np.mean(np.array(outcome.first_token_seconds) - own)) - COST.sequence_seconds


def erlang_c(groups: int, load: float) -> float:
    """Probability that an arrival waits in M/M/k; `load` in Erlangs."""
    terms = [load**n / math.factorial(n) for n in range(groups)]
    last = load**groups / math.factorial(groups) * groups / (groups - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_prefill_with_equal_prompts_waits_like_m_d_1(utilisation: float) -> None:
    service = 1.0
    requests = poisson(utilisation / service, 20_000, np.full(20_000, 1000))
    expected = utilisation * service / 2 / (1 - utilisation)  # Pollaczek and Khinchine
    assert mean_wait(requests, 1) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize(("groups", "utilisation"), [(2, 0.7), (4, 0.8)])
def test_prefill_with_exponential_prompts_waits_like_m_m_k(groups: int, utilisation: float) -> None:
    prompts = np.maximum(1, np.random.default_rng(2).exponential(1000, 30_000)).astype(np.int64)
    service = float(prompts.mean()) * COST.token_seconds
    load = utilisation * groups
    expected = erlang_c(groups, load) * service / (groups - load)
    assert mean_wait(poisson(load / service, 30_000, prompts), groups) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("together", "step_seconds"), [(1, 0.01), (2, 0.02), (5, 0.05)])
def test_sequences_of_one_group_share_its_steps(together: int, step_seconds: float) -> None:
    requests = traffic([0.0] * together, [1] * together, [101] * together)
    cost = replace(COST, token_seconds=0.0)
    outcome = simulate(setting(requests, cost=cost), Scripted())
    assert outcome.token_gap_seconds == pytest.approx([step_seconds] * together, rel=0.01)


def test_running_sequences_follow_little() -> None:
    """With steps of constant time, running = rate * tokens * step."""
    cost = replace(COST, base_seconds=0.02, sequence_seconds=0.0, token_seconds=1e-9)
    requests = replace(poisson(5.0, 5000, np.full(5000, 1)), output_tokens=np.full(5000, 100))
    seen: list[float] = []

    class Watching(Scripted):
        def decide(self, observation):  # type: ignore[no-untyped-def]
            seen.append(observation.decode.running)
            return super().decide(observation)

    simulate(setting(requests, cost=cost, end_seconds=900.0), Watching(period_seconds=20.0))
    assert np.mean(seen[2:]) == pytest.approx(5.0 * 100 * 0.02, rel=0.05)


def test_transfers_share_the_fabric_and_none_outruns_a_link() -> None:
    cost = replace(COST, token_seconds=0.0, sequence_seconds=0.0, base_seconds=1e-9, link_bytes_per_second=100.0)
    alone = simulate(setting(traffic([0.0], [100], [1]), cost=cost, fabric_bytes_per_second=150.0), Scripted())
    pair = setting(traffic([0.0] * 2, [100] * 2, [1] * 2), cost=cost, prefill=2, fabric_bytes_per_second=150.0)
    assert alone.first_token_seconds == pytest.approx([1.0], abs=1e-6)
    assert simulate(pair, Scripted()).first_token_seconds == pytest.approx([4 / 3] * 2, abs=1e-6)


def test_a_slow_fabric_stretches_the_running_transfer() -> None:
    cost = replace(COST, token_seconds=0.0, sequence_seconds=0.0, base_seconds=1e-9, link_bytes_per_second=100.0)
    slowed = setting(traffic([0.0], [100], [1]), cost=cost, faults=[Fault(at_seconds=0.5, fabric_factor=0.5)])
    assert simulate(slowed, Scripted()).first_token_seconds == pytest.approx([1.5], abs=1e-6)


def test_gpu_time_counts_starting_and_draining_groups() -> None:
    """One decode group holds a sequence of 40 s when it is given up at 10 s; a prefill group starts at 10 s."""
    requests = traffic([0.0, 0.0], [1, 1], [2000, 4000])
    plan = setting(requests, decode=2, end_seconds=100.0)
    outcome = simulate(plan, Scripted((10.0, 2, 1)))
    assert not np.isnan(outcome.token_gap_seconds).any()
    prefill, kept, drained = 100.0 + 90.0, 100.0, 20.0
    assert outcome.gpu_seconds == pytest.approx((prefill + kept + drained) * COST.gpus_per_group, rel=0.01)


def test_a_group_serves_only_after_its_start() -> None:
    requests = traffic([0.0, 11.0], [60_000, 1000], [1, 1])
    outcome = simulate(setting(requests), Scripted((10.0, 2, 1)))
    assert outcome.first_token_seconds[1] == pytest.approx(29 + 1 + 0.01)


def test_groups_asked_for_later_are_ready_later() -> None:
    requests = traffic([0.0, 11.0, 12.0], [60_000, 30_000, 1000], [1, 1, 1])
    outcome = simulate(setting(requests, end_seconds=200.0), Scripted((10.0, 2, 1), (20.0, 3, 1)))
    assert outcome.first_token_seconds[2] == pytest.approx(50 - 12 + 1 + 0.01)


@pytest.mark.parametrize("fault", [Fault(at_seconds=5.0, lost_prefill=1), Fault(at_seconds=15.0, lost_decode=1)])
def test_a_lost_group_loses_time_and_no_request(fault: Fault) -> None:
    requests = traffic([0.0, 1.0], [10_000, 1000], [2000, 2000])
    whole = simulate(setting(requests), Scripted())
    broken = simulate(setting(requests, faults=[fault]), Scripted())
    ends = [np.array(run.first_token_seconds) + np.array(run.token_gap_seconds) for run in (whole, broken)]
    assert not np.isnan(ends[1]).any()
    assert (ends[1] >= ends[0]).all()
    assert ends[1].sum() > ends[0].sum()


def test_a_full_cache_holds_requests_back() -> None:
    cost = replace(COST, kv_cache_tokens=150, token_seconds=1e-9)
    outcome = simulate(setting(traffic([0.0, 0.0], [50, 50], [50, 50]), cost=cost), Scripted())
    assert outcome.first_token_seconds[1] == pytest.approx(50 * 0.01 + 0.01)


def test_equal_seeds_give_equal_runs() -> None:
    requests = poisson(2.0, 500, np.full(500, 300))
    first, second = (simulate(setting(requests), Scripted((10.0, 3, 3), (100.0, 1, 1))) for _ in range(2))
    assert first == second
