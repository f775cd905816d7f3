"""The load behind noisy samples: a mean over as long a past as differs from now by chance only.

A minute of Poisson arrivals at 3 a second is off by 15 % once in twenty times. Sized for each sample, a pool would
go up with the noise at once, and down only after the long window: it would sit at the upper edge. So each number is
averaged over the last samples, as many as cannot be cut in two parts whose means differ by more than chance explains
(the test of ADWIN, Bifet and Gavalda 2007, with normal errors). After a step that is the newest sample alone, so
nothing reacts later than without averaging.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proa_operator.autoscale.signals import LengthBucket, Spans

MOST_SAMPLES = 11
"""That do not overlap: with the newest, ten minutes at the usual period."""
PERIODS_APART = 4
"""From one sample that counts to the next, and more where they would overlap."""
_CHANCE = 2.5
"""Standard errors."""
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
    error: float
    """Standard error of the work that arrives, as a share of it."""


def sample_of(now: float, rate: float, lengths: Lengths) -> Sample:
    """Of lengths whose weights sum to 1."""
    return Sample(
        at=now,
        rate=rate,
        prompt=sum(bucket.weight * bucket.prompt_tokens for bucket in lengths),
        output=sum(bucket.weight * bucket.output_tokens for bucket in lengths),
    )


def kept_samples(before: Sequence[Sample], newest: Sample, period_seconds: float, spans: Spans) -> tuple[Sample, ...]:
    """Oldest first: samples that do not overlap, then all those that are too close to the newest."""
    num_periods = _periods_apart(period_seconds, spans)
    least = (num_periods - 0.5) * period_seconds
    apart: list[Sample] = []
    recent: list[Sample] = []
    for sample in before:
        if not newest.at - (MOST_SAMPLES + 0.5) * num_periods * period_seconds < sample.at < newest.at:
            continue
        if newest.at - sample.at < least:
            recent.append(sample)
        elif not apart or sample.at - apart[-1].at >= least:
            apart.append(sample)
    return (*apart[1 - MOST_SAMPLES :], *recent, newest)


def apart_of(samples: tuple[Sample, ...], period_seconds: float, spans: Spans) -> tuple[Sample, ...]:
    """Of the kept samples those that do not overlap, the newest included."""
    least = (_periods_apart(period_seconds, spans) - 0.5) * period_seconds
    newest = samples[-1]
    return (*(sample for sample in samples if newest.at - sample.at >= least), newest)


def steady_of(samples: tuple[Sample, ...], lengths: Lengths, spans: Spans) -> Steady:
    """`samples` do not overlap. `lengths` are the newest; they are stretched to the mean of the averaged samples."""
    now = samples[-1]
    count = max(1.0, now.rate * spans.lengths)
    prompt_error = _deviation([(bucket.weight, bucket.prompt_tokens) for bucket in lengths]) / math.sqrt(count)
    output_error = _deviation([(bucket.weight, bucket.output_tokens) for bucket in lengths]) / math.sqrt(count)
    rate_spread = rate_error(now.rate, spans.arrivals)
    rate, num_rates = _mean_alike([sample.rate for sample in samples], rate_spread)
    prompt, num_prompts = _mean_alike([sample.prompt for sample in samples], prompt_error)
    output, _ = _mean_alike([sample.output for sample in samples], output_error)
    stretched = tuple(
        replace(
            bucket,
            prompt_tokens=bucket.prompt_tokens * prompt / now.prompt,
            output_tokens=bucket.output_tokens * output / now.output,
        )
        for bucket in lengths
    )
    of_rate = rate_spread / max(rate, rate_spread) / math.sqrt(num_rates)
    of_prompt = prompt_error / prompt / math.sqrt(num_prompts)
    return Steady(rate=rate, lengths=stretched, error=math.hypot(of_rate, of_prompt))


def rate_error(rate: float, span_seconds: float) -> float:
    """Standard error of a rate of Poisson arrivals, requests per second, that were counted for so long."""
    return math.sqrt(max(1.0, rate * span_seconds)) / span_seconds


def _periods_apart(period_seconds: float, spans: Spans) -> int:
    """Decisions come late at times: half a period less than these is far enough."""
    return max(PERIODS_APART, math.ceil(max(spans.arrivals, spans.lengths) / period_seconds))


def _deviation(parts: list[tuple[float, float]]) -> float:
    mean = sum(weight * value for weight, value in parts)
    return math.sqrt(max(0.0, sum(weight * value * value for weight, value in parts) - mean * mean))


def _mean_alike(values: list[float], error: float) -> tuple[float, int]:
    """Mean and number of the last values: as many as no cut parts by more than chance. `error`: of one value."""
    sums = [0.0]
    for value in reversed(values):
        sums.append(sums[-1] + value)
        if _is_parted(sums, error):
            break
    else:
        return sums[-1] / len(values), len(values)
    return sums[-2] / (len(sums) - 2), len(sums) - 2


def _is_parted(sums: list[float], error: float) -> bool:
    """`sums` of the first values; whether the mean of some first part differs from that of the rest."""
    count = len(sums) - 1
    limit = (_CHANCE * error) ** 2
    for first in range(1, count):
        rest = count - first
        difference = sums[first] / first - (sums[count] - sums[first]) / rest
        if difference * difference > limit * (1.0 / first + 1.0 / rest):
            return True
    return False
