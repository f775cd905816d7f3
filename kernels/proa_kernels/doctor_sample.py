"""Checks of sampling in one launch, and of norm and quantisation in one. Legends as in sample.py and norm_quant.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from proa_kernels.arch import arch_of
from proa_kernels.doctor_checks import EPS, Check, half_of
from proa_kernels.norm import rms_norm_ref
from proa_kernels.norm_quant_triton import launch_norm_quant
from proa_kernels.sample import SampleSettings, sample_ref, uniforms_ref, weights_ref
from proa_kernels.sample_triton import launch_sample
from proa_kernels.testing import Guarded, relative_error, tolerance
from proa_kernels.timing import float8_of

# Weights differ in the last bit of a float32 exponential from machine to machine.
MARGIN = 1e-5
VOCAB = {"cpu": 150, "cuda": 151_936}
# temperature, min_p, top_k, top_p
REQUESTS: tuple[tuple[float, float, int, float], ...] = (
    (0.0, 0.0, 0, 1.0),
    (1.0, 0.02, 0, 1.0),
    (0.7, 0.0, 20, 0.9),
    (2.0, 0.0, 0, 0.6),
)


def checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """Name and check of both families; a check returns "" or what is wrong."""
    yield "sample", partial(check_sample, device)
    for group in (128, 0):
        yield f"norm_quant {group or 'row'}", partial(check_norm_quant, device, group)


def wrong_draws(tokens: torch.Tensor, logits: torch.Tensor, settings: SampleSettings) -> list[int]:
    """Rows with another token than the reference's, unless their uniform is within MARGIN of this token's interval."""
    cum = weights_ref(logits, settings).cumsum(1)
    cum /= cum[:, -1:].clone()
    draw = uniforms_ref(settings.seed, settings.count)
    in_range = tokens.clamp(0, logits.shape[1] - 1)
    end = cum.gather(1, in_range[:, None])[:, 0]
    start = cum.gather(1, (in_range[:, None] - 1).clamp(min=0))[:, 0].where(in_range > 0, 0.0)
    is_near = (start - MARGIN < draw) & (draw < end + MARGIN) & (end > start)
    is_near &= (settings.temperature > 0) & (tokens == in_range)
    return ((tokens != sample_ref(logits, settings)[0]) & ~is_near).nonzero()[:, 0].tolist()


def check_sample(device: torch.device) -> str:
    """Greedy, min-p, top-k with top-p, and top-p rows of one batch."""
    temperature, min_p, top_k, top_p = zip(*REQUESTS, strict=True)
    seed = range(len(REQUESTS))
    settings = SampleSettings.of(
        temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p, seed=seed, count=seed, device=device
    )
    logits = (torch.randn(len(REQUESTS), VOCAB[device.type], device=device) * 3).to(half_of(device))
    tokens = Guarded.empty((len(REQUESTS),), torch.int64, device)
    peaks = Guarded.empty((len(REQUESTS),), torch.float32, device)
    launch_sample(logits, settings, tokens.tensor, peaks.tensor)
    if not tokens.is_intact() or not peaks.is_intact():
        return "wrote outside its outputs"
    wrong = wrong_draws(tokens.tensor, logits, settings)
    return f"rows {wrong} have other tokens than the reference" if wrong else ""


def check_norm_quant(device: torch.device, group: int) -> str:
    """Seven ragged rows with a residual: the sum to the bit, values times scales within both roundings."""
    half, fp8, size = half_of(device), float8_of(arch_of(device)), 1000
    x, residual = (torch.randn(7, size, device=device).to(half) for _ in range(2))
    weight = torch.randn(size, device=device).to(half)
    num_groups = -(-size // group) if group else 1
    scales = Guarded.empty((7, num_groups), torch.float32, device)
    total = Guarded.empty((7, size), half, device)
    values = torch.full((7, size), 7.0, device=device).to(fp8)
    launch_norm_quant(x, residual, weight, EPS, values, scales.tensor, total.tensor, group)
    if not scales.is_intact() or not total.is_intact():
        return "wrote outside its outputs"
    if not torch.equal(total.tensor, x + residual):
        return "the sum differs"
    restored = values.float() * scales.tensor.repeat_interleave(group or size, 1)[:, :size]
    error = relative_error(restored, rms_norm_ref((x + residual).float(), weight.float(), EPS))
    return "" if error < tolerance(fp8, num_roundings=2) else f"off by {error:.1e}"
