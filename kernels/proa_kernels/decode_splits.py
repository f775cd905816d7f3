"""How decode attention is cut: tile sizes, and splits of the keys from shapes and the GPU alone; how parts are merged.

Legend as in paged_attention.py; Z splits. A sequence's keys are dealt to Z programs in equal runs of whole tiles. Each
leaves its normalised sum and log2 of its softmax denominator; `merge_kernel` weighs the sums with those.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from proa_kernels.arch import Arch, ArchName, ceil_div, next_power_of_2

LOG2_E = 1.4426950408889634
MAX_SPLITS = 64
# Keys of a split at most: a program that is alone takes 1.2 us per 64 of them (bench/kernels/NOTES.md), others wait.
MAX_KEYS = 4096
# Query rows times splits that this bound may ask for: 512 MiB of parts in float32, 512 wide.
MAX_PART_ROWS = 1 << 18
MERGE_COLS = 128  # 64 splits of them fit into the registers of two warps


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTile:
    """`rows` query heads times `keys` cached tokens per step.

    `programs_per_cu` of them hide each other's latency on one multiprocessor; a split has `min_keys` keys at least, so
    that it outweighs its share of the merge.
    """

    rows: int
    keys: int
    num_warps: int
    num_stages: int
    programs_per_cu: int = 2
    min_keys: int = 64


def _tile(rows: int, keys: int, num_warps: int, num_stages: int, programs_per_cu: int, min_keys: int) -> DecodeTile:
    return DecodeTile(
        rows=rows, keys=keys, num_warps=num_warps, num_stages=num_stages,
        programs_per_cu=programs_per_cu, min_keys=min_keys,
    )  # fmt: skip


GQA_TILE: Mapping[ArchName, DecodeTile] = {
    "cpu": _tile(16, 16, 1, 1, 1, 16),
    "sm90": _tile(16, 64, 4, 2, 4, 128),
    "gfx942": _tile(16, 64, 4, 2, 2, 128),
    "gfx950": _tile(16, 64, 4, 2, 2, 128),
}
# A latent row is wide: 32 keys of 576 numbers are 36 KiB. `few` serves up to 16 heads, `many` more.
MLA_FEW_HEADS: Mapping[ArchName, DecodeTile] = {
    "cpu": _tile(16, 16, 1, 1, 1, 16),
    "sm90": _tile(16, 32, 4, 3, 2, 32),
    "gfx942": _tile(16, 32, 4, 1, 1, 64),
    "gfx950": _tile(16, 32, 4, 2, 1, 64),
}
MLA_MANY_HEADS: Mapping[ArchName, DecodeTile] = {
    "cpu": _tile(32, 16, 1, 1, 1, 16),
    "sm90": _tile(64, 32, 8, 3, 1, 128),
    "gfx942": _tile(32, 32, 4, 1, 1, 128),
    "gfx950": _tile(32, 32, 4, 2, 1, 128),
}


def num_splits(num_programs: int, max_keys: int, arch: Arch, tile: DecodeTile) -> int:
    """Splits, a power of two: they fill the GPU once, none below the tile's bound, and more where some would be long.

    Lengths are not known here, so that a graph serves all: in a full batch one long row must not be walked by one
    program while all others wait, and so no split has over MAX_KEYS keys unless the parts would grow too large.
    """
    room = arch.num_cus * tile.programs_per_cu // max(num_programs, 1)
    most = MAX_PART_ROWS // max(num_programs * tile.rows, 1)
    short = min(next_power_of_2(ceil_div(max_keys, MAX_KEYS)), most)
    wanted = min(max(min(room, max_keys // tile.min_keys), short), MAX_SPLITS)
    return 1 if wanted < 2 else next_power_of_2(wanted + 1) // 2


@triton.jit
def split_range(length, KEYS: tl.constexpr):
    """First key of this program's split (its number is program id 2) and the end of it."""
    split = tl.program_id(2)
    run = tl.cdiv(tl.cdiv(length, KEYS), tl.num_programs(2)) * KEYS
    start = split * run
    return start, tl.minimum(start + run, length)


@triton.jit
def softmax_step(scores, scale, peak, total):
    """Weights of one tile of scores, the factor for what was summed before, new peak (log2 units) and new total.

    `scale` > 0 turns scores into log2 units; it is applied last, so that scaling and subtraction are one operation.
    """
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
    factor = tl.exp2(peak - new_peak)
    weights = tl.exp2(scores * scale - new_peak[:, None])
    return weights, factor, new_peak, total * factor + tl.sum(weights, 1)


@triton.jit
def merge_kernel(
    parts_ptr, logs_ptr, out_ptr, num_splits, W: tl.constexpr, WP: tl.constexpr, ZP: tl.constexpr
):  # fmt: skip
    """out [rows, W] of parts float32 [rows, Z, W] and logs float32 [rows, Z], WP columns per program.

    An empty split has -inf as its log.
    """
    row = tl.program_id(0).to(tl.int64)
    z = tl.arange(0, ZP)
    w = tl.program_id(1) * WP + tl.arange(0, WP)
    logs = tl.load(logs_ptr + row * num_splits + z, mask=z < num_splits, other=float("-inf"))
    peak = tl.max(logs, 0)
    shares = tl.exp2(logs - tl.where(peak == float("-inf"), 0.0, peak))
    total = tl.sum(shares, 0)
    here = (shares > 0.0)[:, None] & (w < W)[None, :]
    parts = tl.load(parts_ptr + (row * num_splits + z[:, None]) * W + w[None, :], mask=here, other=0.0)
    out = tl.sum(parts * shares[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    tl.store(out_ptr + row * W + w, out.to(out_ptr.dtype.element_ty), mask=w < W)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Float32 `sums` [rows, Z, W] and `logs` [rows, Z] of a split attention; with one split nobody touches them."""

    sums: torch.Tensor
    logs: torch.Tensor

    @classmethod
    def empty(cls, out: torch.Tensor, splits: int) -> Parts:
        num_rows, width = out.shape[0] * out.shape[1], out.shape[2]
        size = 0 if splits == 1 else num_rows * splits
        return cls(
            sums=torch.empty(size * width, dtype=torch.float32, device=out.device),
            logs=torch.empty(size, dtype=torch.float32, device=out.device),
        )

    def merge_into(self, out: torch.Tensor, splits: int) -> None:
        width = out.shape[2]
        cols = min(MERGE_COLS, next_power_of_2(width))
        merge_kernel[(out.shape[0] * out.shape[1], ceil_div(width, cols))](
            self.sums, self.logs, out, splits, W=width, WP=cols, ZP=next_power_of_2(splits), num_warps=2,
        )  # fmt: skip
