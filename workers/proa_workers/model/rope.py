"""Rotary position embedding (arXiv:2104.09864) with YaRN scaling (arXiv:2309.00071), as one complex product.

Legend: T tokens, H heads, D rotated dims. Pairs are (2i, 2i+1) throughout: weights of checkpoints that pair (i, i+D/2)
are reordered at load, which leaves every query-key product unchanged and saves five elementwise passes per layer.
"""

from __future__ import annotations

import math

import torch

from proa_workers.model.config import RopeConfig, YarnConfig


def rotation_table(rope: RopeConfig, max_position: int, device: torch.device) -> torch.Tensor:
    """Complex64 [max_position, D/2]: entry p, i rotates pair i at position p (and scales it when YaRN says so)."""
    frequencies = _frequencies(rope)
    angles = torch.outer(torch.arange(max_position, dtype=torch.float32), frequencies)
    scale = 1.0 if rope.yarn is None else _attention_factor(rope.yarn)
    return torch.polar(torch.full_like(angles, scale), angles).to(device)


def rotate(x_THD: torch.Tensor, rotation_T1D: torch.Tensor) -> torch.Tensor:
    """Rotate all pairs of `x` in float32; `rotation` is complex [T, 1, D/2]. Returns a new tensor in x's dtype."""
    pairs = torch.view_as_complex(torch.unflatten(x_THD.float(), -1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_T1D).flatten(-2).to(x_THD.dtype)


def pair_order(dim: int) -> torch.Tensor:
    """Index that brings dims paired (i, i + dim/2) next to each other: 0, dim/2, 1, dim/2 + 1, ..."""
    return torch.arange(dim).view(2, dim // 2).t().reshape(-1)


def softmax_scale(head_dim: int, yarn: YarnConfig | None) -> float:
    """1/sqrt(head_dim), times mscale^2 where the checkpoint scales all dims (DeepSeek's YaRN)."""
    scale = 1.0 / math.sqrt(head_dim)
    if yarn is None or not yarn.mscale_all_dim:
        return scale
    return scale * float(_mscale(yarn.factor, yarn.mscale_all_dim) ** 2)


def _mscale(factor: float, weight: float = 1.0) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def _attention_factor(yarn: YarnConfig) -> float:
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor)


def _frequencies(rope: RopeConfig) -> torch.Tensor:
    """Radians per position of each pair, float32 [D/2]."""
    base = 1.0 / rope.theta ** (torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim)
    if rope.yarn is None:
        return base
    low, high = _ramp_bounds(rope.dim, rope.theta, rope.yarn)
    ramp = ((torch.arange(rope.dim // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return base * (1 - ramp) + base / rope.yarn.factor * ramp


def _ramp_bounds(dim: int, theta: float, yarn: YarnConfig) -> tuple[float, float]:
    """Pairs below the first bound keep their frequency; above the second they are divided by the factor."""

    def pair_of(rotations: float) -> float:
        return dim * math.log(yarn.original_max_position / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(yarn.beta_fast), pair_of(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, dim - 1)
