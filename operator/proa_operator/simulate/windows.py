"""Times in which no reactive autoscaler can hold the objectives, found without looking at any autoscaler.

Over capacity: the traffic, and what it left behind, exceeds the largest pools. Start-up: a reference that is told the
true need, sizes for it at once, and gets the groups one start-up later is short of groups or still has a backlog.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from proa_operator.simulate.need import BIN_SECONDS, Need, smooth
from proa_operator.simulate.policies.policy import Targets
from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.traffic import Floats

Mask = npt.NDArray[np.bool_]
REACTION_SECONDS = 105.0  # a rate over 60 s shows a step in full, the up window of 30 s confirms it, one period acts
HOLD_SECONDS = 300.0  # the reference keeps groups that were needed this recently
TARGET_LOAD = 0.75  # what the reference loads its groups to
FULL_LOAD = 0.92  # from here on queues grow without bound in practice
DRAIN_SECONDS = 60.0  # in which the reference plans to work off a backlog
SMOOTH_BINS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which bins of BIN_SECONDS are not judged."""

    startup: Mask
    over_capacity: Mask


def windows_of(scenario: Scenario, need: Need, start: Targets) -> Windows:
    """Both kinds, over both pools. A fault that takes groups opens a start-up window too."""
    limits = scenario.limits
    lag = ceil((scenario.cost.startup_seconds + REACTION_SECONDS) / BIN_SECONDS)
    pools = (
        (smooth(need.prefill, SMOOTH_BINS), start.prefill, limits.max_prefill),
        (smooth(need.decode, SMOOTH_BINS), start.decode, limits.max_decode),
    )
    over = np.logical_or.reduce([_short(values, np.full(len(values), float(most))) for values, _, most in pools])
    late = np.logical_or.reduce([_late(values, first, most, lag) for values, first, most in pools])
    for fault in scenario.faults:
        if fault.lost_prefill or fault.lost_decode:
            first = int(fault.at_seconds / BIN_SECONDS)
            late[first : first + lag + ceil(DRAIN_SECONDS / BIN_SECONDS)] = True
    return Windows(startup=late & ~over, over_capacity=over)


def is_judged(scenario: Scenario, excluded: Mask) -> Mask:
    """Requests, [R], whose life at the limits of the SLO touches no excluded bin."""
    traffic, slo = scenario.traffic, scenario.slo
    life = slo.ttft_seconds + traffic.output_tokens * slo.itl_seconds
    before = np.concatenate([[0], np.cumsum(excluded)])
    first = np.minimum(traffic.arrival_seconds / BIN_SECONDS, len(excluded) - 1).astype(np.int64)
    last = np.minimum((traffic.arrival_seconds + life) / BIN_SECONDS, len(excluded) - 1).astype(np.int64)
    judged: Mask = before[last + 1] == before[first]
    return judged


def _short(need: Floats, groups: Floats) -> Mask:
    """Bins in which `groups` are too few, or work is left from such bins."""
    short = np.zeros(len(need), dtype=np.bool_)
    backlog = 0.0
    for bin_idx, (wanted, have) in enumerate(zip(need.tolist(), groups.tolist(), strict=True)):
        backlog = max(0.0, backlog + (wanted - FULL_LOAD * have) * BIN_SECONDS)
        short[bin_idx] = backlog > 0
    return short


def _late(need: Floats, start: int, most: int, lag: int) -> Mask:
    """As `_short`, for the groups of the reference, whose size follows need and backlog `lag` bins later."""
    hold = ceil(HOLD_SECONDS / BIN_SECONDS)
    short = np.zeros(len(need), dtype=np.bool_)
    wanted: list[float] = []
    backlog = 0.0
    for bin_idx, load in enumerate(need.tolist()):
        seen = wanted[max(0, bin_idx - lag - hold) : max(0, bin_idx - lag)]
        groups = min(most, ceil(max(seen))) if seen else start
        if bin_idx < lag + hold:
            groups = max(groups, start)
        backlog = max(0.0, backlog + (load - FULL_LOAD * groups) * BIN_SECONDS)
        short[bin_idx] = backlog > 0
        wanted.append(load / TARGET_LOAD + backlog / DRAIN_SECONDS)
    return short
