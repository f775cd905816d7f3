"""Decode attention over a paged cache: one query row per sequence, grouped-query (GQA) or latent (MLA).

Legend: B sequences, H query heads, K kv heads, G = H / K, D head dim; for MLA R latent width, O rotated dims,
C = R + O; X pages of S tokens, N pages of the longest sequence (the table's width).

Sequence b sees its first `lengths_B[b]` tokens; token p lies in page `table_BN[b, p / S]` at p modulo S. A sequence of
length 0 yields zeros. Nothing past a length is read. Scores and sums are float32. The keys are split among programs
(flash-decoding, Dao et al. 2023; pages: arXiv:2309.06180), in a number that comes from shapes alone, so that a CUDA
graph holds for all lengths up to N * S.

    gqa_decode   out_BHD = softmax(scale q k^T) v                   k, v = planes 0, 1 of the cache
    mla_decode   out_BHR = softmax(scale (q_latent k^T)) k[:, :R]   one cached row serves all heads (arXiv:2405.04434)
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op

HALVES = (torch.bfloat16, torch.float16)
FLOATS = (*HALVES, torch.float32)


def gqa_decode(
    q_BHD: torch.Tensor, cache_X2KSD: torch.Tensor, table_BN: torch.Tensor, lengths_B: torch.Tensor, scale: float
) -> torch.Tensor:
    """[B, H, D] in q's dtype. The inner four dims of the cache are contiguous; table and lengths are integers.

    Raises ValueError for shapes and dtypes that do not fit; on a GPU only 16-bit types are served.
    """
    if q_BHD.dim() != 3 or not q_BHD.is_contiguous():
        raise ValueError(f"queries must be contiguous [B, H, D], not {tuple(q_BHD.shape)} strided {q_BHD.stride()}")
    inner = tuple(cache_X2KSD.shape[1:])
    if len(inner) != 4 or inner[0] != 2 or inner[3] != q_BHD.shape[2] or q_BHD.shape[1] % max(inner[1], 1):
        raise ValueError(f"cache {tuple(cache_X2KSD.shape)} is no [X, 2, K, S, D] for queries {tuple(q_BHD.shape)}")
    check_cache(q_BHD, cache_X2KSD, scale)
    check_table(q_BHD.shape[0], table_BN, lengths_B)
    return _gqa_decode_op(q_BHD, cache_X2KSD, table_BN, lengths_B, scale)


def mla_decode(
    q_BHR: torch.Tensor,
    q_BHO: torch.Tensor,
    cache_XSC: torch.Tensor,
    table_BN: torch.Tensor,
    lengths_B: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Latents [B, H, R] in q's dtype. Queries may be views of any strides whose last dim is contiguous.

    Raises ValueError for shapes and dtypes that do not fit; on a GPU only 16-bit types are served.
    """
    if q_BHR.dim() != 3 or q_BHO.shape[:2] != q_BHR.shape[:2] or q_BHR.dtype != q_BHO.dtype:
        raise ValueError(f"queries {tuple(q_BHR.shape)} and {tuple(q_BHO.shape)} are not [B, H, R] and [B, H, O]")
    if q_BHR.stride(2) != 1 or q_BHO.stride(2) != 1:
        raise ValueError("the last dim of both query tensors must be contiguous")
    width = q_BHR.shape[2] + q_BHO.shape[2]
    if cache_XSC.dim() != 3 or cache_XSC.shape[2] != width:
        raise ValueError(f"cache must be [X, S, {width}], not {tuple(cache_XSC.shape)}")
    check_cache(q_BHR, cache_XSC, scale)
    check_table(q_BHR.shape[0], table_BN, lengths_B)
    return _mla_decode_op(q_BHR, q_BHO, cache_XSC, table_BN, lengths_B, scale)


def check_cache(q: torch.Tensor, cache: torch.Tensor, scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"the scale of the scores must be positive, not {scale}")
    kinds = FLOATS if q.device.type == "cpu" else HALVES
    if q.dtype not in kinds or cache.dtype != q.dtype:
        raise ValueError(f"no attention of {q.dtype} queries over a {cache.dtype} cache on {q.device.type}")
    if cache.shape[0] and not cache[0].is_contiguous():
        raise ValueError(f"pages of the cache must be contiguous, not strided {cache.stride()}")


def check_table(batch: int, table: torch.Tensor, lengths: torch.Tensor) -> None:
    integers = (torch.int32, torch.int64)
    if table.dim() != 2 or table.shape[0] != batch or table.dtype not in integers or not table.is_contiguous():
        raise ValueError(f"table must be contiguous integers [{batch}, N], not {table.dtype} {tuple(table.shape)}")
    if tuple(lengths.shape) != (batch,) or lengths.dtype not in integers or not lengths.is_contiguous():
        raise ValueError(f"lengths must be contiguous integers [{batch}], not {lengths.dtype} {tuple(lengths.shape)}")


def gqa_decode_ref(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, scale: float
) -> torch.Tensor:
    """Sequence by sequence in float32."""
    num_kv_heads = cache.shape[2]
    out = torch.zeros_like(q)
    for b, length in enumerate(lengths.tolist()):
        pages = table[b, : -(-length // cache.shape[3])].long()
        k_KnD, v_KnD = cache[pages].transpose(0, 1).transpose(1, 2).flatten(2, 3)[:, :, :length].float()
        q_KGD = q[b].float().view(num_kv_heads, -1, q.shape[2])
        out[b] = _attend(q_KGD, k_KnD, v_KnD, scale).reshape(q.shape[1:]).to(q.dtype)
    return out


def mla_decode_ref(
    q_latent: torch.Tensor, q_rotated: torch.Tensor, cache: torch.Tensor, table: torch.Tensor,
    lengths: torch.Tensor, scale: float,
) -> torch.Tensor:  # fmt: skip
    """Sequence by sequence in float32."""
    out = q_latent.new_zeros(q_latent.shape)
    q_BHC = torch.cat([q_latent, q_rotated], 2).float()
    for b, length in enumerate(lengths.tolist()):
        pages = table[b, : -(-length // cache.shape[1])].long()
        rows_nC = cache[pages].flatten(0, 1)[:length].float()
        out[b] = _attend(q_BHC[b], rows_nC, rows_nC[:, : out.shape[2]], scale).to(out.dtype)
    return out


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v


@custom_op(
    "proa::gqa_decode",
    schema="(Tensor q, Tensor cache, Tensor table, Tensor lengths, float scale) -> Tensor",
)
def _gqa_decode_op(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, scale: float
) -> torch.Tensor:
    if arm_for("paged_attention", q.device) == "reference":
        return gqa_decode_ref(q, cache, table, lengths, scale)
    from proa_kernels.gqa_decode_triton import launch_gqa_decode  # the reference needs no Triton

    out = torch.empty_like(q)
    launch_gqa_decode(q, cache, table, lengths, scale, out)
    return out


@_gqa_decode_op.register_fake
def _gqa_decode_fake(q: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(q)


@custom_op(
    "proa::mla_decode",
    schema="(Tensor q_latent, Tensor q_rotated, Tensor cache, Tensor table, Tensor lengths, float scale) -> Tensor",
)
def _mla_decode_op(
    q_latent: torch.Tensor, q_rotated: torch.Tensor, cache: torch.Tensor, table: torch.Tensor,
    lengths: torch.Tensor, scale: float,
) -> torch.Tensor:  # fmt: skip
    if arm_for("paged_attention", q_latent.device) == "reference":
        return mla_decode_ref(q_latent, q_rotated, cache, table, lengths, scale)
    from proa_kernels.mla_decode_triton import launch_mla_decode

    out = q_latent.new_empty(q_latent.shape)
    launch_mla_decode(q_latent, q_rotated, cache, table, lengths, scale, out)
    return out


@_mla_decode_op.register_fake
def _mla_decode_fake(q_latent: torch.Tensor, *_: object) -> torch.Tensor:
    return q_latent.new_empty(q_latent.shape)
