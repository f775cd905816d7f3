"""Correctness, then timings, of the kernels written for sm90 alone, as the ops launch them, on one GPU, with floors.

    python -m bench.kernels.sm90 --out bench/kernels/sm90_h200.json

Latent decode attention of 128 heads, prefill attention, and grouped products of fp8 with block scales. Floors are the
larger of FLOP over the measured peak and bytes over the measured copy bandwidth; `detail` names what the Triton kernel
took in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from proa_kernels.arch import ROW_TILES, arch_of, gemm_blocks
from proa_kernels.mla_decode_triton import launch_mla_decode, mla_tile
from proa_kernels.moe_align import Alignment
from proa_kernels.moe_gemm_launch import launch_gemm1, launch_gemm2
from proa_kernels.prefill_triton import PREFILL_TILE
from proa_kernels.testing import Guarded, poison_, relative_error, tolerance

from bench.kernels import decode_checks, prefill_rows
from bench.kernels.decode_problem import MLA128
from bench.kernels.decode_problem import Problem as AttentionProblem
from bench.kernels.faults import tell_faults
from bench.kernels.measure import Ceilings, Timing, measure_ceilings, time_launches
from bench.kernels.moe_problem import MoeShape, Problem
from bench.kernels.record import record
from bench.kernels.rows import DSV3_EP32, Row, layer_floors
from bench.serving.provenance import ROOT

ROWS = ROW_TILES[-1]
SMALL = MoeShape(name="small", num_experts=9, per_token=3, hidden=512, width=256)
# (shape, tokens): few k steps and padding in every tile, then many and experts of several tiles
PRODUCTS = ((SMALL, 150), (SMALL, 1500), (DSV3_EP32, 1000))
MLA_CASES = ((1, 160), (1, 4096), (8, 1024), (32, 160), (32, 1024), (128, 4096), (256, 160))


def main() -> None:
    """Check first, then time. Exit status 1 when a check failed, 2 for bad arguments; the rows are written anyway."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "kernels" / "sm90_h200.json")
    args = parser.parse_args()
    if not torch.cuda.is_available() or arch_of(torch.device("cuda")).name != "sm90":
        parser.error("no GPU of sm90 here")
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = {name: check() for name, check in _checks()}
    faults = tell_faults(verdicts)
    ceilings = measure_ceilings()
    record(args.out, _rows(ceilings), verdicts, ceilings)
    if faults:
        raise SystemExit(f"{len(faults)} checks failed")


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for name, check in decode_checks.checks():
        if name.startswith((MLA128.name, "gqa_prefill")):
            yield name, check
    for shape, tokens in PRODUCTS:
        for product in (1, 2):
            yield f"gemm{product} {shape.name} {tokens}", partial(_product, shape, tokens, product)


def _product(shape: MoeShape, tokens: int, product: int) -> str:
    """Against float32, canaries and poison, 20 repeats equal to the bit, and a graph replayed on another routing."""
    problem = Problem.random(shape, "fp8", tokens, 2)
    first, second = (problem.align(routing, ROWS) for routing in range(2))
    h, h_scale = problem.hidden_like(first.rows_R.numel())
    width = shape.width if product == 1 else shape.hidden
    guard = Guarded.empty((first.rows_R.numel(), width), torch.bfloat16, problem.x.device)
    launch = partial(_launch, problem, product, first, h, h_scale, guard.tensor)
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    for alignment in (first, second):
        for mine, theirs in zip(first.tensors(), alignment.tensors(), strict=True):
            mine.copy_(theirs)
        poison_(guard.tensor)
        graph.replay()
        total = int(first.totals_2[0])
        found = guard.tensor.clone()
        expected = problem.expected1(first, ROWS) if product == 1 else problem.expected2(first, ROWS, h, h_scale)
        if not (error := relative_error(found[:total], expected[:total])) < tolerance(torch.bfloat16, depth=512):
            return f"off by {error:.1e}"
        if not guard.is_intact() or not bool(found[total:].isnan().all()):
            return "wrote outside its rows"
        for _ in range(20):
            graph.replay()
        if not torch.equal(guard.tensor[:total], found[:total]):
            return "a repeat differs"
    return ""


def _launch(
    problem: Problem, product: int, alignment: Alignment, h: torch.Tensor, h_scale: torch.Tensor | None,
    out: torch.Tensor, is_plain: bool = False,
) -> None:  # fmt: skip
    """What the ops launch, or (`is_plain`) the Triton kernel with the tiles of the table."""
    blocks = gemm_blocks(arch_of(out.device), ROWS, has_scale_blocks=True)[product - 1] if is_plain else None
    totals = alignment.totals_2
    if product == 1:
        launch_gemm1(
            problem.x, problem.w13, alignment.rows_R, alignment.expert_B, totals, out, ROWS, problem.shape.per_token,
            problem.x_scale, problem.w13_scale, blocks,
        )  # fmt: skip
    else:
        launch_gemm2(h, problem.w2, alignment.expert_B, totals, out, ROWS, h_scale, problem.w2_scale, blocks)


def _rows(ceilings: Ceilings) -> Iterator[Row]:
    for tokens in (1024, 4096, 16384):
        yield from _product_rows(tokens, ceilings)
    for batch, keys in MLA_CASES:
        yield _mla_row(batch, keys, ceilings)
    yield from _prefill_rows(ceilings)


def _product_rows(tokens: int, ceilings: Ceilings) -> Iterator[Row]:
    problem = Problem.random(DSV3_EP32, "fp8", tokens)
    floors = layer_floors(problem, "fp8", ceilings)
    alignments = [problem.align(routing, ROWS) for routing in range(len(problem.ids))]
    num_rows = alignments[0].rows_R.numel()
    h, h_scale = problem.hidden_like(num_rows)
    for product, width in ((1, DSV3_EP32.width), (2, DSV3_EP32.hidden)):
        out = torch.empty(num_rows, width, device="cuda", dtype=torch.bfloat16)
        timing, plain = (
            time_launches([partial(_launch, problem, product, one, h, h_scale, out, is_plain) for one in alignments])
            for is_plain in (False, True)
        )
        yield Row(name=f"gemm{product} {DSV3_EP32.name} fp8 {tokens}", timing=timing, floor_us=floors[product - 1],
                  detail=f"Triton {plain.us:.1f}")  # fmt: skip


def _mla_row(batch: int, keys: int, ceilings: Ceilings) -> Row:
    copies = 1 if batch * keys > 1 << 18 else 8
    problems = [AttentionProblem.random(MLA128, [keys] * batch, keys, is_poisoned=False) for _ in range(copies)]
    out = torch.empty_like(problems[0].queries[0])
    launch: Callable[..., None] = launch_mla_decode
    timings: list[Timing] = []
    for tile in (None, mla_tile(MLA128.heads, arch_of(out.device))):
        launches = [partial(launch, *problem.arguments, decode_checks.SCALE, out, tile) for problem in problems]
        timings.append(time_launches(launches))
    moved = batch * keys * MLA128.token_bytes + 2 * out.nbytes
    floor = max(moved / ceilings.copy_bytes, batch * keys * MLA128.token_flops / ceilings.bf16_flops) * 1e6
    return Row(
        name=f"{MLA128.name} {batch}x{keys}", timing=timings[0], floor_us=floor, detail=f"Triton {timings[1].us:.1f}"
    )


def _prefill_rows(ceilings: Ceilings) -> Iterator[Row]:
    for row, chunks in zip(prefill_rows.prefill_rows(ceilings, False), prefill_rows.CASES.values(), strict=True):
        problem = prefill_rows.Prefill.random(chunks)
        tile = PREFILL_TILE[arch_of(problem.q.device).name]
        plain = time_launches([partial(problem.run, torch.empty_like(problem.q), tile)])
        yield Row(name=row.name, timing=row.timing, floor_us=row.floor_us,
                  detail=f"Triton {plain.us:.1f}; {row.detail}")  # fmt: skip


if __name__ == "__main__":
    main()
