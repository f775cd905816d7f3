"""Products of microscaling experts in the interpreter, both arms, against references in float32.

The interpreter cannot run `tl.dot_scaled`: `scaled_dot` gives it one that computes with the references' conversions, so
that everything around the instruction (addresses, masks, scales, operand order) is tested. The instruction is not.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton.language as tl
from proa_kernels.arch import GemmBlocks
from proa_kernels.moe_align import Alignment, moe_align
from proa_kernels.mxfp import ELEMENTS, MxFormat, dequantize_mx, quantize_mx_ref
from proa_kernels.mxfp_gemm import PAIRS, gemm1_mx_ref, gemm2_mx_ref, moe_gemm1_mx, moe_gemm2_mx
from proa_kernels.mxfp_gemm_launch import launch_gemm1_mx, launch_gemm2_mx
from proa_kernels.testing import Guarded, is_poison, relative_error, tolerance
from triton.language import semantic
from triton.runtime import interpreter

CPU = torch.device("cpu")
ROWS = 16
SMALL = GemmBlocks(rows=ROWS, cols=64, depth=64, group=2, num_warps=1, num_stages=1)
CANARY = 0xA5
# tokens, experts per token, experts, hidden, width, one expert with everything
SHAPES = [(1, 2, 4, 64, 32, False), (13, 2, 5, 96, 64, False), (19, 1, 3, 160, 96, True)]
Operand = tuple[torch.Tensor, torch.Tensor | None]


@pytest.fixture(params=[False, True], ids=["decoded", "scaled"])
def is_scaled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        whole = semantic.TritonSemantic.dot_scaled
        monkeypatch.setattr(
            semantic.TritonSemantic, "dot_scaled",
            lambda self, x, x_scale, x_name, w, w_scale, w_name, *rest: whole(
                self, x, x_scale, tl.constexpr(x_name), w, w_scale, tl.constexpr(w_name), *rest
            ),
        )  # fmt: skip
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot_scaled", scaled_dot, raising=False)
    return bool(request.param)


def scaled_dot(
    _: Any, x: Any, x_scale: Any, x_name: Any, w: Any, w_scale: Any, w_name: Any, *flags_and_acc: Any
) -> interpreter.TensorHandle:
    """acc + x w of elements [M, K] and [K, N] (packed along K) and scales [M, K / 32] and [N, K / 32]."""
    *_, is_x_packed_by_k, is_w_packed_by_k, acc = flags_and_acc
    assert is_x_packed_by_k
    assert is_w_packed_by_k
    left, right = _operand(x.data, x_scale), _operand(w.data.T, w_scale)
    return interpreter.TensorHandle(acc.data + (left @ right.T).numpy(), acc.dtype)


def _operand(data: Any, scale: Any) -> torch.Tensor:
    values = torch.from_numpy(data.copy())
    if scale is None:
        return values.view(torch.bfloat16).float()
    scales = torch.from_numpy(scale.data.copy())
    is_fp8 = values.shape[1] == 32 * scales.shape[1]
    return dequantize_mx(values.view(torch.float8_e4m3fn) if is_fp8 else values, scales)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operand(x: torch.Tensor, mx: MxFormat | None) -> Operand:
    return (x.bfloat16(), None) if mx is None else quantize_mx_ref(x, mx)


def weights(num_experts: int, rows: int, depth: int, mx: MxFormat, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, scales = quantize_mx_ref(random(num_experts * rows, depth, seed=seed) / depth**0.5, mx)
    return values.view(num_experts, rows, -1), scales.view(num_experts, rows, -1)


def routing(tokens: int, per_token: int, num_experts: int, has_one_expert: bool = False) -> Alignment:
    """Some pairs dropped and the last expert empty, or all pairs on expert 1."""
    ids = torch.randint(-1, num_experts - 1, (tokens, per_token), generator=torch.Generator().manual_seed(5))
    ids = torch.ones_like(ids) if has_one_expert else ids
    return moe_align(ids.to(torch.int32), num_experts, ROWS)


def run_gemm1(x: Operand, w: Operand, alignment: Alignment, per_token: int, is_scaled: bool) -> Guarded:
    out = Guarded.empty((alignment.rows_R.numel(), w[0].shape[1] // 2), torch.float32, CPU)
    launch_gemm1_mx(
        x[0], w[0], alignment.rows_R, alignment.expert_B, alignment.totals_2, out.tensor, w[1], ROWS, per_token,
        x[1], w[1], blocks=SMALL, is_scaled=is_scaled, dot=tl.float32,
    )  # fmt: skip
    return out


def run_gemm2(h: Operand, w: Operand, alignment: Alignment, is_scaled: bool) -> Guarded:
    out = Guarded.empty((h[0].shape[0], w[0].shape[1]), torch.float32, CPU)
    launch_gemm2_mx(
        h[0], w[0], alignment.expert_B, alignment.totals_2, out.tensor, ROWS, h[1], w[1],
        blocks=SMALL, is_scaled=is_scaled, dot=tl.float32,
    )  # fmt: skip
    return out


def check(out: Guarded, reference: torch.Tensor, alignment: Alignment, depth: int) -> None:
    total = int(alignment.totals_2[0])
    assert out.is_intact()
    assert is_poison(out.tensor[total:]).all()
    assert relative_error(out.tensor[:total], reference[:total]) < tolerance(torch.float32, depth=depth)


@pytest.mark.parametrize(("tokens", "per_token", "num_experts", "hidden", "width", "has_one_expert"), SHAPES)
@pytest.mark.parametrize(("x_mx", "w_mx"), PAIRS)
def test_products(tokens, per_token, num_experts, hidden, width, has_one_expert, x_mx, w_mx, is_scaled):
    alignment = routing(tokens, per_token, num_experts, has_one_expert)
    blocks = (alignment.expert_B, alignment.totals_2, ROWS)
    x, w13 = operand(random(tokens, hidden), x_mx), weights(num_experts, 2 * width, hidden, w_mx, seed=1)
    reference = gemm1_mx_ref(x[0], w13[0], alignment.rows_R, *blocks, per_token, x[1], w13[1])
    check(run_gemm1(x, w13, alignment, per_token, is_scaled), reference, alignment, hidden)
    h, w2 = operand(reference, x_mx), weights(num_experts, hidden, width, w_mx, seed=2)
    reference = gemm2_mx_ref(h[0], w2[0], *blocks, h[1], w2[1])
    check(run_gemm2(h, w2, alignment, is_scaled), reference, alignment, width)


@pytest.mark.parametrize("mx", ["mxfp8", "mxfp4"])
def test_first_product_leaves_its_rows_in_microscaling(mx: MxFormat, is_scaled: bool):
    """Its float32 rows, stored by the test above, quantised by the reference: the same bytes, and canaries around."""
    alignment, width = routing(13, 2, 5), 96
    total, num_rows = int(alignment.totals_2[0]), alignment.rows_R.numel()
    x, w13 = operand(random(13, 96), mx), weights(5, 2 * width, 96, "mxfp4", seed=1)
    values = torch.full((num_rows + 2, width // ELEMENTS[mx].per_byte), CANARY, dtype=torch.uint8)
    scales = torch.full((num_rows + 2, width // 32), CANARY, dtype=torch.uint8)
    launch_gemm1_mx(
        x[0], w13[0], alignment.rows_R, alignment.expert_B, alignment.totals_2, values[1:-1].view(ELEMENTS[mx].dtype),
        scales[1:-1], ROWS, 2, x[1], w13[1], blocks=SMALL, is_scaled=is_scaled, dot=tl.float32,
    )  # fmt: skip
    rows = run_gemm1(x, w13, alignment, 2, is_scaled).tensor[:total]
    for ours, theirs in zip((values, scales), quantize_mx_ref(rows, mx), strict=True):
        assert torch.equal(ours[1 : total + 1], theirs.view(torch.uint8))
        assert bool((ours[0] == CANARY).all())
        assert bool((ours[total + 1 :] == CANARY).all())


def test_a_nan_group_of_one_expert_reaches_its_rows_only(is_scaled: bool):
    alignment = moe_align(torch.tensor([[0], [1], [0]], dtype=torch.int32), 3, ROWS)
    h, w2 = operand(random(alignment.rows_R.numel(), 64).abs(), "mxfp8"), weights(3, 40, 64, "mxfp4", seed=2)
    w2[1][0, 7, 1] = w2[1][2] = 255
    w2[0][0, 7] = 0x11  # positive, so that an infinite scale gives infinity
    out = run_gemm2(h, w2, alignment, is_scaled).tensor
    assert out[:ROWS, 7].isnan().all()
    assert out[:ROWS].isnan().sum() == ROWS
    assert out[ROWS : 2 * ROWS].isfinite().all()


def test_elements_of_nan_and_the_smallest_scale(is_scaled: bool):
    alignment = moe_align(torch.zeros(1, 1, dtype=torch.int32), 1, ROWS)
    values, scales = torch.full((1, 32, 64), 0x38, dtype=torch.uint8), torch.full((1, 32, 2), 127, dtype=torch.uint8)
    values[0, 3, 5], scales[0, 4] = 0x7F, 0
    w2 = (values.view(torch.float8_e4m3fn), scales)
    out = run_gemm2((torch.ones(ROWS, 64).bfloat16(), None), w2, alignment, is_scaled).tensor[0]
    assert out[3].isnan()
    assert out[4] == 64 * 2.0**-127
    assert out[5] == 64


@pytest.mark.parametrize("fault", ["nibbles", "scales of the next group", "scales of activations", "expert"])
def test_checker_catches(fault: str, is_scaled: bool):
    alignment = routing(13, 2, 5)
    x, w13 = operand(random(13, 128), "mxfp8"), weights(5, 128, 128, "mxfp4", seed=1)
    routed = (alignment.rows_R, alignment.expert_B, alignment.totals_2, ROWS, 2)
    reference = gemm1_mx_ref(x[0], w13[0], *routed, x[1], w13[1])
    faulty = {
        "nibbles": (x, (w13[0] >> 4 | w13[0] << 4, w13[1])),
        "scales of the next group": (x, (w13[0], w13[1].roll(1, 2))),
        "scales of activations": ((x[0], x[1].roll(1, 1)), w13),
        "expert": (x, (w13[0].roll(1, 0), w13[1].roll(1, 0))),
    }[fault]
    check(run_gemm1(x, w13, alignment, 2, is_scaled), reference, alignment, 128)
    with pytest.raises(AssertionError):
        check(run_gemm1(*faulty, alignment, 2, is_scaled), reference, alignment, 128)


W4, S4 = torch.zeros(2, 64, 32, dtype=torch.uint8), torch.zeros(2, 64, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("x", "w", "scales", "message"),
    [
        (torch.zeros(2, 32).bfloat16(), W4, (None, S4), "do not fit"),
        (torch.zeros(2, 64).half(), W4, (None, S4), r"not torch.float16 without scales; cast with .bfloat16\(\)"),
        (torch.zeros(2, 64).to(torch.float8_e4m3fn), W4, (None, S4), "without scales"),
        (torch.zeros(2, 64).bfloat16(), W4, (S4[0, :2], S4), "with scales"),
        (torch.zeros(2, 64).bfloat16(), W4, (None, S4[:1]), r"weights of 64 columns .* \(2, 64, 2\)"),
        (torch.zeros(2, 64).bfloat16(), W4.bfloat16(), (None, S4), "weights must be e4m3"),
        (torch.zeros(64, 2).bfloat16().T, W4, (None, S4), "activations must be contiguous"),
    ],
)
def test_bad_input_is_named(
    x: torch.Tensor, w: torch.Tensor, scales: tuple[torch.Tensor | None, torch.Tensor], message: str
):
    with pytest.raises(ValueError, match=message):
        moe_gemm2_mx(x, w, scales[1], routing(2, 1, 2), ROWS, h_scale=scales[0])


def test_rows_of_another_alignment_are_named():
    with pytest.raises(ValueError, match=r"h has 2 rows, the alignment \d+"):
        moe_gemm2_mx(torch.zeros(2, 64).bfloat16(), W4, S4, routing(2, 1, 2), ROWS)


def test_a_width_that_splits_a_group_is_named():
    w13 = (torch.zeros(2, 96, 32, dtype=torch.uint8), torch.zeros(2, 96, 2, dtype=torch.uint8))
    x = torch.zeros(2, 64).bfloat16()
    with pytest.raises(ValueError, match="left in mxfp4 only if the expert width is a multiple of 32, not 48"):
        moe_gemm1_mx(x, *w13, routing(2, 1, 2), ROWS, 1, out="mxfp4")
    with pytest.raises(ValueError, match="odd number of 95 rows"):
        moe_gemm1_mx(x, *(t[:, :95].contiguous() for t in w13), routing(2, 1, 2), ROWS, 1)
    rows, scales = moe_gemm1_mx(x, *w13, routing(2, 1, 2), ROWS, 1)
    assert (rows.dtype, rows.shape[1], scales) == (torch.bfloat16, 48, None)


@pytest.mark.parametrize("out", [None, "mxfp8", "mxfp4"])
def test_ops_have_fake_versions_with_the_same_shapes(out: MxFormat | None):
    """Inputs are not fp8, which opcheck cannot compare."""
    alignment = routing(5, 2, 3)
    routed = (alignment.expert_B, alignment.totals_2, ROWS)
    x, w13, w2 = operand(random(5, 64), "mxfp4"), weights(3, 64, 64, "mxfp4", 1), weights(3, 64, 32, "mxfp4", 2)
    tests = ("test_schema", "test_faketensor")
    first = (x[0], w13[0], alignment.rows_R, *routed, 2, x[1], w13[1], out)
    torch.library.opcheck(torch.ops.proa.moe_gemm1_mx.default, first, test_utils=tests)
    h, h_scale = operand(random(alignment.rows_R.numel(), 32), None if out is None else "mxfp4")
    torch.library.opcheck(torch.ops.proa.moe_gemm2_mx.default, (h, w2[0], *routed, h_scale, w2[1]), test_utils=tests)
