"""The bundled model's sizes and its Hugging Face `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tools.tiny_moe.tokenizer import BEGIN_ID, END_ID, MAX_LENGTH, PAD_ID, VOCAB_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """DeepSeek-V3 sizes. kv_lora_rank 512 with qk_rope_head_dim 64 is the only MLA size vLLM's CPU kernels have."""

    vocab_size: int = VOCAB_SIZE
    hidden_size: int = 192
    num_layers: int = 4
    num_dense_layers: int = 1
    num_heads: int = 4
    q_lora_rank: int = 96
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 64
    v_head_dim: int = 32
    intermediate_size: int = 512
    moe_intermediate_size: int = 64
    num_experts: int = 16
    top_k: int = 4
    num_groups: int = 4
    top_groups: int = 2
    routed_scaling_factor: float = 2.5
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_length: int = MAX_LENGTH
    original_max_length: int = 1024
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def rope_factor(self) -> float:
        return self.max_length / self.original_max_length

    @property
    def softmax_scale(self) -> float:
        """YaRN sharpens attention by mscale squared, mscale = 0.1 ln(factor) + 1 (DeepSeek-V3's mscale_all_dim 1)."""
        return float(self.qk_head_dim**-0.5 * (0.1 * math.log(self.rope_factor) + 1.0) ** 2)


def hugging_face_config(shape: Shape) -> dict[str, object]:
    """The keys of a DeepSeek-V3 `config.json`; `topk_method` and `scoring_func` are what vLLM asks for."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "moe_intermediate_size": shape.moe_intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_nextn_predict_layers": 1,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "n_shared_experts": 1,
        "n_routed_experts": shape.num_experts,
        "num_experts_per_tok": shape.top_k,
        "n_group": shape.num_groups,
        "topk_group": shape.top_groups,
        "routed_scaling_factor": shape.routed_scaling_factor,
        "norm_topk_prob": True,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "first_k_dense_replace": shape.num_dense_layers,
        "moe_layer_freq": 1,
        "kv_lora_rank": shape.kv_lora_rank,
        "q_lora_rank": shape.q_lora_rank,
        "qk_nope_head_dim": shape.qk_nope_head_dim,
        "qk_rope_head_dim": shape.qk_rope_head_dim,
        "v_head_dim": shape.v_head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rms_norm_eps": shape.norm_eps,
        "max_position_embeddings": shape.max_length,
        "rope_theta": shape.rope_theta,
        "rope_interleave": True,
        "rope_scaling": {
            "type": "yarn",
            "factor": shape.rope_factor,
            "original_max_position_embeddings": shape.original_max_length,
            "beta_fast": shape.beta_fast,
            "beta_slow": shape.beta_slow,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
    }
