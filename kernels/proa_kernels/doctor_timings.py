"""A few timings of each kernel family beside their floor, at the sizes of Qwen3-30B-A3B and DeepSeek-V3.

`floor_us`: bytes moved once over the copy bandwidth measured on this GPU, or FLOP over its measured peak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from proa_kernels.aiter_arm import why_no_aiter
from proa_kernels.arch import arch_of
from proa_kernels.doctor_attention import Paged
from proa_kernels.gate import GateSpec, gate
from proa_kernels.gqa_decode_triton import launch_gqa_decode
from proa_kernels.kv_copy import levels
from proa_kernels.kv_copy_triton import launch_kv_copy
from proa_kernels.mla_decode_triton import launch_mla_decode
from proa_kernels.moe_align import moe_align
from proa_kernels.moe_layer import prepared_experts
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.quant_triton import launch_quant
from proa_kernels.tables import ExpertsArm, LayerShape
from proa_kernels.timing import Ceilings, Launch, float8_of, time_launches
from proa_kernels.tune_arms import floor_us as layer_floor_us
from proa_kernels.tune_problem import NUM_ROUTINGS, Problem

BF16 = torch.bfloat16
QWEN3 = LayerShape(num_experts=128, per_token=8, hidden=2048, width=768)
BATCH, CONTEXT, PAGE = 128, 4096, 32
ROTATED = 4  # inputs take turns, so that none stays in L2


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRow:
    """us: medians of two rounds of graph replays."""

    name: str
    us: float
    again_us: float
    floor_us: float


Family = Callable[[torch.device, Ceilings], Iterator[TimedRow]]


def _timed(name: str, launches: list[Launch], floor_us: float) -> TimedRow:
    timing = time_launches(launches, 0.03)
    return TimedRow(
        name=name, us=round(timing.us, 2), again_us=round(timing.again_us, 2), floor_us=round(floor_us, 2)
    )  # fmt: skip


def align_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    for tokens in (16, 1024, 16384):
        ids = [torch.rand(tokens, 256, device=device).topk(8).indices.to(torch.int32) for _ in range(ROTATED)]
        floor = 8.0 * tokens * 8 / ceilings.copy_bytes * 1e6
        yield _timed(
            f"align {tokens}x8 of 256", [partial(moe_align, one, 256, 64) for one in ids], floor
        )  # fmt: skip


def gate_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    spec = GateSpec(top_k=8)
    for tokens in (1, 16384):
        logits = [torch.randn(tokens, 256, device=device).to(BF16) for _ in range(ROTATED)]
        floor = (logits[0].nbytes + tokens * 8 * 8) / ceilings.copy_bytes * 1e6
        yield _timed(
            f"gate softmax {tokens}x256", [partial(gate, one, spec) for one in logits], floor
        )  # fmt: skip


def layer_arms(device: torch.device) -> tuple[ExpertsArm, ...]:
    return ("proa",) if why_no_aiter(arch_of(device)) else ("proa", "aiter")


def layer_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    """By the kernels here, and by AITER where it is."""
    weights = Problem.random(QWEN3, "bf16", 1, device)
    for arm in layer_arms(device):
        run = prepared_experts(weights.w13, weights.w2, arm=arm)
        for tokens in (1, 32, 256, 4096):
            problem = weights.with_tokens(tokens)
            launches: list[Launch] = [
                partial(run, problem.x, problem.weights, problem.ids[routing]) for routing in range(NUM_ROUTINGS)
            ]
            yield _timed(f"experts {arm} qwen3 bf16 {tokens}", launches, layer_floor_us(problem, "bf16", ceilings))


def row_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    """Kernels that read and write rows once: norm, quantisation."""
    for tokens in (1, 4096):
        xs = [torch.randn(tokens, 2048, device=device, dtype=BF16) for _ in range(ROTATED)]
        residual, weight = torch.randn_like(xs[0]), torch.ones(2048, device=device, dtype=BF16)
        out, total = torch.empty_like(residual), torch.empty_like(residual)
        floor = 4 * residual.nbytes / ceilings.copy_bytes * 1e6
        launches: list[Launch] = [partial(launch_rms_norm, x, residual, weight, 1e-6, out, total) for x in xs]
        yield _timed(f"add_rms_norm {tokens}x2048", launches, floor)
        values = torch.empty(tokens, 2048, device=device).to(float8_of(arch_of(device)))
        scales = torch.empty(tokens, 16, device=device)
        launches = [partial(launch_quant, x, values, scales, 128, has_silu=False) for x in xs]
        floor = (xs[0].nbytes + values.nbytes + scales.nbytes) / ceilings.copy_bytes * 1e6
        yield _timed(f"quantize {tokens}x2048", launches, floor)


def attention_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    """Decode of 128 sequences of 4096 tokens; the cache is far larger than L2."""
    lengths = (CONTEXT,) * BATCH
    paged = Paged.random(lengths, (2, 4, PAGE, 128), 2, BF16, device)
    q = torch.randn(BATCH, 32, 128, device=device, dtype=BF16)
    run = partial(
        launch_gqa_decode, q, paged.cache, paged.table, paged.lengths, 128**-0.5, torch.empty_like(q)
    )  # fmt: skip
    yield _timed(f"gqa_decode 32/4x128, {BATCH}x{CONTEXT}", [run], _read_floor_us(paged, ceilings))
    paged = Paged.random(lengths, (PAGE, 576), 0, BF16, device)
    for heads in (16, 128):
        latent, rope = (torch.randn(BATCH, heads, size, device=device, dtype=BF16) for size in (512, 64))
        out = torch.empty_like(latent)
        run = partial(launch_mla_decode, latent, rope, paged.cache, paged.table, paged.lengths, 192**-0.5, out)
        flops = 2.0 * BATCH * CONTEXT * heads * (2 * 512 + 64)
        floor = max(_read_floor_us(paged, ceilings), flops / ceilings.bf16_flops * 1e6)
        yield _timed(f"mla_decode {heads} heads, {BATCH}x{CONTEXT}", [run], floor)


def _read_floor_us(paged: Paged, ceilings: Ceilings) -> float:
    page = paged.cache[0]
    return paged.table.numel() * page.numel() * page.element_size() / ceilings.copy_bytes * 1e6


def copy_rows(device: torch.device, ceilings: Ceilings) -> Iterator[TimedRow]:
    pool = torch.randn(350, 48, 2, 4, 32, 128, device=device, dtype=BF16)
    blocks = torch.randperm(350, device=device)[:100]
    packed = torch.empty(100, *pool.shape[1:], device=device, dtype=BF16)
    for kind in ("gather", "scatter"):
        run = partial(launch_kv_copy, pool, levels(pool), blocks, packed, is_gather=kind == "gather")
        yield _timed(f"kv_{kind} 100 blocks of 3 MiB", [run], 2 * packed.nbytes / ceilings.copy_bytes * 1e6)


FAMILIES: tuple[Family, ...] = (align_rows, gate_rows, layer_rows, row_rows, attention_rows, copy_rows)
