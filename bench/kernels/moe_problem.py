"""Random experts and routing of one shape on the device, and what the layer costs at least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from proa_kernels.arch import SCALE_GROUP, GemmBlocks
from proa_kernels.moe_align import Alignment, moe_align
from proa_kernels.moe_gemm import dequantized
from proa_kernels.moe_gemm_launch import launch_gemm1, launch_gemm2

from bench.kernels.candidates import Candidate, Kind

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """`per_token` experts of `num_experts` for each token; hidden and width as in the model."""

    name: str
    num_experts: int
    per_token: int
    hidden: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`routings` rotate, so that one layer's experts do not stay in L2. Scales are None for bf16."""

    shape: MoeShape
    x: torch.Tensor
    x_scale: torch.Tensor | None
    w13: torch.Tensor
    w13_scale: torch.Tensor | None
    w2: torch.Tensor
    w2_scale: torch.Tensor | None
    weights: torch.Tensor
    ids: list[torch.Tensor]

    @classmethod
    def random(cls, shape: MoeShape, kind: Kind, num_tokens: int, num_routings: int = 4) -> Problem:
        """Normal values: x [T, H], w13 [E, 2I, H] over sqrt(H), w2 [E, H, I] over sqrt(I), quantised as `kind` says.

        Scales are random factors of 0.5..1.5, no quotients of the values: both sides of a check get the same ones.
        """
        x = torch.randn(num_tokens, shape.hidden, device="cuda", dtype=torch.bfloat16)
        w13, w13_scale = _weights(shape.num_experts, 2 * shape.width, shape.hidden, kind)
        w2, w2_scale = _weights(shape.num_experts, shape.hidden, shape.width, kind)
        x_scale = None
        if kind == "fp8":
            x, x_scale = x.to(FP8), torch.rand(num_tokens, shape.hidden // SCALE_GROUP, device="cuda") + 0.5
        if kind == "fp8-rowwise":
            x, x_scale = x.to(FP8), torch.rand(num_tokens, device="cuda") + 0.5
        ids = [_routing(num_tokens, shape) for _ in range(num_routings)]
        weights = torch.rand(num_tokens, shape.per_token, device="cuda")
        return cls(
            shape=shape, x=x, x_scale=x_scale, w13=w13, w13_scale=w13_scale, w2=w2, w2_scale=w2_scale,
            weights=weights, ids=ids,
        )  # fmt: skip

    def hidden_like(self, rows: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Random activations for product 2, quantised when those of product 1 are."""
        h = torch.randn(rows, self.shape.width, device="cuda", dtype=torch.bfloat16)
        if self.x_scale is None:
            return h, None
        per_row = () if self.x_scale.dim() == 1 else (self.shape.width // SCALE_GROUP,)
        return h.to(FP8), torch.rand(rows, *per_row, device="cuda") + 0.5

    def run1(self, alignment: Alignment, out: torch.Tensor, candidate: Candidate) -> None:
        launch_gemm1(
            self.x, self.w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, out, candidate.blocks.rows,
            self.shape.per_token, self.x_scale, self.w13_scale, candidate.blocks, candidate.tma,
        )  # fmt: skip

    def run2(
        self, alignment: Alignment, h: torch.Tensor, h_scale: torch.Tensor | None, out: torch.Tensor,
        blocks: GemmBlocks, tma: bool,
    ) -> None:  # fmt: skip
        launch_gemm2(
            h, self.w2, alignment.expert_B, alignment.totals_2, out, blocks.rows, h_scale, self.w2_scale, blocks, tma
        )

    def align(self, routing: int, rows: int) -> Alignment:
        return moe_align(self.ids[routing], self.shape.num_experts, rows)

    def expected1(self, alignment: Alignment, rows: int) -> torch.Tensor:
        """Product 1 in float32, expert by expert; rows past the total are zero."""
        num_pairs = self.x.shape[0] * self.shape.per_token
        token = alignment.rows_R.long().clamp(0, num_pairs - 1) // self.shape.per_token
        x = dequantized(self.x, self.x_scale)
        out = torch.zeros(alignment.rows_R.numel(), self.shape.width, device="cuda")
        for e, here in _expert_rows(alignment, rows):
            gate, up = (x[token[here]] @ _expert(self.w13, self.w13_scale, e).T).chunk(2, -1)
            out[here] = torch.nn.functional.silu(gate) * up
        return out

    def expected2(self, alignment: Alignment, rows: int, h: torch.Tensor, h_scale: torch.Tensor | None) -> torch.Tensor:
        out = torch.zeros(alignment.rows_R.numel(), self.shape.hidden, device="cuda")
        h32 = dequantized(h, h_scale)
        for e, here in _expert_rows(alignment, rows):
            out[here] = h32[here] @ _expert(self.w2, self.w2_scale, e).T
        return out


def _weights(num_experts: int, rows: int, depth: int, kind: Kind) -> tuple[torch.Tensor, torch.Tensor | None]:
    if kind == "bf16":
        return torch.randn(num_experts, rows, depth, device="cuda", dtype=torch.bfloat16) / depth**0.5, None
    weights = torch.empty(num_experts, rows, depth, device="cuda", dtype=FP8)
    for e in range(num_experts):
        weights[e] = torch.randn(rows, depth, device="cuda").to(FP8)
    per_expert = (rows,) if kind == "fp8-rowwise" else (rows // SCALE_GROUP, depth // SCALE_GROUP)
    return weights, (torch.rand(num_experts, *per_expert, device="cuda") + 0.5) / depth**0.5


def _routing(num_tokens: int, shape: MoeShape) -> torch.Tensor:
    return torch.rand(num_tokens, shape.num_experts, device="cuda").topk(shape.per_token).indices.to(torch.int32)


def _expert(weights: torch.Tensor, scale: torch.Tensor | None, e: int) -> torch.Tensor:
    return dequantized(weights[e : e + 1], None if scale is None else scale[e : e + 1])[0]


def _expert_rows(alignment: Alignment, rows: int) -> list[tuple[int, slice]]:
    """Experts that have pairs, with their padded rows."""
    padded = ((alignment.counts_E.cpu() + rows - 1) // rows * rows).tolist()
    ends, total = [], 0
    for e, size in enumerate(padded):
        if size:
            ends.append((e, slice(total, total + size)))
        total += size
    return ends
