"""Decoder-only transformer over a flat batch. Legend: T tokens, M hidden, R rows with logits, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from proa_workers.model.arms import Arms
from proa_workers.model.attention import GqaAttention
from proa_workers.model.batch import Batch
from proa_workers.model.config import ModelConfig
from proa_workers.model.mla import MlaAttention
from proa_workers.model.moe import Mlp, MoeLayer
from proa_workers.model.norm import RmsNorm
from proa_workers.model.paged import PagedKv
from proa_workers.model.rope import rotation_table
from proa_workers.model.source import WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    attention_norm: RmsNorm
    attention: GqaAttention | MlaAttention
    mlp_norm: RmsNorm
    mlp: Mlp | MoeLayer

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, layer: int) -> DecoderLayer:
        """Layer `layer`; indices from num_layers on are MTP layers, which are sparse."""
        prefix, hidden, eps = f"model.layers.{layer}", config.hidden_size, config.rms_norm_eps
        is_sparse = config.is_sparse[layer] if layer < config.num_layers else config.moe is not None
        attention = GqaAttention if config.mla is None else MlaAttention
        return cls(
            attention_norm=RmsNorm.load(source, f"{prefix}.input_layernorm", hidden, eps),
            attention=attention.load(config, source, f"{prefix}.self_attn", layer),
            mlp_norm=RmsNorm.load(source, f"{prefix}.post_attention_layernorm", hidden, eps),
            mlp=MoeLayer.load(config, source, prefix)
            if is_sparse
            else Mlp.load(source, f"{prefix}.mlp", hidden, config.intermediate_size),
        )

    def forward(
        self,
        x_TM: torch.Tensor,
        delta_TM: torch.Tensor | None,
        rotation: torch.Tensor,
        batch: Batch,
        kv: PagedKv,
        arms: Arms,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output are sums not yet taken, x + delta, so that the next norm can take them."""
        normed_TM, x_TM = self.attention_norm.add(x_TM, delta_TM, arms)
        attended_TM = self.attention.forward(normed_TM, rotation, batch, kv, arms)
        normed_TM, x_TM = self.mlp_norm.add(x_TM, attended_TM, arms)
        return x_TM, self.mlp.forward(normed_TM, arms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    config: ModelConfig
    embed_VM: torch.Tensor
    layers: tuple[DecoderLayer, ...]
    norm: RmsNorm
    head_VM: torch.Tensor
    rotation_PD: torch.Tensor

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, max_model_len: int) -> Decoder:
        """Takes all tensors from `source`; raises CheckpointError for one that is missing or of another shape."""
        shape = (config.vocab_size, config.hidden_size)
        embed_VM = source.take("model.embed_tokens.weight", shape)
        return cls(
            config=config,
            embed_VM=embed_VM,
            layers=tuple(DecoderLayer.load(config, source, i) for i in range(config.num_layers)),
            norm=RmsNorm.load(source, "model.norm", config.hidden_size, config.rms_norm_eps),
            head_VM=embed_VM if config.has_tied_embeddings else source.take("lm_head.weight", shape),
            rotation_PD=rotation_table(config.rope, max_model_len, source.device),
        )

    def forward(self, batch: Batch, kv: PagedKv, arms: Arms) -> torch.Tensor:
        """Normed hidden states [T, M] of every row; KV rows are written to `kv`."""
        x_TM = self.embed_VM.index_select(0, batch.token_ids_T)
        rotation = self.rotation_of(batch)
        delta_TM = None
        for layer in self.layers:
            x_TM, delta_TM = layer.forward(x_TM, delta_TM, rotation, batch, kv, arms)
        return self.norm.add(x_TM, delta_TM, arms)[0]

    def rotation_of(self, batch: Batch) -> torch.Tensor:
        """Complex [T, 1, D/2]."""
        return self.rotation_PD.index_select(0, batch.positions_T)[:, None]

    def logits(self, hidden_RM: torch.Tensor, out_RV: torch.Tensor | None = None) -> torch.Tensor:
        """[R, V], as the product leaves them: who needs float32 casts. They go to `out_RV` where it is given."""
        if out_RV is None:
            return F.linear(hidden_RM, self.head_VM)
        return torch.mm(hidden_RM, self.head_VM.t(), out=out_RV)
