"""Correctness on the GPU of the kernels around the products: name -> "" or what is wrong.

Against references in float32 on the same device, with poison, canaries, repeats equal to the bit, graph replays after
the lengths changed, and two streams at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from proa_kernels.decode_splits import DecodeTile
from proa_kernels.gqa_decode_triton import launch_gqa_decode
from proa_kernels.mla_decode_triton import launch_mla_decode
from proa_kernels.norm import rms_norm_ref
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.paged_attention import gqa_decode_ref, mla_decode_ref
from proa_kernels.rope import latent_rope_write_ref, rope_write_ref
from proa_kernels.rope_triton import launch_latent_rope_write, launch_rope_write
from proa_kernels.testing import Guarded, relative_error, tolerance

from bench.kernels import kv_copy_rows, norm_quant_rows, prefill_rows, quant_rows, sample_rows
from bench.kernels.decode_problem import BF16, MLA16, MLA128, PAGE, QWEN3, AttentionShape, Problem

SCALE = 0.07
LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, 64, 65, 300, 1023, 1024]
MAX_KEYS = 1024
EPS = 1e-6
Check = Callable[[], str]


def checks() -> Iterator[tuple[str, Check]]:
    """Name and check of every case; a check returns "" or what is wrong. Order as in the report."""
    for size in (512, 2048, 7168):
        yield f"add_rms_norm {size}", partial(_norm, size)
    for tokens in (1, 33, 2000):
        yield f"rope_write {tokens}", partial(_rope, tokens)
        yield f"latent_rope_write {tokens}", partial(_latent_rope, tokens)
    for shape in (QWEN3, MLA16, MLA128):
        for splits in (None, 1, 4, 16):
            yield f"{shape.name} splits {splits}", partial(_attention, shape, None, splits)
        yield f"{shape.name} graph and streams", partial(_graph, shape)
    yield "gqa_prefill", prefill_rows.check
    yield "kv_copy", kv_copy_rows.check
    yield "quant", quant_rows.check
    yield "norm_quant", norm_quant_rows.check
    yield "sample", sample_rows.check


def run(
    shape: AttentionShape, problem: Problem, out: torch.Tensor, tile: DecodeTile | None, splits: int | None
) -> None:
    launch: Callable[..., None] = launch_gqa_decode if shape.kv_heads else launch_mla_decode
    launch(*problem.arguments, SCALE, out, tile, splits)


def expected(shape: AttentionShape, problem: Problem) -> torch.Tensor:
    wide = [t.float() if t.is_floating_point() else t for t in problem.arguments]
    reference: Callable[..., torch.Tensor] = gqa_decode_ref if shape.kv_heads else mla_decode_ref
    return reference(*wide, SCALE)


def attention_limit() -> float:
    """The softmax weights and the sum are each rounded once."""
    return tolerance(BF16, num_roundings=2, depth=MAX_KEYS)


def _attention(shape: AttentionShape, tile: DecodeTile | None, splits: int | None) -> str:
    problem = Problem.random(shape, LENGTHS, MAX_KEYS, is_poisoned=True)
    out = Guarded.empty(tuple(problem.queries[0].shape), BF16, problem.cache.device)
    run(shape, problem, out.tensor, tile, splits)
    first = out.tensor.clone()
    if not (error := relative_error(first, expected(shape, problem))) < attention_limit():
        return f"off by {error:.1e}"
    for _ in range(100):
        run(shape, problem, out.tensor, tile, splits)
    if not torch.equal(out.tensor, first):
        return "a repeat differs"
    return "" if out.is_intact() else "wrote outside its output"


def _graph(shape: AttentionShape) -> str:
    """One capture replayed with other lengths, while a second problem runs on another stream."""
    problem, other = (Problem.random(shape, [1024] * 10, MAX_KEYS, is_poisoned=False) for _ in range(2))
    out, side_out = (torch.empty_like(problem.queries[0]) for _ in range(2))
    run(shape, problem, out, None, None)
    torch.cuda.synchronize()
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.graph(graph):
        run(shape, problem, out, None, None)
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        problem.lengths.copy_(torch.randint(0, MAX_KEYS + 1, (10,), generator=generator))
        torch.cuda.synchronize()
        graph.replay()
        with torch.cuda.stream(side):
            run(shape, other, side_out, None, None)
        torch.cuda.synchronize()
        for ours, its in ((out, problem), (side_out, other)):
            if not (error := relative_error(ours, expected(shape, its))) < attention_limit():
                return f"off by {error:.1e} at lengths {its.lengths.tolist()}"
    return ""


def _norm(size: int) -> str:
    for tokens in (1, 7, 500):
        x, residual = (torch.randn(tokens, size, device="cuda", dtype=BF16) for _ in range(2))
        weight = torch.randn(size, device="cuda", dtype=BF16)
        out, total = (Guarded.empty((tokens, size), BF16, x.device) for _ in range(2))
        launch_rms_norm(x, residual, weight, EPS, out.tensor, total.tensor)
        error = relative_error(out.tensor, rms_norm_ref((x + residual).float(), weight.float(), EPS))
        if not torch.equal(total.tensor, x + residual) or not error < tolerance(BF16, depth=size):
            return f"{tokens} tokens: off by {error:.1e}"
        if not out.is_intact() or not total.is_intact():
            return "wrote outside its outputs"
    return ""


def places(tokens: int, pairs: int, num_pages: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    slots = torch.randperm(num_pages * PAGE, device="cuda")[:tokens]
    positions = slots % PAGE + PAGE * torch.randint(0, 100, (tokens,), device="cuda")
    angles = torch.outer(positions.float(), 1e4 ** -(torch.arange(pairs, device="cuda") / pairs))
    return torch.stack([angles.cos(), angles.sin()], -1), slots // PAGE, positions


def _rope(tokens: int) -> str:
    qkv = torch.randn(tokens, 40, 128, device="cuda", dtype=BF16)
    norm = torch.randn(36, 128, device="cuda", dtype=BF16)
    where = places(tokens, 64, 100)
    cache = Guarded.empty((100, 2, 4, PAGE, 128), BF16, qkv.device)
    q = Guarded.empty((tokens, 32, 128), BF16, qkv.device)
    launch_rope_write(qkv, norm, EPS, *where, cache.tensor, q.tensor)
    wanted = torch.full_like(cache.tensor, float("nan"), dtype=torch.float32)
    q_ref = rope_write_ref(qkv.float(), norm.float(), EPS, *where, wanted)
    return _verdict(q.tensor, q_ref, cache.tensor, wanted, q.is_intact() and cache.is_intact())


def _latent_rope(tokens: int) -> str:
    wide = torch.randn(tokens, 16 * 192 + 576, device="cuda", dtype=BF16)
    q, norm = wide[:, : 16 * 192].view(tokens, 16, 192), torch.randn(512, device="cuda", dtype=BF16)
    where = places(tokens, 32, 100)
    q_ref, wanted = q.float(), torch.full((100, PAGE, 576), float("nan"), device="cuda")
    latent_rope_write_ref(q_ref, wide[:, 16 * 192 :].float(), norm.float(), EPS, *where, wanted)
    cache = Guarded.empty((100, PAGE, 576), BF16, wide.device)
    launch_latent_rope_write(q, wide[:, 16 * 192 :], norm, EPS, *where, cache.tensor)
    return _verdict(q, q_ref, cache.tensor, wanted, cache.is_intact())


def _verdict(q: torch.Tensor, q_ref: torch.Tensor, cache: torch.Tensor, wanted: torch.Tensor, is_intact: bool) -> str:
    if not is_intact or not torch.equal(cache.isnan(), wanted.isnan()):
        return "wrote in the wrong place"
    errors = relative_error(q, q_ref), relative_error(cache.nan_to_num(), wanted.nan_to_num())
    return "" if max(errors) < tolerance(BF16, depth=512) else f"off by {errors[0]:.1e} and {errors[1]:.1e}"
