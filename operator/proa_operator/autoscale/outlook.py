"""The load to plan for, from the load that was seen: without noise, carried on when it rises, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proa_operator.autoscale.config import Config
from proa_operator.autoscale.demand import Demand, demand_of
from proa_operator.autoscale.drift import drift_of
from proa_operator.autoscale.signals import Signals
from proa_operator.autoscale.steady import Lengths, Sample, apart_of, kept_samples, sample_of, steady_of

_MOST_AHEAD_SECONDS = 300.0
_UP_ERRORS, _DOWN_ERRORS = 1.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Three demands of one moment."""

    samples: tuple[Sample, ...]
    """What the next outlook needs of the past."""
    demand: Demand
    """Forecast and backlog."""
    surely: Demand
    """The same, less the error of the estimate unless it rises: what grows a pool at once."""
    lasting: Demand
    """Without the backlog, and an error more: what a pool that shrinks has to bear."""


def outlook_of(before: Sequence[Sample], signals: Signals, lengths: Lengths, config: Config) -> Outlook:
    """`before`: samples of the last outlook; `lengths`: those of now, with weights that sum to 1."""
    period, spans = config.policy.period_seconds, config.spans
    samples = kept_samples(before, sample_of(signals.now, signals.arrivals_per_second, lengths), period, spans)
    apart = apart_of(samples, period, spans)
    steady = steady_of(apart, lengths, spans)
    startup = max(config.prefill.startup, config.decode.startup)
    ahead = min(startup + period, _MOST_AHEAD_SECONDS)
    drift = drift_of(apart, steady.rate, ahead, spans.arrivals)
    forecast = max(0.0, steady.rate + drift)
    demand = demand_of(signals, forecast, steady.lengths, config)
    unsure = 0.0 if drift > 0.0 else steady.error * steady.rate  # a rise makes up for the error within a minute
    least = demand.requests_per_second - _UP_ERRORS * unsure
    return Outlook(
        samples=samples,
        demand=demand,
        surely=replace(demand, requests_per_second=max(0.0, least)),
        lasting=replace(demand, requests_per_second=forecast * (1.0 + _DOWN_ERRORS * steady.error)),
    )
