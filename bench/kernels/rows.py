"""What is timed: one function per kernel family, each yielding finished rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from proa_kernels.arch import ROW_TILES, row_tile
from proa_kernels.gate import GateSpec, gate
from proa_kernels.moe_align import Alignment, empty_alignment, moe_align
from proa_kernels.moe_decode import moe_decode
from proa_kernels.moe_gemm import moe_combine
from proa_kernels.testing import relative_error, tolerance

from bench.kernels.arms import align_arms, gate_arms
from bench.kernels.candidates import Candidate, Kind, candidates
from bench.kernels.measure import Ceilings, Timing, time_launches
from bench.kernels.moe_problem import MoeShape, Problem

NUM_ROTATED = 8
# SGLang 0.5.23 on one H200, E=256, top-8, block 64 (anchors of the project), us.
SGLANG_ALIGN_US = {16: 4.5, 128: 4.6, 256: 4.9, 1024: 7.5, 4096: 13.7, 16384: 43.2, 65536: 160.0}
ALIGN_BOUND_US = {16: 2.2, 128: 3.8, 256: 4.9, 1024: 5.9, 16384: 8.2}
DSV3_EP32 = MoeShape(name="dsv3-ep32", num_experts=8, per_token=1, hidden=7168, width=2048)
DSV3_TP8 = MoeShape(name="dsv3-tp8", num_experts=256, per_token=8, hidden=7168, width=256)
QWEN3 = MoeShape(name="qwen3-30b", num_experts=128, per_token=8, hidden=2048, width=768)
LAYERS: list[tuple[MoeShape, Kind, tuple[int, ...]]] = [
    (DSV3_EP32, "bf16", (16, 256, 1024, 4096, 16384)),
    (QWEN3, "bf16", (1, 8, 32, 128, 256, 8192)),
    (DSV3_EP32, "fp8", (1024, 4096, 16384)),
    (DSV3_EP32, "fp8-rowwise", (1024, 4096, 16384)),
    (DSV3_TP8, "a16w8", (1, 8)),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table, us; `public_us` and `bound_us` are H200 figures of the project's anchors, 0 if none."""

    name: str
    timing: Timing
    floor_us: float
    public_us: float = 0.0
    bound_us: float = 0.0
    detail: str = ""


def align_rows(ceilings: Ceilings) -> Iterator[Row]:
    """Top-8 of 256 experts in blocks of 64 by every arm; the floor reads and writes each id once."""
    for tokens in (1, 8, 16, 128, 256, 1024, 4096, 16384, 65536):
        ids = [_random_ids(tokens) for _ in range(NUM_ROTATED)]
        outputs = empty_alignment(tokens * 8, 256, 64, ids[0].device).tensors()
        floor_us = 8.0 * tokens * 8 / ceilings.copy_bytes * 1e6
        for name, launch in align_arms().items():
            timing = time_launches([partial(launch, one, 64, None, None, outputs) for one in ids])
            yield Row(
                name=f"align {name} {tokens}x8", timing=timing, floor_us=floor_us,
                public_us=SGLANG_ALIGN_US.get(tokens, 0.0), bound_us=ALIGN_BOUND_US.get(tokens, 0.0),
            )  # fmt: skip
    yield from _large_align_rows(ceilings)


def _large_align_rows(ceilings: Ceilings) -> Iterator[Row]:
    ids = torch.randint(0, 256, (16384, 1024), device="cuda", dtype=torch.int32)
    outputs = empty_alignment(ids.numel(), 256, 64, ids.device).tensors()
    for name, launch in align_arms().items():
        yield Row(
            name=f"align {name} 16384x128x8", timing=time_launches([partial(launch, ids, 64, None, None, outputs)]),
            floor_us=8.0 * ids.numel() / ceilings.copy_bytes * 1e6, public_us=8399.0, bound_us=134.0,
        )  # fmt: skip


def _random_ids(tokens: int) -> torch.Tensor:
    return torch.rand(tokens, 256, device="cuda").topk(8).indices.to(torch.int32)


def gate_rows(ceilings: Ceilings) -> Iterator[Row]:
    """The choice of 8 of 256 experts by every arm: softmax, sigmoid with bias, and DeepSeek-V3's groups."""
    grouped = GateSpec(top_k=8, score="sigmoid", num_groups=8, top_groups=4, group_score="top2")
    flat = GateSpec(top_k=8, score="sigmoid")
    bias = torch.randn(256, device="cuda")
    kinds: tuple[tuple[str, GateSpec, torch.dtype, torch.Tensor | None, dict[int, float]], ...] = (
        ("softmax bf16", GateSpec(top_k=8), torch.bfloat16, None, {}),
        ("sigmoid+bias fp32", flat, torch.float32, bias, {4096: 8.3, 16384: 26.0}),
        ("sigmoid+bias groups fp32", grouped, torch.float32, bias, {4096: 11.5, 16384: 38.0}),
    )
    for name, spec, dtype, bias_E, public in kinds:
        for tokens in (1, 128, 4096, 16384):
            logits = [torch.randn(tokens, 256, device="cuda").to(dtype) for _ in range(NUM_ROTATED)]
            weights = torch.empty(tokens, 8, device="cuda")
            ids = torch.empty(tokens, 8, device="cuda", dtype=torch.int32)
            moved = logits[0].nbytes + weights.nbytes + ids.nbytes
            for arm, launch in gate_arms(spec, 256).items():
                timing = time_launches([partial(launch, one, bias_E, weights, ids, spec) for one in logits])
                yield Row(
                    name=f"gate {arm} {name} {tokens}", timing=timing, floor_us=moved / ceilings.copy_bytes * 1e6,
                    public_us=public.get(tokens, 0.0), bound_us=10.0 if tokens == 16384 else 0.0,
                )  # fmt: skip


def layer_rows(ceilings: Ceilings, refused: frozenset[str]) -> Iterator[Row]:
    """Each product with its best candidate, then align, both products and combine in one graph, and torch's arm."""
    for shape, kind, sizes in LAYERS:
        for tokens in sizes:
            problem = Problem.random(shape, kind, tokens)
            yield from _layer(problem, kind, ceilings, refused)
            del problem
            torch.cuda.empty_cache()


def _layer(problem: Problem, kind: Kind, ceilings: Ceilings, refused: frozenset[str]) -> Iterator[Row]:
    shape, tokens = problem.shape, problem.x.shape[0]
    name = f"{shape.name} {kind} {tokens}"
    floors = layer_floors(problem, kind, ceilings)
    best: dict[int, tuple[Timing, Candidate]] = {}
    for product in (1, 2):
        timed = list(_sweep(problem, kind, product, refused))
        best[product] = min(timed, key=lambda pair: pair[0].us)
        ranking = sorted(timed, key=lambda pair: pair[0].us)
        if (error := _error(problem, best[product][1])) > tolerance(torch.bfloat16, depth=shape.hidden):
            raise ArithmeticError(f"gemm{product} {name} {best[product][1].label} is off by {error:.1e}")
        yield Row(
            name=f"gemm{product} {name}", timing=best[product][0], floor_us=floors[product - 1],
            detail="; ".join(f"{candidate.label}: {timing.us:.1f}" for timing, candidate in ranking[:4]),
        )  # fmt: skip
    if kind.startswith("fp8"):
        return  # product 2 wants quantised activations: the whole layer comes with the quantising epilogue
    first, second = best[1][1], best[2][1]
    if second.blocks.rows != first.blocks.rows:
        again = [pair for pair in _sweep(problem, kind, 2, refused) if pair[1].blocks.rows == first.blocks.rows]
        second = min(again, key=lambda pair: pair[0].us)[1]
    launches = [partial(whole_layer, problem, routing, first, second) for routing in range(len(problem.ids))]
    yield Row(name=f"layer {name}", timing=time_launches(launches), floor_us=sum(floors), detail=first.label)
    if kind == "bf16":
        launches = [partial(torch_layer, problem, routing) for routing in range(len(problem.ids))]
        yield Row(name=f"layer torch {name}", timing=time_launches(launches), floor_us=sum(floors), detail="grouped_mm")


def decode_rows(ceilings: Ceilings) -> Iterator[Row]:
    """Gate and experts of few tokens in one graph, as a decode step launches them."""
    layers: tuple[tuple[MoeShape, Kind], ...] = ((DSV3_TP8, "a16w8"), (QWEN3, "bf16"))
    for shape, kind in layers:
        for tokens in (1, 4):
            problem = Problem.random(shape, kind, tokens, NUM_ROTATED)
            logits = [torch.randn(tokens, shape.num_experts, device="cuda") for _ in range(NUM_ROTATED)]
            launches = [partial(_gate_and_experts, problem, one) for one in logits]
            yield Row(
                name=f"gate + decode {shape.name} {kind} {tokens}", timing=time_launches(launches),
                floor_us=sum(layer_floors(problem, kind, ceilings)), detail="logits to output",
                public_us=38.7 if (shape, tokens) == (DSV3_TP8, 1) else 0.0,
                bound_us=22.0 if (shape, tokens) == (DSV3_TP8, 1) else 0.0,
            )  # fmt: skip
            del problem


def _gate_and_experts(problem: Problem, logits: torch.Tensor) -> torch.Tensor:
    weights, ids = gate(logits, GateSpec(top_k=problem.shape.per_token))
    return moe_decode(problem.x, weights, ids, problem.w13, problem.w2, problem.w13_scale, problem.w2_scale)


def _sweep(
    problem: Problem, kind: Kind, product: Literal[1, 2], refused: frozenset[str]
) -> Iterator[tuple[Timing, Candidate]]:
    """Candidates of the row tile that fits and of the next smaller one."""
    num_pairs = problem.ids[0].numel()
    fitting = ROW_TILES.index(row_tile(num_pairs, problem.shape.num_experts))
    for rows in ROW_TILES[max(fitting - 1, 0) : fitting + 1]:
        options = [c for c in candidates(kind, product, rows) if f"gemm{c.product} {kind} {c.label}" not in refused]
        if not options:
            continue
        alignments = [problem.align(routing, rows) for routing in range(len(problem.ids))]
        capacity = alignments[0].rows_R.numel()
        width = problem.shape.width if product == 1 else problem.shape.hidden
        out = torch.empty(capacity, width, device="cuda", dtype=torch.bfloat16)
        h, h_scale = problem.hidden_like(capacity)
        for candidate in options:
            blocks, tma = candidate.blocks, candidate.tma
            if product == 1:
                launches = [partial(problem.run1, alignment, out, candidate) for alignment in alignments]
            else:
                launches = [partial(problem.run2, alignment, h, h_scale, out, blocks, tma) for alignment in alignments]
            yield time_launches(launches, 0.02), candidate


def _error(problem: Problem, candidate: Candidate) -> float:
    """Relative error of one product at full size, on the last routing."""
    rows = candidate.blocks.rows
    alignment = problem.align(-1, rows)
    total = int(alignment.totals_2[0])
    width = problem.shape.width if candidate.product == 1 else problem.shape.hidden
    out = torch.empty(alignment.rows_R.numel(), width, device="cuda", dtype=torch.bfloat16).fill_(float("nan"))
    if candidate.product == 1:
        problem.run1(alignment, out, candidate)
        return relative_error(out[:total], problem.expected1(alignment, rows)[:total])
    h, h_scale = problem.hidden_like(alignment.rows_R.numel())
    problem.run2(alignment, h, h_scale, out, candidate.blocks, candidate.tma)
    return relative_error(out[:total], problem.expected2(alignment, rows, h, h_scale)[:total])


def whole_layer(problem: Problem, routing: int, first: Candidate, second: Candidate) -> torch.Tensor:
    rows = first.blocks.rows
    alignment: Alignment = moe_align(problem.ids[routing], problem.shape.num_experts, rows)
    h = torch.empty(alignment.rows_R.numel(), problem.shape.width, device="cuda", dtype=torch.bfloat16)
    problem.run1(alignment, h, first)
    out = torch.empty(alignment.rows_R.numel(), problem.shape.hidden, device="cuda", dtype=torch.bfloat16)
    problem.run2(alignment, h, None, out, second.blocks, second.tma)
    return moe_combine(out, problem.weights, alignment)


def torch_layer(problem: Problem, routing: int) -> torch.Tensor:
    """Sort, gather, two grouped products of torch, weighted sum: what runs without these kernels."""
    ids = problem.ids[routing]
    sorted_N, order_N = ids.flatten().to(torch.int16).sort(stable=True)
    edges = torch.arange(1, problem.shape.num_experts + 1, dtype=torch.int16, device="cuda")
    ends = torch.searchsorted(sorted_N, edges, out_int32=True)
    gathered = problem.x.index_select(0, order_N // ids.shape[1])
    gate, up = F.grouped_mm(gathered, problem.w13.transpose(1, 2), offs=ends).chunk(2, -1)
    out = F.grouped_mm(F.silu(gate) * up, problem.w2.transpose(1, 2), offs=ends)
    pairs = torch.empty_like(out).index_copy_(0, order_N, out)
    return torch.bmm(problem.weights.to(out.dtype)[:, None], pairs.view(*ids.shape, -1))[:, 0]


def layer_floors(problem: Problem, kind: Kind, ceilings: Ceilings) -> tuple[float, float]:
    """us of products 1 and 2: the larger of FLOP time and the time to move weights, inputs and outputs once."""
    shape, num_pairs = problem.shape, problem.ids[0].numel()
    touched = sum(torch.unique(ids).numel() for ids in problem.ids) / len(problem.ids)
    peak = ceilings.fp8_flops if kind.startswith("fp8") else ceilings.bf16_flops
    weight = 2 if kind == "bf16" else 1
    first = touched * 2 * shape.width * shape.hidden * weight + problem.x.nbytes + num_pairs * shape.width * 2
    activation = problem.x.element_size()
    second = touched * shape.width * shape.hidden * weight + num_pairs * (shape.width * activation + shape.hidden * 2)
    flops = 2 * num_pairs * shape.width * shape.hidden
    return (
        max(first / ceilings.copy_bytes, 2 * flops / peak) * 1e6,
        max(second / ceilings.copy_bytes, flops / peak) * 1e6,
    )
