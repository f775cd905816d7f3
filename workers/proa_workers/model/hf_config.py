"""Hugging Face config.json -> ModelConfig, for the architectures this engine computes.

Keys are those of transformers 4 and 5 (`rope_theta` + `rope_scaling`, or `rope_parameters`). Whatever the engine would
compute differently from the checkpoint's authors is refused by name, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proa_workers.errors import CheckpointError
from proa_workers.model.config import MlaConfig, ModelConfig, MoeConfig, RopeConfig, YarnConfig


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one JSON object, with errors that name the file."""

    values: dict[str, Any]
    where: str

    def need(self, *names: str) -> Any:
        """First present and non-null of `names`; CheckpointError if none is."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise CheckpointError(f"{self.where}: key {names[0]!r} is missing; use the config.json of the original model")

    def get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def refuse(self, name: str, *allowed: Any) -> None:
        """CheckpointError unless `name` is absent, null or one of `allowed`."""
        value = self.values.get(name)
        if value is not None and value not in allowed:
            choices = " or ".join(json.dumps(a) for a in allowed)
            raise CheckpointError(f"{self.where}: {name} is {json.dumps(value)}; this engine computes only {choices}")


def read_json(path: Path) -> Keys:
    """Object in `path`; CheckpointError when it is missing or not a JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no {path.name}; give the folder of a Hugging Face checkpoint (config.json and safetensors)"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download the file again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object is expected; download the file again")
    return Keys(values, str(path))


def read_config(folder: Path) -> ModelConfig:
    """Config of the checkpoint in `folder`; CheckpointError names the file, the key and what to do."""
    keys = read_json(folder / "config.json")
    names = keys.need("architectures")
    build = BUILDERS.get(names[0]) if names else None
    if build is None:
        raise CheckpointError(
            f"{keys.where}: architecture {names} is unknown; this engine runs {', '.join(BUILDERS)}"
            " (use --engine vllm for others)"
        )
    keys.refuse("hidden_act", "silu")
    keys.refuse("attention_bias", False)
    keys.refuse("mlp_bias", False)
    quantization = Keys(keys.get("quantization_config", {}), f"{keys.where}: quantization_config")
    quantization.refuse("quant_method", "fp8")
    quantization.refuse("weight_block_size", [128, 128])
    with reading_values(keys):
        return ModelConfig(architecture=names[0], **_common(keys), **token_ids(folder, keys), **build(keys))


@contextmanager
def reading_values(keys: Keys) -> Iterator[None]:
    """CheckpointError for a value of `keys` that is of the wrong kind."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise CheckpointError(f"{keys.where}: a value is of the wrong kind ({error}); use the original") from None


def _common(keys: Keys) -> dict[str, Any]:
    return {
        "model_type": str(keys.need("model_type")),
        "vocab_size": int(keys.need("vocab_size")),
        "hidden_size": int(keys.need("hidden_size")),
        "num_layers": int(keys.need("num_hidden_layers")),
        "num_heads": int(keys.need("num_attention_heads")),
        "rms_norm_eps": float(keys.need("rms_norm_eps")),
        "has_tied_embeddings": bool(keys.get("tie_word_embeddings", False)),
        "dtype": str(keys.get("dtype", keys.get("torch_dtype", "bfloat16"))),
    }


def token_ids(folder: Path, keys: Keys) -> dict[str, Any]:
    """eos_token_ids, bos_token_id and pad_token_id; generation_config.json says which tokens end an output."""
    generation = folder / "generation_config.json"
    eos = keys.values.get("eos_token_id")
    if generation.exists():
        eos = read_json(generation).get("eos_token_id", eos)
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    bos, pad = keys.values.get("bos_token_id"), keys.values.get("pad_token_id")
    return {
        "eos_token_ids": tuple(int(i) for i in ids),
        "bos_token_id": None if bos is None else int(bos),
        "pad_token_id": None if pad is None else int(pad),
    }


def _rope(keys: Keys, dim: int, has_adjacent_pairs: bool) -> tuple[RopeConfig, int]:
    """Rope settings and the longest position they serve."""
    scaling = Keys(keys.get("rope_parameters", None) or keys.get("rope_scaling", {}), f"{keys.where}: rope settings")
    theta = float(scaling.values.get("rope_theta") or keys.get("rope_theta", 10000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    max_position = int(keys.need("max_position_embeddings"))
    if kind not in ("default", "yarn"):
        raise CheckpointError(f"{scaling.where}: rope_type {kind!r} is unknown; this engine computes default and yarn")
    scaling.refuse("partial_rotary_factor", 1, 1.0)
    yarn = _yarn(scaling, max_position) if kind == "yarn" else None
    if yarn is not None:
        max_position = max(max_position, int(yarn.factor * yarn.original_max_position))
    return RopeConfig(dim=dim, theta=theta, has_adjacent_pairs=has_adjacent_pairs, yarn=yarn), max_position


def _yarn(scaling: Keys, max_position: int) -> YarnConfig:
    original = int(scaling.get("original_max_position_embeddings", max_position))
    attention_factor = scaling.values.get("attention_factor")
    return YarnConfig(
        factor=float(scaling.get("factor", max_position / original)),
        original_max_position=original,
        beta_fast=float(scaling.get("beta_fast", 32.0)),
        beta_slow=float(scaling.get("beta_slow", 1.0)),
        mscale=float(scaling.get("mscale", 0.0)),
        mscale_all_dim=float(scaling.get("mscale_all_dim", 0.0)),
        attention_factor=None if attention_factor is None else float(attention_factor),
        truncate=bool(scaling.get("truncate", True)),
    )


def _gqa(keys: Keys, *, has_qk_norm: bool) -> dict[str, Any]:
    keys.refuse("use_sliding_window", False)
    if keys.get("use_sliding_window", True):
        keys.refuse("sliding_window", None)
    num_heads = int(keys.need("num_attention_heads"))
    head_dim = int(keys.get("head_dim", int(keys.need("hidden_size")) // num_heads))
    rope, max_position = _rope(keys, head_dim, has_adjacent_pairs=False)
    return {
        "num_kv_heads": int(keys.need("num_key_value_heads")),
        "head_dim": head_dim,
        "has_qk_norm": has_qk_norm,
        "rope": rope,
        "max_position": max_position,
        "mla": None,
        "num_mtp_layers": 0,
    }


def _mixtral(keys: Keys) -> dict[str, Any]:
    intermediate_size = int(keys.need("intermediate_size"))
    moe = MoeConfig(
        num_experts=int(keys.need("num_local_experts")),
        top_k=int(keys.need("num_experts_per_tok")),
        intermediate_size=intermediate_size,
        score="softmax",
        renormalize=True,
        naming="mixtral",
    )
    is_sparse = (True,) * int(keys.need("num_hidden_layers"))
    return {**_gqa(keys, has_qk_norm=False), "intermediate_size": intermediate_size, "moe": moe, "is_sparse": is_sparse}


def _qwen3(keys: Keys) -> dict[str, Any]:
    is_sparse = (False,) * int(keys.need("num_hidden_layers"))
    return {
        **_gqa(keys, has_qk_norm=True),
        "intermediate_size": int(keys.need("intermediate_size")),
        "moe": None,
        "is_sparse": is_sparse,
    }


def _qwen3_moe(keys: Keys) -> dict[str, Any]:
    num_experts = int(keys.need("num_experts", "num_local_experts"))
    step, dense = int(keys.get("decoder_sparse_step", 1)), set(keys.get("mlp_only_layers", []))
    is_sparse = tuple(
        num_experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(int(keys.need("num_hidden_layers")))
    )
    moe = MoeConfig(
        num_experts=num_experts,
        top_k=int(keys.need("num_experts_per_tok")),
        intermediate_size=int(keys.need("moe_intermediate_size")),
        score="softmax",
        renormalize=bool(keys.get("norm_topk_prob", False)),
    )
    dense_size = int(keys.need("moe_intermediate_size" if all(is_sparse) else "intermediate_size"))
    return {**_gqa(keys, has_qk_norm=True), "intermediate_size": dense_size, "moe": moe, "is_sparse": is_sparse}


def _mla(keys: Keys) -> dict[str, Any]:
    q_lora_rank = keys.values.get("q_lora_rank")
    mla = MlaConfig(
        kv_lora_rank=int(keys.need("kv_lora_rank")),
        qk_rope_head_dim=int(keys.need("qk_rope_head_dim")),
        qk_nope_head_dim=int(keys.need("qk_nope_head_dim")),
        v_head_dim=int(keys.need("v_head_dim")),
        q_lora_rank=None if q_lora_rank is None else int(q_lora_rank),
    )
    rope, max_position = _rope(keys, mla.qk_rope_head_dim, bool(keys.get("rope_interleave", True)))
    num_layers, num_dense = int(keys.need("num_hidden_layers")), int(keys.get("first_k_dense_replace", 0))
    keys.refuse("moe_layer_freq", 1)
    return {
        "num_kv_heads": 1,
        "head_dim": mla.qk_head_dim,
        "has_qk_norm": False,
        "intermediate_size": int(keys.need("intermediate_size")),
        "rope": rope,
        "max_position": max_position,
        "mla": mla,
        "is_sparse": tuple(i >= num_dense for i in range(num_layers)),
    }


def _deepseek_moe(keys: Keys, **settings: Any) -> MoeConfig:
    return MoeConfig(
        num_experts=int(keys.need("n_routed_experts", "num_local_experts", "num_experts")),
        top_k=int(keys.need("num_experts_per_tok")),
        intermediate_size=int(keys.need("moe_intermediate_size")),
        scale=float(keys.get("routed_scaling_factor", 1.0)),
        num_shared_experts=int(keys.get("n_shared_experts", 0)),
        has_float32_router=True,
        **settings,
    )


def _deepseek_v2(keys: Keys) -> dict[str, Any]:
    keys.refuse("topk_method", "greedy", "group_limited_greedy")
    keys.refuse("scoring_func", "softmax")
    # Implementations disagree on what V2 does with it, and no published checkpoint sets it.
    keys.refuse("norm_topk_prob", False)
    is_grouped = keys.get("topk_method", "greedy") == "group_limited_greedy"
    moe = _deepseek_moe(
        keys,
        score="softmax",
        renormalize=False,
        num_groups=int(keys.need("n_group")) if is_grouped else 1,
        top_groups=int(keys.need("topk_group")) if is_grouped else 1,
    )
    return {**_mla(keys), "moe": moe, "num_mtp_layers": 0}


def _deepseek_v3(keys: Keys) -> dict[str, Any]:
    keys.refuse("topk_method", "noaux_tc")
    keys.refuse("scoring_func", "sigmoid")
    moe = _deepseek_moe(
        keys,
        score="sigmoid",
        renormalize=bool(keys.get("norm_topk_prob", True)),
        num_groups=int(keys.get("n_group", 1)),
        top_groups=int(keys.get("topk_group", 1)),
        group_score="top2",
        has_bias=True,
    )
    return {**_mla(keys), "moe": moe, "num_mtp_layers": int(keys.get("num_nextn_predict_layers", 0))}


BUILDERS: dict[str, Callable[[Keys], dict[str, Any]]] = {
    "MixtralForCausalLM": _mixtral,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekV2ForCausalLM": _deepseek_v2,
    "DeepseekV3ForCausalLM": _deepseek_v3,
}
