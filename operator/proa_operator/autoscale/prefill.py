"""Time to the first token in a pool of prefill groups.

Each group reads the prompts that came during its last step in the next one: a queue with batches. Waiting is that of
M/G/k with Sakasegawa's probability of waiting and an exponential tail (Allen-Cunneen's mean), in which the service of
a prompt is its work and its share of a full step. Lengths are taken bucket by bucket: no long prompt hides in a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from proa_operator.autoscale.config import Speed
from proa_operator.autoscale.cost import fixed_seconds, kv_bytes, prompt_seconds
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel

FULL = 0.95
"""Utilisation above which a pool counts as saturated."""
WIRE_FULL = 0.8
"""The same of a group's wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The load of the prefill pool, worked out once for all sizes."""

    rate: float
    weights: tuple[float, ...]
    work: tuple[float, ...]
    """Seconds of work of a prompt of each bucket."""
    steps: tuple[float, ...]
    """Steps that it is spread over."""
    wire: tuple[float, ...]
    """Seconds of its hand-off, alone on the wire."""
    fixed: float
    """Seconds of a step besides the work."""
    mean_work: float
    variation: float
    """Squared coefficient of variation of the work."""
    full_share: float
    """Part of a full step that a mean prompt takes, in tokens."""
    latency: float
    mean_wire: float
    first_decode: float
    """Seconds of the decode step that writes the first token."""


def prompts_of(demand: Demand, model: GroupModel, speed: Speed, first_decode: float, *, has_wire: bool) -> Prompts:
    """Of these lengths on groups of this speed. Without a wire, prompts are read where answers are written."""
    weights = tuple(bucket.weight for bucket in demand.lengths)
    new = [bucket.prompt_tokens * (1.0 - demand.hit_rate) for bucket in demand.lengths]
    work = tuple(
        model.prefill.work * prompt_seconds(speed, bucket.prompt_tokens, demand.hit_rate) for bucket in demand.lengths
    )
    mean_new, mean_work = _mean(weights, new), _mean(weights, work)
    square = _mean(weights, [seconds * seconds for seconds in work])
    per_second = speed.transfer_bytes_per_second * model.wire
    wire = tuple(kv_bytes(speed, b.prompt_tokens) / per_second if has_wire else 0.0 for b in demand.lengths)
    return Prompts(
        rate=demand.requests_per_second,
        weights=weights,
        work=work,
        steps=tuple(float(math.ceil(max(1.0, tokens) / speed.max_step_tokens)) for tokens in new),
        wire=wire,
        fixed=model.prefill.fixed * fixed_seconds(speed, max(1.0, mean_new)),
        mean_work=mean_work,
        variation=square / (mean_work * mean_work) - 1.0 if mean_work > 0.0 else 0.0,
        full_share=mean_new / speed.max_step_tokens,
        latency=speed.transfer_latency if has_wire else 0.0,
        mean_wire=_mean(weights, wire),
        first_decode=first_decode,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """P(wait > t) = probability * exp(-t / scale)."""

    probability: float
    scale: float

    def within(self, seconds: float) -> float:
        """Probability of a wait of at most `seconds`."""
        if seconds < 0.0:
            return 0.0
        return 1.0 - self.probability * math.exp(-seconds / self.scale) if self.scale > 0.0 else 1.0


def wait_of(prompts: Prompts, num_groups: int) -> tuple[Wait, float] | None:
    """The wait, and the time of a usual step; None when the pool cannot keep up."""
    each = prompts.rate / num_groups
    utilisation = each * (prompts.mean_work + prompts.fixed * prompts.full_share)
    if utilisation >= FULL:
        return None
    alone = prompts.fixed + prompts.mean_work
    together = prompts.fixed / (1.0 - each * prompts.mean_work)
    most = prompts.fixed + prompts.mean_work / prompts.full_share if prompts.full_share > 0.0 else alone
    step = max(alone, min(together, most))
    busy = min(1.0, each * alone)
    probability = busy ** (math.sqrt(2.0 * (num_groups + 1)) - 1.0)
    scale = step * (1.0 + prompts.variation) / 2.0 / (num_groups * (1.0 - utilisation))
    return Wait(probability=probability, scale=scale), step


def share_within(prompts: Prompts, num_prefill: int, num_decode: int, seconds: float) -> float:
    """Share of the requests whose first token comes within `seconds`; 0 when a pool or its wire cannot keep up."""
    found = wait_of(prompts, num_prefill)
    wire_use = prompts.rate * prompts.mean_wire / max(1, min(num_prefill, num_decode))
    if found is None or wire_use >= WIRE_FULL:
        return 0.0
    wait, step = found
    others = max(0.0, step - prompts.fixed - prompts.mean_work)
    share = 0.0
    for weight, work, steps, wire in zip(prompts.weights, prompts.work, prompts.steps, prompts.wire, strict=True):
        own = work + steps * prompts.fixed + others + prompts.latency + wire / (1.0 - wire_use) + prompts.first_decode
        share += weight * wait.within(seconds - own)
    return share


def reachable_share(prompts: Prompts, seconds: float) -> float:
    """Share of the requests whose first token comes within `seconds` when they never wait for another."""
    return sum(
        weight
        for weight, work, steps, wire in zip(prompts.weights, prompts.work, prompts.steps, prompts.wire, strict=True)
        if work + steps * prompts.fixed + prompts.latency + wire + prompts.first_decode <= seconds
    )


def ttft_at(prompts: Prompts, num_prefill: int, num_decode: int, share: float) -> float | None:
    """Seconds within which `share` of the requests have their first token; None when a pool cannot keep up."""
    low, high = 0.0, 0.001
    while share_within(prompts, num_prefill, num_decode, high) < share:
        low, high = high, 2.0 * high
        if high > 3600.0:
            return None
    for _ in range(20):
        middle = (low + high) / 2.0
        if share_within(prompts, num_prefill, num_decode, middle) < share:
            low = middle
        else:
            high = middle
    return high


def _mean(weights: tuple[float, ...], values: tuple[float, ...] | list[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))
