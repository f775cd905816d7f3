"""What the autoscaler sees of one service at one moment. Rates are per second, over recent windows (`Spans`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Seconds that the load is a mean over: the windows that Prometheus is asked for."""

    arrivals: float
    lengths: float
    """Of prompts and answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSignals:
    """One pool."""

    desired: int
    """Groups that were asked for last: spec.replicas of the WorkerPool."""
    ready: int
    """Groups that serve."""
    starting: int = 0
    """Groups that are wanted and do not serve yet."""
    draining: int = 0
    running: float = 0.0
    """Sequences that run, over all ready groups, in the mean over the window."""
    waiting: float = 0.0
    """Sequences in the queues of all ready groups."""
    kv_usage: float = 0.0
    """Used share of the KV cache, 0..1, in the mean over the ready groups."""
    placeable: int | None = None
    """Groups that find nodes besides the desired ones; None where nobody knows."""
    manual_at: float | None = None
    """When somebody else than the autoscaler last changed `desired`, seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBucket:
    """A share of the requests, with its mean lengths in tokens."""

    prompt_tokens: float
    output_tokens: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """All of it. Numbers are finite: what cannot be measured is named in `missing`, and its number is ignored."""

    now: float
    """Seconds since the epoch."""
    arrivals_per_second: float
    """Requests that clients send: admitted, queued, rejected and retried ones."""
    histogram: tuple[LengthBucket, ...]
    """Lengths of recent requests; empty when there were none."""
    hit_rate: float
    """Share of the prompt tokens that prefix caches hold, 0..1."""
    backlog_tokens: float
    """Prompt tokens of the requests that wait for prefill."""
    prefill: PoolSignals
    decode: PoolSignals
    ttft_p: float | None = None
    """Seconds to the first token, at the percentile of the SLO."""
    itl_p: float | None = None
    """Seconds between tokens, at the percentile of the SLO."""
    prefill_mean: float | None = None
    """Seconds from the first step of a prompt to its first token, in the mean."""
    itl_mean: float | None = None
    """Seconds between tokens, in the mean."""
    transfers_per_second: float = 0.0
    """Hand-offs that arrived."""
    transfer_bytes: float = 0.0
    """KV bytes moved per second."""
    transfer_seconds: float = 0.0
    """Sum of the durations of the hand-offs that ended, per second."""
    transfer_failures: float = 0.0
    """Hand-offs that failed, per second."""
    is_rolling: bool = False
    """Two revisions serve, or a rollout does not make progress."""
    missing: tuple[str, ...] = ()
    """Signals that are absent, stale or not numbers; empty when all are fresh."""

    @property
    def is_fresh(self) -> bool:
        """Whether a decision may rest on these numbers."""
        return not self.missing
