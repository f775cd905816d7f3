"""The dispatch table: launch grids for 6 and 8 XCDs and for waves of 64 and 32, and the judge's tolerances."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from proa_kernels.arch import (
    ARMS,
    CPU,
    GFX942,
    GFX950,
    MI300A,
    ROW_TILES,
    SM90,
    Arch,
    align_plan,
    arch_named,
    arm_for,
    gemm_blocks,
    mx_blocks,
    row_tile,
    xcd_tile,
)  # fmt: skip
from proa_kernels.moe_gemm_launch import combine_cols
from proa_kernels.testing import relative_error, tolerance
from proa_kernels.tiles import grouped_tile
from proa_kernels.tiles import xcd_tile as xcd_tile_on_device

GPUS = [SM90, GFX942, MI300A, GFX950]


@pytest.mark.parametrize("num_xcds", [1, 6, 8])
@pytest.mark.parametrize("num_programs", [1, 5, 6, 8, 47, 48, 49, 304, 1000])
def test_tiles_are_a_permutation_in_contiguous_ranges(num_xcds: int, num_programs: int):
    tiles = [xcd_tile(program, num_programs, num_xcds) for program in range(num_programs)]
    assert sorted(tiles) == list(range(num_programs))
    for xcd in range(min(num_xcds, num_programs)):
        mine = tiles[xcd::num_xcds]
        assert mine == list(range(mine[0], mine[0] + len(mine)))


@triton.jit
def order_kernel(tile_ptr, row_ptr, col_ptr, num_rows, num_cols, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr):
    program = tl.program_id(0)
    tile = xcd_tile_on_device(program, num_rows * num_cols, NUM_XCDS)
    row, col = grouped_tile(tile, num_rows, num_cols, GROUP)
    tl.store(tile_ptr + program, tile)
    tl.store(row_ptr + program, row)
    tl.store(col_ptr + program, col)


@pytest.mark.parametrize("num_xcds", [1, 6, 8])
@pytest.mark.parametrize(("num_rows", "num_cols", "group"), [(1, 3, 8), (5, 4, 2), (9, 2, 4), (3, 7, 1)])
def test_device_twin_and_grouping_cover_every_tile_once(num_rows: int, num_cols: int, group: int, num_xcds: int):
    size = num_rows * num_cols
    tiles, rows, cols = (torch.full((size,), -1, dtype=torch.int32) for _ in range(3))
    order_kernel[(size,)](tiles, rows, cols, num_rows, num_cols, GROUP=group, NUM_XCDS=num_xcds)
    assert tiles.tolist() == [xcd_tile(program, size, num_xcds) for program in range(size)]
    seen = set(zip(rows.tolist(), cols.tolist(), strict=True))
    assert seen == {(row, col) for row in range(num_rows) for col in range(num_cols)}


@pytest.mark.parametrize("arch", GPUS, ids=lambda arch: f"{arch.name}-{arch.num_xcds}")
@pytest.mark.parametrize("num_ids", [0, 1, 8, 128, 1024, 4096, 4097, 8192, 131072, 1 << 24])
def test_align_plan(arch: Arch, num_ids: int):
    plan = align_plan(num_ids, arch)
    assert plan.tile & (plan.tile - 1) == 0
    assert plan.num_warps * arch.wave_size <= 512
    if plan.num_launches == 1:
        padded = plan.num_programs * plan.tile
        assert padded >= num_ids
        assert padded & (padded - 1) == 0
    else:
        assert plan.num_programs % arch.num_xcds == 0
        assert plan.num_programs <= max(128, arch.num_xcds)


@pytest.mark.parametrize(
    ("num_ids", "num_experts", "rows"),
    [
        (0, 8, 16),
        (8, 256, 16),
        (96, 8, 16),
        (128, 8, 32),
        (256, 8, 32),
        (512, 8, 64),
        (4096, 8, 128),
        (1 << 20, 8, 128),
    ],
)
def test_row_tile_follows_the_mean_rows_of_an_expert(num_ids: int, num_experts: int, rows: int):
    assert row_tile(num_ids, num_experts) == rows


@pytest.mark.parametrize(
    ("num_tokens", "hidden", "cols"), [(1, 2048, 256), (64, 2048, 256), (9999, 2048, 2048), (1, 40, 64)]
)
def test_combine_columns(num_tokens: int, hidden: int, cols: int):
    assert combine_cols(num_tokens, hidden, SM90) == cols


@pytest.mark.parametrize("arch", GPUS, ids=lambda arch: f"{arch.name}-{arch.num_xcds}")
def test_every_row_tile_has_blocks(arch: Arch):
    assert [gemm_blocks(arch, rows)[0].rows for rows in ROW_TILES] == list(ROW_TILES)
    for rows in ROW_TILES:
        for blocks in gemm_blocks(arch, rows, has_scale_blocks=True):
            assert 128 % blocks.depth == 0  # a step must lie within one block of scales
            assert 128 % blocks.cols == 0  # and so must its columns
    with pytest.raises(ValueError, match="row tile 8"):
        gemm_blocks(arch, 8)


@pytest.mark.parametrize("arch", GPUS, ids=lambda arch: f"{arch.name}-{arch.num_xcds}")
@pytest.mark.parametrize("is_a16", [False, True])
def test_microscaling_tiles_hold_whole_groups(arch: Arch, is_a16: bool):
    for rows in ROW_TILES:
        for blocks in mx_blocks(arch, rows, is_a16=is_a16):
            assert blocks.rows == rows
            assert blocks.depth % 32 == 0
            assert blocks.cols % 32 == 0  # the first product quantises what it leaves
    with pytest.raises(ValueError, match="row tile 8"):
        mx_blocks(arch, 8, is_a16=is_a16)


@pytest.mark.parametrize(
    ("name", "num_cus", "arch"),
    [("sm90", 132, SM90), ("gfx942", 304, GFX942), ("gfx942", 228, MI300A), ("gfx950", 256, GFX950)],
)
def test_gpus_by_name(name: str, num_cus: int, arch: Arch):
    assert arch_named(name, num_cus) is arch
    assert set(ARMS[arch.name]) == set(ARMS["cpu"])


def test_unknown_gpu_is_named():
    with pytest.raises(RuntimeError, match="no kernels for GPU gfx90a; supported: sm90, gfx942, gfx950"):
        arch_named("gfx90a", 104)


def test_cpu_runs_the_reference():
    assert arm_for("gate", torch.device("cpu")) == "reference"
    assert CPU.wave_size == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_rounding_is_within_its_tolerance_and_a_wrong_bit_is_not(dtype: torch.dtype):
    exact = torch.randn(4096, generator=torch.Generator().manual_seed(0)).double()
    rounded = exact.to(dtype)
    bound = tolerance(dtype)
    assert bound / 4 < relative_error(rounded, exact) < bound
    rounded[7] *= 2
    assert relative_error(rounded, exact) > bound
    rounded[7] = float("nan")
    assert relative_error(rounded, exact) == math.inf
