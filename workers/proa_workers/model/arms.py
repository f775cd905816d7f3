"""Which implementation computes what: chosen once at start, by name, and reported; nothing falls back silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionArm = Literal["batched", "reference"]
ExpertsArm = Literal["looped", "grouped", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """`few` computes the experts of steps with at most `few_rows` token-expert pairs, `experts` all other steps."""

    attention: AttentionArm = "batched"
    experts: ExpertsArm = "grouped"
    few: ExpertsArm = "looped"
    few_rows: int = 0

    def for_rows(self, num_rows: int) -> ExpertsArm:
        return self.few if num_rows <= self.few_rows else self.experts


REFERENCE = Arms(attention="reference", experts="reference")
