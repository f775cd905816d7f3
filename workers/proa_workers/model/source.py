"""Where weights come from: a checkpoint (`weights.py`) or a random generator for benchmarks.

Modules load themselves by asking for each tensor by its Hugging Face name and shape, so that names and shapes are
written down once.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch


class WeightSource(Protocol):
    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def has(self, name: str) -> bool: ...

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Tensor `name` of `shape` on `device`, in `dtype` or the source's; CheckpointError if it is not there."""


class RandomWeights:
    """Weights made on the device: norms are 1, matrices normal with variance 1/fan_in, so that activations keep scale.

    With norm weights of 1 routing depends on the token, as in a trained model (anchors of the vLLM measurement).
    """

    def __init__(self, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self.dtype = dtype
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def has(self, name: str) -> bool:
        return True

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        out = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        if name.endswith("norm.weight"):
            return out.fill_(1.0)
        std = 0.01 if name.endswith("bias") else 1.0 / math.sqrt(shape[-1])
        return out.normal_(0.0, std, generator=self._generator)
