"""Random experts of one shape, ways to run them, and what is right: for tune and doctor. Legend as in moe_gemm.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proa_kernels.arch import SCALE_GROUP, DecodeBlocks, GemmBlocks, arch_of
from proa_kernels.moe_align import Alignment, moe_align
from proa_kernels.moe_decode_triton import launch_decode_down, launch_decode_up
from proa_kernels.moe_gemm import dequantized
from proa_kernels.moe_gemm_launch import launch_combine, launch_gemm1, launch_gemm2
from proa_kernels.tables import Kind, LayerShape
from proa_kernels.timing import float8_of

NUM_ROUTINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`ids` are routings that rotate, so that one layer's experts do not stay in L2. Scales are None for bf16."""

    shape: LayerShape
    x: torch.Tensor
    w13: torch.Tensor
    w13_scale: torch.Tensor | None
    w2: torch.Tensor
    w2_scale: torch.Tensor | None
    weights: torch.Tensor
    ids: list[torch.Tensor]

    @classmethod
    def random(cls, shape: LayerShape, kind: Kind, num_tokens: int, device: torch.device) -> Problem:
        """16-bit activations: bfloat16 on a GPU, float16 on the CPU, whose interpreter computes bfloat16 wrongly."""
        half = torch.bfloat16 if device.type == "cuda" else torch.float16
        w13, w13_scale = _weights(shape.num_experts, 2 * shape.width, shape.hidden, kind, half, device)
        w2, w2_scale = _weights(shape.num_experts, shape.hidden, shape.width, kind, half, device)
        return cls(
            shape=shape, w13=w13, w13_scale=w13_scale, w2=w2, w2_scale=w2_scale,
            x=torch.randn(num_tokens, shape.hidden, device=device, dtype=half),
            weights=torch.rand(num_tokens, shape.per_token, device=device),
            ids=[_routing(num_tokens, shape, device) for _ in range(NUM_ROUTINGS)],
        )  # fmt: skip

    def with_tokens(self, num_tokens: int) -> Problem:
        """The same experts with other tokens."""
        device = self.x.device
        return Problem(
            shape=self.shape, w13=self.w13, w13_scale=self.w13_scale, w2=self.w2, w2_scale=self.w2_scale,
            x=torch.randn(num_tokens, self.shape.hidden, device=device, dtype=self.x.dtype),
            weights=torch.rand(num_tokens, self.shape.per_token, device=device),
            ids=[_routing(num_tokens, self.shape, device) for _ in range(NUM_ROUTINGS)],
        )  # fmt: skip

    def align(self, routing: int, rows: int) -> Alignment:
        return moe_align(self.ids[routing], self.shape.num_experts, rows)

    def run_first(self, alignment: Alignment, blocks: GemmBlocks, out: torch.Tensor) -> None:
        launch_gemm1(
            self.x, self.w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, out, blocks.rows,
            self.shape.per_token, w_scale=self.w13_scale, blocks=blocks,
        )  # fmt: skip

    def run_second(self, h: torch.Tensor, alignment: Alignment, blocks: GemmBlocks, out: torch.Tensor) -> None:
        launch_gemm2(
            h, self.w2, alignment.expert_B, alignment.totals_2, out, blocks.rows, w_scale=self.w2_scale, blocks=blocks
        )

    def run_up(self, routing: int, blocks: DecodeBlocks, h: torch.Tensor) -> None:
        launch_decode_up(self.x, self.ids[routing], self.w13, self.w13_scale, h, blocks)

    def run_down(self, h: torch.Tensor, routing: int, blocks: DecodeBlocks, out: torch.Tensor) -> None:
        launch_decode_down(h, self.weights, self.ids[routing], self.w2, self.w2_scale, out, blocks)

    def run_grouped(self, routing: int, first: GemmBlocks, second: GemmBlocks) -> torch.Tensor:
        """Align, both products and the weighted sum."""
        alignment = self.align(routing, first.rows)
        rows = alignment.rows_R.numel()
        h, pairs = self.x.new_empty(rows, self.shape.width), self.x.new_empty(rows, self.shape.hidden)
        self.run_first(alignment, first, h)
        self.run_second(h, alignment, second, pairs)
        out = torch.empty_like(self.x)
        launch_combine(pairs, self.weights, alignment.inverse_N, out)
        return out

    def run_few(self, routing: int, up: DecodeBlocks, down: DecodeBlocks) -> torch.Tensor:
        h = self.x.new_empty((self.ids[routing].numel(), self.shape.width), dtype=torch.float32)
        self.run_up(routing, up, h)
        out = torch.empty_like(self.x)
        self.run_down(h, routing, down, out)
        return out

    def expected_hidden(self, routing: int) -> torch.Tensor:
        """silu(gate) * up of every pair in float32, [N, I]; zero where the id is outside the experts."""
        ids_N = self.ids[routing].flatten()
        out = torch.zeros(ids_N.numel(), self.shape.width, device=self.x.device)
        for e in range(self.shape.num_experts):
            pairs = (ids_N == e).nonzero()[:, 0]
            if pairs.numel():
                x = self.x[pairs // self.shape.per_token].float()
                gate, up = (x @ _expert(self.w13, self.w13_scale, e).T).chunk(2, -1)
                out[pairs] = torch.nn.functional.silu(gate) * up
        return out

    def expected_pairs(self, h_NI: torch.Tensor, routing: int) -> torch.Tensor:
        """The second product of every pair in float32, [N, H], from `h_NI`."""
        ids_N = self.ids[routing].flatten()
        out = torch.zeros(ids_N.numel(), self.shape.hidden, device=self.x.device)
        for e in range(self.shape.num_experts):
            pairs = (ids_N == e).nonzero()[:, 0]
            if pairs.numel():
                out[pairs] = h_NI[pairs].float() @ _expert(self.w2, self.w2_scale, e).T
        return out

    def expected(self, routing: int) -> torch.Tensor:
        """The layer in float32, [T, H]."""
        pairs = self.expected_pairs(self.expected_hidden(routing), routing)
        return (pairs.view(*self.ids[routing].shape, -1) * self.weights[..., None]).sum(1)


def _weights(
    num_experts: int, rows: int, depth: int, kind: Kind, half: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if kind == "bf16":
        return torch.randn(num_experts, rows, depth, device=device, dtype=half) / depth**0.5, None
    weights = torch.empty(num_experts, rows, depth, device=device, dtype=float8_of(arch_of(device)))
    for e in range(num_experts):
        weights[e] = torch.randn(rows, depth, device=device).to(weights.dtype)
    scale = torch.rand(num_experts, rows // SCALE_GROUP, depth // SCALE_GROUP, device=device)
    return weights, (scale + 0.5) / depth**0.5


def _routing(num_tokens: int, shape: LayerShape, device: torch.device) -> torch.Tensor:
    """The best `per_token` of random scores; shared experts score above all."""
    scores = torch.rand(num_tokens, shape.num_experts, device=device)
    scores[:, shape.num_experts - shape.num_shared :] += 1.0
    return scores.topk(shape.per_token).indices.to(torch.int32)


def _expert(weights: torch.Tensor, scale: torch.Tensor | None, e: int) -> torch.Tensor:
    return dequantized(weights[e : e + 1], None if scale is None else scale[e : e + 1])[0]
