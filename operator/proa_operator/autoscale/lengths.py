"""From two cumulative histograms to a joint one of a few buckets.

Prometheus has the lengths of prompts and outputs apart, so they are taken as independent. Each bucket stands at the
geometric middle of its bounds, and all are stretched so that their mean is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from proa_operator.autoscale.signals import LengthBucket

_PROMPT_BUCKETS = 8
_OUTPUT_BUCKETS = 4
Part = tuple[float, float]
"""Tokens and weight."""


def histogram_of(
    prompts: Mapping[float, float], prompt_tokens: float, outputs: Mapping[float, float], output_tokens: float
) -> tuple[LengthBucket, ...]:
    """`prompts`, `outputs`: requests per second up to each bound; `..._tokens`: tokens per second. May be empty."""
    prompt_parts = parts_of(prompts, prompt_tokens, _PROMPT_BUCKETS)
    output_parts = parts_of(outputs, output_tokens, _OUTPUT_BUCKETS)
    return tuple(
        LengthBucket(prompt_tokens=prompt, output_tokens=output, weight=share * other)
        for prompt, share in prompt_parts
        for output, other in output_parts
    )


def parts_of(buckets: Mapping[float, float], tokens: float, most: int) -> list[Part]:
    """At most `most` parts whose weights sum to 1: neighbours with the least weight are merged."""
    parts: list[Part] = []
    below, lower = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] - below > 0.0:
            parts.append((_middle(lower, bound), buckets[bound] - below))
        below, lower = max(below, buckets[bound]), bound
    while len(parts) > most:
        first = min(range(len(parts) - 1), key=lambda idx: parts[idx][1] + parts[idx + 1][1])
        parts[first : first + 2] = [_merged(parts[first], parts[first + 1])]
    total = sum(weight for _, weight in parts)
    mean = sum(length * weight for length, weight in parts)
    stretch = tokens / mean if mean > 0.0 and tokens > 0.0 else 1.0
    return [(max(1.0, length * stretch), weight / total) for length, weight in parts]


def _middle(lower: float, upper: float) -> float:
    if math.isinf(upper):
        return max(1.0, lower)
    return math.sqrt(max(1.0, lower) * upper)


def _merged(one: Part, other: Part) -> Part:
    weight = one[1] + other[1]
    return ((one[0] * one[1] + other[0] * other[1]) / weight, weight)
