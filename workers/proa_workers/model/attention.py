"""Grouped-query attention with optional q/k norm (Mixtral, Qwen3).

Legend: T tokens, M hidden, H query heads, K kv heads, D head dim, S keys, P the two planes k and v, N = H + 2K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from proa_kernels.paged_attention import gqa_decode
from proa_kernels.paged_prefill import gqa_prefill
from proa_kernels.rope import rope_write

from proa_workers.model.arms import Arms
from proa_workers.model.attend import ATTEND
from proa_workers.model.batch import Batch
from proa_workers.model.config import ModelConfig
from proa_workers.model.paged import PagedKv
from proa_workers.model.rope import pair_order, rotate, softmax_scale
from proa_workers.model.source import WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaAttention:
    """`qkv` rows are q heads, k heads, v heads; q and k dims are in `pair_order`, and so is `qk_norm`."""

    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    eps: float
    qkv_NDM: torch.Tensor
    out_MHD: torch.Tensor
    qk_norm_ND: torch.Tensor | None

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, prefix: str, layer: int) -> GqaAttention:
        """Reads q_proj, k_proj, v_proj, o_proj and the q and k norms under `prefix`, q and k in `pair_order`."""
        heads, kv_heads, dim, hidden = config.num_heads, config.num_kv_heads, config.head_dim, config.hidden_size
        order = pair_order(dim)
        parts = [
            source.take(f"{prefix}.{name}_proj.weight", (n * dim, hidden)).view(n, dim, hidden)
            for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        ]
        return cls(
            layer=layer,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            scale=softmax_scale(dim, None),
            eps=config.rms_norm_eps,
            qkv_NDM=torch.cat([parts[0][:, order], parts[1][:, order], parts[2]]).view(-1, hidden),
            out_MHD=source.take(f"{prefix}.o_proj.weight", (hidden, heads * dim)),
            qk_norm_ND=_qk_norm(config, source, prefix)[..., order] if config.has_qk_norm else None,
        )

    def forward(
        self, x_TM: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms
    ) -> torch.Tensor:
        """Write the tokens' k and v, attend, project; returns [T, M]."""
        qkv_TND = F.linear(x_TM, self.qkv_NDM).view(-1, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        write = self._write_fused if arms.attention == "paged" else self._write
        attended = self._attend(write(qkv_TND, rotation, batch, kv), batch, kv, arms)
        return F.linear(attended, self.out_MHD)

    def _write_fused(self, qkv_TND: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv) -> torch.Tensor:
        """`_write` in one launch."""
        table_TP2 = torch.view_as_real(rotation[:, 0])
        places = (batch.blocks_T, batch.positions_T, kv.layers[self.layer])
        return rope_write(qkv_TND, self.qk_norm_ND, self.eps, table_TP2, *places)

    def _write(self, qkv_TND: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv) -> torch.Tensor:
        """Norm and rotate queries and keys, write keys and values; returns the queries [T, H, D]."""
        qk_TND, v_TKD = qkv_TND.split_with_sizes([self.num_heads + self.num_kv_heads, self.num_kv_heads], 1)
        if self.qk_norm_ND is not None:
            qk_TND = F.rms_norm(qk_TND, (self.head_dim,), None, self.eps) * self.qk_norm_ND
        qk_TND = rotate(qk_TND, rotation)
        q_THD, k_TKD = qk_TND.split_with_sizes([self.num_heads, self.num_kv_heads], 1)
        kv.write(batch.row_ids[2 * self.layer], k_TKD)
        kv.write(batch.row_ids[2 * self.layer + 1], v_TKD)
        return q_THD

    def _attend(self, q_THD: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms) -> torch.Tensor:
        """Attended values [T, H*D]."""
        attend = self._attend_paged if arms.attention == "paged" else self._attend_gathered
        parts = attend(q_THD, batch, kv, arms)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_paged(self, q_THD: torch.Tensor, batch: Batch, kv: PagedKv, _: Arms) -> list[torch.Tensor]:
        cache, group = kv.layers[self.layer], batch.prefill
        parts = [gqa_decode(q_THD[g.rows], cache, g.table_BN, g.device_lengths, self.scale) for g in batch.decodes]
        if group is not None:
            places = (group.table_CN, group.starts, group.prefixes_C, group.max_rows)
            parts.append(gqa_prefill(q_THD[group.rows], cache, *places, self.scale))
        return [part.flatten(1) for part in parts]

    def _attend_gathered(self, q_THD: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms) -> list[torch.Tensor]:
        decode, prefill = ATTEND[arms.attention]
        parts = []
        for group in batch.decodes:
            rows_PBKSD = kv.gather(group.tile_ids[self.layer], len(group.lengths))
            k_BKSD, v_BKSD = rows_PBKSD[..., : group.num_keys, :].unbind(0)
            parts.append(decode(q_THD[group.rows], k_BKSD, v_BKSD, group, self.scale))
        for chunk in batch.chunks:
            k_KSD, v_KSD = kv.gather(chunk.tile_ids[self.layer], 1)[:, 0, :, : chunk.num_keys].unbind(0)
            parts.append(prefill(q_THD[chunk.rows], k_KSD, v_KSD, chunk, self.scale))
        return parts


def _qk_norm(config: ModelConfig, source: WeightSource, prefix: str) -> torch.Tensor:
    """Norm weights of every q and k head, [H + K, D]."""
    q_D = source.take(f"{prefix}.q_norm.weight", (config.head_dim,))
    k_D = source.take(f"{prefix}.k_norm.weight", (config.head_dim,))
    return torch.cat([q_D.expand(config.num_heads, -1), k_D.expand(config.num_kv_heads, -1)])
