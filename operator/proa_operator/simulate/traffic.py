"""What arrives: requests in order of time, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Columns of equal length [R]. `cached_tokens` of each prompt are in the prefill worker's cache."""

    arrival_seconds: Floats
    prompt_tokens: Ints
    cached_tokens: Ints
    output_tokens: Ints

    def __len__(self) -> int:
        return len(self.arrival_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something breaks at `at_seconds`: a group of each pool dies, or the fabric's speed is multiplied."""

    at_seconds: float
    lost_prefill: int = 0
    lost_decode: int = 0
    fabric_factor: float | None = None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What happened to each request, [R]; NaN where it has not happened by the end."""

    first_token_seconds: list[float]
    """TTFT: from arrival to the first token."""
    token_gap_seconds: list[float]
    """Mean time between two tokens of the answer; 0 for an answer of one token."""
    gpu_seconds: float = 0.0
    targets: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, prefill, decode) whenever a decision changed a target."""
    counts: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, prefill, decode) groups that are ready, at each decision."""
