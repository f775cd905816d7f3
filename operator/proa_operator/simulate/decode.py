"""A decode group: continuous batching as processor sharing, one token a step for each sequence."""

from __future__ import annotations

from proa_operator.simulate.cost import Cost
from proa_operator.simulate.shared import Shared


class DecodeGroup(Shared):
    """Rate is steps a second, 1/τ(n, context); the context grows by a token a step and sequence.

    KV blocks for the whole answer are reserved at admission, so nothing is ever preempted.
    """

    __slots__ = ("_cost", "context_tokens", "kv_tokens", "step_seconds")

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost
        self.context_tokens = 0.0
        self.kv_tokens = 0
        self.step_seconds = 0.0

    def load(self) -> float:
        return len(self.ends)

    def fits(self, kv_tokens: int) -> bool:
        """An empty group takes every request, also one longer than its cache: such a request is never refused here."""
        cost = self._cost
        room = self.kv_tokens + kv_tokens <= cost.kv_cache_tokens
        return not self.ends or (room and len(self.ends) < cost.max_num_seqs)

    def start(self, now: float, request_idx: int, prompt_tokens: int, output_tokens: int) -> float:
        """A sequence joins; returns the time of a step with it."""
        self.move(now)
        self.context_tokens += prompt_tokens
        self.kv_tokens += prompt_tokens + output_tokens
        self.join(output_tokens, request_idx)
        self._retime()
        return self.step_seconds

    def finish(self, prompt_tokens: int, output_tokens: int) -> None:
        """The sequence that `leave` returned is gone."""
        self.context_tokens -= prompt_tokens + output_tokens
        self.kv_tokens -= prompt_tokens + output_tokens
        self._retime()

    def move(self, now: float) -> None:
        """Virtual time up to `now`; every sequence's context grows with it."""
        self.context_tokens += self.advance(now) * len(self.ends)

    def _retime(self) -> None:
        self.generation += 1
        if self.ends:
            self.step_seconds = self._cost.decode_seconds(len(self.ends), max(0.0, self.context_tokens))
            self.rate = 1 / self.step_seconds
        else:
            self.step_seconds = self.rate = self.context_tokens = 0.0
