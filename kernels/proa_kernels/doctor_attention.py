"""Checks and problems of the kernels around the KV cache: rope, decode and prefill attention, block copies.

Legend: B sequences of `LENGTHS`, X pages of PAGE tokens in random order, K kv heads, D head dim; R + O latent and
rotated dims of latent attention. Everything behind a length is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from proa_kernels.gqa_decode_triton import launch_gqa_decode
from proa_kernels.kv_copy import levels
from proa_kernels.kv_copy_triton import launch_kv_copy
from proa_kernels.mla_decode_triton import launch_mla_decode
from proa_kernels.paged_attention import gqa_decode_ref, mla_decode_ref
from proa_kernels.paged_prefill import gqa_prefill_ref
from proa_kernels.prefill_triton import launch_gqa_prefill
from proa_kernels.rope import latent_rope_write_ref, rope_write_ref
from proa_kernels.rope_triton import launch_latent_rope_write, launch_rope_write
from proa_kernels.testing import Guarded, poison_, relative_error, tolerance

PAGE = 16
LENGTHS = {"cuda": (0, 1, 15, 16, 17, 300), "cpu": (0, 1, 16, 37)}
CHUNKS = {"cuda": ((0, 1), (0, 33), (7, 1), (100, 90)), "cpu": ((0, 17), (7, 1))}  # prefix and tokens
# From 512 keys on sm90 has other kernels (`suits` of its files). The interpreter cannot run those, and would take
# minutes for the others, so only GPUs get these sizes.
LONG_LENGTHS = (600, 0, 511, 17)
LONG_CHUNKS = ((500, 90), (0, 33), (600, 1), (7, 1))
EPS, SCALE = 1e-6, 0.2
Check = Callable[[], str]
Chunks = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """A cache with `lengths` cached tokens of B sequences; `inner`: sizes of a page, its token dim at `token_dim`."""

    cache: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def random(
        cls, lengths: tuple[int, ...], inner: tuple[int, ...], token_dim: int, dtype: torch.dtype, device: torch.device
    ) -> Paged:
        """Pages in random order; rows that no sequence has are poisoned, and unused table entries point to poison."""
        page = inner[token_dim]
        width = -(-max(lengths) // page)
        num_pages = len(lengths) * width + 1
        cache = torch.randn(num_pages, *inner, device=device).to(dtype)
        table = (torch.randperm(num_pages - 1, device=device) + 1).view(len(lengths), width)
        poison_(cache[0])  # what rows behind a sequence point to
        for b, length in enumerate(lengths):
            for n in range(length // page, width):
                first = max(length - n * page, 0)
                poison_(cache[int(table[b, n])].narrow(token_dim, first, page - first))
            table[b, -(-length // page) :] = 0
        return cls(cache=cache, table=table, lengths=torch.tensor(lengths, device=device))


def checks(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Check]]:
    """Name and check of rope, paged attention and KV copies; a check returns "" or what is wrong."""
    yield "rope_write", partial(check_rope, device, dtype)
    yield "latent_rope_write", partial(check_latent_rope, device, dtype)
    yield "gqa_decode", partial(check_gqa_decode, device, dtype)
    is_gpu, lengths = device.type == "cuda", LENGTHS[device.type]
    for heads, dims in ((16, (512, 64)), (40, (512, 64))) if is_gpu else ((3, (32, 16)),):
        yield f"mla_decode {heads} heads", partial(check_mla_decode, device, dtype, heads, lengths, dims)
    yield "gqa_prefill", partial(check_prefill, device, dtype, 6, 64, CHUNKS[device.type])
    yield "kv_copy", partial(check_kv_copy, device, dtype)
    if is_gpu:
        yield from long_checks(device, dtype)


def long_checks(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Check]]:
    """What has a kernel of its own on sm90: latent decode of many heads, prefill in groups that divide a tile."""
    yield "mla_decode 72 heads, 600 keys", partial(check_mla_decode, device, dtype, 72, LONG_LENGTHS, (512, 64))
    for heads, dim in ((8, 64), (16, 128)):
        check = partial(check_prefill, device, dtype, heads, dim, LONG_CHUNKS)
        yield f"gqa_prefill {heads}/2x{dim}, 600 keys", check


def _verdict(out: Guarded, expected: torch.Tensor, depth: int) -> str:
    """Softmax weights and the sum are rounded once each."""
    if not out.is_intact():
        return "wrote outside its output"
    error = relative_error(out.tensor, expected)
    return "" if error < tolerance(out.tensor.dtype, num_roundings=2, depth=depth) else f"off by {error:.1e}"


def check_gqa_decode(device: torch.device, dtype: torch.dtype) -> str:
    lengths = LENGTHS[device.type]
    paged = Paged.random(lengths, (2, 2, PAGE, 64), 2, dtype, device)
    q = torch.randn(len(lengths), 6, 64, device=device).to(dtype)
    out = Guarded.empty(tuple(q.shape), dtype, device)
    launch_gqa_decode(q, paged.cache, paged.table, paged.lengths, SCALE, out.tensor)
    expected = gqa_decode_ref(q.float(), paged.cache.float(), paged.table, paged.lengths, SCALE)
    return _verdict(out, expected, max(lengths))


def check_mla_decode(
    device: torch.device, dtype: torch.dtype, heads: int, lengths: tuple[int, ...], dims: tuple[int, int]
) -> str:
    """`dims`: latent and rotated."""
    rank, rotated = dims
    paged = Paged.random(lengths, (PAGE, rank + rotated), 0, dtype, device)
    latent, rope = (torch.randn(len(lengths), heads, size, device=device).to(dtype) for size in (rank, rotated))
    scale = (rank + rotated) ** -0.5
    out = Guarded.empty(tuple(latent.shape), dtype, device)
    launch_mla_decode(latent, rope, paged.cache, paged.table, paged.lengths, scale, out.tensor)
    expected = mla_decode_ref(latent.float(), rope.float(), paged.cache.float(), paged.table, paged.lengths, scale)
    return _verdict(out, expected, max(lengths))


def check_prefill(device: torch.device, dtype: torch.dtype, heads: int, dim: int, chunks: Chunks) -> str:
    """Query heads `heads` of size `dim` share two kv heads."""
    counts = torch.tensor([tokens for _, tokens in chunks])
    lengths = tuple(prefix + tokens for prefix, tokens in chunks)
    paged = Paged.random(lengths, (2, 2, PAGE, dim), 2, dtype, device)
    q = torch.randn(int(counts.sum()), heads, dim, device=device).to(dtype)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(device)
    prefixes = torch.tensor([prefix for prefix, _ in chunks], device=device)
    out = Guarded.empty(tuple(q.shape), dtype, device)
    launch_gqa_prefill(q, paged.cache, paged.table, starts, prefixes, int(counts.max()), SCALE, out.tensor)
    expected = gqa_prefill_ref(q.float(), paged.cache.float(), paged.table, starts, prefixes, SCALE)
    return _verdict(out, expected, max(lengths))


def _places(tokens: int, pairs: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotation, pages and positions; no two tokens share a place of the three pages."""
    slots = torch.randperm(3 * PAGE, device=device)[:tokens]
    positions = slots % PAGE + PAGE * torch.randint(0, 100, (tokens,), device=device)
    angles = torch.outer(positions.float(), 1e4 ** -(torch.arange(pairs, device=device) / pairs))
    return torch.stack([angles.cos(), angles.sin()], -1), slots // PAGE, positions


def check_rope(device: torch.device, dtype: torch.dtype) -> str:
    """Six query heads and two kv heads of 64, of which 48 dims rotate."""
    qkv = torch.randn(9, 10, 64, device=device).to(dtype)
    norm = torch.randn(8, 64, device=device).to(dtype)
    where = _places(9, 24, device)
    cache = Guarded.empty((3, 2, 2, PAGE, 64), dtype, device)
    q = Guarded.empty((9, 6, 64), dtype, device)
    launch_rope_write(qkv, norm, EPS, *where, cache.tensor, q.tensor)
    wanted = torch.full(tuple(cache.tensor.shape), float("nan"), device=device)
    q_ref = rope_write_ref(qkv.float(), norm.float(), EPS, *where, wanted)
    return _cache_verdict(q, q_ref, cache, wanted)


def check_latent_rope(device: torch.device, dtype: torch.dtype) -> str:
    """Rotates queries in place and writes normed latents: against the float32 reference, canaries intact."""
    q = Guarded.empty((9, 3, 48), dtype, device)
    q.tensor.copy_(torch.randn(9, 3, 48, device=device))
    latent, norm = torch.randn(9, 40 + 16, device=device).to(dtype), torch.randn(40, device=device).to(dtype)
    where = _places(9, 8, device)
    q_ref = q.tensor.float()
    wanted = torch.full((3, PAGE, 56), float("nan"), device=device)
    latent_rope_write_ref(q_ref, latent.float(), norm.float(), EPS, *where, wanted)
    cache = Guarded.empty((3, PAGE, 56), dtype, device)
    launch_latent_rope_write(q.tensor, latent, norm, EPS, *where, cache.tensor)
    return _cache_verdict(q, q_ref, cache, wanted)


def _cache_verdict(q: Guarded, q_ref: torch.Tensor, cache: Guarded, wanted: torch.Tensor) -> str:
    if not q.is_intact() or not cache.is_intact() or not torch.equal(cache.tensor.isnan(), wanted.isnan()):
        return "wrote in the wrong place"
    pairs = ((q.tensor, q_ref), (cache.tensor.nan_to_num(), wanted.nan_to_num()))
    error = max(relative_error(ours, theirs) for ours, theirs in pairs)
    return "" if error < tolerance(q.tensor.dtype, depth=64) else f"off by {error:.1e}"


def check_kv_copy(device: torch.device, dtype: torch.dtype) -> str:
    """Whole blocks, one of several heads, and every second token, there and back."""
    whole = torch.randn(7, 3, 2, 4, PAGE, 24, device=device).to(dtype)
    pools = (whole, whole[:, :, :, 1:2], whole[:, :, 0, 0, ::2])
    return next(filter(None, (copied_wrong(str(tuple(pool.shape)), pool, num_blocks=4) for pool in pools)), "")


def copied_wrong(name: str, pool: torch.Tensor, num_blocks: int) -> str:
    """What differs when so many random blocks are gathered and, negated, scattered back; empty for nothing."""
    blocks = torch.randperm(pool.shape[0], device=pool.device)[:num_blocks]
    packed = Guarded.empty((num_blocks, *pool.shape[1:]), pool.dtype, pool.device)
    launch_kv_copy(pool, levels(pool), blocks, packed.tensor, is_gather=True)
    if not packed.is_intact() or not torch.equal(packed.tensor, pool[blocks]):
        return f"gather of {name} differs"
    expected = pool.clone()
    packed.tensor.neg_()
    expected[blocks] = packed.tensor
    launch_kv_copy(pool, levels(pool), blocks, packed.tensor, is_gather=False)
    return "" if torch.equal(pool, expected) else f"scatter of {name} differs"
