"""Architecture of a decoder as plain values; `hf_config.py` reads them from a Hugging Face config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proa_workers.kv.layout import KvLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnConfig:
    """YaRN context extension (arXiv:2309.00071); `attention_factor` None derives it from factor and mscale."""

    factor: float
    original_max_position: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """`has_adjacent_pairs`: the checkpoint rotates dims (2i, 2i+1), as DeepSeek does, and not (i, i + dim/2)."""

    dim: int
    theta: float
    has_adjacent_pairs: bool
    yarn: YarnConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaConfig:
    """Multi-head latent attention (arXiv:2405.04434); `q_lora_rank` None = one full query projection."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None

    @property
    def latent_dim(self) -> int:
        """Elements of KV per token and layer: compressed latent, then the shared rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """Routed experts of one sparse layer.

    `group_score` says how a group of experts is rated before `top_groups` of `num_groups` stay eligible: its best score
    (DeepSeek-V2) or the sum of its two best (V3). `has_bias`: a bias corrects the choice, not the weights (V3).
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    score: Literal["softmax", "sigmoid"]
    renormalize: bool
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2"] = "max"
    has_bias: bool = False
    has_float32_router: bool = False
    num_shared_experts: int = 0
    naming: Literal["mixtral", "qwen"] = "qwen"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder-only model; `is_sparse[i]` says whether layer i has routed experts (MTP layers come after)."""

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    max_position: int
    has_tied_embeddings: bool
    has_qk_norm: bool
    rope: RopeConfig
    moe: MoeConfig | None
    mla: MlaConfig | None
    is_sparse: tuple[bool, ...]
    num_mtp_layers: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    pad_token_id: int | None

    def kv_layout(self, *, dtype: str, block_tokens: int, identity: str, num_layers: int | None = None) -> KvLayout:
        """Block layout of this model's cache; `identity` names the weights, so that only equals exchange blocks."""
        layers = self.num_layers if num_layers is None else num_layers
        if self.mla is not None:
            shape: tuple[int, ...] = (layers, block_tokens, self.mla.latent_dim)
        else:
            shape = (layers, 2, self.num_kv_heads, block_tokens, self.head_dim)
        kind: Literal["gqa", "mla"] = "gqa" if self.mla is None else "mla"
        return KvLayout(model=identity, kind=kind, dtype=dtype, block_tokens=block_tokens, block_shape=shape)
