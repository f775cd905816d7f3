"""A clairvoyant autoscaler: a bound, not a baseline. It knows all arrivals and has the same limits as the others.

Groups start one start-up ahead of their need; a pool shrinks by one group or a quarter in each 120 s; minimum and
maximum hold. Of a family of plans (the need times a factor for each pool) the cheapest that holds the SLO is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from proa_operator.simulate.need import BIN_SECONDS, Need, smooth
from proa_operator.simulate.observe import Observation
from proa_operator.simulate.policies.policy import Limits, Targets
from proa_operator.simulate.traffic import Floats, Ints

FACTORS = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.65, 1.8, 2.0, 2.3, 2.7)
DOWN_SECONDS = 120.0
DOWN_SHARE = 0.25
SMOOTH_BINS = 7


@dataclass(slots=True, kw_only=True)
class Oracle:
    """Replays a plan: targets for each bin."""

    prefill: Ints
    decode: Ints
    name: str = "oracle"
    period_seconds: float = BIN_SECONDS
    window_seconds: float = BIN_SECONDS

    def decide(self, observation: Observation) -> Targets:
        bin_idx = min(int(observation.now / BIN_SECONDS + 0.5), len(self.prefill) - 1)
        return Targets(prefill=int(self.prefill[bin_idx]), decode=int(self.decode[bin_idx]))


def planned(need: Need, startup_seconds: float, limits: Limits, prefill_factor: float, decode_factor: float) -> Oracle:
    """The plan that sizes each pool for its need times a factor."""
    lead = ceil(startup_seconds / BIN_SECONDS)
    prefill = np.ceil(smooth(need.prefill, SMOOTH_BINS) * prefill_factor)
    decode = np.ceil(smooth(need.decode, SMOOTH_BINS) * decode_factor)
    return Oracle(
        prefill=_targets(prefill, limits.min_prefill, limits.max_prefill, lead),
        decode=_targets(decode, limits.min_decode, limits.max_decode, lead),
    )


def best_plan(need: Need, startup_seconds: float, limits: Limits, is_enough: Callable[[Oracle], bool]) -> Oracle:
    """The smallest factor of each pool with which `is_enough` holds; prefill first, beside ample decode groups.

    When no plan is enough, the largest one.
    """

    def smallest(make: Callable[[float], Oracle]) -> float:
        low, high = 0, len(FACTORS) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(make(FACTORS[middle])) else (middle + 1, high)
        return FACTORS[low]

    ample = FACTORS[-1]
    decode = smallest(lambda factor: planned(need, startup_seconds, limits, ample, factor))
    prefill = smallest(lambda factor: planned(need, startup_seconds, limits, factor, decode))
    return planned(need, startup_seconds, limits, prefill, decode)


def _targets(wanted: Floats, least: int, most: int, lead: int) -> Ints:
    """Groups to ask for, [bins]: what is wanted from now until a start-up later, with slow steps down."""
    ahead = np.lib.stride_tricks.sliding_window_view(np.pad(wanted, (0, lead), mode="edge"), lead + 1).max(axis=1)
    targets: Ints = np.clip(ahead, least, most).astype(np.int64)
    pause = round(DOWN_SECONDS / BIN_SECONDS)
    last_down = -pause
    for bin_idx in range(1, len(targets)):
        now = int(targets[bin_idx - 1])
        if targets[bin_idx] >= now:
            continue
        if bin_idx - last_down < pause:
            targets[bin_idx] = now
        else:
            targets[bin_idx] = max(int(targets[bin_idx]), now - max(1, int(now * DOWN_SHARE)))
            last_down = bin_idx
    return targets
