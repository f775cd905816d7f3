"""Experts of few pairs in the interpreter against the reference, and the choice between both arms of the layer."""

from __future__ import annotations

import pytest
import torch
from proa_kernels.arch import DecodeBlocks
from proa_kernels.moe_decode import MAX_DECODE_PAIRS, decode_ref, moe_decode
from proa_kernels.moe_decode_triton import launch_decode_down, launch_decode_up
from proa_kernels.moe_gemm import dequantized
from proa_kernels.moe_layer import fused_experts
from proa_kernels.testing import Guarded, is_poison, relative_error, tolerance

CPU = torch.device("cpu")
HALF, FP8 = torch.float16, torch.float8_e4m3fn
SMALL = DecodeBlocks(cols=4, depth=32, num_warps=1)
SCALED = DecodeBlocks(cols=64, depth=256, num_warps=1)
# tokens, experts per token, experts, hidden, width: none a multiple of the blocks, some smaller than one
SHAPES = [(1, 1, 1, 8, 2), (1, 3, 5, 72, 10), (2, 6, 7, 100, 33), (4, 2, 9, 40, 48)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(tokens: int, per_token: int, num_experts: int, hidden: int, width: int) -> tuple[torch.Tensor, ...]:
    """x, weights, ids (some outside the experts), w13, w2."""
    ids = torch.randint(-1, num_experts + 1, (tokens, per_token), generator=torch.Generator().manual_seed(5))
    ids[0, 0] = num_experts - 1
    w13 = random(num_experts, 2 * width, hidden, seed=1) / hidden**0.5
    w2 = random(num_experts, hidden, width, seed=2) / width**0.5
    return random(tokens, hidden).half(), random(tokens, per_token, seed=3), ids.to(torch.int32), w13.half(), w2.half()


def run(x, weights, ids, w13, w2, w13_scale=None, w2_scale=None, blocks=SMALL) -> Guarded:
    h = Guarded.empty((ids.numel(), w2.shape[2]), torch.float32, CPU)
    out = Guarded.empty(tuple(x.shape), x.dtype, CPU)
    launch_decode_up(x, ids, w13, w13_scale, h.tensor, blocks)
    is_kept = ((ids >= 0) & (ids < w13.shape[0])).flatten()
    assert is_poison(h.tensor[~is_kept]).all()
    launch_decode_down(h.tensor, weights, ids, w2, w2_scale, out.tensor, blocks)
    assert h.is_intact()
    assert out.is_intact()
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_few_pairs(shape: tuple[int, ...]):
    arguments = problem(*shape)
    exact = decode_ref(arguments[0].float(), *arguments[1:])
    assert relative_error(run(*arguments).tensor, exact) < tolerance(HALF, depth=shape[3] + shape[4])


def test_all_pairs_dropped_give_zeros():
    x, weights, ids, w13, w2 = problem(2, 2, 3, 40, 8)
    assert run(x, weights, torch.full_like(ids, -1), w13, w2).tensor.tolist() == torch.zeros(2, 40).tolist()


def test_scaled_weights():
    x, weights, ids, w13, w2 = problem(2, 2, 3, 384, 128)
    w13, w2 = (w13 * 8).to(FP8), (w2 * 8).to(FP8)
    w13_scale, w2_scale = random(3, 2, 3, seed=7).abs() / 8, random(3, 3, 1, seed=8).abs() / 8
    exact = decode_ref(x.float(), weights, ids, dequantized(w13, w13_scale), dequantized(w2, w2_scale))
    out = run(x, weights, ids, w13, w2, w13_scale, w2_scale, blocks=SCALED).tensor
    assert relative_error(out, exact) < tolerance(HALF, depth=512)
    w2_scale[:, 2] *= 1.01
    assert relative_error(run(x, weights, ids, w13, w2, w13_scale, w2_scale, SCALED).tensor, exact) > tolerance(HALF)


def test_checker_catches_the_wrong_expert_and_a_swapped_weight():
    x, weights, ids, w13, w2 = problem(2, 3, 5, 72, 16)
    exact = decode_ref(x.float(), weights, ids, w13, w2)
    for fault in ((x, weights, ids, w13.roll(1, 0), w2), (x, weights.flip(1), ids, w13, w2)):
        assert relative_error(run(*fault).tensor, exact) > tolerance(HALF, depth=88)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w2": torch.zeros(3, 40, 9).half()}, "w2 .* does not fit w13"),
        ({"ids": torch.zeros(2, 2, dtype=torch.int64)}, "ids must be contiguous torch.int32"),
        ({"weights": torch.zeros(3, 2)}, "weights must be contiguous torch.float32"),
        ({"weights": torch.zeros(2, 1)}, "weights .* not of the shape of the ids"),
        ({"ids": torch.zeros(2, dtype=torch.int32)}, "ids must be contiguous"),
        ({"x": torch.zeros(2, 40)}, "no product of torch.float32"),
    ],
)
def test_bad_input_is_named(change: dict[str, torch.Tensor], message: str):
    names = ("x", "weights", "ids", "w13", "w2")
    arguments = dict(zip(names, problem(2, 2, 3, 40, 8), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        moe_decode(*(arguments[name] for name in names))


@pytest.mark.parametrize("tokens", [1, 2, MAX_DECODE_PAIRS // 2, MAX_DECODE_PAIRS // 2 + 1])
def test_both_arms_of_the_layer_agree(tokens: int):
    arguments = problem(tokens, 2, 5, 64, 32)
    error = relative_error(fused_experts(*arguments), decode_ref(arguments[0].float(), *arguments[1:]))
    assert error < tolerance(HALF, num_roundings=3, depth=96)


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (*problem(2, 2, 3, 40, 8), None, None)
    torch.library.opcheck(torch.ops.proa.moe_decode.default, arguments, test_utils=("test_schema", "test_faketensor"))
