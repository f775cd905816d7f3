"""Where a load that rises or falls will be, when its past looks like a line and not like a step.

The past of a step is two levels, and is not carried on: nothing says that it goes on. Whichever leaves less of the
squares is taken, the line where the two differ by chance only.
"""

from __future__ import annotations

import math

from proa_operator.autoscale.steady import Sample, rate_error

_SURE_ERRORS = 2.0
"""Standard errors from which a slope, or what a step explains more than a line, is no chance."""


def drift_of(samples: tuple[Sample, ...], steady_rate: float, ahead_seconds: float, span_seconds: float) -> float:
    """Requests per second from `steady_rate` to where the load will be; 0 when it neither rises nor falls.

    A rise is carried on `ahead_seconds`, a fall only up to now, for shrinking has windows of its own. A line that bends
    back lately is as steep as its newer half at most. `samples` do not overlap; each is a mean over `span_seconds`.
    """
    middle = len(samples) // 2
    if middle < 3:
        return 0.0
    newest, error = samples[-middle:], rate_error(samples[-1].rate, span_seconds)
    whole = _slope(samples)
    is_sure = abs(whole) >= _SURE_ERRORS * error / math.sqrt(_spread(samples))
    if not is_sure or _is_step(samples, whole, _SURE_ERRORS * error):
        return 0.0
    bent, chance = _slope(newest), error / math.sqrt(_spread(newest))
    slope = max(0.0, min(whole, bent + chance)) if whole > 0.0 else min(0.0, max(whole, bent - chance))
    age = samples[-1].at - sum(sample.at for sample in newest) / middle + span_seconds / 2.0
    apart = sum(sample.rate for sample in newest) / middle + slope * age - steady_rate
    return max(0.0, apart) + slope * ahead_seconds if whole > 0.0 else min(0.0, apart)


def _is_step(samples: tuple[Sample, ...], slope: float, slack: float) -> bool:
    """Whether two levels explain more of the squares than the line of this slope, and by more than `slack` squared."""
    rates = [sample.rate for sample in samples]
    count, total = len(rates), sum(rates)
    most, sum_before = 0.0, 0.0
    for first in range(1, count):
        sum_before += rates[first - 1]
        difference = sum_before / first - (total - sum_before) / (count - first)
        most = max(most, difference * difference * first * (count - first) / count)
    return most > slope * slope * _spread(samples) + slack * slack


def _slope(samples: tuple[Sample, ...]) -> float:
    """Of the least-squares line through the rates."""
    mean_at = sum(sample.at for sample in samples) / len(samples)
    mean_rate = sum(sample.rate for sample in samples) / len(samples)
    return sum((sample.at - mean_at) * (sample.rate - mean_rate) for sample in samples) / _spread(samples)


def _spread(samples: tuple[Sample, ...]) -> float:
    """Squared seconds around the mean time."""
    mean_at = sum(sample.at for sample in samples) / len(samples)
    return sum((sample.at - mean_at) ** 2 for sample in samples)
