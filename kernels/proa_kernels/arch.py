"""The dispatch table: which arm computes what on which GPU, with which block sizes and launch grid.

Everything here is a pure function of shapes and an `Arch`, so that it is tested without a GPU. XCDs are the compute
dies of an Instinct package: the hardware deals programs to them in turn, and each has its own L2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

Arm = Literal["reference", "triton", "native"]
ArchName = Literal["cpu", "sm90", "gfx942", "gfx950"]
Op = Literal[
    "moe_align", "gate", "route", "moe_gemm", "moe_combine", "moe_decode", "group_quant",
    "rms_norm", "rope_write", "paged_attention", "kv_copy", "sample",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """`lds_bytes`: shared memory one block may use; `num_cus`: compute units or multiprocessors."""

    name: ArchName
    wave_size: int
    num_xcds: int
    num_cus: int
    lds_bytes: int


CPU = Arch(name="cpu", wave_size=1, num_xcds=1, num_cus=1, lds_bytes=0)
SM90 = Arch(name="sm90", wave_size=32, num_xcds=1, num_cus=132, lds_bytes=227 * 1024)
GFX942 = Arch(name="gfx942", wave_size=64, num_xcds=8, num_cus=304, lds_bytes=64 * 1024)
MI300A = Arch(name="gfx942", wave_size=64, num_xcds=6, num_cus=228, lds_bytes=64 * 1024)
GFX950 = Arch(name="gfx950", wave_size=64, num_xcds=8, num_cus=256, lds_bytes=160 * 1024)


@functools.cache  # every launch asks
def arch_of(device: torch.device) -> Arch:
    """Raises RuntimeError on a GPU that no table here was written for."""
    return CPU if device.type == "cpu" else arch_named(*_name_and_units(device))


def has_kernels_for(device: torch.device) -> bool:
    """Whether `device` is a GPU that a table here was written for."""
    return device.type == "cuda" and _name_and_units(device)[0] in ARMS


def gpu_name(device: torch.device) -> str:
    """As the tables call it: sm90, gfx942."""
    return _name_and_units(device)[0]


def _name_and_units(device: torch.device) -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(device)
    is_hip = torch.version.hip is not None
    name = str(properties.gcnArchName).split(":")[0] if is_hip else f"sm{properties.major}{properties.minor}"
    return name, properties.multi_processor_count


def arch_named(name: str, num_cus: int) -> Arch:
    """The Arch of a GPU that calls itself `name` and has `num_cus` units; RuntimeError if it is unknown."""
    known = {"sm90": SM90, "gfx942": MI300A if num_cus == MI300A.num_cus else GFX942, "gfx950": GFX950}
    if name not in known:
        raise RuntimeError(f"no kernels for GPU {name}; supported: {', '.join(known)}; run the reference arm on CPU")
    return known[name]


_REFERENCE: Mapping[Op, Arm] = dict.fromkeys(get_args(Op), "reference")
_TRITON: Mapping[Op, Arm] = dict.fromkeys(_REFERENCE, "triton")
# Native: where this machine can build it and it takes the sizes, else Triton. On Instinct nobody has measured it.
_SM90: Mapping[Op, Arm] = {**_TRITON, "moe_align": "native", "gate": "native"}
ARMS: Mapping[ArchName, Mapping[Op, Arm]] = {"cpu": _REFERENCE, "sm90": _SM90, "gfx942": _TRITON, "gfx950": _TRITON}


def arm_for(op: Op, device: torch.device) -> Arm:
    return ARMS[arch_of(device).name][op]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignPlan:
    """One launch: each program counts all ids and places one of a power of two of tiles.

    Two launches: count, then place, each program over as many tiles as it takes.
    """

    num_launches: Literal[1, 2]
    num_programs: int
    tile: int
    num_warps: int


FEW_IDS = 128
DIRECT_IDS = 2048  # every program counts them all
MAX_ALIGN_PROGRAMS = 128  # every block reads the whole count matrix: more blocks cost more than they bring


def align_plan(num_ids: int, arch: Arch) -> AlignPlan:
    """Launch shape of `moe_align` for `num_ids` token-expert pairs."""
    if num_ids <= DIRECT_IDS:
        tile = 16 if num_ids <= FEW_IDS else 32
        padded = max(FEW_IDS, next_power_of_2(num_ids))  # even a single pair leaves much padding to write
        return AlignPlan(num_launches=1, num_programs=padded // tile, tile=tile, num_warps=_warps(256, arch))
    tile = 256 if num_ids <= 1 << 15 else 512 if num_ids <= 1 << 16 else 1024
    programs = whole_xcds(min(ceil_div(num_ids, tile), MAX_ALIGN_PROGRAMS, arch.num_cus), arch.num_xcds)
    return AlignPlan(num_launches=2, num_programs=programs, tile=tile, num_warps=_warps(max(tile // 4, 128), arch))


def whole_xcds(num_programs: int, num_xcds: int) -> int:
    """`num_programs` as a multiple of the XCD count, rounded down where that leaves one, so that no die idles."""
    return max(num_programs // num_xcds, 1) * num_xcds


def xcd_tile(program: int, num_programs: int, num_xcds: int) -> int:
    """Tile of a program such that each XCD works on one contiguous range of tiles; a permutation of range(P).

    Program p runs on XCD p mod X. The first P mod X dies take one tile more. Mirrored by `tiles.xcd_tile`.
    """
    each, extra = divmod(num_programs, num_xcds)
    xcd = program % num_xcds
    return xcd * each + min(xcd, extra) + program // num_xcds


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmBlocks:
    """One tile of the grouped product: `rows` x `cols` outputs in steps of `depth`; `group` row tiles share columns."""

    rows: int
    cols: int
    depth: int
    group: int
    num_warps: int
    num_stages: int


def _blocks(rows: int, cols: int, depth: int, group: int, num_warps: int, num_stages: int) -> GemmBlocks:
    return GemmBlocks(rows=rows, cols=cols, depth=depth, group=group, num_warps=num_warps, num_stages=num_stages)


SCALE_GROUP = 128  # rows and columns of weights that share a scale
# Product 1 keeps two accumulators of `cols` columns (gate and up), so its tiles are half as wide as product 2's.
GEMM1_BLOCKS: Mapping[ArchName, tuple[GemmBlocks, ...]] = {
    "sm90": (
        _blocks(16, 64, 128, 1, 4, 4),
        _blocks(32, 64, 128, 1, 4, 4),
        _blocks(64, 128, 64, 8, 8, 4),
        _blocks(128, 128, 64, 8, 8, 4),
    ),
    "gfx942": (
        _blocks(16, 64, 64, 1, 4, 2),
        _blocks(32, 64, 64, 1, 4, 2),
        _blocks(64, 64, 64, 8, 4, 2),
        _blocks(128, 64, 64, 8, 4, 2),
    ),
    "gfx950": (
        _blocks(16, 64, 128, 1, 4, 2),
        _blocks(32, 64, 64, 1, 4, 2),
        _blocks(64, 64, 64, 8, 4, 2),
        _blocks(128, 128, 64, 8, 8, 2),
    ),
}
GEMM2_BLOCKS: Mapping[ArchName, tuple[GemmBlocks, ...]] = {
    "sm90": (
        _blocks(16, 128, 128, 1, 4, 4),
        _blocks(32, 64, 128, 1, 4, 5),
        _blocks(64, 256, 64, 8, 8, 4),
        _blocks(128, 256, 64, 8, 8, 4),
    ),
    "gfx942": (
        _blocks(16, 128, 64, 1, 4, 2),
        _blocks(32, 128, 64, 1, 4, 2),
        _blocks(64, 128, 64, 8, 4, 2),
        _blocks(128, 128, 64, 8, 4, 2),
    ),
    "gfx950": (
        _blocks(16, 128, 128, 1, 4, 2),
        _blocks(32, 128, 128, 1, 4, 2),
        _blocks(64, 128, 64, 8, 4, 2),
        _blocks(128, 256, 64, 8, 8, 2),
    ),
}
ROW_TILES = (16, 32, 64, 128)


def row_tile(num_ids: int, num_experts: int) -> int:
    """Rows of a tile, from the mean rows of an expert that gets any: the padding of `moe_align` must match it."""
    mean = num_ids / max(1, min(num_experts, num_ids))
    # Random routing spreads around the mean: at 16 half of the experts would need a second tile of 16.
    return next((rows for rows in ROW_TILES[:-1] if mean <= (12 if rows == 16 else rows)), ROW_TILES[-1])


def gemm_blocks(arch: Arch, rows: int, *, has_scale_blocks: bool = False) -> tuple[GemmBlocks, GemmBlocks]:
    """Blocks of products 1 and 2 for row tiles of `rows`; ValueError if there is no such tile.

    With weights scaled in blocks no tile is wider than one, because a program loads one scale for each step.
    """
    idx = _tile_index(rows)
    first, second = GEMM1_BLOCKS[arch.name][idx], GEMM2_BLOCKS[arch.name][idx]
    return (_within_scales(first), _within_scales(second)) if has_scale_blocks else (first, second)


def _tile_index(rows: int) -> int:
    if rows not in ROW_TILES:
        raise ValueError(f"row tile {rows} is not one of {ROW_TILES}")
    return ROW_TILES.index(rows)


def _within_scales(blocks: GemmBlocks) -> GemmBlocks:
    return replace(blocks, cols=min(blocks.cols, SCALE_GROUP))


# Products with microscaling weights, chosen by registers, LDS and load widths alone: no GPU ran them. The scaled matrix
# cores of gfx950 take both sides as they are; where one or both become bfloat16 in registers, tiles must be smaller.
_DECODED_MX_BLOCKS = (
    (_blocks(16, 64, 128, 1, 4, 2), _blocks(16, 64, 128, 1, 4, 2)),
    (_blocks(32, 32, 128, 1, 2, 2), _blocks(32, 128, 128, 1, 4, 2)),
    (_blocks(64, 64, 128, 8, 4, 2), _blocks(64, 128, 128, 8, 4, 2)),
    (_blocks(128, 64, 128, 8, 8, 2), _blocks(128, 64, 128, 8, 8, 2)),
)
_SCALED_MX_BLOCKS = (
    (_blocks(16, 64, 256, 1, 4, 2), _blocks(16, 128, 256, 1, 4, 2)),
    (_blocks(32, 128, 128, 1, 4, 2), _blocks(32, 128, 256, 1, 4, 2)),
    (_blocks(64, 64, 128, 8, 4, 2), _blocks(64, 128, 128, 8, 4, 2)),
    (_blocks(128, 128, 128, 8, 8, 2), _blocks(128, 256, 128, 8, 8, 2)),
)
_WIDENED_MX_BLOCKS = (
    (_blocks(16, 64, 128, 1, 4, 2), _blocks(16, 128, 128, 1, 4, 2)),
    (_blocks(32, 128, 128, 1, 4, 2), _blocks(32, 128, 128, 1, 4, 2)),
    (_blocks(64, 64, 64, 8, 4, 2), _blocks(64, 128, 128, 8, 4, 2)),
    (_blocks(128, 128, 64, 8, 8, 2), _blocks(128, 256, 64, 8, 8, 2)),
)


def mx_blocks(arch: Arch, rows: int, *, is_a16: bool) -> tuple[GemmBlocks, GemmBlocks]:
    """Blocks of both microscaling products for row tiles of `rows`; ValueError if there is no such tile."""
    idx = _tile_index(rows)
    if not has_scaled_products(arch):
        return _DECODED_MX_BLOCKS[idx]
    return (_WIDENED_MX_BLOCKS if is_a16 else _SCALED_MX_BLOCKS)[idx]


def has_scaled_products(arch: Arch) -> bool:
    """Whether the matrix cores take microscaling operands."""
    return arch.name == "gfx950"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBlocks:
    """Columns of one program of `moe_decode`, and how much of the depth it holds at once."""

    cols: int
    depth: int
    num_warps: int


DECODE_BLOCKS: Mapping[ArchName, tuple[DecodeBlocks, DecodeBlocks]] = {
    "sm90": (DecodeBlocks(cols=4, depth=256, num_warps=1), DecodeBlocks(cols=4, depth=128, num_warps=4)),
    "gfx942": (DecodeBlocks(cols=8, depth=512, num_warps=4), DecodeBlocks(cols=4, depth=256, num_warps=4)),
    "gfx950": (DecodeBlocks(cols=8, depth=512, num_warps=4), DecodeBlocks(cols=4, depth=256, num_warps=4)),
}
SCALED_DECODE_BLOCKS: Mapping[ArchName, tuple[DecodeBlocks, DecodeBlocks]] = {
    "sm90": (DecodeBlocks(cols=2, depth=512, num_warps=2), DecodeBlocks(cols=4, depth=128, num_warps=4)),
    "gfx942": DECODE_BLOCKS["gfx942"],
    "gfx950": DECODE_BLOCKS["gfx950"],
}


def decode_blocks(arch: Arch, *, is_scaled: bool = False) -> tuple[DecodeBlocks, DecodeBlocks]:
    """Blocks of the first and the second launch; `is_scaled` for fp8 weights with scales of blocks."""
    return (SCALED_DECODE_BLOCKS if is_scaled else DECODE_BLOCKS)[arch.name]


def _warps(num_threads: int, arch: Arch) -> int:
    return min(max(num_threads // arch.wave_size, 1), 512 // arch.wave_size if arch.wave_size > 1 else 1)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
