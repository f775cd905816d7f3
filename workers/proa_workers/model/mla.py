"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache holds one compressed row per token.

Legend: T tokens, B decode rows, M hidden, H heads, R kv_lora_rank, O rotated dims, U unrotated q/k dims, V value dims,
C = R + O cached columns, Q = q_lora_rank, S keys. Decode absorbs the up-projections into query and output, so that it
reads C columns per key; prefill expands the latents to plain keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from proa_kernels.paged_attention import mla_decode
from proa_kernels.rope import latent_rope_write

from proa_workers.model.arms import Arms
from proa_workers.model.attend import attend_chunk, chunk_reference, decode_reference, scores
from proa_workers.model.batch import Batch, DecodeGroup
from proa_workers.model.config import MlaConfig, ModelConfig
from proa_workers.model.norm import RmsNorm
from proa_workers.model.paged import PagedKv
from proa_workers.model.rope import pair_order, rotate, softmax_scale
from proa_workers.model.source import WeightSource

# The authors' code gives the latent norms their class's default, not the config's rms_norm_eps.
LATENT_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaAttention:
    """`down` makes [query latent (or whole query), kv latent, rotated key] in one product.

    `kv_up` holds U key rows, then V value rows of every head (x = U + V); `k_up` and `v_up` are views of it.
    """

    layer: int
    num_heads: int
    mla: MlaConfig
    scale: float
    down_FM: torch.Tensor
    q_norm: RmsNorm | None
    q_up: torch.Tensor | None
    kv_norm: RmsNorm
    kv_up_HxR: torch.Tensor
    k_up_HUR: torch.Tensor
    v_up_HRV: torch.Tensor
    out_MHV: torch.Tensor

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, prefix: str, layer: int) -> MlaAttention:
        """Reads the tensors under `prefix`; queries with or without a low rank, keys and values split by head."""
        mla, hidden, heads = config.mla, config.hidden_size, config.num_heads
        assert mla is not None
        has_pairs, rank = config.rope.has_adjacent_pairs, mla.q_lora_rank
        q_name, q_in = ("q_proj", hidden) if rank is None else ("q_b_proj", rank)
        q_whole = source.take(f"{prefix}.{q_name}.weight", (heads * mla.qk_head_dim, q_in))
        q = q_whole if has_pairs else _pair_heads(q_whole, mla, heads)
        down = q if rank is None else source.take(f"{prefix}.q_a_proj.weight", (rank, hidden))
        kv_down = source.take(f"{prefix}.kv_a_proj_with_mqa.weight", (mla.latent_dim, hidden))
        kv_up_shape = (heads * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank)
        kv_up_HxR = source.take(f"{prefix}.kv_b_proj.weight", kv_up_shape)
        per_head_HxR = kv_up_HxR.view(heads, -1, mla.kv_lora_rank)
        return cls(
            layer=layer,
            num_heads=heads,
            mla=mla,
            scale=softmax_scale(mla.qk_head_dim, config.rope.yarn),
            down_FM=torch.cat([down, kv_down[_latent_order(mla, has_pairs)]]),
            q_norm=None if rank is None else RmsNorm.load(source, f"{prefix}.q_a_layernorm", rank, LATENT_EPS),
            q_up=None if rank is None else q,
            kv_norm=RmsNorm.load(source, f"{prefix}.kv_a_layernorm", mla.kv_lora_rank, LATENT_EPS),
            kv_up_HxR=kv_up_HxR,
            k_up_HUR=per_head_HxR[:, : mla.qk_nope_head_dim],
            v_up_HRV=per_head_HxR[:, mla.qk_nope_head_dim :].transpose(1, 2),
            out_MHV=source.take(f"{prefix}.o_proj.weight", (hidden, heads * mla.v_head_dim)),
        )

    def forward(
        self, x_TM: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms
    ) -> torch.Tensor:
        """Write the tokens' latent rows, attend, project; returns [T, M]."""
        q_THU, q_THO = self._project(x_TM, rotation, batch, kv, arms)
        decode = {"paged": self._decode_paged, "batched": self._decode_absorbed, "reference": self._decode_expanded}
        prefill = chunk_reference if arms.attention == "reference" else attend_chunk
        parts = [decode[arms.attention](q_THU[g.rows], q_THO[g.rows], g, kv) for g in batch.decodes]
        for chunk in batch.chunks:
            latents_1SC = kv.gather(chunk.tile_ids[self.layer], 1)[0, :, 0, : chunk.num_keys]
            k_1HSD, v_1HSV = self._expand(latents_1SC)
            q_CHD = torch.cat([q_THU[chunk.rows], q_THO[chunk.rows]], 2)
            parts.append(prefill(q_CHD, k_1HSD[0], v_1HSV[0], chunk, self.scale))
        return F.linear(parts[0] if len(parts) == 1 else torch.cat(parts), self.out_MHV)

    def _project(
        self, x_TM: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [T, H, U] and, rotated, [T, H, O]; the latent rows go to the cache."""
        mla = self.mla
        down_TF = F.linear(x_TM, self.down_FM)
        q_width = down_TF.shape[1] - mla.latent_dim
        q, latent_TR, key_TO = down_TF.split_with_sizes([q_width, mla.kv_lora_rank, mla.qk_rope_head_dim], 1)
        if self.q_norm is not None and self.q_up is not None:
            q = F.linear(self.q_norm.forward(q, arms), self.q_up)
        q_THD = q.view(-1, self.num_heads, mla.qk_head_dim)
        q_THU, q_THO = q_THD.split_with_sizes([mla.qk_nope_head_dim, mla.qk_rope_head_dim], 2)
        if arms.attention == "paged":
            norm, table_TP2 = self.kv_norm, torch.view_as_real(rotation[:, 0])
            places = (batch.blocks_T, batch.positions_T, kv.layers[self.layer])
            latent_rope_write(q_THD, down_TF[:, q_width:], norm.weight_M, norm.eps, table_TP2, *places)
            return q_THU, q_THO
        rotated_TNO = rotate(torch.cat([q_THO, key_TO[:, None]], 1), rotation)
        rows_TC = torch.cat([self.kv_norm.forward(latent_TR, arms), rotated_TNO[:, -1]], 1)
        kv.write(batch.row_ids[self.layer], rows_TC)
        return q_THU, rotated_TNO[:, :-1]

    def _expand(self, latents_BSC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [B, H, S, U + O] and values [B, H, S, V] of latent rows."""
        mla = self.mla
        up_BSHx = F.linear(latents_BSC[..., : mla.kv_lora_rank], self.kv_up_HxR)
        up_BSHx = up_BSHx.view(*latents_BSC.shape[:2], self.num_heads, -1)
        k_BSHU, v_BSHV = up_BSHx.split_with_sizes([mla.qk_nope_head_dim, mla.v_head_dim], -1)
        rotated_BSHO = latents_BSC[:, :, None, mla.kv_lora_rank :].expand(-1, -1, self.num_heads, -1)
        return torch.cat([k_BSHU, rotated_BSHO], -1).transpose(1, 2), v_BSHV.transpose(1, 2)

    def _decode_paged(self, q_BHU: torch.Tensor, q_BHO: torch.Tensor, group: DecodeGroup, kv: PagedKv) -> torch.Tensor:
        """`_decode_absorbed` without a copy of the latents; returns [B, H*V]."""
        q_BHR = torch.bmm(q_BHU.transpose(0, 1), self.k_up_HUR).transpose(0, 1)
        cache = kv.layers[self.layer]
        latent_BHR = mla_decode(q_BHR, q_BHO, cache, group.table_BN, group.device_lengths, self.scale)
        out_BHV = q_BHU.new_empty(*q_BHU.shape[:2], self.mla.v_head_dim)
        torch.bmm(latent_BHR.transpose(0, 1), self.v_up_HRV, out=out_BHV.transpose(0, 1))
        return out_BHV.flatten(1)

    def _decode_expanded(
        self, q_BHU: torch.Tensor, q_BHO: torch.Tensor, group: DecodeGroup, kv: PagedKv
    ) -> torch.Tensor:
        """Attention of decode rows over plain keys and values, row by row; returns [B, H*V]."""
        k_BHSD, v_BHSV = self._expand(self._latents(group, kv))
        return decode_reference(torch.cat([q_BHU, q_BHO], 2), k_BHSD, v_BHSV, group, self.scale)

    def _decode_absorbed(
        self, q_BHU: torch.Tensor, q_BHO: torch.Tensor, group: DecodeGroup, kv: PagedKv
    ) -> torch.Tensor:
        """Attention of decode rows in latent space; returns [B, H*V]."""
        latents_BSC = self._latents(group, kv)
        q_HBR = torch.bmm(q_BHU.transpose(0, 1), self.k_up_HUR)
        q_BHC = torch.cat([q_HBR.transpose(0, 1), q_BHO], 2)
        weights_BHS = scores(q_BHC, latents_BSC, self.scale, group.bias).softmax(-1).to(q_BHC.dtype)
        latent_BHR = torch.bmm(weights_BHS, latents_BSC[..., : self.mla.kv_lora_rank])
        out_HBV = torch.bmm(latent_BHR.transpose(0, 1), self.v_up_HRV)
        return out_HBV.transpose(0, 1).flatten(1)

    def _latents(self, group: DecodeGroup, kv: PagedKv) -> torch.Tensor:
        return kv.gather(group.tile_ids[self.layer], len(group.lengths))[0, :, 0, : group.num_keys]


def _pair_heads(q_weight: torch.Tensor, mla: MlaConfig, num_heads: int) -> torch.Tensor:
    """Rows of the query projection with every head's rotated dims as adjacent pairs."""
    order = torch.cat([torch.arange(mla.qk_nope_head_dim), mla.qk_nope_head_dim + pair_order(mla.qk_rope_head_dim)])
    return q_weight.view(num_heads, mla.qk_head_dim, -1)[:, order].flatten(0, 1)


def _latent_order(mla: MlaConfig, has_pairs: bool) -> torch.Tensor:
    """Rows of the kv down-projection with the shared key's dims as adjacent pairs."""
    order = torch.arange(mla.qk_rope_head_dim) if has_pairs else pair_order(mla.qk_rope_head_dim)
    return torch.cat([torch.arange(mla.kv_lora_rank), mla.kv_lora_rank + order])
