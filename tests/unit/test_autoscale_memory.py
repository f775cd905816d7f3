"""A memory that fits into an annotation, whatever the windows, and still decides as the whole one would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from proa_operator.autoscale import decide as deciding
from proa_operator.autoscale.config import Config, Policy
from proa_operator.autoscale.memory import MOST_EXACT, Memory, Wish, from_text, remembered, to_text
from proa_operator.autoscale.signals import Spans

from tests.unit.autoscale_cases import config, run, sizes, wish_of

START = 1_764_000_000.25
Wishes = tuple[Wish, ...]


def paced(period: float, up: float, down: float) -> Config:
    base = config()
    policy = replace(base.policy, period_seconds=period, up_window_seconds=up, down_window_seconds=down)
    spans = Spans(arrivals=4.0 * period, lengths=4.0 * period)
    return replace(base, policy=policy, spans=spans)


def whole(before: Sequence[Wish], wish: Wish, policy: Policy) -> Wishes:
    """The window without thinning."""
    return (*(old for old in before if wish.at - policy.down_window_seconds < old.at < wish.at), wish)


def drawn(period: float, num_wishes: int) -> Iterator[Wish]:
    """Random wishes, at times with jitter."""
    rng = np.random.default_rng(7)
    times = START + period * (np.arange(num_wishes) + 0.2 * rng.random(num_wishes))
    for at, numbers in zip(times.tolist(), rng.integers(1, 1000, (num_wishes, 6)).tolist(), strict=True):
        yield wish_of(at, *numbers)


def both(policy: Policy, num_wishes: int) -> Iterator[tuple[Wishes, Wishes]]:
    """Thinned and whole windows of the same wishes."""
    thinned: Wishes = ()
    every: Wishes = ()
    for wish in drawn(policy.period_seconds, num_wishes):
        thinned, every = remembered(thinned, wish, policy), whole(every, wish, policy)
        yield thinned, every


@pytest.mark.parametrize(("up", "down"), [(30.0, 86_400.0), (43_200.0, 86_400.0)])
def test_a_day_of_wishes_fits_into_an_annotation(up: float, down: float) -> None:
    policy = paced(5.0, up, down).policy
    wishes: Wishes = ()
    most: Wishes = ()
    for wish in drawn(policy.period_seconds, 18_000):
        wishes = remembered(wishes, wish, policy)
        most = max(most, wishes, key=len)
    assert len(most) <= 2 * MOST_EXACT + 3
    known = run([3.0] * 30, config())[-1].memory
    text = to_text(replace(known, wishes=most))
    assert len(text) < 64 * 1024
    assert from_text(text).wishes == most


@pytest.mark.parametrize(("period", "up", "down"), [(15.0, 30.0, 300.0), (5.0, 60.0, 540.0), (5.0, 450.0, 900.0)])
def test_a_window_that_fits_is_kept_whole(period: float, up: float, down: float) -> None:
    assert all(thinned == every for thinned, every in both(paced(period, up, down).policy, 400))


def test_a_thinned_window_is_at_most_a_slot_slower_and_never_hastier() -> None:
    policy = paced(5.0, 60.0, 7200.0).policy
    slot = policy.down_window_seconds / MOST_EXACT
    seen: list[Wish] = []
    for thinned, every in both(policy, 2500):
        seen.append(every[-1])
        now = every[-1].at
        up = [wish for wish in thinned if wish.at > now - policy.up_window_seconds]
        assert up == [wish for wish in every if wish.at > now - policy.up_window_seconds]
        slower = [wish for wish in seen[-1600:] if wish.at > now - policy.down_window_seconds - slot]
        for name in ("prefill", "decode", "roomy_prefill", "roomy_decode"):
            most, least, highest = (max(getattr(wish, name) for wish in wishes) for wishes in (thinned, every, slower))
            assert least <= most <= highest


def test_a_long_up_window_takes_the_least_need_of_each_slot() -> None:
    policy = paced(5.0, 3600.0, 7200.0).policy
    for thinned, every in both(policy, 2000):
        now = every[-1].at
        kept, exact = (
            min(wish.prefill for wish in wishes if wish.at > now - policy.up_window_seconds)
            for wishes in (thinned, every)
        )
        assert kept <= exact


@pytest.mark.parametrize(("period", "up", "down"), [(15.0, 30.0, 300.0), (5.0, 15.0, 450.0)])
def test_decisions_are_those_of_the_whole_window(
    period: float, up: float, down: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(11)
    rates = np.repeat(rng.uniform(0.5, 25.0, 12), 25) * rng.uniform(0.9, 1.1, 300)
    thinned = sizes(run(rates.tolist(), paced(period, up, down), memory=Memory()))
    monkeypatch.setattr(deciding, "remembered", whole)
    assert thinned == sizes(run(rates.tolist(), paced(period, up, down), memory=Memory()))
    assert len(set(thinned)) >= 5


def test_a_clock_that_was_set_back_leaves_no_wishes_of_the_future() -> None:
    policy = paced(15.0, 30.0, 300.0).policy
    wishes = [wish_of(at, 1, 1, 1, 1, 1, 1) for at in (0.0, 15.0, 30.0)]
    assert remembered(wishes, replace(wishes[0], at=15.0), policy) == (wishes[0], wishes[1])
