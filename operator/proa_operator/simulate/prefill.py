"""A prefill group: one step at a time, whole prompts of the common queue batched up to the step's token budget."""

from __future__ import annotations

from collections import deque

from proa_operator.simulate.cost import Cost


class PrefillGroup:
    """`batch` is what the running step computes; empty when idle."""

    __slots__ = ("batch", "is_lost")

    def __init__(self) -> None:
        self.batch: list[int] = []
        self.is_lost = False

    def load(self) -> float:
        return len(self.batch)

    def take(self, waiting: deque[int], new_tokens: list[int], own_seconds: list[float], cost: Cost) -> float:
        """Starts a step with the first prompts of `waiting` (at least one is there); returns its seconds."""
        budget = cost.max_batch_tokens
        total, seconds = 0, 0.0
        while waiting and (not self.batch or total + new_tokens[waiting[0]] <= budget):
            request_idx = waiting.popleft()
            self.batch.append(request_idx)
            total += new_tokens[request_idx]
            seconds += own_seconds[request_idx]
        return cost.prefill_seconds(seconds, total)
