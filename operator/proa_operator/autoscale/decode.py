"""Time between tokens in a pool of decode groups.

A group with n sequences writes n tokens each tau(n) seconds, and nobody waits: a pool is staffed by the square-root
rule, for sequences that share the groups (`least_staffed`) or, where prompts stretch the steps too, for as many as
there would be with all steps at the objective (`least_decode`, M/G/infinity: more than there are).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from proa_operator.autoscale.config import Speed
from proa_operator.autoscale.cost import decode_seconds, fixed_seconds
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel

KV_FULL = 0.9
"""Used share of the KV cache that a group is planned for."""
_LEAST_RIGID = 1e-3
"""Of a step: a profile in which all of it grows with the sequences has no steady state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The load of the decode pool, worked out once for all sizes."""

    tokens_per_second: float
    context: float
    speed: Speed
    fixed: float
    """Ratios of seen to profiled speed."""
    work: float

    def step(self, num_seqs: float) -> float:
        """Seconds of a decode step."""
        fixed = self.fixed * fixed_seconds(self.speed, num_seqs)
        return fixed + self.work * decode_seconds(self.speed, num_seqs, self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The largest batch that a group may run, and what limits it."""

    num_seqs: int
    is_slow: bool
    """Even one sequence alone takes longer than the objective."""


def answers_of(demand: Demand, model: GroupModel, speed: Speed) -> Answers:
    """Of these lengths on groups of this speed."""
    return Answers(
        tokens_per_second=demand.requests_per_second * demand.mean_output,
        context=demand.mean_context,
        speed=speed,
        fixed=model.decode.fixed,
        work=model.decode.work,
    )


def largest_batch(answers: Answers, itl_seconds: float) -> Batch:
    """By the objective, by the KV cache, and by the engine's own limit; at least 1."""
    room = int(KV_FULL * answers.speed.kv_cache_tokens / answers.context)
    low, high = 0, max(1, min(answers.speed.max_num_seqs, room))
    roomy = high
    while low < high:
        middle = (low + high + 1) // 2
        if answers.step(middle) <= itl_seconds:
            low = middle
        else:
            high = middle - 1
    return Batch(num_seqs=low, is_slow=False) if low else Batch(num_seqs=roomy, is_slow=True)


def least_decode(answers: Answers, batch: Batch, spread: float) -> int:
    """Groups that hold the sequences at hand, and `spread` standard deviations more; at least 1."""
    present = answers.tokens_per_second * answers.step(batch.num_seqs)
    return max(1, math.ceil((present + spread * math.sqrt(present)) / batch.num_seqs))


def least_staffed(answers: Answers, batch: Batch, spread: float) -> int:
    """Groups whose sequences stay within the batch at `spread` standard deviations; at least 1."""
    num_groups = max(1, math.ceil(answers.tokens_per_second * answers.step(batch.num_seqs) / batch.num_seqs))
    while num_groups * _bearable(answers, batch, spread, num_groups) < answers.tokens_per_second:
        num_groups += 1
    return num_groups


def _bearable(answers: Answers, batch: Batch, spread: float, num_groups: int) -> float:
    """Tokens per second that each of so many groups writes when they share all sequences evenly.

    More sequences make longer steps, so they also stay longer: processor sharing at a rate phi(n) = n / tau(n). The
    variance of their number is its mean over the elasticity of phi, the share of a step that does not grow with n.
    """
    num_seqs = float(batch.num_seqs)
    for _ in range(3):
        growing = answers.work * decode_seconds(answers.speed, num_seqs, answers.context) / answers.step(num_seqs)
        deviation = spread / math.sqrt(num_groups * max(_LEAST_RIGID, 1.0 - growing))
        root = (math.sqrt(deviation * deviation + 4.0 * batch.num_seqs) - deviation) / 2.0
        num_seqs = root * root
    return num_seqs / answers.step(num_seqs)


def itl_at(answers: Answers, num_groups: int, spread: float) -> float | None:
    """Seconds between tokens at `spread` standard deviations; None when the pool cannot keep up."""
    each = answers.tokens_per_second / num_groups
    low, high = 0.0, float(answers.speed.max_num_seqs)
    if each * answers.step(high) > high:
        return None
    for _ in range(20):
        middle = (low + high) / 2.0
        if each * answers.step(middle) > middle:
            low = middle
        else:
            high = middle
    return answers.step(max(1.0, high + spread * math.sqrt(high / num_groups)))
