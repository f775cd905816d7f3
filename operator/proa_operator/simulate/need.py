"""How many groups the traffic needs at each moment, without any autoscaler: a fluid, cut into bins of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.traffic import Floats, Ints

BIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Groups that are busy all the time, [bins] of BIN_SECONDS; fractions of groups."""

    prefill: Floats
    decode: Floats


def need_of(scenario: Scenario) -> Need:
    """Prefill: seconds of work that arrive a second. Decode: sequences that would run, over the largest batch.

    A decoding sequence is taken to last its output tokens at the ITL of the SLO.
    """
    traffic, cost = scenario.traffic, scenario.cost
    num_bins = int(np.ceil(scenario.end_seconds / BIN_SECONDS))
    requests = zip(traffic.prompt_tokens.tolist(), traffic.cached_tokens.tolist(), strict=True)
    work = np.array([cost.prefill_seconds(cost.own_seconds(*pair), pair[0] - pair[1]) for pair in requests])
    start = traffic.arrival_seconds + work
    stop = start + traffic.output_tokens * scenario.slo.itl_seconds
    arrived = np.bincount(_bins(traffic.arrival_seconds, num_bins), weights=work, minlength=num_bins)
    changes = np.bincount(_bins(start, num_bins), minlength=num_bins).astype(np.float64)
    changes -= np.bincount(_bins(stop, num_bins), minlength=num_bins)
    running = np.cumsum(changes)
    return Need(prefill=arrived[:num_bins] / BIN_SECONDS, decode=running[:num_bins] / scenario.best_batch)


def smooth(values: Floats, num_bins: int) -> Floats:
    """Mean over `num_bins` bins around each bin; fewer at the ends."""
    kernel = np.ones(num_bins)
    total = np.convolve(values, kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def _bins(seconds: Floats, num_bins: int) -> Ints:
    return np.minimum(seconds / BIN_SECONDS, num_bins - 1).astype(np.int64)
