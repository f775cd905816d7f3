"""The protocol of all autoscalers under test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proa_operator.simulate.observe import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Groups of each pool."""

    prefill: int
    decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Fewest and most groups of each pool."""

    min_prefill: int = 1
    max_prefill: int
    min_decode: int = 1
    max_decode: int

    def clip(self, targets: Targets) -> Targets:
        return Targets(
            prefill=min(max(targets.prefill, self.min_prefill), self.max_prefill),
            decode=min(max(targets.decode, self.min_decode), self.max_decode),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Latency promised, at a percentile of requests."""

    ttft_seconds: float
    itl_seconds: float
    percentile: float = 95.0


class Policy(Protocol):
    """Asked every `period_seconds` with counters over `window_seconds`; keeps its own memory."""

    name: str
    period_seconds: float
    window_seconds: float

    def decide(self, observation: Observation) -> Targets: ...
