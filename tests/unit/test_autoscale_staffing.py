"""Decode groups for a load, against the exact law of sequences that share the groups."""

from __future__ import annotations

import math

import pytest
from proa_operator.autoscale.decode import Answers, Batch, answers_of, largest_batch, least_decode, least_staffed
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.signals import LengthBucket

from tests.unit.autoscale_cases import SPEED

LENGTHS = (LengthBucket(prompt_tokens=1000.0, output_tokens=200.0, weight=1.0),)
SPREAD = 1.645


def answers(rate: float) -> Answers:
    demand = Demand(requests_per_second=rate, hit_rate=0.0, lengths=LENGTHS)
    return answers_of(demand, GroupModel(), SPEED)


def share_above(load: Answers, batch: Batch, num_groups: int) -> float:
    """P(more sequences than full batches): those of M/G/PS with phi(n) = n / tau(n / groups), product form."""
    most, weight, weights = batch.num_seqs * num_groups, 0.0, [0.0]
    for num_seqs in range(1, 4 * most):
        weight += math.log(load.tokens_per_second * load.step(max(1.0, num_seqs / num_groups)) / num_seqs)
        weights.append(weight)
    peak = max(weights)
    shares = [math.exp(each - peak) for each in weights]
    return sum(shares[most + 1 :]) / sum(shares)


@pytest.mark.parametrize("rate", [1.5, 4.0, 9.0, 21.0, 60.0])
def test_so_many_groups_keep_the_batches_and_one_less_does_not(rate: float) -> None:
    load = answers(rate)
    batch = largest_batch(load, 0.05)
    num_groups = least_staffed(load, batch, SPREAD)
    assert share_above(load, batch, num_groups) < 0.065
    assert num_groups == 1 or share_above(load, batch, num_groups - 1) > 0.035
    assert num_groups <= least_decode(load, batch, SPREAD)


def test_the_batches_keep_at_any_rate() -> None:
    """Staffed as for a Poisson number, 14 % of the time would be above at some of these rates."""
    for rate in range(2, 61):
        load = answers(float(rate))
        batch = largest_batch(load, 0.05)
        assert share_above(load, batch, least_staffed(load, batch, SPREAD)) < 0.06


def test_without_spread_the_batches_are_full() -> None:
    load = answers(9.0)
    batch = largest_batch(load, 0.05)
    capacity = batch.num_seqs / load.step(batch.num_seqs)
    assert least_staffed(load, batch, 0.0) == math.ceil(load.tokens_per_second / capacity)
