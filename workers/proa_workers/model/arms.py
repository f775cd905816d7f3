"""Which implementation computes what: chosen once at start, by name, and reported; nothing falls back silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionArm = Literal["paged", "batched", "reference"]
NormArm = Literal["fused", "torch"]
GateArm = Literal["fused", "torch"]
ExpertsArm = Literal["fused", "looped", "grouped", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """`single` computes the experts of steps of one token, `experts` those of all other steps.

    `attention` "paged", `norm` "fused" and `gate` "fused" are kernels of proa_kernels, the others are plain torch. From
    `dense_shared` tokens on (None: never) shared experts are dense products beside the routed ones.
    """

    attention: AttentionArm = "batched"
    norm: NormArm = "torch"
    gate: GateArm = "torch"
    experts: ExpertsArm = "grouped"
    single: ExpertsArm = "grouped"
    dense_shared: int | None = None

    def for_tokens(self, num_tokens: int) -> ExpertsArm:
        return self.single if num_tokens == 1 else self.experts

    def has_dense_shared(self, num_tokens: int) -> bool:
        return self.dense_shared is not None and num_tokens >= self.dense_shared


REFERENCE = Arms(attention="reference", experts="reference", single="reference")
