"""What counts as noise, and what as a step of the load."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from proa_operator.autoscale.outlook import Outlook, outlook_of
from proa_operator.autoscale.signals import LengthBucket, Spans
from proa_operator.autoscale.steady import (
    MOST_SAMPLES,
    PERIODS_APART,
    Sample,
    apart_of,
    kept_samples,
    rate_error,
    sample_of,
    steady_of,
)

from tests.unit.autoscale_cases import config, signals

PERIOD = 15.0
WINDOW = 60.0
SPANS = Spans(arrivals=WINDOW, lengths=WINDOW)
LENGTHS = (
    LengthBucket(prompt_tokens=1000.0, output_tokens=100.0, weight=0.5),
    LengthBucket(prompt_tokens=3000.0, output_tokens=300.0, weight=0.5),
)


def samples(rates: list[float]) -> tuple[Sample, ...]:
    """One after the other, as long as each is a mean of."""
    return tuple(sample_of(WINDOW * idx, rate, LENGTHS) for idx, rate in enumerate(rates))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([8.0], 8.0),
        ([7.8, 8.2, 8.1, 7.9], 8.0),  # chance explains it: the mean of all
        ([4.0, 4.0, 4.0, 8.0], 8.0),  # a step: the newest alone
        ([4.0, 4.0, 8.2, 7.8], 8.0),  # and what followed it
        ([8.0, 8.0, 4.0], 4.0),
        ([7.2] * 5 + [8.0] * 5, 8.0),  # a small one, once enough samples tell
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_the_rate_is_a_mean_as_far_back_as_chance_explains(rates: list[float], expected: float) -> None:
    assert steady_of(samples(rates), LENGTHS, SPANS).rate == pytest.approx(expected, rel=0.02)


def test_noise_of_poisson_arrivals_is_damped_as_far_as_the_error_says() -> None:
    drawn = np.random.default_rng(3).poisson(8.0 * WINDOW, 3300) / WINDOW
    ends = range(MOST_SAMPLES, len(drawn), MOST_SAMPLES)
    found = [steady_of(samples(drawn[end - MOST_SAMPLES : end].tolist()), LENGTHS, SPANS) for end in ends]
    assert np.mean([steady.rate for steady in found]) == pytest.approx(8.0, rel=0.01)
    assert np.std([steady.rate for steady in found]) < 0.5 * np.std(drawn)
    of_prompts = 1000.0 / 2000.0 / np.sqrt(8.0 * WINDOW * MOST_SAMPLES)
    of_rates = 1.0 / np.sqrt(8.0 * WINDOW * MOST_SAMPLES)
    assert np.median([steady.error for steady in found]) == pytest.approx(np.hypot(of_prompts, of_rates), rel=0.2)


def test_what_is_remembered_does_not_overlap_but_for_the_newest() -> None:
    kept: tuple[Sample, ...] = ()
    for idx in range(200):
        kept = kept_samples(kept, sample_of(PERIOD * idx, 8.0, LENGTHS), PERIOD, SPANS)
    apart = apart_of(kept, PERIOD, SPANS)
    assert apart[-1].at == PERIOD * 199
    assert len(apart) == MOST_SAMPLES
    assert all(later.at - earlier.at >= WINDOW for earlier, later in pairwise(apart))
    assert len(kept) < len(apart) + PERIODS_APART
    assert apart[-1].at - apart[0].at < (MOST_SAMPLES + 0.5) * WINDOW


@pytest.mark.parametrize("period", [1.0, 5.0, 15.0, 30.0, 40.0, 60.0])
def test_no_two_samples_hold_the_same_requests(period: float) -> None:
    """Whatever the period is, beside a window of 45 s: five seconds apart, each would be counted nine times."""
    spans = Spans(arrivals=20.0, lengths=45.0)
    kept: tuple[Sample, ...] = ()
    for idx in range(800):
        kept = kept_samples(kept, sample_of(period * idx, 8.0, LENGTHS), period, spans)
    apart = apart_of(kept, period, spans)
    assert len(apart) == MOST_SAMPLES
    assert all(later.at - earlier.at >= 45.0 for earlier, later in pairwise(apart))


def outlooks(rates: list[float], period: float, spans: Spans) -> list[Outlook]:
    """One each `period`, for a load of two lengths."""
    settings = config(spans=spans)
    settings = replace(settings, policy=replace(settings.policy, period_seconds=period))
    found: list[Outlook] = []
    for idx, rate in enumerate(rates):
        before = found[-1].samples if found else ()
        found.append(outlook_of(before, signals(period * idx, rate), LENGTHS, settings))
    return found


@pytest.mark.parametrize("period", [5.0, 15.0, 60.0])
def test_the_error_is_that_of_the_window_whatever_the_period_is(period: float) -> None:
    """8 requests a second for 45 s: 360 of them, half of 1000 and half of 3000 tokens."""
    one = outlooks([8.0], period, Spans(arrivals=45.0, lengths=45.0))[0]
    error = 1.0 - one.surely.requests_per_second / 8.0
    assert error == pytest.approx(np.hypot(1.0, 0.5) / np.sqrt(360.0))
    assert one.lasting.requests_per_second / 8.0 - 1.0 == pytest.approx(error)


def test_arrivals_and_lengths_have_windows_of_their_own() -> None:
    one = outlooks([8.0], 15.0, Spans(arrivals=15.0, lengths=60.0))[0]
    assert 1.0 - one.surely.requests_per_second / 8.0 == pytest.approx(np.hypot(1 / np.sqrt(120), 0.5 / np.sqrt(480)))


def test_noise_is_not_taken_for_a_change_at_a_long_period() -> None:
    """A minute between decisions of a load that never changes, 45 s of arrivals in each."""
    rates = (np.random.default_rng(7).poisson(8.0 * 45.0, 800) / 45.0).tolist()
    found = outlooks(rates, 60.0, Spans(arrivals=45.0, lengths=45.0))[60:]
    needed = [outlook.lasting.requests_per_second - outlook.demand.requests_per_second for outlook in found]
    off = [abs(outlook.demand.requests_per_second - 8.0) for outlook in found]
    assert np.mean([error <= 2.0 * room for error, room in zip(off, needed, strict=True)]) > 0.85
    assert np.sqrt(np.mean(np.square(off))) < 0.3  # of one rate: 0.42


def test_a_clock_that_was_set_back_leaves_no_samples_of_the_future() -> None:
    kept = kept_samples(samples([8.0] * 5), sample_of(WINDOW, 8.0, LENGTHS), PERIOD, SPANS)
    assert [sample.at for sample in kept] == [0.0, WINDOW]


def test_lengths_are_stretched_to_their_own_mean() -> None:
    before = Sample(at=-WINDOW, rate=8.0, prompt=2040.0, output=200.0)
    steady = steady_of((before, *samples([8.0])), LENGTHS, SPANS)
    assert [bucket.prompt_tokens for bucket in steady.lengths] == pytest.approx([1010.0, 3030.0])
    changed = Sample(at=-WINDOW, rate=8.0, prompt=4000.0, output=200.0)
    assert steady_of((changed, *samples([8.0])), LENGTHS, SPANS).lengths == LENGTHS


def test_error_of_a_rate_is_that_of_a_count() -> None:
    assert rate_error(15.0, 60.0) == pytest.approx(0.5)  # 900 in a minute, give or take 30
    assert rate_error(0.0, 60.0) == pytest.approx(1 / 60)
