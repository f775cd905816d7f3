"""Experts with microscaling weights: the layer against a plain sum, the layout of gpt-oss, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proa_kernels import mxfp_layer
from proa_kernels.mxfp import MxFormat, dequantize_mx, quantize_mx
from proa_kernels.mxfp_layer import MxExperts, mx_experts
from proa_kernels.testing import relative_error, tolerance

E, H, WIDTH = 5, 96, 64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(w: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    values, scales = quantize_mx(w.flatten(0, 1), mx)
    return values.view(*w.shape[:2], -1), scales.view(*w.shape[:2], -1)


def experts(mx: MxFormat) -> MxExperts:
    w13, w13_scale = quantized(random(E, 2 * WIDTH, H, seed=1) / H**0.5, mx)
    w2, w2_scale = quantized(random(E, H, WIDTH, seed=2) / WIDTH**0.5, mx)
    return MxExperts(w13=w13, w13_scale=w13_scale, w2=w2, w2_scale=w2_scale)


def plain_sum(x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, layer: MxExperts) -> torch.Tensor:
    w13, w2 = dequantize_mx(layer.w13, layer.w13_scale), dequantize_mx(layer.w2, layer.w2_scale)
    out = torch.zeros(x.shape[0], H)
    for t, a in torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(ids.shape[1])).tolist():
        gate, up = (w13[ids[t, a]] @ x[t].float()).chunk(2)
        out[t] += weights[t, a] * (w2[ids[t, a]] @ (F.silu(gate) * up))
    return out


# Rounding both products' inputs: half a step of e4m3 is 2^-4 of a number, of e2m1 2^-2, each at most and independent.
@pytest.mark.parametrize(
    ("activations", "bound"), [(None, tolerance(torch.bfloat16, num_roundings=3)), ("mxfp8", 0.09), ("mxfp4", 0.36)]
)
@pytest.mark.parametrize("mx", ["mxfp8", "mxfp4"])
def test_layer_is_the_plain_sum_over_experts(mx: MxFormat, activations: MxFormat | None, bound: float):
    layer, x, weights = experts(mx), random(11, H).bfloat16(), random(11, 2, seed=3).abs()
    ids = torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:2] for t in range(11)])
    expected = plain_sum(x, weights, ids, layer)
    assert relative_error(mx_experts(x, weights, ids.int(), layer, activations), expected) < bound
    wrong = (ids + 1) % E
    assert relative_error(mx_experts(x, weights, wrong.int(), layer, activations), expected) > 0.5


def test_gpt_oss_keeps_gate_and_up_rows_in_turns():
    layer = experts("mxfp4")

    def in_turns(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(rows.chunk(2, 1), 2).flatten(1, 2)

    loaded = MxExperts.of_blocks(
        in_turns(layer.w13).unflatten(2, (H // 32, 16)), in_turns(layer.w13_scale),
        layer.w2.unflatten(2, (WIDTH // 32, 16)), layer.w2_scale,
    )  # fmt: skip
    for name in MxExperts.__slots__:
        assert torch.equal(getattr(loaded, name), getattr(layer, name))


def test_blocks_of_another_layout_are_named():
    layer = experts("mxfp4")
    with pytest.raises(ValueError, match=r"not \(5, 128, 48\), \(5, 96, 32\)"):
        MxExperts.of_blocks(layer.w13, layer.w13_scale, layer.w2, layer.w2_scale)


def test_weights_that_do_not_fit_each_other_are_named():
    layer, other = experts("mxfp4"), experts("mxfp8")
    with pytest.raises(ValueError, match="one format"):
        MxExperts(w13=layer.w13, w13_scale=layer.w13_scale, w2=other.w2, w2_scale=other.w2_scale)
    with pytest.raises(ValueError, match=r"w13 must be \[E, rows, columns\], not \(128, 48\)"):
        MxExperts(w13=layer.w13[0], w13_scale=layer.w13_scale[0], w2=layer.w2, w2_scale=layer.w2_scale)
    with pytest.raises(ValueError, match="128 rows and 96 columns does not fit"):
        MxExperts(w13=layer.w13, w13_scale=layer.w13_scale, w2=layer.w13, w2_scale=layer.w13_scale)


def test_tokens_that_do_not_fit_their_experts_are_named():
    ids, weights = torch.zeros(3, 2, dtype=torch.int32), torch.ones(3, 2)
    for x, some in ((torch.zeros(2, H), weights), (torch.zeros(3, H), weights[:2])):
        with pytest.raises(ValueError, match="must have the same tokens"):
            mx_experts(x.bfloat16(), some, ids, experts("mxfp4"))


def test_a_gpu_without_kernels_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mxfp_layer, "has_kernels_for", lambda _: False)
    monkeypatch.setattr(mxfp_layer, "gpu_name", lambda _: "sm120")
    with pytest.raises(ValueError, match=r"no mxfp4 experts on GPU sm120; they run on .*gfx950.* dequantize_mx"):
        mxfp_layer.refuse_without_kernels(experts("mxfp4"), torch.device("cuda"))
    mxfp_layer.refuse_without_kernels(experts("mxfp4"), torch.device("cpu"))
