"""Block sizes of the MoE layer for the shapes of the native engine, measured where they count: as whole layers.

    python -m bench.kernels.layer_sweep --out bench/kernels/layer_sweep.json --seconds 150

For each number of tokens: every row tile that could fit, with the best blocks of each product under it, then align,
both products and combine in one graph; `moe_decode` with its blocks for few pairs; torch's grouped products beside
them. us, medians of graph replays on rotating routings; `floor_us` as in rows.layer_floors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from proa_kernels.arch import ROW_TILES, DecodeBlocks, row_tile
from proa_kernels.moe_decode import decode_ref
from proa_kernels.moe_decode_triton import launch_decode_down, launch_decode_up
from proa_kernels.moe_layer import fused_experts
from proa_kernels.testing import relative_error, tolerance

from bench.kernels.candidates import Candidate, candidates
from bench.kernels.measure import Ceilings, Timing, measure_ceilings, time_launches
from bench.kernels.moe_problem import MoeShape, Problem
from bench.kernels.rows import QWEN3, layer_floors, torch_layer, whole_layer
from bench.serving.provenance import ROOT, provenance

V2_LITE = MoeShape(name="deepseek-v2-lite", num_experts=64, per_token=6, hidden=2048, width=1408)
TOKENS = (1, 2, 4, 8, 32, 128, 256, 2048, 8192)
MAX_FEW_PAIRS = 64
UP = [
    DecodeBlocks(cols=c, depth=d, num_warps=w)
    for c, d, w in ((8, 512, 4), (4, 1024, 4), (4, 512, 2), (16, 256, 4), (8, 256, 2), (4, 2048, 8), (8, 1024, 8))
]
DOWN = [
    DecodeBlocks(cols=c, depth=d, num_warps=w)
    for c, d, w in ((4, 256, 4), (2, 256, 2), (4, 128, 2), (8, 128, 4), (8, 256, 8), (2, 512, 4), (1, 512, 2))
]


def main() -> None:
    """Sweep until --seconds are over; what was left out is named in the file."""
    args = parse_args()
    started = time.monotonic()
    ceilings = measure_ceilings()
    record: dict[str, Any] = {**provenance(), "ceilings": asdict(ceilings), "rows": []}
    for tokens, shape in product(TOKENS, (QWEN3, V2_LITE)):
        if time.monotonic() - started > args.seconds:
            record["left_out"] = f"from {shape.name} {tokens} on: {args.seconds} s are over"
            print(record["left_out"])
            break
        problem = Problem.random(shape, "bf16", tokens)
        for row in sweep(problem, ceilings):
            record["rows"].append(row)
            print(" ".join(f"{name}={value}" for name, value in row.items() if name != "ranking"), flush=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        del problem
        torch.cuda.empty_cache()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "kernels" / "layer_sweep.json")
    parser.add_argument("--seconds", type=float, default=150.0, help="start no further size after this time")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU here; the CPU tests are `pytest tests/kernels`")
    return args


def sweep(problem: Problem, ceilings: Ceilings) -> Iterator[dict[str, Any]]:
    """One row per arm of the expert layer, us: each row tile with its best blocks, few pairs, the table, torch."""
    tokens, shape = problem.x.shape[0], problem.shape
    common = {"shape": shape.name, "tokens": tokens, "floor_us": round(sum(layer_floors(problem, "bf16", ceilings)), 1)}
    for rows in row_tiles(problem):
        best = {p: ranked(problem, p, rows) for p in (1, 2)}
        first, second = best[1][0][1], best[2][0][1]
        timing = time_launches([partial(whole_layer, problem, r, first, second) for r in routings(problem)])
        ranking = {f"gemm{p}": [f"{c.label}: {t.us:.1f}" for t, c in best[p][:4]] for p in best}
        yield common | {"arm": f"rows {rows}", "us": round(timing.us, 1), "ranking": ranking}
    if problem.ids[0].numel() <= MAX_FEW_PAIRS:
        yield common | few_pairs(problem)
    layer = [partial(fused_experts, problem.x, problem.weights, ids, problem.w13, problem.w2) for ids in problem.ids]
    yield common | {"arm": "table", "us": round(time_launches(layer).us, 1)}
    timing = time_launches([partial(torch_layer, problem, r) for r in routings(problem)])
    yield common | {"arm": "torch grouped_mm", "us": round(timing.us, 1)}


def row_tiles(problem: Problem) -> tuple[int, ...]:
    """The tile that fits the mean expert, and its neighbours."""
    fitting = ROW_TILES.index(row_tile(problem.ids[0].numel(), problem.shape.num_experts))
    return ROW_TILES[max(fitting - 1, 0) : fitting + 2]


def routings(problem: Problem) -> range:
    return range(len(problem.ids))


def ranked(problem: Problem, product: Literal[1, 2], rows: int) -> list[tuple[Timing, Candidate]]:
    """Candidates of one product under one row tile, fastest first."""
    alignments = [problem.align(routing, rows) for routing in routings(problem)]
    capacity = alignments[0].rows_R.numel()
    width = problem.shape.width if product == 1 else problem.shape.hidden
    out = torch.empty(capacity, width, device="cuda", dtype=torch.bfloat16)
    h, _ = problem.hidden_like(capacity)
    timed = []
    for candidate in candidates("bf16", product, rows):
        if product == 1:
            launches = [partial(problem.run1, alignment, out, candidate) for alignment in alignments]
        else:
            launches = [
                partial(problem.run2, alignment, h, None, out, candidate.blocks, candidate.tma)
                for alignment in alignments
            ]
        timed.append((time_launches(launches, 0.02), candidate))
    return sorted(timed, key=lambda pair: pair[0].us)


def few_pairs(problem: Problem) -> dict[str, Any]:
    """Both launches of `moe_decode` with every block, checked, and the sum of the best."""
    h = torch.empty(problem.ids[0].numel(), problem.shape.width, device="cuda")
    out = torch.empty_like(problem.x)
    times: dict[str, list[tuple[float, str]]] = {"up": [], "down": []}
    for blocks in UP:
        launches = [partial(launch_decode_up, problem.x, ids, problem.w13, None, h, blocks) for ids in problem.ids]
        times["up"].append((time_launches(launches, 0.02).us, label(blocks)))
    for blocks in DOWN:
        launches = [
            partial(launch_decode_down, h, problem.weights, ids, problem.w2, None, out, blocks) for ids in problem.ids
        ]
        times["down"].append((time_launches(launches, 0.02).us, label(blocks)))
        check_few_pairs(problem, blocks)
    best = {name: sorted(found) for name, found in times.items()}
    us = round(best["up"][0][0] + best["down"][0][0], 1)
    return {"arm": "decode", "us": us, "ranking": {k: [f"{b}: {t:.1f}" for t, b in v] for k, v in best.items()}}


def check_few_pairs(problem: Problem, down: DecodeBlocks) -> None:
    h = torch.full((problem.ids[0].numel(), problem.shape.width), float("nan"), device="cuda")
    out = torch.full_like(problem.x, float("nan"))
    launch_decode_up(problem.x, problem.ids[0], problem.w13, None, h, UP[DOWN.index(down)])
    launch_decode_down(h, problem.weights, problem.ids[0], problem.w2, None, out, down)
    exact = decode_ref(problem.x.float(), problem.weights, problem.ids[0], problem.w13, problem.w2)
    if (error := relative_error(out, exact)) > tolerance(torch.bfloat16, depth=4096):
        raise ArithmeticError(f"moe_decode {label(down)} is off by {error:.1e}")


def label(blocks: DecodeBlocks) -> str:
    return f"{blocks.cols}x{blocks.depth} w{blocks.num_warps}"


if __name__ == "__main__":
    main()
