"""The fit of a cost model: what made the steps is found again."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from proa_workers.profile.drive import TimedStep
from proa_workers.profile.fit import Fit, fit, non_negative_least_squares
from proa_workers.sim.cost import CostModel, attended_pairs

COST = CostModel()


def made_by(cost: CostModel, noise: float) -> list[TimedStep]:
    draw = random.Random(0)
    steps = [
        TimedStep(decode_seqs=n, decode_context=n * context, seconds=0.0)
        for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        for context in (64, 256, 1024)
    ]
    steps += [
        TimedStep(prefill_tokens=tokens, prefill_pairs=attended_pairs(start, tokens), seconds=0.0)
        for tokens in (64, 256, 1024, 2048)
        for start in (0, 2048)
    ]
    return [replace(step, seconds=seconds_of(cost, step) * draw.uniform(1 - noise, 1 + noise)) for step in steps]


def seconds_of(cost: CostModel, step: TimedStep) -> float:
    return cost.step_seconds(
        prefill_tokens=step.prefill_tokens,
        prefill_pairs=step.prefill_pairs,
        decode_seqs=step.decode_seqs,
        decode_context=step.decode_context,
    )


def predicted(found: Fit, step: TimedStep) -> float:
    return seconds_of(replace(COST, **found.coefficients), step)


@pytest.mark.parametrize(("noise", "off"), [(0.0, 0.01), (0.05, 0.06)])
def test_what_made_the_steps_is_found_again(noise: float, off: float) -> None:
    found = fit(made_by(COST, noise))
    assert found.error <= off
    assert max(abs(predicted(found, s) / s.seconds - 1) for s in made_by(COST, 0.0)) < 3 * off
    assert found.coefficients["expert_share"] == pytest.approx(COST.expert_share, rel=0.4)


def test_a_dense_model_needs_no_experts() -> None:
    dense = replace(COST, expert_share=0.0, step_experts_seconds=0.0)
    assert fit(made_by(dense, 0.0)).error < 0.01


def test_steps_of_another_kind_of_machine_show_as_error() -> None:
    steps = [replace(s, seconds=0.01 if i % 2 else 0.1) for i, s in enumerate(made_by(COST, 0.0))]
    assert fit(steps).error > 0.3


def test_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="9 steps are too few"):
        fit(made_by(COST, 0.0)[:9])


@pytest.mark.parametrize("seed", range(5))
def test_least_squares_is_optimal(seed: int) -> None:
    """Karush-Kuhn-Tucker: no coefficient below 0, and the gradient is 0 where one is above, else not negative."""
    draw = np.random.default_rng(seed)
    columns, target = draw.normal(size=(40, 6)), draw.normal(size=40)
    columns[:, 3] = 0.0
    x = non_negative_least_squares(columns, target)
    gradient = columns.T @ (columns @ x - target)
    assert (x >= 0).all()
    assert np.abs(gradient[x > 0]).max(initial=0) < 1e-6
    assert gradient[x == 0].min(initial=0) > -1e-6
