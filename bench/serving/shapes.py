"""Published sizes of models, for engines with random weights, and what a decode step must read of them."""

from __future__ import annotations

from dataclasses import replace

from proa_workers.model.config import MlaConfig, ModelConfig, MoeConfig, RopeConfig

QWEN3_30B_A3B = ModelConfig(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    vocab_size=151936,
    hidden_size=2048,
    num_layers=48,
    num_heads=32,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=6144,
    rms_norm_eps=1e-6,
    max_position=40960,
    has_tied_embeddings=False,
    has_qk_norm=True,
    rope=RopeConfig(dim=128, theta=1e6, has_adjacent_pairs=False),
    moe=MoeConfig(num_experts=128, top_k=8, intermediate_size=768, score="softmax", renormalize=True),
    mla=None,
    is_sparse=(True,) * 48,
    num_mtp_layers=0,
    dtype="bfloat16",
    eos_token_ids=(),
    bos_token_id=None,
    pad_token_id=None,
)
DEEPSEEK_V2_LITE = replace(
    QWEN3_30B_A3B,
    architecture="DeepseekV2ForCausalLM",
    model_type="deepseek_v2",
    vocab_size=102400,
    num_layers=27,
    num_heads=16,
    num_kv_heads=1,
    head_dim=192,
    intermediate_size=10944,
    has_qk_norm=False,
    rope=RopeConfig(dim=64, theta=1e4, has_adjacent_pairs=True),
    moe=MoeConfig(
        num_experts=64,
        top_k=6,
        intermediate_size=1408,
        score="softmax",
        renormalize=False,
        num_shared_experts=2,
        has_float32_router=True,
    ),
    mla=MlaConfig(kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, q_lora_rank=None),
    is_sparse=(False,) + (True,) * 26,
)
TINY = replace(
    QWEN3_30B_A3B,
    vocab_size=512,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    rope=RopeConfig(dim=32, theta=1e4, has_adjacent_pairs=False),
    moe=MoeConfig(num_experts=8, top_k=2, intermediate_size=64, score="softmax", renormalize=True),
    is_sparse=(True,) * 2,
    max_position=1024,
)
TINY_MLA = replace(
    TINY,
    num_kv_heads=1,
    head_dim=96,
    has_qk_norm=False,
    intermediate_size=128,
    rope=RopeConfig(dim=64, theta=1e4, has_adjacent_pairs=True),
    moe=MoeConfig(
        num_experts=16,
        top_k=4,
        intermediate_size=64,
        score="sigmoid",
        renormalize=True,
        scale=2.5,
        num_groups=4,
        top_groups=2,
        group_score="top2",
        has_bias=True,
        has_float32_router=True,
        num_shared_experts=1,
    ),
    mla=MlaConfig(kv_lora_rank=128, qk_rope_head_dim=64, qk_nope_head_dim=32, v_head_dim=32, q_lora_rank=64),
    is_sparse=(False, True),
)
SHAPES = {"qwen3-30b-a3b": QWEN3_30B_A3B, "deepseek-v2-lite": DEEPSEEK_V2_LITE, "tiny": TINY, "tiny-mla": TINY_MLA}


def decode_step_bytes(config: ModelConfig, batch: int, context: float, element_bytes: int) -> float:
    """Fewest bytes that one decode step reads: every weight it needs once, and the keys and values of `context` tokens.

    Routing is taken as uniform, so that a layer touches E (1 - (1 - k/E)^batch) of its E experts.
    """
    hidden, moe = config.hidden_size, config.moe
    sparse, dense = sum(config.is_sparse), config.num_layers - sum(config.is_sparse)
    elements = config.num_layers * _attention_elements(config) + hidden * config.vocab_size
    elements += dense * 3 * hidden * config.intermediate_size
    if moe is not None:
        touched = moe.num_experts * (1 - (1 - moe.top_k / moe.num_experts) ** batch) + moe.num_shared_experts
        elements += sparse * hidden * (moe.num_experts + int(3 * touched * moe.intermediate_size))
    kv_row = 2 * config.num_kv_heads * config.head_dim if config.mla is None else config.mla.latent_dim
    return element_bytes * (elements + batch * context * config.num_layers * kv_row)


def _attention_elements(config: ModelConfig) -> int:
    hidden, heads, mla = config.hidden_size, config.num_heads, config.mla
    if mla is None:
        return hidden * config.head_dim * (2 * heads + 2 * config.num_kv_heads)
    rank = mla.q_lora_rank
    query = hidden * heads * mla.qk_head_dim if rank is None else rank * (hidden + heads * mla.qk_head_dim)
    up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return query + hidden * mla.latent_dim + up + heads * mla.v_head_dim * hidden
