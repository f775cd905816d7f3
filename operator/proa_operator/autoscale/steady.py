"""The load behind noisy samples: mean over as long a past as differs from now by chance only.

A minute of Poisson arrivals at 3 a second is off by 15 % once in twenty times. Sized for each sample, a pool would
go up with the noise at once, and down only after the long window: it would sit at the upper edge. So each number is
averaged over the last samples up to the first that lies further from the newest than chance explains. After a step
that is the newest sample alone, so nothing reacts later than without averaging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from proa_operator.autoscale.signals import LengthBucket

MOST_SAMPLES = 20
_CHANCE = 2.0
"""Standard errors."""
_PERIODS_OF_A_SAMPLE = 4.0
"""A sample's numbers are rates over about so many periods."""
Lengths = tuple[LengthBucket, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The load at one moment."""

    at: float
    rate: float
    """Requests per second."""
    prompt: float
    """Tokens of a prompt, in the mean."""
    output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """The load without noise."""

    rate: float
    lengths: Lengths


def sample_of(now: float, rate: float, lengths: Lengths) -> Sample:
    """Of lengths whose weights sum to 1."""
    return Sample(
        at=now,
        rate=rate,
        prompt=sum(bucket.weight * bucket.prompt_tokens for bucket in lengths),
        output=sum(bucket.weight * bucket.output_tokens for bucket in lengths),
    )


def steady_of(samples: tuple[Sample, ...], lengths: Lengths, period_seconds: float) -> Steady:
    """`lengths` are those of the newest sample; all prompts are stretched to the mean of the averaged samples."""
    now = samples[-1]
    count = max(1.0, now.rate * _PERIODS_OF_A_SAMPLE * period_seconds)
    prompt_squared = sum(bucket.weight * bucket.prompt_tokens**2 for bucket in lengths)
    output_squared = sum(bucket.weight * bucket.output_tokens**2 for bucket in lengths)
    prompt_error = math.sqrt(max(0.0, prompt_squared - now.prompt**2) / count)
    output_error = math.sqrt(max(0.0, output_squared - now.output**2) / count)
    rate = _mean_alike([sample.rate for sample in samples], rate_error(now.rate, period_seconds))
    prompt = _mean_alike([sample.prompt for sample in samples], prompt_error) / now.prompt
    output = _mean_alike([sample.output for sample in samples], output_error) / now.output
    stretched = tuple(
        replace(bucket, prompt_tokens=bucket.prompt_tokens * prompt, output_tokens=bucket.output_tokens * output)
        for bucket in lengths
    )
    return Steady(rate=rate, lengths=stretched)


def rate_error(rate: float, period_seconds: float) -> float:
    """Standard error of a sample's rate, requests per second, for Poisson arrivals."""
    window = _PERIODS_OF_A_SAMPLE * period_seconds
    return math.sqrt(max(1.0, rate * window)) / window


def _mean_alike(values: list[float], error: float) -> float:
    """Of the last values, back to the first that differs from the newest by more than chance."""
    newest, total, count = values[-1], 0.0, 0
    for value in reversed(values):
        if abs(value - newest) > _CHANCE * math.sqrt(2.0) * error:
            break
        total, count = total + value, count + 1
    return total / count
