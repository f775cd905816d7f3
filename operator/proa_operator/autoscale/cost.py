"""Time of a step of one group, with the ratios of seen to profiled speed. The formulas of the PerformanceProfile."""

from __future__ import annotations

from proa_operator.autoscale.config import Speed


def fixed_seconds(speed: Speed, num_tokens: float) -> float:
    """Of a step of `num_tokens`: what it costs apart from the work of each token."""
    touched = 1.0 - (1.0 - speed.expert_share) ** num_tokens if speed.expert_share else 0.0
    return speed.step_base + speed.step_experts * touched


def prompt_seconds(speed: Speed, prompt_tokens: float, hit_rate: float) -> float:
    """Work of one prompt of which the share `hit_rate` is cached: tokens, and pairs of a new and an earlier token."""
    new = prompt_tokens * (1.0 - hit_rate)
    pairs = new * (prompt_tokens - new) + new * (new + 1.0) / 2.0
    return speed.prefill_token * new + speed.prefill_pair * pairs


def decode_seconds(speed: Speed, num_seqs: float, context: float) -> float:
    """Work of one decode step for `num_seqs` sequences that have `context` tokens in the mean."""
    return num_seqs * (speed.decode_seq + speed.decode_context_token * context)


def kv_bytes(speed: Speed, prompt_tokens: float) -> float:
    """KV cache of a prompt."""
    return speed.kv_bytes_per_token * prompt_tokens
