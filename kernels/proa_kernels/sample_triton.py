"""Sampling in Triton: one program for a row, which it reads again for each step. Legend as in sample.py.

Nothing is sorted. A distance y >= 0 orders as its bits do, so a cutoff is a number of 31 bits, found from the highest
two down: each pass over the row sums what lies below the next three candidates. That is radix selection (Knuth, The Art
of Computer Programming 3, section 5.2.5) on counts for top-k and on masses for top-p; without histograms, so that no
atomic decides in which order floats are added. Equal inputs give equal tokens.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import Arch, arch_of, next_power_of_2
from proa_kernels.sample import GOLDEN, MIN_TEMPERATURE, MIX_1, MIX_2, SampleSettings

COLS = 4096
PER_THREAD = 8  # 16 bytes of 16-bit logits
NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def _distances(row_ptr, start, size_v, peak, temperature, COLS: tl.constexpr):
    """Ids, weights before any cutoff (float64) and keys of COLS tokens; 0 and the last key past the end."""
    col = start + tl.arange(0, COLS)
    x = tl.load(row_ptr + col, mask=col < size_v, other=float("-inf")).to(tl.float32)
    y = tl.div_rn(peak - x, temperature)
    return col, tl.exp(-y).to(tl.float64), y.to(tl.uint32, bitcast=True)


@triton.jit
def _kept(row_ptr, start, size_v, peak, temperature, limit, COLS: tl.constexpr):
    """Ids and weights: 0 where a key is beyond the limit."""
    col, weight, key = _distances(row_ptr, start, size_v, peak, temperature, COLS)
    return col, tl.where(key <= limit, weight, 0.0)


@triton.jit
def _mass(row_ptr, size_v, peak, temperature, limit, COLS: tl.constexpr):
    mass = tl.zeros((COLS,), tl.float64)
    for start in range(0, size_v, COLS):
        _, weight = _kept(row_ptr, start, size_v, peak, temperature, limit, COLS)
        mass += weight
    return tl.sum(mass, 0)


@triton.jit
def _cutoff(
    row_ptr, size_v, peak, temperature, limit, budget, COUNTS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr
):
    """Largest key such that all strictly smaller ones within the limit weigh (or, with COUNTS, are) less than `budget`.

    The last of the 16 passes has one bit left: its upper two candidates were refused before.
    """
    found = limit * 0
    for step in range(16):
        shift = tl.maximum(29 - 2 * step, 0).to(tl.uint32)
        one = tl.full((), 1, tl.uint32) << shift
        below_1 = tl.zeros((COLS // EACH,), tl.float64)
        below_2 = tl.zeros((COLS // EACH,), tl.float64)
        below_3 = tl.zeros((COLS // EACH,), tl.float64)
        for start in range(0, size_v, COLS):
            _, weight, key = _distances(row_ptr, start, size_v, peak, temperature, COLS)
            spent = tl.where(key <= limit, 1.0 if COUNTS else weight, 0.0)
            spent = tl.reshape(spent.to(tl.float64), (COLS // EACH, EACH))
            key = tl.reshape(key, (COLS // EACH, EACH))
            below_1 += tl.sum(tl.where(key < found + one, spent, 0.0), 1)
            below_2 += tl.sum(tl.where(key < found + one * 2, spent, 0.0), 1)
            below_3 += tl.sum(tl.where(key < found + one * 3, spent, 0.0), 1)
        digit = (tl.sum(below_1, 0) < budget).to(tl.uint32)
        digit += (tl.sum(below_2, 0) < budget).to(tl.uint32)
        digit += (tl.sum(below_3, 0) < budget).to(tl.uint32)
        found += digit << shift
    return tl.minimum(found, limit)


@triton.jit
def _mix(x, MIX_1: tl.constexpr, MIX_2: tl.constexpr):
    x = (x ^ (x >> 30)) * MIX_1
    x = (x ^ (x >> 27)) * MIX_2
    return x ^ (x >> 31)


@triton.jit
def _invert(row_ptr, size_v, peak, temperature, limit, target, COLS: tl.constexpr):
    """First id whose cumulated weight exceeds the target; the last one with a weight where rounding left none."""
    token = tl.full((), -1, tl.int32)
    last = tl.full((), 0, tl.int32)
    start = tl.full((), 0, tl.int32)
    before = tl.full((), 0.0, tl.float64)
    while (start < size_v) & (token < 0):
        col, weight = _kept(row_ptr, start, size_v, peak, temperature, limit, COLS)
        mass = tl.sum(weight, 0)
        last = tl.maximum(last, tl.max(tl.where(weight > 0.0, col, 0), 0))
        if before + mass > target:
            is_above = (before + tl.cumsum(weight, 0) > target) & (weight > 0.0)
            first = tl.min(tl.where(is_above, col, NO_TOKEN), 0)
            token = tl.minimum(first, last)
        before += mass
        start += COLS
    return tl.where(token < 0, last, token)


@triton.jit
def _argmax(row_ptr, size_v, COLS: tl.constexpr):
    """Largest logit (NaN where there is one) and its lowest id."""
    best = tl.full((COLS,), float("-inf"), tl.float32)
    best_col = tl.zeros((COLS,), tl.int32)
    is_nan = tl.zeros((COLS,), tl.int32)
    for start in range(0, size_v, COLS):
        col = start + tl.arange(0, COLS)
        x = tl.load(row_ptr + col, mask=col < size_v, other=float("-inf")).to(tl.float32)
        is_nan |= (x != x).to(tl.int32)
        best_col = tl.where(x > best, col, best_col)
        best = tl.where(x > best, x, best)
    peak = tl.max(best, 0)
    token = tl.min(tl.where(best == peak, best_col, NO_TOKEN), 0)
    peak = tl.where(peak == 0.0, 0.0, peak)  # of -0.0 the distance to 0.0 would be -0.0, whose key is the largest
    return tl.where(tl.max(is_nan, 0) > 0, float("nan"), peak), token


@triton.jit
def _key_within(reach):
    """Largest key of a float32 that is not beyond `reach` >= 0, a float64."""
    near = tl.abs(reach).to(tl.float32)
    key = near.to(tl.uint32, bitcast=True)
    return tl.where(near.to(tl.float64) > reach, key - 1, key)


@triton.jit
def sample_kernel(
    logits_ptr, temperature_ptr, reach_ptr, top_k_ptr, top_p_ptr, seed_ptr, count_ptr, tokens_ptr, peaks_ptr,
    size_v, size_stride,
    COLS: tl.constexpr, EACH: tl.constexpr, MIN_TEMPERATURE: tl.constexpr,
    GOLDEN: tl.constexpr, MIX_1: tl.constexpr, MIX_2: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * size_stride
    peak, token = _argmax(row_ptr, size_v, COLS)
    is_finite = tl.abs(peak) < float("inf")  # false for NaN
    temperature = tl.load(temperature_ptr + row)
    if is_finite & (temperature >= MIN_TEMPERATURE):
        limit = _key_within(tl.load(reach_ptr + row))
        top_k = tl.load(top_k_ptr + row)
        if top_k > 0:
            limit = _cutoff(row_ptr, size_v, peak, temperature, limit, top_k.to(tl.float64), True, COLS, EACH)
        top_p = tl.load(top_p_ptr + row)
        if top_p < 1.0:
            budget = top_p * _mass(row_ptr, size_v, peak, temperature, limit, COLS)
            limit = _cutoff(row_ptr, size_v, peak, temperature, limit, budget, False, COLS, EACH)
        stream = _mix(tl.load(seed_ptr + row).to(tl.uint64) + GOLDEN, MIX_1, MIX_2)
        count = tl.load(count_ptr + row).to(tl.uint64)
        bits = _mix(stream + (count + 1) * GOLDEN, MIX_1, MIX_2)
        uniform = (bits >> 11).to(tl.float64) * (1.0 / (1 << 53))
        target = uniform * _mass(row_ptr, size_v, peak, temperature, limit, COLS)
        token = _invert(row_ptr, size_v, peak, temperature, limit, target, COLS)
    tl.store(tokens_ptr + row, tl.where(is_finite, token, 0).to(tl.int64))
    tl.store(peaks_ptr + row, peak)


def launch_sample(
    logits_RV: torch.Tensor, settings: SampleSettings, tokens_R: torch.Tensor, peaks_R: torch.Tensor, cols: int = COLS
) -> None:
    """Fill `tokens_R` and `peaks_R`; `cols` logits are in registers at once."""
    num_rows, num_tokens = logits_RV.shape
    if num_rows == 0:
        return
    cols = min(cols, next_power_of_2(num_tokens))
    sample_kernel[(num_rows,)](
        logits_RV, *settings.tensors(), tokens_R, peaks_R, num_tokens, logits_RV.stride(0),
        num_warps=sample_warps(cols, arch_of(logits_RV.device)), **sample_constants(cols),
    )  # fmt: skip


def sample_warps(cols: int, arch: Arch) -> int:
    """Such that a thread holds PER_THREAD logits."""
    return max(1, min(16, cols // (PER_THREAD * arch.wave_size)))


def sample_constants(cols: int) -> dict[str, int | float]:
    """Compile-time constants of `sample_kernel`, as launched and as compiled ahead of time."""
    return {
        "COLS": cols, "EACH": min(PER_THREAD, cols), "MIN_TEMPERATURE": MIN_TEMPERATURE,
        "GOLDEN": GOLDEN, "MIX_1": MIX_1, "MIX_2": MIX_2,
    }  # fmt: skip
