"""Scaled dot-product attention over gathered KV rows, grouped-query form.

Legend: T tokens, B decode rows, S keys, H query heads, K kv heads, G = H / K, D head dim, X = B * K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from proa_workers.model.batch import DecodeGroup, PrefillChunk


def scores(q_XGD: torch.Tensor, k_XSD: torch.Tensor, scale: float, bias_X1S: torch.Tensor | None) -> torch.Tensor:
    """float32 q k^T * scale + bias, [X, G, S]; products of 16-bit inputs are accumulated and kept in float32."""
    if q_XGD.dtype == torch.float32 or not q_XGD.is_cuda:
        q_XGD, k_XSD = q_XGD.float(), k_XSD.float()
        beta, bias = (0, q_XGD.new_empty(1, 1, 1)) if bias_X1S is None else (1, bias_X1S)
        return torch.baddbmm(bias, q_XGD, k_XSD.transpose(1, 2), beta=beta, alpha=scale)
    products_XGS = torch.bmm(q_XGD, k_XSD.transpose(1, 2), out_dtype=torch.float32)
    return products_XGS.mul_(scale) if bias_X1S is None else torch.add(bias_X1S, products_XGS, alpha=scale)


def attend_decode(
    q_BHD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, group: DecodeGroup, scale: float
) -> torch.Tensor:
    """One query row per sequence over padded keys; returns [B, H*D]."""
    num_kv_heads, head_dim = k_BKSD.shape[1], q_BHD.shape[2]
    q_XGD = q_BHD.reshape(len(group.lengths) * num_kv_heads, -1, head_dim)
    weights_XGS = scores(q_XGD, k_BKSD.flatten(0, 1), scale, group.bias).softmax(-1).to(q_BHD.dtype)
    return torch.bmm(weights_XGS, v_BKSD.flatten(0, 1)).view(len(group.lengths), -1)


def attend_chunk(
    q_THD: torch.Tensor, k_KSD: torch.Tensor, v_KSD: torch.Tensor, chunk: PrefillChunk, scale: float
) -> torch.Tensor:
    """Rows of one sequence, causal after its prefix; v may be narrower than k. Returns [T, H*D]."""
    group_size = q_THD.shape[1] // k_KSD.shape[0]
    k_HSD = k_KSD[:, None].expand(-1, group_size, -1, -1).flatten(0, 1)
    v_HSD = v_KSD[:, None].expand(-1, group_size, -1, -1).flatten(0, 1)
    out_1HTD = F.scaled_dot_product_attention(
        q_THD.transpose(0, 1)[None],
        k_HSD[None],
        v_HSD[None],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        scale=scale,
    )
    return out_1HTD[0].transpose(0, 1).reshape(chunk.num_rows, -1)


def attend_reference(
    q_THD: torch.Tensor, k_KSD: torch.Tensor, v_KSD: torch.Tensor, num_prefix: int, scale: float
) -> torch.Tensor:
    """Head by head and row by row: token t sees keys 0 .. num_prefix + t. Slow on purpose; returns [T, H*D]."""
    group_size = q_THD.shape[1] // k_KSD.shape[0]
    rows = []
    for t in range(q_THD.shape[0]):
        num_keys = num_prefix + t + 1
        for h in range(q_THD.shape[1]):
            k_SD, v_SD = k_KSD[h // group_size, :num_keys], v_KSD[h // group_size, :num_keys]
            weights_S = torch.softmax((k_SD.float() @ q_THD[t, h].float()) * scale, dim=0)
            rows.append(weights_S @ v_SD.float())
    return torch.stack(rows).to(q_THD.dtype).view(q_THD.shape[0], -1)


def decode_reference(
    q_BHD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, group: DecodeGroup, scale: float
) -> torch.Tensor:
    rows = [
        attend_reference(q_BHD[b, None], k_BKSD[b], v_BKSD[b], length - 1, scale)
        for b, length in enumerate(group.lengths)
    ]
    return torch.cat(rows)


def chunk_reference(
    q_THD: torch.Tensor, k_KSD: torch.Tensor, v_KSD: torch.Tensor, chunk: PrefillChunk, scale: float
) -> torch.Tensor:
    return attend_reference(q_THD, k_KSD, v_KSD, chunk.num_prefix, scale)


ATTEND = {"batched": (attend_decode, attend_chunk), "reference": (decode_reference, chunk_reference)}
