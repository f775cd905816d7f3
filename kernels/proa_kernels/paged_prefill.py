"""Prefill attention over a paged cache: chunks of several prompts in one launch, each causal after its prefix.

Legend: C chunks, T their tokens one after the other, H query heads, K kv heads, D head dim; X pages of S tokens, N
pages of the longest sequence (the table's width).

Chunk c holds tokens `starts[c]` to `starts[c + 1]` of the T rows, at positions `prefixes[c]` and on; their keys and
values are in the cache already. A token sees all positions up to its own; position p lies in page `table_CN[c, p / S]`
at p modulo S. Online softmax in float32 (FlashAttention-2, arXiv:2307.08691).
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op
from proa_kernels.paged_attention import check_cache, check_table


def gqa_prefill(
    q_THD: torch.Tensor,
    cache_X2KSD: torch.Tensor,
    table_CN: torch.Tensor,
    starts: torch.Tensor,
    prefixes_C: torch.Tensor,
    max_tokens: int,
    scale: float,
) -> torch.Tensor:
    """[T, H, D] in q's dtype. `starts` are C + 1 integers on q's device; `max_tokens` bounds the size of any chunk.

    Raises ValueError for shapes and dtypes that do not fit; on a GPU only 16-bit types are served.
    """
    if q_THD.dim() != 3 or not q_THD.is_contiguous():
        raise ValueError(f"queries must be contiguous [T, H, D], not {tuple(q_THD.shape)} strided {q_THD.stride()}")
    inner = tuple(cache_X2KSD.shape[1:])
    if len(inner) != 4 or inner[0] != 2 or inner[3] != q_THD.shape[2] or q_THD.shape[1] % max(inner[1], 1):
        raise ValueError(f"cache {tuple(cache_X2KSD.shape)} is no [X, 2, K, S, D] for queries {tuple(q_THD.shape)}")
    check_cache(q_THD, cache_X2KSD, scale)
    check_table(prefixes_C.shape[0], table_CN, prefixes_C)
    num_starts, is_flat = prefixes_C.shape[0] + 1, starts.dim() == 1 and starts.is_contiguous()
    if not is_flat or starts.shape[0] != num_starts or starts.dtype not in (torch.int32, torch.int64):
        found = f"{starts.dtype} {tuple(starts.shape)}"
        raise ValueError(f"starts must be {num_starts} contiguous integers, not {found}")
    return _gqa_prefill_op(q_THD, cache_X2KSD, table_CN, starts, prefixes_C, max_tokens, scale)


def gqa_prefill_ref(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, prefixes: torch.Tensor,
    scale: float,
) -> torch.Tensor:  # fmt: skip
    """Chunk by chunk in float32."""
    group = q.shape[1] // cache.shape[2]
    out = torch.zeros_like(q)
    bounds = starts.tolist()
    for c, prefix in enumerate(prefixes.tolist()):
        rows = slice(bounds[c], bounds[c + 1])
        num_keys = prefix + rows.stop - rows.start
        pages = table[c, : -(-num_keys // cache.shape[3])].long()
        k_KnD, v_KnD = cache[pages].transpose(0, 1).transpose(1, 2).flatten(2, 3)[:, :, :num_keys].float()
        q_HtD = q[rows].float().transpose(0, 1)
        scores = q_HtD @ k_KnD.repeat_interleave(group, 0).transpose(1, 2) * scale
        last_t1 = torch.arange(prefix, num_keys, device=q.device)[:, None]
        scores = scores.masked_fill(torch.arange(num_keys, device=q.device) > last_t1, float("-inf"))
        attended = scores.softmax(-1) @ v_KnD.repeat_interleave(group, 0)
        out[rows] = attended.transpose(0, 1).to(q.dtype)
    return out


@custom_op(
    "proa::gqa_prefill",
    schema="(Tensor q, Tensor cache, Tensor table, Tensor starts, Tensor prefixes, int max_tokens, float scale)"
    " -> Tensor",
)
def _gqa_prefill_op(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, prefixes: torch.Tensor,
    max_tokens: int, scale: float,
) -> torch.Tensor:  # fmt: skip
    if arm_for("paged_attention", q.device) == "reference":
        return gqa_prefill_ref(q, cache, table, starts, prefixes, scale)
    from proa_kernels.prefill_triton import launch_gqa_prefill  # the reference needs no Triton

    out = torch.empty_like(q)
    launch_gqa_prefill(q, cache, table, starts, prefixes, max_tokens, scale, out)
    return out


@_gqa_prefill_op.register_fake
def _gqa_prefill_fake(q: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(q)
