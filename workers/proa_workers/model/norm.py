"""Root-mean-square norm (arXiv:1910.07467). Legend: M hidden size, ... any leading dims."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from proa_workers.model.source import WeightSource


@dataclass(frozen=True, slots=True)
class RmsNorm:
    weight_M: torch.Tensor
    eps: float

    @classmethod
    def load(cls, source: WeightSource, name: str, size: int, eps: float) -> RmsNorm:
        return cls(source.take(f"{name}.weight", (size,)), eps)

    def forward(self, x_M: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x_M, self.weight_M.shape, self.weight_M, self.eps)
