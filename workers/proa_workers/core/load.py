"""How busy a worker is: one immutable snapshot, made by the engine loop after each turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proa_workers.core.outcome import Outcome
from proa_workers.core.scheduler import Scheduler

EWMA_WEIGHT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sequences by phase, blocks by state, and totals since the start; `tokens_per_second` averages recent steps.

    It is 0 at rest. `steps_ahead_total` counts the steps that started before the tokens of the step before were read.
    """

    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    blocks_free: int
    blocks_owned: int
    blocks_pinned: int
    blocks_total: int
    preemptions_total: int
    steps_total: int = 0
    steps_ahead_total: int = 0
    errors_total: int = 0
    tokens_total: int = 0
    tokens_per_second: float = 0.0

    @classmethod
    def of(cls, scheduler: Scheduler, **totals: float) -> Load:
        """Snapshot of a scheduler and its pool, with totals carried over."""
        pool = scheduler.pool
        return cls(
            num_running=len(scheduler.running) + len(scheduler.fetching),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=sum(seq.num_pending for seq in scheduler.waiting),
            blocks_free=pool.num_free,
            blocks_owned=pool.num_owned,
            blocks_pinned=pool.num_pinned,
            blocks_total=pool.num_blocks,
            preemptions_total=scheduler.num_preemptions,
            **totals,  # type: ignore[arg-type]
        )

    def after(
        self, scheduler: Scheduler, outcomes: Sequence[Outcome], step_seconds: float, is_ahead: bool = False
    ) -> Load:
        """The next snapshot; `step_seconds` 0 means that nothing was computed."""
        num_tokens = sum(1 for outcome in outcomes if outcome.sampled is not None)
        rate = self.tokens_per_second
        if step_seconds > 0:
            now = num_tokens / step_seconds
            rate = rate + EWMA_WEIGHT * (now - rate) if rate else now
        elif scheduler.is_idle:
            rate = 0.0
        return Load.of(
            scheduler,
            steps_total=self.steps_total + (step_seconds > 0),
            steps_ahead_total=self.steps_ahead_total + is_ahead,
            errors_total=self.errors_total,
            tokens_total=self.tokens_total + num_tokens,
            tokens_per_second=rate,
        )

    @property
    def kv_usage(self) -> float:
        """Share of blocks that cannot be evicted, 0..1."""
        return 1.0 - self.blocks_free / self.blocks_total
