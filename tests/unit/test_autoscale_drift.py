"""What counts as a rise or a fall of the load, and how far it is carried on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from proa_operator.autoscale.drift import drift_of
from proa_operator.autoscale.outlook import outlook_of
from proa_operator.autoscale.steady import Sample

from tests.unit.autoscale_cases import LENGTHS, config, signals

WINDOW = 60.0


def samples(rates: Sequence[float]) -> tuple[Sample, ...]:
    """One a minute."""
    return tuple(Sample(at=WINDOW * idx, rate=rate, prompt=1000.0, output=100.0) for idx, rate in enumerate(rates))


@pytest.mark.parametrize(
    ("rates", "lowest", "highest"),
    [
        ([4.0 + 0.4 * idx for idx in range(10)], 1.19, 1.21),  # 0.4 a minute: 0.2 since the newest's middle, 1 ahead
        ([8.0 - 0.4 * idx for idx in range(10)], -0.21, -0.19),  # a fall is not carried on
        ([8.0 - 0.1 * idx for idx in range(10)], -0.06, -0.04),
        ([4.0] * 5 + [8.0] * 5, 0.0, 0.0),  # a step is no line, wherever it is
        ([4.0] * 3 + [8.0] * 7, 0.0, 0.0),
        ([4.0] * 5 + [6.0] + [8.0] * 5, 0.0, 0.0),  # seen half by the sample between
        ([4.0] * 9 + [8.0], 0.0, 0.0),
        ([8.0] * 5 + [4.0] * 5, 0.0, 0.0),
        ([4.0 + 0.01 * idx for idx in range(10)], 0.0, 0.0),  # less than noise
        ([1.0, 2.0, 3.0], 0.0, 0.0),  # too few
        ([0.0] * 10, 0.0, 0.0),
    ],
)
def test_a_line_drifts_and_a_step_does_not(rates: list[float], lowest: float, highest: float) -> None:
    """Beyond the newest rate, 150 s ahead."""
    assert lowest <= drift_of(samples(rates), rates[-1], 150.0, WINDOW) <= highest


def test_a_line_that_bends_back_is_carried_on_no_further_than_its_newer_half() -> None:
    bent = [4.0, 4.6, 5.2, 5.8, 6.4, 7.0, 7.05, 7.0, 7.05, 7.0]
    straight = [2.7 + 0.5 * idx for idx in range(10)]
    for rates, lowest, highest in ((bent, 0.1, 0.8), (straight, 1.4, 1.6)):
        assert lowest <= drift_of(samples(rates), rates[-1], 150.0, WINDOW) <= highest


def test_poisson_arrivals_on_a_ramp_are_seen_to_rise_and_steady_ones_are_not() -> None:
    rng = np.random.default_rng(11)
    rising = 6.0 + 0.4 * np.arange(11)
    steady = np.full(11, 8.0)
    shares = []
    for rates in (rising, steady):
        drawn = [rng.poisson(rates * WINDOW) / WINDOW for _ in range(200)]
        shares.append(np.mean([drift_of(samples(rate.tolist()), rates[-1], 90.0, WINDOW) != 0.0 for rate in drawn]))
    assert shares[0] > 0.95
    assert shares[1] < 0.1


def test_growth_in_a_rise_is_sure() -> None:
    settings = config()
    rising = outlook_of(samples([4.0 + 0.5 * idx for idx in range(10)]), signals(600.0, 9.0), LENGTHS, settings)
    steady = outlook_of(samples([8.0] * 10), signals(600.0, 8.0), LENGTHS, settings)
    assert rising.surely.requests_per_second == rising.demand.requests_per_second > 9.0
    assert steady.surely.requests_per_second < steady.demand.requests_per_second


def test_what_a_falling_pool_has_to_bear_is_the_load_of_now() -> None:
    falling = outlook_of(samples([10.0 - 0.4 * idx for idx in range(10)]), signals(600.0, 6.0), LENGTHS, config())
    assert 5.5 <= falling.demand.requests_per_second <= 6.2
    assert falling.demand.requests_per_second <= falling.lasting.requests_per_second <= 6.8
