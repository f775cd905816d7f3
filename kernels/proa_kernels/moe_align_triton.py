"""align & sort in Triton: one launch for few pairs, else two; no global atomics and no barrier between programs.

Legend as in moe_align.py; EP is E rounded up to a power of two, G programs, TILE pairs handled at once. `direct`: every
program counts all NP >= N ids by itself and places its own tile, whose ranks come from comparing all pairs of it.
`count` writes one row of a [G, EP] matrix per program; in `place` every program reads that matrix and derives its own
offsets, so the launch boundary is the only synchronisation; ranks come from sorting (expert, position) keys.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import AlignPlan, align_plan, arch_of, ceil_div, next_power_of_2

MATRIX_ROWS = 16
COUNT_CHUNK = 1024  # a count of more at once runs out of scalar registers on Instinct GPUs


@triton.jit
def _load_experts(ids_ptr, map_ptr, pair, limit, num_experts, num_ids, HAS_MAP: tl.constexpr):
    """Local expert of each pair, -1 where it is dropped or beyond `limit`."""
    expert = tl.load(ids_ptr + pair, mask=pair < limit, other=-1)
    if HAS_MAP:
        is_known = (expert >= 0) & (expert < num_ids)
        expert = tl.load(map_ptr + expert, mask=is_known, other=-1)
    return tl.where((expert >= 0) & (expert < num_experts), expert, -1)


@triton.jit
def _pair_limit(tokens_ptr, num_pairs, per_token, HAS_TOKENS: tl.constexpr):
    if HAS_TOKENS:
        return tl.minimum(tl.maximum(tl.load(tokens_ptr), 0) * per_token, num_pairs)
    return num_pairs


@triton.jit
def _place_tile(
    expert, base, hist, first_pair, num_pairs, rows_ptr, block_ptr, inverse_ptr,
    M: tl.constexpr, TILE: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """Write the rows of one tile; `base` is the row of each expert's next pair."""
    lane = tl.arange(0, TILE)
    key = tl.sort(tl.where(expert >= 0, expert, EP) * TILE + lane)
    expert = key // TILE
    pair = first_pair + key % TILE
    is_kept = expert < EP
    shift = base - (tl.cumsum(hist, 0) - hist)
    row = lane + tl.gather(shift, tl.minimum(expert, EP - 1), 0)
    tl.store(rows_ptr + row, pair, mask=is_kept)
    tl.store(inverse_ptr + pair, tl.where(is_kept, row, -1), mask=pair < num_pairs)
    tl.store(block_ptr + row // M, expert, mask=is_kept & (row % M == 0))


@triton.jit
def _pad_rows(rows_ptr, start, counts, num_pairs, g, G, M: tl.constexpr, EP: tl.constexpr, WIDTH: tl.constexpr):
    """Write what lacks to whole blocks; programs take WIDTH rows of each block in turn."""
    for first in range(g * WIDTH, M, G * WIDTH):
        row = (counts // M * M)[:, None] + first + tl.arange(0, WIDTH)[None, :]
        is_padding = (row >= counts[:, None]) & (counts % M != 0)[:, None]
        tl.store(rows_ptr + start[:, None] + row, tl.zeros([EP, WIDTH], tl.int32) + num_pairs, mask=is_padding)


@triton.jit(do_not_specialize=["num_pairs", "per_token", "num_ids", "G"])
def align_direct_kernel(
    ids_ptr, map_ptr, tokens_ptr, rows_ptr, block_ptr, totals_ptr, inverse_ptr, counts_ptr,
    num_pairs, per_token, num_experts, num_ids, G,
    M: tl.constexpr, NP: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, EP: tl.constexpr, WIDTH: tl.constexpr,
    HAS_MAP: tl.constexpr, HAS_TOKENS: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0)
    limit = _pair_limit(tokens_ptr, num_pairs, per_token, HAS_TOKENS)
    counts = tl.zeros([EP], tl.int32)
    before = tl.zeros([EP], tl.int32)
    for first in range(0, NP, CHUNK):
        n = first + tl.arange(0, CHUNK)
        some = _load_experts(ids_ptr, map_ptr, n, limit, num_experts, num_ids, HAS_MAP)
        counts += tl.histogram(tl.maximum(some, 0), EP, mask=some >= 0)
        if NP > TILE:
            before += tl.histogram(tl.maximum(some, 0), EP, mask=(some >= 0) & (n < g * TILE))
    padded = (counts + (M - 1)) // M * M
    start = tl.cumsum(padded, 0) - padded
    if g == 0:
        e = tl.arange(0, EP)
        tl.store(counts_ptr + e, counts, mask=e < num_experts)
        tl.store(totals_ptr + tl.arange(0, 2), tl.where(tl.arange(0, 2) == 0, tl.sum(padded), tl.sum(counts)))
    _pad_rows(rows_ptr, start, counts, num_pairs, g, G, M, EP, WIDTH)
    lane = tl.arange(0, TILE)
    pair = g * TILE + lane
    expert = _load_experts(ids_ptr, map_ptr, pair, limit, num_experts, num_ids, HAS_MAP)
    is_kept = expert >= 0
    is_before = (expert[None, :] == expert[:, None]) & (lane[None, :] < lane[:, None])
    row = tl.gather(start + before, tl.maximum(expert, 0), 0) + tl.sum(is_before.to(tl.int32), 1)
    tl.store(rows_ptr + row, pair, mask=is_kept)
    tl.store(inverse_ptr + pair, tl.where(is_kept, row, -1), mask=pair < num_pairs)
    tl.store(block_ptr + row // M, expert, mask=is_kept & (row % M == 0))


@triton.jit(do_not_specialize=["num_pairs", "per_token", "num_ids", "span"])
def align_count_kernel(
    ids_ptr, map_ptr, tokens_ptr, matrix_ptr, num_pairs, per_token, num_experts, num_ids, span,
    TILE: tl.constexpr, EP: tl.constexpr, HAS_MAP: tl.constexpr, HAS_TOKENS: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0)
    limit = _pair_limit(tokens_ptr, num_pairs, per_token, HAS_TOKENS)
    hist = tl.zeros([EP], tl.int32)
    for first in range(g * span, tl.minimum((g + 1) * span, limit), TILE):
        pair = first + tl.arange(0, TILE)
        expert = _load_experts(ids_ptr, map_ptr, pair, limit, num_experts, num_ids, HAS_MAP)
        hist += tl.histogram(tl.where(expert >= 0, expert, 0), EP, mask=expert >= 0)
    tl.store(matrix_ptr + g * EP + tl.arange(0, EP), hist)


@triton.jit(do_not_specialize=["num_pairs", "per_token", "num_ids", "span", "G"])
def align_place_kernel(
    ids_ptr, map_ptr, tokens_ptr, matrix_ptr, rows_ptr, block_ptr, totals_ptr, inverse_ptr, counts_ptr,
    num_pairs, per_token, num_experts, num_ids, span, G,
    M: tl.constexpr, TILE: tl.constexpr, EP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    HAS_MAP: tl.constexpr, HAS_TOKENS: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0)
    e = tl.arange(0, EP)
    before = tl.zeros([EP], tl.int32)
    counts = tl.zeros([EP], tl.int32)
    for first in range(0, G, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        part = tl.load(matrix_ptr + row * EP + e[None, :], mask=row < G, other=0)
        counts += tl.sum(part, 0)
        before += tl.sum(tl.where(row < g, part, 0), 0)
    padded = (counts + (M - 1)) // M * M
    start = tl.cumsum(padded, 0) - padded
    if g == 0:
        tl.store(counts_ptr + e, counts, mask=e < num_experts)
        tl.store(totals_ptr + tl.arange(0, 2), tl.where(tl.arange(0, 2) == 0, tl.sum(padded), tl.sum(counts)))
    _pad_rows(rows_ptr, start, counts, num_pairs, g, G, M, EP, WIDTH)
    limit = _pair_limit(tokens_ptr, num_pairs, per_token, HAS_TOKENS)
    base = start + before
    for first in range(g * span, tl.minimum((g + 1) * span, num_pairs), TILE):
        pair = first + tl.arange(0, TILE)
        expert = _load_experts(ids_ptr, map_ptr, pair, limit, num_experts, num_ids, HAS_MAP)
        hist = tl.histogram(tl.where(expert >= 0, expert, 0), EP, mask=expert >= 0)
        _place_tile(expert, base, hist, first, num_pairs, rows_ptr, block_ptr, inverse_ptr, M, TILE, EP)
        base += hist


def launch_align(
    ids_TA: torch.Tensor,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
    outputs: tuple[torch.Tensor, ...],
    plan: AlignPlan | None = None,
) -> None:
    """Fill `outputs` (the fields of an Alignment, in order) on the stream of the ids; `plan` overrides the table."""
    rows, expert, totals, inverse, counts = outputs
    num_pairs, num_experts = ids_TA.numel(), counts.numel()
    arch = arch_of(ids_TA.device)
    plan = plan or align_plan(num_pairs, arch)
    has_map, has_tokens = expert_map is not None, num_tokens is not None
    inputs = (ids_TA, expert_map if has_map else ids_TA, num_tokens if has_tokens else ids_TA)
    sizes = (num_pairs, ids_TA.shape[1], num_experts, expert_map.numel() if expert_map is not None else 0)
    flags = {"TILE": plan.tile, "EP": next_power_of_2(num_experts), "HAS_MAP": has_map, "HAS_TOKENS": has_tokens}
    width = pad_width(block_rows, flags["EP"], plan.num_warps * arch.wave_size)
    grid = (plan.num_programs,)
    if plan.num_launches == 1:
        padded = plan.num_programs * plan.tile
        align_direct_kernel[grid](
            *inputs, rows, expert, totals, inverse, counts, *sizes, plan.num_programs, M=block_rows, NP=padded,
            CHUNK=min(padded, COUNT_CHUNK), WIDTH=width, num_warps=plan.num_warps, **flags,
        )  # fmt: skip
        return
    span = ceil_div(ceil_div(num_pairs, plan.num_programs), plan.tile) * plan.tile
    matrix = torch.empty(plan.num_programs, flags["EP"], dtype=torch.int32, device=ids_TA.device)
    align_count_kernel[grid](*inputs, matrix, *sizes, span, num_warps=plan.num_warps, **flags)
    align_place_kernel[grid](
        *inputs, matrix, rows, expert, totals, inverse, counts, *sizes, span, plan.num_programs,
        M=block_rows, ROWS=MATRIX_ROWS, WIDTH=width, num_warps=plan.num_warps, **flags,
    )  # fmt: skip


def pad_width(block_rows: int, num_bins: int, num_threads: int) -> int:
    """Rows of each block that one step of `_pad_rows` writes: about 8 stores of a thread, each with its own mask."""
    return max(1, min(block_rows, 8 * num_threads // num_bins))
