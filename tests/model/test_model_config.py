"""config.json -> ModelConfig: values that matter, and one-line errors for what the engine does not compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proa_workers.errors import CheckpointError
from proa_workers.model.config import YarnConfig
from proa_workers.model.hf_config import BUILDERS, read_config

from tests.model.checkpoints import SHAPES

# As published: DeepSeek-V3 and Kimi-K2 with the keys of transformers 4.
DEEPSEEK_V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 4096,
    },
    "max_position_embeddings": 163840,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "use_sliding_window": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "eos_token_id": 151645,
}


def write(folder: Path, values: Any, **changes: Any) -> Path:
    merged = {k: v for k, v in {**values, **changes}.items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(merged))
    return folder


def test_reads_deepseek_v3(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, DEEPSEEK_V3))
    assert config.rope.yarn == YarnConfig(
        factor=40, original_max_position=4096, mscale=1.0, mscale_all_dim=1.0, beta_fast=32, beta_slow=1
    )
    assert config.is_sparse == (False,) * 3 + (True,) * 58
    assert config.moe is not None
    assert (config.moe.num_groups, config.moe.top_groups, config.moe.scale) == (8, 4, 2.5)
    assert (config.num_mtp_layers, config.max_position, config.eos_token_ids) == (1, 163840, (1,))
    layout = config.kv_layout(dtype="bfloat16", block_tokens=64, identity="x")
    assert layout.block_bytes == 61 * 64 * 576 * 2


def test_kimi_k2_is_a_deepseek_v3(tmp_path: Path) -> None:
    config = read_config(
        write(tmp_path, DEEPSEEK_V3, model_type="kimi_k2", n_group=1, topk_group=1, num_nextn_predict_layers=0)
    )
    assert (config.model_type, config.architecture) == ("kimi_k2", "DeepseekV3ForCausalLM")


def test_reads_qwen3_moe(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [151645, 151643]}')
    config = read_config(write(tmp_path, QWEN3_MOE))
    assert all(config.is_sparse)
    assert config.eos_token_ids == (151645, 151643)
    assert config.kv_layout(dtype="bfloat16", block_tokens=16, identity="x").block_shape == (48, 2, 4, 16, 128)


def test_sparse_layers_of_qwen(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, QWEN3_MOE, num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3]))
    assert config.is_sparse == (False, True, False, False, False, True)


def test_yarn_extends_the_positions(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read_config(write(tmp_path, QWEN3_MOE, rope_scaling=scaling)).max_position == 131072


@pytest.mark.parametrize("name", SHAPES)
def test_reads_what_transformers_writes(name: str, checkpoint: Callable[[str], Path]) -> None:
    assert read_config(checkpoint(name)).num_layers == 3


@pytest.mark.parametrize(
    ("base", "changes", "says"),
    [
        (QWEN3_MOE, {"architectures": ["GptOssForCausalLM"]}, "GptOssForCausalLM.*unknown.*--engine vllm"),
        (QWEN3_MOE, {"architectures": "absent"}, "'architectures' is missing"),
        (QWEN3_MOE, {"architectures": []}, "unknown"),
        (QWEN3_MOE, {"hidden_size": "absent"}, "'hidden_size' is missing"),
        (QWEN3_MOE, {"hidden_size": "wide"}, "wrong kind"),
        (QWEN3_MOE, {"num_experts": None}, "'num_experts' is missing"),
        (QWEN3_MOE, {"hidden_act": "gelu"}, 'hidden_act is "gelu"; this engine computes only "silu"'),
        (QWEN3_MOE, {"attention_bias": True}, "attention_bias is true"),
        (QWEN3_MOE, {"use_sliding_window": True}, "use_sliding_window is true"),
        (QWEN3_MOE, {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_type 'llama3' is unknown"),
        (QWEN3_MOE, {"rope_scaling": [1]}, "wrong kind"),
        (QWEN3_MOE, {"quantization_config": {"quant_method": "awq"}}, 'quant_method is "awq"'),
        (DEEPSEEK_V3, {"quantization_config": {"weight_block_size": [64, 64]}}, "weight_block_size"),
        (DEEPSEEK_V3, {"topk_method": "greedy"}, "topk_method"),
        (DEEPSEEK_V3, {"scoring_func": "softmax"}, "scoring_func"),
        (DEEPSEEK_V3, {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        (DEEPSEEK_V3, {"architectures": ["DeepseekV2ForCausalLM"]}, "topk_method"),
        (DEEPSEEK_V3, {"kv_lora_rank": "absent"}, "'kv_lora_rank' is missing"),
        (
            {**QWEN3_MOE, "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "use_sliding_window": None},
            {"sliding_window": 4096},
            "sliding_window is 4096",
        ),
    ],
)
def test_refuses(base: dict[str, Any], changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        read_config(write(tmp_path, base, **changes))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"), [(None, "no config.json"), ("{", "not valid JSON"), ("[]", "JSON object"), ("\xff", "not valid")]
)
def test_refuses_files(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=says):
        read_config(tmp_path)


def test_knows_five_architectures() -> None:
    assert len(BUILDERS) == 5
