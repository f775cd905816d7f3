"""Checks of the whole layer on a GPU: few and many pairs, repeats, graphs with changed inputs, two streams, poison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.gate_route import route
from proa_kernels.moe_decode import decode_ref, moe_decode
from proa_kernels.moe_gemm import dequantized
from proa_kernels.moe_layer import fused_experts
from proa_kernels.testing import poison_, relative_error, tolerance

from bench.kernels.candidates import Kind
from bench.kernels.moe_problem import MoeShape, Problem

SHAPE = MoeShape(name="small", num_experts=9, per_token=3, hidden=512, width=256)
FEW = 5  # tokens whose pairs the decode kernels take
SIZES = (1, 40, 150, 300)  # the decode kernels again, then row tiles of 32, 64 and 128
KINDS: tuple[Kind, ...] = ("bf16", "a16w8")
# Activations, gate and up, hidden rows, the rows before the sum and the sum itself are rounded to bfloat16.
LIMIT = tolerance(torch.bfloat16, num_roundings=4, depth=1024)
Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    x: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def random(cls, tokens: int) -> Inputs:
        """Some ids outside the experts."""
        return cls(
            x=torch.randn(tokens, SHAPE.hidden, device="cuda", dtype=torch.bfloat16),
            weights=torch.rand(tokens, SHAPE.per_token, device="cuda"),
            ids=torch.randint(-1, SHAPE.num_experts + 1, (tokens, SHAPE.per_token), device="cuda", dtype=torch.int32),
        )

    def fill(self) -> None:
        """New values in the same places."""
        other = Inputs.random(self.x.shape[0])
        for mine, theirs in ((self.x, other.x), (self.weights, other.weights), (self.ids, other.ids)):
            mine.copy_(theirs)


def layer_checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for tokens in SIZES:
        for kind in KINDS:
            yield f"layer {kind} {tokens}: repeats", partial(_repeats, kind, tokens)
        yield f"layer {tokens}: graph and streams", partial(_graph_and_streams, tokens)
    for dtype in (torch.bfloat16, torch.float32):
        yield f"route {dtype}", partial(_route, dtype)
    yield from decode_checks()


def decode_checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for kind in KINDS:
        yield f"decode {kind}", partial(_decode, kind)
        yield f"layer {kind} {FEW}: repeats", partial(_repeats, kind, FEW)
    yield f"layer {FEW}: graph and streams", partial(_graph_and_streams, FEW)


def _layer(problem: Problem) -> Layer:
    scales = {"w13_scale": problem.w13_scale, "w2_scale": problem.w2_scale}
    return lambda x, weights, ids: fused_experts(x, weights, ids, problem.w13, problem.w2, **scales)


def _expected(problem: Problem, inputs: Inputs) -> torch.Tensor:
    w13, w2 = dequantized(problem.w13, problem.w13_scale), dequantized(problem.w2, problem.w2_scale)
    return decode_ref(inputs.x.float(), inputs.weights, inputs.ids, w13, w2)


def _repeats(kind: Kind, tokens: int) -> str:
    """100 runs in memory that held NaN before give the same bits."""
    problem, inputs = Problem.random(SHAPE, kind, tokens, 1), Inputs.random(tokens)
    layer = _layer(problem)
    first = layer(inputs.x, inputs.weights, inputs.ids)
    if not (error := relative_error(first, _expected(problem, inputs))) < LIMIT:
        return f"off by {error:.1e}"
    for idx in range(100):
        poison_(torch.empty(1 << 22, device="cuda"))  # the allocator hands this memory to the next run
        if not torch.equal(first, layer(inputs.x, inputs.weights, inputs.ids)):
            return f"repeat {idx} differs"
    return ""


def _graph_and_streams(tokens: int) -> str:
    """One capture replayed on new inputs, and other inputs on another stream at the same time."""
    problem, inputs, other = Problem.random(SHAPE, "bf16", tokens, 1), Inputs.random(tokens), Inputs.random(tokens)
    layer = _layer(problem)
    layer(inputs.x, inputs.weights, inputs.ids)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(inputs.x, inputs.weights, inputs.ids)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    for _ in range(10):
        inputs.fill()
        poison_(out)
        torch.cuda.synchronize()
        graph.replay()
        with torch.cuda.stream(side):
            beside = layer(other.x, other.weights, other.ids)
        torch.cuda.synchronize()
        for name, ours, theirs in (("graph", out, inputs), ("stream", beside, other)):
            if not (error := relative_error(ours, _expected(problem, theirs))) < LIMIT:
                return f"{name} off by {error:.1e}"
    return ""


def _decode(kind: Kind) -> str:
    for tokens in (1, 3, 10):
        problem = Problem.random(SHAPE, kind, tokens, 1)
        inputs = Inputs.random(tokens)
        scales = (problem.w13_scale, problem.w2_scale)
        ours = moe_decode(inputs.x, inputs.weights, inputs.ids, problem.w13, problem.w2, *scales)
        error = relative_error(ours, _expected(problem, inputs))
        if not error < tolerance(torch.bfloat16, depth=1024):
            return f"{tokens} tokens: off by {error:.1e}"
    return ""


def _route(dtype: torch.dtype) -> str:
    """The gate of the product in float64; a logit that is rounded the other way may swap two experts."""
    for tokens in (1, 33, 300):
        x = torch.randn(tokens, 2048, device="cuda", dtype=torch.bfloat16)
        w = (torch.randn(128, 2048, device="cuda") / 45).to(dtype)
        weights, ids = route(x, w, GateSpec(top_k=8, num_shared=1))
        logits = (x.double() @ w.double().T).to(dtype)
        weights_ref, ids_ref = gate_ref(logits, GateSpec(top_k=8, num_shared=1))
        share = float((ids != ids_ref).float().mean())
        error = relative_error(weights, weights_ref)
        if share > 0.05 or not error < (0.02 if dtype == torch.bfloat16 else 1e-3):
            return f"{tokens} tokens: {share:.1e} of the ids differ, weights off by {error:.1e}"
    return ""
