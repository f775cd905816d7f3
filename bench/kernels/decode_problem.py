"""Random inputs of the kernels around the products of a decode step: cache pages in random order, poison elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from proa_kernels.testing import poison_

PAGE = 32
BF16 = torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """`kv_heads` 0 means latent attention: `dim` latent and `rotated` dims of one shared row."""

    name: str
    heads: int
    kv_heads: int
    dim: int
    rotated: int = 0

    @property
    def token_bytes(self) -> int:
        return 2 * (2 * self.kv_heads * self.dim if self.kv_heads else self.dim + self.rotated)

    @property
    def token_flops(self) -> int:
        return 2 * self.heads * (2 * self.dim + self.rotated)


QWEN3 = AttentionShape(name="gqa 32/4x128", heads=32, kv_heads=4, dim=128)
MLA16 = AttentionShape(name="mla 16x(512+64)", heads=16, kv_heads=0, dim=512, rotated=64)
MLA128 = AttentionShape(name="mla 128x(512+64)", heads=128, kv_heads=0, dim=512, rotated=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`queries` are what the op takes before the cache; `arguments` all it takes but the scale."""

    queries: tuple[torch.Tensor, ...]
    cache: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        return (*self.queries, self.cache, self.table, self.lengths)

    @classmethod
    def random(cls, shape: AttentionShape, lengths: list[int], max_keys: int, *, is_poisoned: bool) -> Problem:
        """Sequences of `lengths` with room for `max_keys`; `is_poisoned` puts NaN behind every length."""
        batch, width = len(lengths), -(-max_keys // PAGE)
        inner = (2, shape.kv_heads, PAGE, shape.dim) if shape.kv_heads else (PAGE, shape.dim + shape.rotated)
        cache = torch.randn(batch * width + 1, *inner, device="cuda", dtype=BF16)
        table = (torch.randperm(batch * width, device="cuda") + 1).view(batch, width)
        if is_poisoned:
            poison_(cache[0])
            for b, length in enumerate(lengths):
                _poison_behind(cache, table[b], length, 2 if shape.kv_heads else 0)
                table[b, -(-length // PAGE) :] = 0
        queries = [torch.randn(batch, shape.heads, shape.dim, device="cuda", dtype=BF16)]
        if not shape.kv_heads:
            queries.append(torch.randn(batch, shape.heads, shape.rotated, device="cuda", dtype=BF16))
        return cls(queries=tuple(queries), cache=cache, table=table, lengths=torch.tensor(lengths, device="cuda"))


def _poison_behind(cache: torch.Tensor, pages: torch.Tensor, length: int, token_dim: int) -> None:
    for n in range(length // PAGE, pages.numel()):
        first = max(length - n * PAGE, 0)
        poison_(cache[int(pages[n])].narrow(token_dim, first, PAGE - first))
