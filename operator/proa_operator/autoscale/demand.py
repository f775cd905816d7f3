"""What the clients ask for: a rate, the backlog in it, and the moments of the lengths."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator.autoscale.config import Config
from proa_operator.autoscale.signals import LengthBucket, Signals

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
