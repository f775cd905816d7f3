"""What the clients ask for: a rate, the backlog in it, and the moments of the lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from proa_operator.autoscale.config import Config
from proa_operator.autoscale.signals import LengthBucket, Signals
from proa_operator.autoscale.steady import Sample, rate_error

_SURE_ERRORS = 2.0
_USUAL_SHARE = 0.5
"""Of the TTFT objective: prompts that wait no longer are a queue, and no backlog."""
TYPICAL = (LengthBucket(prompt_tokens=512.0, output_tokens=128.0, weight=1.0),)
"""Lengths where no request has been seen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """All that the solver needs to know of the load."""

    requests_per_second: float
    """Forecast, and the backlog spread over the time in which it has to be gone."""
    hit_rate: float
    lengths: tuple[LengthBucket, ...]
    """Weights sum to 1."""

    @property
    def mean_prompt(self) -> float:
        """Tokens."""
        return sum(bucket.weight * bucket.prompt_tokens for bucket in self.lengths)

    @property
    def mean_output(self) -> float:
        """Tokens."""
        return sum(bucket.weight * bucket.output_tokens for bucket in self.lengths)

    @property
    def mean_context(self) -> float:
        """Tokens of the context of a decoding sequence, at a random step: long outputs are there longer."""
        by_step = sum(
            bucket.weight * bucket.output_tokens * (bucket.prompt_tokens + bucket.output_tokens / 2.0)
            for bucket in self.lengths
        )
        return by_step / self.mean_output


def normalised(histogram: tuple[LengthBucket, ...]) -> tuple[LengthBucket, ...]:
    """Weights that sum to 1; lengths of at least one token. Without a request, typical ones."""
    total = sum(bucket.weight for bucket in histogram)
    if total <= 0.0:
        return TYPICAL
    return tuple(
        LengthBucket(
            prompt_tokens=max(1.0, bucket.prompt_tokens),
            output_tokens=max(1.0, bucket.output_tokens),
            weight=bucket.weight / total,
        )
        for bucket in histogram
        if bucket.weight > 0.0
    )


def demand_of(signals: Signals, forecast: float, lengths: tuple[LengthBucket, ...], config: Config) -> Demand:
    """The backlog counts as requests of mean length that arrive within the drain time.

    So saturation shows although completions, and with them all output-side rates, stay at the capacity.
    """
    mean_prompt = sum(bucket.weight * bucket.prompt_tokens for bucket in lengths)
    usual = forecast * mean_prompt * config.slo.ttft_seconds * _USUAL_SHARE
    startup = max(config.prefill.startup, config.decode.startup)
    drain = max(config.policy.drain_seconds, 2.0 * config.slo.ttft_seconds, config.policy.drain_startups * startup)
    backlog = (signals.backlog_tokens - usual) / mean_prompt / drain
    return Demand(
        requests_per_second=max(0.0, forecast) + max(0.0, backlog),
        hit_rate=min(1.0, max(0.0, signals.hit_rate)),
        lengths=lengths,
    )


def rise_of(samples: tuple[Sample, ...], steady_rate: float, ahead_seconds: float, span_seconds: float) -> float:
    """Requests per second that the rate will have risen above `steady_rate` when it goes on rising; else 0.

    It rises when both halves of the past say so; a step rises in one half only, so the slower half is taken. A slope of
    less than 2 standard errors is noise. Never below 0: shrinking has windows of its own. `samples` do not overlap;
    each is a mean over `span_seconds`.
    """
    middle = len(samples) // 2
    if middle < 3:
        return 0.0
    newest = samples[-middle:]
    slope = min(_slope(part) for part in (samples, samples[:middle], newest))
    error = rate_error(samples[-1].rate, span_seconds) / math.sqrt(_spread(samples))
    if slope <= 0.0 or _slope(samples) < _SURE_ERRORS * error:
        return 0.0
    age = samples[-1].at - sum(sample.at for sample in newest) / middle + span_seconds / 2.0
    level = sum(sample.rate for sample in newest) / middle + slope * age
    return max(0.0, level - steady_rate) + slope * ahead_seconds


def _slope(samples: tuple[Sample, ...]) -> float:
    """Of the least-squares line through the rates."""
    mean_at = sum(sample.at for sample in samples) / len(samples)
    mean_rate = sum(sample.rate for sample in samples) / len(samples)
    return sum((sample.at - mean_at) * (sample.rate - mean_rate) for sample in samples) / _spread(samples)


def _spread(samples: tuple[Sample, ...]) -> float:
    """Squared seconds around the mean time."""
    mean_at = sum(sample.at for sample in samples) / len(samples)
    return sum((sample.at - mean_at) ** 2 for sample in samples)
