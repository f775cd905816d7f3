"""Grouped products in the interpreter against references in float32 (in float16: its bfloat16 is wrong)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from proa_kernels import moe_gemm_launch
from proa_kernels.arch import GFX950, SM90, Arch, GemmBlocks
from proa_kernels.moe_align import Alignment, moe_align
from proa_kernels.moe_gemm import combine_ref, dequantized, gemm1_ref, gemm2_ref, moe_combine, moe_gemm1, moe_gemm2
from proa_kernels.moe_gemm_launch import launch_combine, launch_gemm1, launch_gemm2
from proa_kernels.moe_layer import fused_experts
from proa_kernels.testing import Guarded, is_poison, relative_error, tolerance

CPU = torch.device("cpu")
HALF, FP8 = torch.float16, torch.float8_e4m3fn
ROWS = 16
SMALL = GemmBlocks(rows=ROWS, cols=32, depth=32, group=2, num_warps=1, num_stages=1)
SCALED = GemmBlocks(rows=ROWS, cols=64, depth=128, group=2, num_warps=1, num_stages=1)
# tokens, experts per token, experts, hidden, width, one expert with everything
SHAPES = [
    (1, 2, 4, 64, 32, False),
    (13, 2, 5, 80, 48, False),
    (19, 1, 3, 72, 40, True),
    (6, 3, 8, 32, 96, False),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def routing(tokens: int, per_token: int, num_experts: int, has_one_expert: bool = False) -> Alignment:
    """Some pairs dropped and the last expert empty, or all pairs on expert 1."""
    ids = torch.randint(-1, num_experts - 1, (tokens, per_token), generator=torch.Generator().manual_seed(5))
    ids = torch.ones_like(ids) if has_one_expert else ids
    return moe_align(ids.to(torch.int32), num_experts, ROWS)


def run_gemm1(x, w13, alignment, per_token, x_scale=None, w_scale=None, blocks=SMALL, tma=False) -> Guarded:
    out = Guarded.empty((alignment.rows_R.numel(), w13.shape[1] // 2), HALF, CPU)
    launch_gemm1(
        x, w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, out.tensor, ROWS, per_token,
        x_scale, w_scale, blocks=blocks, tma=tma,
    )  # fmt: skip
    return out


def run_gemm2(h, w2, alignment, h_scale=None, w_scale=None, blocks=SMALL, tma=False) -> Guarded:
    out = Guarded.empty((h.shape[0], w2.shape[1]), HALF, CPU)
    launch_gemm2(h, w2, alignment.expert_B, alignment.totals_2, out.tensor, ROWS, h_scale, w_scale, blocks, tma)
    return out


def check(out: Guarded, reference: torch.Tensor, alignment: Alignment, depth: int) -> None:
    total = int(alignment.totals_2[0])
    assert out.is_intact()
    assert is_poison(out.tensor[total:]).all()
    assert relative_error(out.tensor[:total], reference[:total].half()) < tolerance(HALF, depth=depth)


@pytest.mark.parametrize("tma", [False, True])
@pytest.mark.parametrize(("tokens", "per_token", "num_experts", "hidden", "width", "has_one_expert"), SHAPES)
def test_products(tokens, per_token, num_experts, hidden, width, has_one_expert, tma):
    alignment = routing(tokens, per_token, num_experts, has_one_expert)
    x = random(tokens, hidden).half()
    w13 = (random(num_experts, 2 * width, hidden, seed=1) / hidden**0.5).half()
    w2 = (random(num_experts, hidden, width, seed=2) / width**0.5).half()
    blocks = (alignment.expert_B, alignment.totals_2, ROWS)
    hidden_ref = gemm1_ref(x, w13, alignment.rows_R, *blocks, per_token, None, None)
    check(run_gemm1(x, w13, alignment, per_token, tma=tma), hidden_ref, alignment, hidden)
    rows_ref = gemm2_ref(hidden_ref, w2, *blocks, None, None)
    check(run_gemm2(hidden_ref, w2, alignment, tma=tma), rows_ref, alignment, width)


def test_many_row_tiles_share_columns():
    alignment = routing(70, 1, 2, has_one_expert=True)
    x, w13 = random(70, 32).half(), (random(2, 192, 32, seed=1) / 6).half()
    reference = gemm1_ref(x, w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, ROWS, 1, None, None)
    check(run_gemm1(x, w13, alignment, 1), reference, alignment, 32)


@pytest.mark.parametrize("tma", [False, True])
@pytest.mark.parametrize("has_fp8_activations", [False, True])
def test_scaled_products(has_fp8_activations: bool, tma: bool):
    tokens, per_token, num_experts, hidden, width = 7, 2, 3, 256, 128
    alignment = routing(tokens, per_token, num_experts)
    x, w13 = random(tokens, hidden), (random(num_experts, 2 * width, hidden, seed=1) / 16).to(FP8)
    x, x_scale = (x.to(FP8), random(tokens, 2, seed=3).abs()) if has_fp8_activations else (x.half(), None)
    w_scale = random(num_experts, 2, 2, seed=4).abs()
    routed = (alignment.rows_R, alignment.expert_B, alignment.totals_2, ROWS, per_token)
    reference = gemm1_ref(dequantized(x, x_scale), w13, *routed, None, w_scale)
    check(run_gemm1(x, w13, alignment, per_token, x_scale, w_scale, SCALED, tma), reference, alignment, hidden)

    h, w2 = random(alignment.rows_R.numel(), width, seed=6), (random(num_experts, hidden, width, seed=7) / 11).to(FP8)
    h, h_scale = (h.to(FP8), random(h.shape[0], 1, seed=8).abs()) if has_fp8_activations else (h.half(), None)
    w_scale = random(num_experts, 2, 1, seed=9).abs()
    reference = gemm2_ref(dequantized(h, h_scale), w2, *routed[1:4], None, w_scale)
    check(run_gemm2(h, w2, alignment, h_scale, w_scale, SCALED, tma), reference, alignment, width)


@pytest.mark.parametrize("arch", [SM90, GFX950], ids=lambda arch: arch.name)
@pytest.mark.parametrize("rows", [64, 128])
def test_products_scaled_in_blocks_with_the_tiles_of_the_table(arch: Arch, rows: int, monkeypatch: pytest.MonkeyPatch):
    """The table has tiles of 256 columns, wider than a block of scales."""
    monkeypatch.setattr(moe_gemm_launch, "arch_of", lambda _: arch)
    alignment = moe_align(torch.arange(2, dtype=torch.int32).repeat(70)[:, None], 2, rows)
    x, w13 = random(140, 128).half(), (random(2, 512, 128, seed=1) / 11).to(FP8)
    w2, routed = (random(2, 256, 256, seed=2) / 16).to(FP8), (alignment.expert_B, alignment.totals_2)
    w13_scale, w2_scale = random(2, 4, 1, seed=3).abs(), random(2, 2, 2, seed=4).abs()
    h = Guarded.empty((alignment.rows_R.numel(), 256), HALF, CPU)
    launch_gemm1(x, w13, alignment.rows_R, *routed, h.tensor, rows, 1, w_scale=w13_scale, tma=False)
    h_ref = gemm1_ref(x, w13, alignment.rows_R, *routed, rows, 1, None, w13_scale)
    check(h, h_ref, alignment, 128)
    out = Guarded.empty((h_ref.shape[0], 256), HALF, CPU)
    launch_gemm2(h_ref, w2, *routed, out.tensor, rows, w_scale=w2_scale, tma=False)
    check(out, gemm2_ref(h_ref, w2, *routed, rows, None, w2_scale), alignment, 256)


def test_a_tile_across_blocks_of_scales_is_refused():
    alignment, wide = routing(2, 1, 2), replace(SCALED, cols=256)
    w2, scale = torch.zeros(2, 256, 128).to(FP8), torch.ones(2, 2, 1)
    with pytest.raises(ValueError, match=r"256 x 128 .* block of 128 scales"):
        run_gemm2(random(alignment.rows_R.numel(), 128).half(), w2, alignment, w_scale=scale, blocks=wide)


@pytest.mark.parametrize("has_fp8_activations", [False, True])
def test_products_with_scales_of_rows(has_fp8_activations: bool):
    tokens, per_token, num_experts, hidden, width = 7, 2, 3, 80, 40
    alignment = routing(tokens, per_token, num_experts)
    x, w13 = random(tokens, hidden), (random(num_experts, 2 * width, hidden, seed=1) / 9).to(FP8)
    x, x_scale = (x.to(FP8), random(tokens, seed=3).abs()) if has_fp8_activations else (x.half(), None)
    w_scale = random(num_experts, 2 * width, seed=4).abs()
    routed = (alignment.rows_R, alignment.expert_B, alignment.totals_2, ROWS, per_token)
    reference = gemm1_ref(dequantized(x, x_scale), w13, *routed, None, w_scale)
    check(run_gemm1(x, w13, alignment, per_token, x_scale, w_scale), reference, alignment, hidden)
    with pytest.raises(AssertionError):
        check(run_gemm1(x, w13, alignment, per_token, x_scale, w_scale.flip(1)), reference, alignment, hidden)

    h, w2 = random(alignment.rows_R.numel(), width, seed=6), (random(num_experts, hidden, width, seed=7) / 6).to(FP8)
    h, h_scale = (h.to(FP8), random(h.shape[0], seed=8).abs()) if has_fp8_activations else (h.half(), None)
    w_scale = random(num_experts, hidden, seed=9).abs()
    reference = gemm2_ref(dequantized(h, h_scale), w2, *routed[1:4], None, w_scale)
    check(run_gemm2(h, w2, alignment, h_scale, w_scale), reference, alignment, width)


def test_combine_skips_dropped_pairs_and_poisoned_padding():
    alignment = routing(9, 3, 4)
    rows = random(alignment.rows_R.numel(), 40).half()
    is_used = torch.zeros(rows.shape[0], dtype=torch.bool)
    is_used[alignment.inverse_N[alignment.inverse_N >= 0].long()] = True
    rows[~is_used] = float("nan")
    weights = random(9, 3, seed=1).abs()
    out = Guarded.empty((9, 40), HALF, CPU)
    launch_combine(rows, weights, alignment.inverse_N, out.tensor)
    assert out.is_intact()
    assert relative_error(out.tensor, combine_ref(rows, weights, alignment.inverse_N)) < tolerance(HALF)


def test_checker_catches_the_wrong_expert_and_a_missing_row():
    alignment = routing(13, 2, 5)
    x, w13 = random(13, 64).half(), random(5, 64, 64, seed=1).half()
    reference = gemm1_ref(x, w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, ROWS, 2, None, None)
    out = run_gemm1(x, w13.roll(1, 0), alignment, 2)
    with pytest.raises(AssertionError):
        check(out, reference, alignment, 64)
    out = run_gemm1(x, w13, alignment, 2)
    out.tensor[3, 5] = float("nan")
    with pytest.raises(AssertionError):
        check(out, reference, alignment, 64)


def test_whole_layer_is_the_plain_sum_over_experts():
    tokens, num_experts, hidden, width = 11, 6, 48, 24
    x = random(tokens, hidden)
    w13, w2 = random(num_experts, 2 * width, hidden, seed=1) / 7, random(num_experts, hidden, width, seed=2) / 5
    ids = torch.stack(
        [torch.randperm(num_experts, generator=torch.Generator().manual_seed(t))[:2] for t in range(tokens)]
    )
    weights = random(tokens, 2, seed=3).abs()
    expected = torch.zeros(tokens, hidden)
    for t, a in torch.cartesian_prod(torch.arange(tokens), torch.arange(2)).tolist():
        gate, up = (w13[ids[t, a]] @ x[t]).chunk(2)
        expected[t] += weights[t, a] * (w2[ids[t, a]] @ (F.silu(gate) * up))
    ours = fused_experts(x.half(), weights, ids.to(torch.int32), w13.half(), w2.half())
    assert relative_error(ours, expected) < tolerance(HALF, num_roundings=6, depth=hidden)


@pytest.mark.parametrize(
    ("x", "w", "scales", "message"),
    [
        (torch.zeros(2, 8).half(), torch.zeros(2, 4, 16).half(), {}, "last sizes"),
        (torch.zeros(2, 16).half(), torch.zeros(2, 16, 4).half().transpose(1, 2), {}, "contiguous"),
        (torch.zeros(2, 16), torch.zeros(2, 4, 16), {}, "no product of torch.float32"),
        (torch.zeros(2, 16).half(), torch.zeros(2, 4, 16).to(FP8), {}, "scales"),
        (
            torch.zeros(2, 16).half(),
            torch.zeros(2, 4, 16).to(FP8),
            {"w_scale": torch.ones(2, 1, 1)},
            "divisible by 128",
        ),
        (
            torch.zeros(2, 16).half(),
            torch.zeros(2, 4, 16).to(FP8),
            {"w_scale": torch.ones(2, 3)},
            r"must be \(2, 4\)",
        ),
        (torch.zeros(2, 16).half(), torch.zeros(2, 3, 16).half(), {}, "gate and up"),
    ],
)
def test_bad_input_is_named(x: torch.Tensor, w: torch.Tensor, scales: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        moe_gemm1(x, w, routing(2, 1, 2), ROWS, 1, **scales)


@pytest.mark.parametrize(
    ("x_scale", "w_scale", "message"),
    [
        (torch.ones(2, 2), torch.ones(2, 1, 1), r"scales of activations must be \(2, 1\)"),
        (torch.ones(3, 1), torch.ones(2, 1, 1), r"scales of activations must be \(2, 1\)"),
        (torch.ones(1), torch.ones(2, 128), r"scales of activations must be \(2,\)"),
        (torch.ones(4)[::2], torch.ones(2, 128), "scales of activations .* strided"),
        (torch.ones(2).half(), torch.ones(2, 128), "scales of activations .* float32"),
        (torch.ones(2), torch.ones(128, 2).T, "scales of weights .* strided"),
        (torch.ones(2, 1), torch.ones(2, 1, 1).bfloat16(), "scales of weights .* float32"),
    ],
)
def test_scales_that_the_kernels_would_misread_are_named(x_scale: torch.Tensor, w_scale: torch.Tensor, message: str):
    h, w2 = torch.zeros(2, 128).to(FP8), torch.zeros(2, 128, 128).to(FP8)
    with pytest.raises(ValueError, match=message):
        moe_gemm2(h, w2, routing(2, 1, 2), ROWS, h_scale=x_scale, w_scale=w_scale)


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        (torch.zeros(32, 8), torch.zeros(2, 4)[:, ::2], "weights must be contiguous"),
        (torch.zeros(32, 8), torch.zeros(4), "weights must be"),
        (torch.zeros(8, 32).T, torch.zeros(2, 2), "rows must be contiguous"),
    ],
)
def test_combine_names_bad_input(rows: torch.Tensor, weights: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        moe_combine(rows, weights, routing(2, 2, 2))


def test_ops_have_fake_versions_with_the_same_shapes():
    alignment = routing(5, 2, 3)
    x, w13, w2 = random(5, 16).half(), random(3, 8, 16).half(), random(3, 16, 4).half()
    routed = (alignment.expert_B, alignment.totals_2, ROWS)
    ops = torch.ops.proa
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.moe_gemm1.default, (x, w13, alignment.rows_R, *routed, 2, None, None), test_utils=tests)
    h = random(alignment.rows_R.numel(), 4).half()
    torch.library.opcheck(ops.moe_gemm2.default, (h, w2, *routed, None, None), test_utils=tests)
    rows = random(alignment.rows_R.numel(), 16).half()
    torch.library.opcheck(ops.moe_combine.default, (rows, random(5, 2), alignment.inverse_N), test_utils=tests)
