"""Blocks that `proa-kernels tune` tries: what fits the GPU around the sizes that won so far, arch.py's own first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Literal, TypeVar

from proa_kernels import arch as defaults
from proa_kernels.arch import ROW_TILES, SCALE_GROUP, Arch, DecodeBlocks, GemmBlocks
from proa_kernels.tables import Kind

Product = Literal[1, 2]
PRODUCTS: tuple[Product, Product] = (1, 2)
B = TypeVar("B")
# columns, depth, warps, stages; product 1 holds gate and up, so its tiles count twice
GEMM_SHAPES: dict[str, dict[Product, tuple[tuple[int, int, int, int], ...]]] = {
    "sm90": {
        1: (
            (64, 128, 4, 4), (32, 128, 4, 5), (64, 128, 4, 3), (64, 64, 4, 6), (128, 64, 8, 3), (128, 64, 8, 4),
            (64, 64, 8, 4),
        ),
        2: (
            (128, 128, 4, 4), (64, 128, 4, 5), (64, 256, 4, 3), (128, 64, 4, 6), (256, 64, 8, 3), (256, 64, 8, 4),
            (128, 64, 8, 4),
        ),
    },
    "gfx": {
        1: ((64, 64, 4, 2), (32, 128, 4, 2), (64, 128, 4, 2), (128, 64, 8, 2), (64, 64, 8, 2), (128, 128, 8, 2)),
        2: ((128, 64, 4, 2), (64, 128, 4, 2), (128, 128, 4, 2), (256, 64, 8, 2), (128, 64, 8, 2), (256, 128, 8, 2)),
    },
}  # fmt: skip
WIDE_ROWS = 64  # from here on row tiles walk the columns together, and few warps cannot hold the sums
DECODE_UP = ((16, 256, 4), (8, 512, 4), (8, 256, 4), (4, 512, 4), (4, 1024, 4), (32, 128, 4), (8, 1024, 8))
DECODE_DOWN = ((8, 128, 4), (4, 256, 4), (8, 256, 4), (2, 512, 4), (4, 128, 2), (16, 128, 4), (2, 256, 2))
MAX_SUMS_PER_WARP = 32 * 128  # float32 sums of a tile: 128 registers of each of 32 lanes
BYTES = {"bf16": 2, "a16w8": 1}


def gemm_candidates(arch: Arch, kind: Kind, which: Product, rows: int) -> list[GemmBlocks]:
    """Blocks of product `which` under row tiles of `rows`; the first is what arch.py takes."""
    has_scales = kind == "a16w8"
    default = defaults.gemm_blocks(arch, rows, has_scale_blocks=has_scales)[which - 1]
    shapes = GEMM_SHAPES["sm90" if arch.name == "sm90" else "gfx"][which]
    group = 8 if rows >= WIDE_ROWS else 1
    options = [
        GemmBlocks(rows=rows, cols=cols, depth=depth, group=group, num_warps=num_warps, num_stages=num_stages)
        for cols, depth, num_warps, num_stages in shapes
    ]
    fitting = [one for one in options if _fits(one, arch, kind, which)]
    return _unique([default, *fitting])


def _fits(blocks: GemmBlocks, arch: Arch, kind: Kind, which: Product) -> bool:
    weight_cols = blocks.cols * (2 if which == 1 else 1)
    staged = blocks.depth * (blocks.rows * 2 + weight_cols * BYTES[kind]) * blocks.num_stages
    sums = blocks.rows * weight_cols
    is_scaled = kind == "a16w8"
    within = not is_scaled or (SCALE_GROUP % blocks.cols == 0 and SCALE_GROUP % blocks.depth == 0)
    waves = blocks.num_warps * arch.wave_size // 32  # a wave of 64 holds twice the sums
    return within and staged <= arch.lds_bytes and sums <= waves * MAX_SUMS_PER_WARP


def decode_candidates(arch: Arch, kind: Kind) -> tuple[list[DecodeBlocks], list[DecodeBlocks]]:
    """Blocks of the two launches for few pairs, arch.py's own first; scaled weights want whole scale groups."""
    lists = []
    for default, shapes in zip(
        defaults.decode_blocks(arch, is_scaled=kind == "a16w8"), (DECODE_UP, DECODE_DOWN), strict=True
    ):
        options = [DecodeBlocks(cols=cols, depth=depth, num_warps=warps) for cols, depth, warps in shapes]
        whole = [one for one in options if kind == "bf16" or one.depth % SCALE_GROUP == 0]
        lists.append(_unique([default, *whole]))
    return lists[0], lists[1]


def row_tiles(num_pairs: int, num_experts: int) -> tuple[int, ...]:
    """The tile that fits the mean expert, and its neighbours."""
    fitting = ROW_TILES.index(defaults.row_tile(num_pairs, num_experts))
    return ROW_TILES[max(fitting - 1, 0) : fitting + 2]


def all_gemms(arch: Arch, kinds: Iterable[Kind], tiles: Iterable[int]) -> list[tuple[Kind, Product, GemmBlocks]]:
    """Every candidate of the products, each once."""
    cases = product(kinds, PRODUCTS, tiles)
    return [(kind, which, one) for kind, which, rows in cases for one in gemm_candidates(arch, kind, which, rows)]


def label(blocks: GemmBlocks | DecodeBlocks) -> str:
    if isinstance(blocks, DecodeBlocks):
        return f"{blocks.cols}x{blocks.depth} w{blocks.num_warps}"
    return f"{blocks.rows}x{blocks.cols}x{blocks.depth} g{blocks.group} w{blocks.num_warps} s{blocks.num_stages}"


def _unique(options: list[B]) -> list[B]:
    return list(dict.fromkeys(options))
