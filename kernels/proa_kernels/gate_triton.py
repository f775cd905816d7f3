"""Gate in Triton: ROWS tokens per program, experts across the lanes, one launch.

A choice and its expert travel as one integer: the score in an order-preserving integer form above, the complement of
the id below, so that one maximum finds both and ties fall to the lower id. 16-bit logits without bias fit in 32 bits,
which halves the work of each reduction.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from proa_kernels.arch import Arch, arch_of, ceil_div, next_power_of_2

if TYPE_CHECKING:
    from proa_kernels.gate import GateSpec

LOWEST_32 = tl.constexpr(-(1 << 31))
LOWEST_64 = tl.constexpr(-(1 << 63))


@triton.jit
def _ordered(x):
    """Signed integers in the order of the float32 values `x`; NaN above all, -0 as +0."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(x != x, 0x7FFFFFFF, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits))


@triton.jit
def _packed(choice, is_real, expert, NARROW: tl.constexpr):
    """Choice and expert as one integer, the smallest possible one where `is_real` is false."""
    order = _ordered(choice)
    if NARROW:
        key = (order & -65536) | (65535 - expert)
        return tl.where(is_real, key, LOWEST_32)
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        key = (order.to(tl.int64) << 32) | (65535 - expert).to(tl.int64)
        return tl.where(is_real, key, LOWEST_64)


@triton.jit
def _group_mask(
    choice, num_groups, ROWS: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, TOP_G: tl.constexpr, TOP2: tl.constexpr
):
    """True for experts of the TOP_G best groups; `choice` is -inf where there is no expert."""
    grouped = tl.reshape(choice, [ROWS, GP, SP])
    best = tl.max(grouped, 2)
    rating = best
    if TOP2:
        within = tl.arange(0, SP)[None, None, :]
        first = tl.min(tl.where(grouped == best[:, :, None], within, SP), 2)
        rating = best + tl.max(tl.where(within == first[:, :, None], float("-inf"), grouped), 2)
    group = tl.arange(0, GP)[None, :]
    keys = _packed(rating, group < num_groups, group, False)
    kept = tl.zeros([ROWS, GP], tl.int32)
    for _ in tl.static_range(TOP_G):
        is_best = keys == tl.max(keys, 1)[:, None]
        kept = tl.where(is_best, 1, kept)
        keys = tl.where(is_best, LOWEST_64, keys)
    spread = tl.broadcast_to(kept[:, :, None], [ROWS, GP, SP])
    return tl.reshape(spread, [ROWS, GP * SP]) != 0


@triton.jit
def _load_logits(logits_ptr, where, mask, stride, SPLITS: tl.constexpr, ROUND: tl.constexpr):
    """Sums of the SPLITS partial logits, `stride` apart; ROUND to bfloat16, as a product in bfloat16 would be."""
    logits = tl.load(logits_ptr + where, mask=mask, other=0.0).to(tl.float32)
    for s in tl.static_range(1, SPLITS):
        logits += tl.load(logits_ptr + s * stride + where, mask=mask, other=0.0)
    return logits.to(tl.bfloat16).to(tl.float32) if ROUND else logits


@triton.jit(do_not_specialize=["num_tokens"])
def gate_kernel(
    logits_ptr, bias_ptr, weights_ptr, ids_ptr, num_tokens, size_e, num_groups, group_size, scale,
    ROWS: tl.constexpr, GP: tl.constexpr, SP: tl.constexpr, TOP_K: tl.constexpr, KP: tl.constexpr,
    SOFTMAX: tl.constexpr, RENORM: tl.constexpr, HAS_BIAS: tl.constexpr, NARROW: tl.constexpr,
    TOP_G: tl.constexpr, TOP2: tl.constexpr, SHARED: tl.constexpr, SPLITS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    expert = tl.arange(0, GP * SP)[None, :]
    is_real = expert < size_e
    if GP > 1:
        is_real = (expert % SP < group_size) & (expert // SP < num_groups)
        expert = expert // SP * group_size + expert % SP
    here = (token < num_tokens) & is_real
    logits = _load_logits(logits_ptr, token * size_e + expert, here, num_tokens * size_e, SPLITS, ROUND)
    logits = tl.where(is_real, logits, float("-inf"))
    peak = tl.max(logits, 1)[:, None]
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    if SOFTMAX:
        total = tl.sum(tl.exp(logits - peak), 1)
        choice = logits
        if HAS_BIAS or GP > 1:
            choice = tl.exp(logits - peak) / total[:, None]
    else:
        choice = 1.0 / (1.0 + tl.exp(-logits))
    if HAS_BIAS:
        choice += tl.load(bias_ptr + expert, mask=is_real, other=0.0)
    is_open = here
    if GP > 1:
        choice = tl.where(is_real, choice, float("-inf"))
        is_open = here & _group_mask(choice, num_groups, ROWS, GP, SP, TOP_G, TOP2)
    keys = _packed(choice, is_open, expert, NARROW)
    column = tl.arange(0, KP)[None, :]
    chosen = tl.zeros([ROWS, KP], tl.int32)
    for k in tl.static_range(TOP_K):
        best = tl.max(keys, 1)[:, None]
        keys = tl.where(keys == best, LOWEST_32 if NARROW else LOWEST_64, keys)
        chosen = tl.where(column == k, (65535 - (best & 65535)).to(tl.int32), chosen)
    is_routed = column < TOP_K
    # Reading the chosen logits again costs one cached load; picking them out above would cost a sum for each.
    where = token * size_e + chosen
    here = (token < num_tokens) & is_routed
    weights = _load_logits(logits_ptr, where, here, num_tokens * size_e, SPLITS, ROUND)
    weights = tl.exp(weights - peak) / total[:, None] if SOFTMAX else 1.0 / (1.0 + tl.exp(-weights))
    weights = tl.where(is_routed, weights, 0.0)
    if RENORM:
        weights = weights / (tl.sum(weights, 1)[:, None] + 1e-20)
    weights = tl.where(is_routed, weights * scale, 1.0)
    chosen = tl.where(is_routed, chosen, size_e + column - TOP_K)
    out_where = token * (TOP_K + SHARED) + column
    is_out = (token < num_tokens) & (column < TOP_K + SHARED)
    tl.store(weights_ptr + out_where, weights, mask=is_out)
    tl.store(ids_ptr + out_where, chosen, mask=is_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """Tokens and warps of one program."""

    rows: int
    num_warps: int


def gate_plan(num_tokens: int, is_narrow: bool, arch: Arch) -> GatePlan:
    """One wave a program: reductions stay within it. Keys of 32 bits leave registers to overlap several tokens."""
    is_full = num_tokens >= 16 * arch.num_cus
    return GatePlan(rows=4 if is_narrow and is_full else 1, num_warps=1)


def launch_gate(
    logits: torch.Tensor,
    bias_E: torch.Tensor | None,
    weights_TA: torch.Tensor,
    ids_TA: torch.Tensor,
    spec: GateSpec,
    plan: GatePlan | None = None,
    is_rounded: bool = False,
) -> None:
    """Fill `weights_TA` and `ids_TA` on the stream of the logits; `plan` overrides the choice.

    `logits` [T, E], or [Z, T, E] float32 parts whose sums they are, `is_rounded` to bfloat16.
    """
    num_tokens, num_experts = logits.shape[-2:]
    if num_tokens == 0:
        return
    is_plain = spec.score == "softmax" and bias_E is None and spec.num_groups == 1
    is_narrow = is_plain and (is_rounded or logits.dtype == torch.bfloat16)
    plan = plan or gate_plan(num_tokens, is_narrow, arch_of(logits.device))
    group_size = num_experts // spec.num_groups
    gate_kernel[(ceil_div(num_tokens, plan.rows),)](
        logits, logits if bias_E is None else bias_E, weights_TA, ids_TA,
        num_tokens, num_experts, spec.num_groups, group_size, spec.scale,
        ROWS=plan.rows, GP=next_power_of_2(spec.num_groups), SP=next_power_of_2(group_size),
        TOP_K=spec.top_k, KP=next_power_of_2(spec.top_k + spec.num_shared),
        SOFTMAX=spec.score == "softmax", RENORM=spec.renormalize, HAS_BIAS=bias_E is not None, NARROW=is_narrow,
        TOP_G=spec.top_groups, TOP2=spec.group_score == "top2", SHARED=spec.num_shared,
        SPLITS=logits.shape[0] if logits.dim() == 3 else 1, ROUND=is_rounded, num_warps=plan.num_warps,
    )  # fmt: skip
