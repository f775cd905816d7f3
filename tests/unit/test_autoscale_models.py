"""The models learn how fast the groups are, and do not learn from what tells nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from proa_operator.autoscale.cost import decode_seconds, fixed_seconds
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel, mean_prompt_seconds, prior, update
from proa_operator.autoscale.signals import PoolSignals, Signals

from tests.unit.autoscale_cases import LENGTHS, SPEED, config, signals

DEMAND = Demand(requests_per_second=4.0, hit_rate=0.0, lengths=LENGTHS)


def seen(work: float, noise: float = 0.0, running: float = 12.0, **changes: Any) -> Signals:
    """Of groups whose work takes `work` times what the profile says."""
    decode = work * decode_seconds(SPEED, running, DEMAND.mean_context) + fixed_seconds(SPEED, running)
    prefill = work * mean_prompt_seconds(SPEED, DEMAND) + fixed_seconds(SPEED, 1000.0)
    base = signals(0.0, 2.0)
    base = replace(base, decode=PoolSignals(desired=1, ready=1, running=running))
    base = replace(base, itl_mean=decode * (1 + noise), prefill_mean=prefill * (1 + noise))
    return replace(base, **changes)


def learned(work: float, steps: int = 60, **changes: Any) -> GroupModel:
    rng, model, settings = random.Random(7), prior(config()), config()
    for _ in range(steps):
        noise, running = rng.gauss(0.0, 0.02), rng.uniform(4.0, 30.0)
        model = update(model, seen(work, noise, running, **changes), DEMAND, settings)
    return model


@pytest.mark.parametrize("work", [0.7, 1.0, 1.5])
def test_the_true_speed_is_found(work: float) -> None:
    model = learned(work)
    assert model.decode.work == pytest.approx(work, rel=0.1)
    assert model.prefill.work == pytest.approx(work, rel=0.15)


def test_ratios_stay_within_half_and_twice_the_profile() -> None:
    slow, fast = learned(6.0, steps=100), learned(0.1, steps=100)
    assert slow.decode.work <= 2.0
    assert slow.decode.fixed <= 2.0
    assert fast.prefill.work >= 0.5


def test_one_wild_measurement_is_left_out_and_a_change_of_speed_is_not() -> None:
    model, settings = learned(1.0), config()
    once = update(model, seen(1.9), DEMAND, settings)
    assert once.decode.work == model.decode.work
    assert once.decode.rejected == 1
    back = update(once, seen(1.0), DEMAND, settings)
    assert back.decode.rejected == 0
    for _ in range(40):
        back = update(back, seen(1.9), DEMAND, settings)
    step = back.decode.fixed * fixed_seconds(SPEED, 12.0) + back.decode.work * decode_seconds(SPEED, 12.0, 0.0)
    assert step == pytest.approx(seen(1.9).itl_mean, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_rolling": True},
        {"missing": ("x",)},
        {"itl_mean": None, "prefill_mean": None},
        {"decode": PoolSignals(desired=2, ready=1, starting=1, running=9.0), "prefill_mean": None},
        {"decode": PoolSignals(desired=1, ready=1, running=0.5), "arrivals_per_second": 0.2},
    ],
    ids=["rollout", "missing", "nothing seen", "starting", "idle"],
)
def test_what_tells_nothing_changes_nothing(changes: dict[str, Any]) -> None:
    assert update(GroupModel(), seen(1.5, **changes), DEMAND, config()) == GroupModel()


def test_without_a_profile_the_models_go_where_the_measurements_are() -> None:
    settings = replace(config(), has_profile=False)
    model, rng = prior(settings), random.Random(3)
    for _ in range(60):
        model = update(model, seen(6.0, rng.gauss(0, 0.02), rng.uniform(4.0, 30.0)), DEMAND, settings)
    assert model.decode.work == pytest.approx(6.0, rel=0.15)
    assert model.decode.samples >= settings.policy.min_samples


def test_a_slow_wire_is_found_whatever_the_load() -> None:
    settings = config()
    for load in (0.2, 2.0):
        size, per_second = 1e8, 10e9 / 4
        alone = size / per_second
        mean = alone / (1 - load * alone) + SPEED.transfer_latency
        one = signals(0.0, load, transfers_per_second=load, transfer_bytes=load * size, transfer_seconds=load * mean)
        model = GroupModel()
        for _ in range(30):
            model = update(model, one, DEMAND, settings)
        assert model.wire == pytest.approx(0.25, rel=0.02)
