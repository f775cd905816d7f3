"""Prefill attention over the paged cache: checked and timed beside torch's flash attention on plain keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from proa_kernels.decode_splits import DecodeTile
from proa_kernels.paged_prefill import gqa_prefill_ref
from proa_kernels.prefill_triton import launch_gqa_prefill
from proa_kernels.testing import Guarded, relative_error, tolerance
from triton.runtime.errors import OutOfResources

from bench.kernels.decode_problem import BF16, PAGE
from bench.kernels.measure import Ceilings, Timing, time_launches
from bench.kernels.rows import Row

HEADS, KV_HEADS, DIM, SCALE = 32, 4, 128, 0.088
# (prefix, tokens) of each chunk
CASES = {
    "1 prompt of 2048": [(0, 2048)],
    "4 prompts of 2048": [(0, 2048)] * 4,
    "1 prompt of 8192": [(0, 8192)],
    "512 after 8192": [(8192, 512)],
    "32 prompts of 100": [(0, 100)] * 32,
}
CHECKED = [(0, 1), (0, 33), (7, 1), (31, 64), (100, 300), (0, 515), (64, 2)]
TILES = (
    (128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (128, 128, 8, 3), (64, 64, 4, 3), (64, 128, 4, 2),
    (64, 64, 4, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """All that the launch takes before the scale."""

    q: torch.Tensor
    cache: torch.Tensor
    table: torch.Tensor
    starts: torch.Tensor
    prefixes: torch.Tensor
    max_tokens: int

    @classmethod
    def random(cls, chunks: list[tuple[int, int]]) -> Prefill:
        """Chunks of (prefix, tokens), in tokens, on pages in random order."""
        width = -(-max(prefix + tokens for prefix, tokens in chunks) // PAGE)
        counts = torch.tensor([tokens for _, tokens in chunks])
        num_pages = width * len(chunks)
        return cls(
            q=torch.randn(int(counts.sum()), HEADS, DIM, device="cuda", dtype=BF16),
            cache=torch.randn(num_pages, 2, KV_HEADS, PAGE, DIM, device="cuda", dtype=BF16),
            table=torch.randperm(num_pages, device="cuda").view(len(chunks), width),
            starts=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).cuda(),
            prefixes=torch.tensor([prefix for prefix, _ in chunks], device="cuda"),
            max_tokens=int(counts.max()),
        )

    def run(self, out: torch.Tensor, tile: DecodeTile | None = None) -> None:
        places = (self.table, self.starts, self.prefixes, self.max_tokens)
        launch_gqa_prefill(self.q, self.cache, *places, SCALE, out, tile)


def check() -> str:
    """How far CHECKED is off the float32 reference, or that it wrote outside its output; "" when neither."""
    problem = Prefill.random(CHECKED)
    out = Guarded.empty(tuple(problem.q.shape), BF16, problem.q.device)
    problem.run(out.tensor)
    expected = gqa_prefill_ref(
        problem.q.float(), problem.cache.float(), problem.table, problem.starts, problem.prefixes, SCALE
    )
    error = relative_error(out.tensor, expected)
    if not out.is_intact():
        return "wrote outside its output"
    return "" if error < tolerance(BF16, num_roundings=2, depth=600) else f"off by {error:.1e}"


def prefill_rows(ceilings: Ceilings, is_sweep: bool) -> Iterator[Row]:
    """Causal attention of every case: the floor is 4 FLOP per pair, head and dimension over the measured peak."""
    for name, chunks in CASES.items():
        problem = Prefill.random(chunks)
        out = torch.empty_like(problem.q)
        pairs = sum(tokens * prefix + tokens * (tokens + 1) / 2 for prefix, tokens in chunks)
        floor_us = 4 * pairs * HEADS * DIM / ceilings.bf16_flops * 1e6
        details = list(_swept(problem, out)) if is_sweep else []
        if len(set(chunks)) == 1 and chunks[0][0] == 0:
            details.append(f"torch {_torch_flash(len(chunks), chunks[0][1]).us:.1f}")
        timing = time_launches([partial(problem.run, out)])
        yield Row(name=f"gqa_prefill {name}", timing=timing, floor_us=floor_us, detail="; ".join(details))


def _torch_flash(batch: int, tokens: int) -> Timing:
    """Causal flash attention of torch on keys and values that lie ready, one row of the batch per prompt."""
    q = torch.randn(batch, HEADS, tokens, DIM, device="cuda", dtype=BF16)
    k, v = (torch.randn(batch, KV_HEADS, tokens, DIM, device="cuda", dtype=BF16) for _ in range(2))
    return time_launches([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)])


def _swept(problem: Prefill, out: torch.Tensor) -> Iterator[str]:
    for rows, keys, warps, stages in TILES:
        tile = DecodeTile(rows=rows, keys=keys, num_warps=warps, num_stages=stages)
        try:
            yield f"{rows}x{keys} w{warps} s{stages}: {time_launches([partial(problem.run, out, tile)], 0.02).us:.1f}"
        except OutOfResources:
            continue
