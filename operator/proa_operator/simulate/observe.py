"""What an autoscaler may see: counters of the last window, as a monitoring system would give them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from proa_operator.simulate.traffic import Floats, Ints, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One pool. `running` is a mean over the window, the other counts are of now."""

    ready: int
    starting: int
    draining: int
    target: int
    running: float
    waiting: int
    kv_usage: float
    """Mean over the ready groups, 0..1; what waits for a place does not count."""
    busy: float
    """Prefill: share of the window in which a ready group computed. Decode: running sequences over the full batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Counters over `window_seconds` up to `now`. Arrays are empty when nothing of the kind happened."""

    now: float
    window_seconds: float
    prefill: PoolView
    decode: PoolView
    arrived_prompt_tokens: Ints
    arrived_cached_tokens: Ints
    finished_prompt_tokens: Ints
    finished_output_tokens: Ints
    ttft_seconds: Floats
    itl_seconds: Floats
    backlog_tokens: int
    """Prompt tokens that wait for a prefill group, less the cached ones."""
    prefilled: int
    """Prompts whose prefill ended in the window."""
    prefill_seconds: float
    """Duration of their steps, summed over the prompts."""
    transfers: int
    """Hand-offs that ended in the window."""
    transfer_bytes: float
    transfer_seconds: float
    """Summed over those hand-offs."""

    @property
    def arrivals_per_second(self) -> float:
        return len(self.arrived_prompt_tokens) / self.window_seconds

    @property
    def finished_per_second(self) -> float:
        return len(self.finished_prompt_tokens) / self.window_seconds

    @property
    def hit_rate(self) -> float:
        """Cached share of the prompt tokens that arrived; 0 without arrivals."""
        total = int(self.arrived_prompt_tokens.sum())
        return float(self.arrived_cached_tokens.sum()) / total if total else 0.0


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counters since the start; the model adds to them, `snapshot` copies them."""

    at: float = 0.0
    """Time of the last change of `running`."""
    running: int = 0
    """Sequences that decode."""
    prefill_busy: float = 0.0
    """Group seconds of computing."""
    prefill_ready: float = 0.0
    """Group seconds of being ready."""
    decode_ready: float = 0.0
    decode_running: float = 0.0
    """Sequence seconds."""
    prefilled: int = 0
    prefill_seconds: float = 0.0
    transfers: int = 0
    transfer_bytes: float = 0.0
    transfer_seconds: float = 0.0

    def move(self, now: float, change: int = 0) -> None:
        """Sequence seconds up to `now`; then `change` more sequences decode."""
        self.decode_running += self.running * (now - self.at)
        self.at = now
        self.running += change

    def snapshot(self, now: float, prefill_ready: float, decode_ready: float) -> Totals:
        self.move(now)
        return replace(self, prefill_ready=prefill_ready, decode_ready=decode_ready)


class Meter:
    """Lists what happened, in order of time; the windows of an observation are cut from it."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.first_token_at: list[float] = []
        self.ttft: list[float] = []
        self.finished_at: list[float] = []
        self.finished: list[int] = []
        self.itl: list[float] = []
        self._history: deque[Totals] = deque([Totals()])

    def since(self, now: Totals, window_seconds: float) -> Totals:
        """Totals at the start of the window that ends at `now`; call it at each decision, for it keeps the history."""
        self._history.append(now)
        while len(self._history) > 2 and self._history[1].at <= now.at - window_seconds:
            self._history.popleft()
        return self._history[0]

    def arrived(self, now: float, window_seconds: float) -> tuple[Ints, Ints]:
        """Prompt tokens and cached tokens of each arrival of the window."""
        start, end = np.searchsorted(self._traffic.arrival_seconds, [now - window_seconds, now])
        return self._traffic.prompt_tokens[start:end], self._traffic.cached_tokens[start:end]

    def ended(self, now: float, window_seconds: float) -> tuple[Ints, Ints, Floats]:
        """Prompt tokens, output tokens and token gaps of the answers that ended in the window."""
        start = bisect_left(self.finished_at, now - window_seconds)
        which = np.asarray(self.finished[start:], dtype=np.int64)
        return self._traffic.prompt_tokens[which], self._traffic.output_tokens[which], _array(self.itl[start:])

    def first_tokens(self, now: float, window_seconds: float) -> Floats:
        return _array(self.ttft[bisect_left(self.first_token_at, now - window_seconds) :])


def _array(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)
