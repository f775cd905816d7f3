"""What counts as noise, and what as a step or a ramp of the load."""

from __future__ import annotations

import numpy as np
import pytest
from proa_operator.autoscale.demand import rise_of
from proa_operator.autoscale.signals import LengthBucket
from proa_operator.autoscale.steady import Sample, rate_error, sample_of, steady_of

PERIOD = 15.0
LENGTHS = (
    LengthBucket(prompt_tokens=1000.0, output_tokens=100.0, weight=0.5),
    LengthBucket(prompt_tokens=3000.0, output_tokens=300.0, weight=0.5),
)


def samples(rates: list[float]) -> tuple[Sample, ...]:
    return tuple(sample_of(PERIOD * idx, rate, LENGTHS) for idx, rate in enumerate(rates))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([8.0], 8.0),
        ([7.8, 8.2, 8.1, 7.9], 8.0),  # within chance of the newest: the mean of all
        ([4.0, 4.0, 4.0, 8.0], 8.0),  # a step: the newest alone
        ([4.0, 4.0, 8.2, 7.8], 8.0),  # and what followed it
        ([8.0, 8.0, 4.0], 4.0),
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_the_rate_is_a_mean_as_far_back_as_chance_explains(rates: list[float], expected: float) -> None:
    assert steady_of(samples(rates), LENGTHS, PERIOD).rate == pytest.approx(expected)


def test_noise_of_poisson_arrivals_is_damped() -> None:
    drawn = np.random.default_rng(3).poisson(8.0 * 60, 2000) / 60
    steady = [
        steady_of(samples(drawn[end - 20 : end].tolist()), LENGTHS, PERIOD).rate for end in range(20, len(drawn), 20)
    ]
    assert np.mean(steady) == pytest.approx(8.0, rel=0.01)
    assert np.std(steady) < 0.5 * np.std(drawn)


def test_lengths_are_stretched_to_their_own_mean() -> None:
    before = Sample(at=0.0, rate=8.0, prompt=2040.0, output=200.0)
    steady = steady_of((before, *samples([8.0])), LENGTHS, PERIOD)
    assert [bucket.prompt_tokens for bucket in steady.lengths] == pytest.approx([1010.0, 3030.0])
    changed = Sample(at=0.0, rate=8.0, prompt=4000.0, output=200.0)
    assert steady_of((changed, *samples([8.0])), LENGTHS, PERIOD).lengths == LENGTHS


@pytest.mark.parametrize(
    ("rates", "lowest", "highest"),
    [
        ([4.0 + 0.1 * idx for idx in range(20)], 0.9, 1.1),  # 0.1 in 15 s, over 150 s
        ([4.0] * 12 + [8.0] * 8, 0.0, 0.0),  # a step rises in one half
        ([4.0] * 5 + [8.0] * 15, 0.0, 0.0),
        ([8.0 - 0.1 * idx for idx in range(20)], 0.0, 0.0),
        ([4.0 + 0.01 * idx for idx in range(20)], 0.0, 0.0),  # less than noise
        ([1.0, 2.0, 3.0], 0.0, 0.0),  # too few
    ],
)
def test_only_a_ramp_rises(rates: list[float], lowest: float, highest: float) -> None:
    assert lowest <= rise_of(samples(rates), 150.0, PERIOD) <= highest


def test_error_of_a_rate_is_that_of_a_count() -> None:
    assert rate_error(15.0, 15.0) == pytest.approx(0.5)  # 900 in a minute, give or take 30
    assert rate_error(0.0, 15.0) == pytest.approx(1 / 60)
