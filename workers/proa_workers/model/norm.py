"""Root-mean-square norm (arXiv:1910.07467). Legend: T tokens, M hidden size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from proa_kernels.norm import add_rms_norm, rms_norm

from proa_workers.model.arms import Arms
from proa_workers.model.source import WeightSource


@dataclass(frozen=True, slots=True)
class RmsNorm:
    weight_M: torch.Tensor
    eps: float

    @classmethod
    def load(cls, source: WeightSource, name: str, size: int, eps: float) -> RmsNorm:
        return cls(source.take(f"{name}.weight", (size,)), eps)

    def forward(self, x_TM: torch.Tensor, arms: Arms) -> torch.Tensor:
        if arms.norm == "fused":
            return rms_norm(x_TM, self.weight_M, self.eps)
        return F.rms_norm(x_TM, self.weight_M.shape, self.weight_M, self.eps)

    def add(self, x_TM: torch.Tensor, delta_TM: torch.Tensor | None, arms: Arms) -> tuple[torch.Tensor, torch.Tensor]:
        """Normed x + delta, and x + delta itself; without a delta, x."""
        if delta_TM is not None and arms.norm == "fused":
            return add_rms_norm(delta_TM, x_TM, self.weight_M, self.eps)
        total_TM = x_TM if delta_TM is None else x_TM + delta_TM
        return self.forward(total_TM, arms), total_TM
