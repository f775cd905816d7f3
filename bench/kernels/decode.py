"""Correctness, then timings, of the kernels around the products of a decode step, on one GPU, with floors.

    python -m bench.kernels.decode --out bench/kernels/decode_h100.json [--sweep]

Floors are bytes over the copy bandwidth measured in the same run (for 128 heads of latent attention the larger of that
and FLOP over the measured peak). Caches rotate past L2. `--sweep` also times candidate tiles and split counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from proa_kernels.arch import arch_of
from proa_kernels.decode_splits import GQA_TILE, DecodeTile
from proa_kernels.mla_decode_triton import mla_tile
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.rope_triton import launch_latent_rope_write, launch_rope_write
from proa_kernels.testing import relative_error
from triton.runtime.errors import OutOfResources

from bench.kernels.decode_checks import EPS, attention_limit, checks, expected, places, run
from bench.kernels.decode_problem import BF16, MLA16, MLA128, PAGE, QWEN3, AttentionShape, Problem
from bench.kernels.faults import tell_faults
from bench.kernels.kv_copy_rows import kv_copy_rows
from bench.kernels.measure import Ceilings, Timing, measure_ceilings, time_launches
from bench.kernels.norm_quant_rows import norm_quant_rows
from bench.kernels.prefill_rows import prefill_rows
from bench.kernels.quant_rows import quant_rows
from bench.kernels.record import record
from bench.kernels.rows import Row
from bench.kernels.sample_rows import sample_rows
from bench.serving.provenance import ROOT

ROTATED_BYTES = 200 << 20  # several times the L2 of 50 MB
CASES: tuple[tuple[AttentionShape, int, int], ...] = tuple(
    (shape, batch, keys)
    for shape in (QWEN3, MLA16, MLA128)
    for batch, keys in ((1, 160), (1, 4096), (8, 1024), (32, 160), (128, 4096), (256, 160))
)
SWEPT = ((1, 160), (1, 4096), (128, 4096))
# rows, keys, warps, stages
TILES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "gqa": ((16, 64, 4, 2), (16, 64, 4, 3), (16, 64, 4, 4), (16, 128, 4, 2), (16, 128, 4, 3), (16, 32, 4, 4)),
    "mla16": ((16, 16, 4, 4), (16, 32, 4, 2), (16, 32, 4, 3), (16, 64, 8, 2)),
    "mla128": ((16, 32, 4, 3), (32, 32, 4, 3), (64, 32, 8, 2), (64, 32, 8, 3), (64, 64, 8, 2)),
}  # fmt: skip


def main() -> None:
    """Check first, then time. Exit status 1 when a check failed, 2 for bad arguments; the rows are written anyway."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "kernels" / "decode_h100.json")
    parser.add_argument("--sweep", action="store_true", help="time candidate tiles and splits too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU here; the CPU tests are `pytest tests/kernels`")
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = {name: check() for name, check in checks()}
    faults = tell_faults(verdicts)
    ceilings = measure_ceilings()
    print(ceilings, flush=True)
    record(args.out, _rows(ceilings, args.sweep), verdicts, ceilings)
    if faults:
        raise SystemExit(f"{len(faults)} checks failed")


def _rows(ceilings: Ceilings, is_sweep: bool) -> Iterator[Row]:
    yield from _norm_rows(ceilings)
    yield from _rope_rows(ceilings)
    for shape, batch, keys in CASES:
        yield _attention_row(shape, batch, keys, ceilings, is_sweep)
    yield from prefill_rows(ceilings, is_sweep)
    yield from kv_copy_rows(ceilings)
    yield from quant_rows(ceilings)
    yield from norm_quant_rows(ceilings)
    yield from sample_rows(ceilings)


def _norm_rows(ceilings: Ceilings) -> Iterator[Row]:
    for tokens in (1, 32, 256, 8192):
        weight = torch.randn(2048, device="cuda", dtype=BF16)
        sets = [[torch.randn(tokens, 2048, device="cuda", dtype=BF16) for _ in range(4)] for _ in range(4)]
        timing = time_launches([partial(launch_rms_norm, x, r, weight, EPS, out, total) for x, r, out, total in sets])
        yield Row(name=f"add_rms_norm {tokens}x2048", timing=timing, floor_us=_us(4 * sets[0][0].nbytes, ceilings))


def _rope_rows(ceilings: Ceilings) -> Iterator[Row]:
    for tokens in (1, 32, 256, 8192):
        num_pages = tokens // PAGE + 4
        norm = torch.randn(36, 128, device="cuda", dtype=BF16)
        qkvs = [torch.randn(tokens, 40, 128, device="cuda", dtype=BF16) for _ in range(4)]
        cache = torch.empty(num_pages, 2, 4, PAGE, 128, device="cuda", dtype=BF16)
        q, where = torch.empty(tokens, 32, 128, device="cuda", dtype=BF16), places(tokens, 64, num_pages)
        timing = time_launches([partial(launch_rope_write, qkv, norm, EPS, *where, cache, q) for qkv in qkvs])
        yield Row(name=f"rope_write {tokens} tokens", timing=timing, floor_us=_us(2 * qkvs[0].nbytes, ceilings))
        wides = [torch.randn(tokens, 16 * 192 + 576, device="cuda", dtype=BF16) for _ in range(4)]
        latent_cache, scale = torch.empty(num_pages, PAGE, 576, device="cuda", dtype=BF16), norm.new_ones(512)
        where = places(tokens, 32, num_pages)
        launches = [
            partial(launch_latent_rope_write, wide[:, :3072].view(tokens, 16, 192), wide[:, 3072:], scale, EPS, *where,
                    latent_cache)
            for wide in wides
        ]  # fmt: skip
        moved = tokens * 2 * 2 * (576 + 16 * 64)
        yield Row(
            name=f"latent_rope_write {tokens} tokens", timing=time_launches(launches), floor_us=_us(moved, ceilings)
        )


def _attention_row(shape: AttentionShape, batch: int, keys: int, ceilings: Ceilings, is_sweep: bool) -> Row:
    copies = max(1, min(16, ROTATED_BYTES // (batch * keys * shape.token_bytes)))
    problems = [Problem.random(shape, [keys] * batch, keys, is_poisoned=False) for _ in range(copies)]
    out = torch.empty_like(problems[0].queries[0])

    def timed(tile: DecodeTile | None, splits: int | None) -> Timing:
        return time_launches([partial(run, shape, problem, out, tile, splits) for problem in problems], 0.02)

    timing = timed(None, None)
    error = relative_error(out, expected(shape, problems[-1]))
    if not error < attention_limit():
        raise ArithmeticError(f"{shape.name} {batch}x{keys} is off by {error:.1e}")
    moved = batch * keys * shape.token_bytes + 2 * out.nbytes
    flops_us = batch * keys * shape.token_flops / ceilings.bf16_flops * 1e6
    detail = "; ".join(_swept(shape, batch, keys, timed)) if is_sweep and (batch, keys) in SWEPT else ""
    return Row(
        name=f"{shape.name} {batch}x{keys}", timing=timing, floor_us=max(_us(moved, ceilings), flops_us), detail=detail
    )


def _swept(shape: AttentionShape, batch: int, keys: int, timed: Callable[..., Timing]) -> Iterator[str]:
    arch = arch_of(torch.device("cuda"))
    default = GQA_TILE[arch.name] if shape.kv_heads else mla_tile(shape.heads, arch)
    splits = [z for z in (1, 2, 4, 8, 16, 32, 64) if z * 32 <= keys and z * batch <= 2048]
    found = [(timed(default, z).us, f"splits {z}") for z in splits]
    for rows, tile_keys, warps, stages in TILES["gqa" if shape.kv_heads else f"mla{shape.heads}"]:
        tile = DecodeTile(rows=rows, keys=tile_keys, num_warps=warps, num_stages=stages)
        try:
            found.append((timed(tile, None).us, f"{rows}x{tile_keys} w{warps} s{stages}"))
        except OutOfResources:
            continue
    for us, name in sorted(found):
        yield f"{name}: {us:.1f}"


def _us(moved: float, ceilings: Ceilings) -> float:
    return moved / ceilings.copy_bytes * 1e6


if __name__ == "__main__":
    main()
