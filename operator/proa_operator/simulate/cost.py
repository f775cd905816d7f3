"""Seconds of a group of workers, from a PerformanceProfile: one prefill step, one decode step, one hand-off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from proa_operator.api.performance_profile import PerformanceProfileSpec
from proa_operator.autoscale.config import speed_from


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost model of the profile as numbers (`api/performance_profile.py` has the formula)."""

    base_seconds: float
    experts_seconds: float
    expert_share: float
    token_seconds: float
    pair_seconds: float
    sequence_seconds: float
    context_token_seconds: float
    latency_seconds: float
    link_bytes_per_second: float
    kv_bytes_per_token: int
    kv_cache_tokens: int
    startup_seconds: float
    gpus_per_group: int
    max_batch_tokens: int = 8192
    """Prompt tokens of one prefill step."""
    max_num_seqs: int = 256
    """Sequences of one decode step."""

    @cached_property
    def _fixed_seconds(self) -> list[float]:
        """Time of a step that does not depend on lengths, by its number of tokens; index 0 is an empty step."""
        unread = 1 - self.expert_share
        sizes = range(max(self.max_batch_tokens, self.max_num_seqs) + 1)
        return [self.base_seconds + self.experts_seconds * (1 - unread**num_tokens) for num_tokens in sizes]

    def own_seconds(self, prompt_tokens: int, cached_tokens: int) -> float:
        """What one prompt adds to a prefill step; the cached tokens at its start cost only their pairs."""
        new = prompt_tokens - cached_tokens
        pairs = new * cached_tokens + new * (new + 1) / 2
        return self.token_seconds * new + self.pair_seconds * pairs

    def prefill_seconds(self, own_seconds: float, new_tokens: int) -> float:
        """A batch whose prompts add `own_seconds`; one prompt longer than a step takes several."""
        num_steps, rest = divmod(new_tokens, self.max_batch_tokens)
        fixed = self._fixed_seconds
        return own_seconds + num_steps * fixed[self.max_batch_tokens] + (fixed[rest] if rest else 0.0)

    def decode_seconds(self, num_seqs: int, context_tokens: float) -> float:
        """One step in which `num_seqs` sequences with `context_tokens` tokens in all each write a token."""
        own = self.sequence_seconds * num_seqs + self.context_token_seconds * context_tokens
        return self._fixed_seconds[num_seqs] + own

    def best_batch(self, itl_seconds: float, context_tokens: float) -> int:
        """Most sequences of that mean context whose step takes at most `itl_seconds` and whose KV fits; at least 1."""
        limit = min(self.max_num_seqs, int(self.kv_cache_tokens / max(1.0, context_tokens)))
        fitting = (n for n in range(limit, 1, -1) if self.decode_seconds(n, n * context_tokens) <= itl_seconds)
        return next(fitting, 1)


def cost_from(profile: PerformanceProfileSpec) -> Cost:
    """The numbers of `profile`, as the autoscaler reads them, and what only a simulation needs."""
    speed, accelerator = speed_from(profile), profile.accelerator
    return Cost(
        base_seconds=speed.step_base,
        experts_seconds=speed.step_experts,
        expert_share=speed.expert_share,
        token_seconds=speed.prefill_token,
        pair_seconds=speed.prefill_pair,
        sequence_seconds=speed.decode_seq,
        context_token_seconds=speed.decode_context_token,
        latency_seconds=speed.transfer_latency,
        link_bytes_per_second=speed.transfer_bytes_per_second,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        kv_cache_tokens=profile.kv_cache_tokens,
        startup_seconds=speed.startup,
        gpus_per_group=(accelerator.gpus_per_pod if accelerator else 1) * profile.nodes_per_group,
    )
