"""Random small checkpoints of every architecture, made with transformers, and the comparison with its logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow, SeqSlice, StepPlan
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.sampling.sampler import Drawn

VOCAB, BLOCK_TOKENS, NUM_BLOCKS = 160, 4, 128
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GQA = {"num_key_value_heads": 2, "head_dim": 32}
MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
V3 = {**MLA, "q_lora_rank": 24, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}

# name -> (prefix of the transformers classes, settings)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3": ("Qwen3", {**GQA, "tie_word_embeddings": True}),
    "qwen3_yarn": ("Qwen3", {**GQA, "rope_parameters": YARN}),
    "qwen3_moe": (
        "Qwen3Moe",
        {**GQA, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe_mixed": (
        "Qwen3Moe",
        {**GQA, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [1]},
    ),
    "deepseek_v2": ("DeepseekV2", {**MLA, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek_v2_grouped": (
        "DeepseekV2",
        {
            **V3,
            "topk_method": "group_limited_greedy",
            "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
        },
    ),
    "deepseek_v3": ("DeepseekV3", V3),
    "deepseek_v3_yarn": ("DeepseekV3", {**V3, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8}}),
    "kimi_k2": ("DeepseekV3", {**V3, "n_group": 1, "topk_group": 1}),
    "half_split_v3": ("DeepseekV3", {**V3, "rope_interleave": False}),
}


@dataclass(slots=True)
class Recorder:
    """Greedy sampler that keeps rows and logits of the last step."""

    rows: list[SampleRow] = field(default_factory=list)
    logits_RV: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def launch(self, logits_RV: torch.Tensor, rows: Sequence[SampleRow], unread: Sequence[int] = ()) -> Drawn:
        self.rows, self.logits_RV = list(rows), logits_RV.clone()
        peak_R1, token_R1 = logits_RV.max(1, keepdim=True)
        table = torch.cat([token_R1, peak_R1, peak_R1], 1).double()
        return Drawn(token_R1=token_R1, rows=tuple(rows), num_top=-1, table=table, is_copied=None)


@dataclass(slots=True)
class Harness:
    """An engine with its recorder; `slice_of` builds plans, `step` returns the logits of the wanted rows."""

    engine: NativeEngine
    recorder: Recorder

    def slice_of(self, ids: list[int], start: int, end: int, table: np.ndarray, *, wanted: bool = True) -> SeqSlice:
        row = SampleRow(params=SamplingParams(max_tokens=1), seed=0, prompt_ids=ids, output_ids=[], eos_token_ids=())
        return SeqSlice(seq_id=0, token_ids=ids[start:end], start=start, block_table=table, row=row if wanted else None)

    def step(self, *slices: SeqSlice) -> torch.Tensor:
        """Logits of the slices that want them, in the plan's order."""
        output = self.engine.step(StepPlan(step_id=0, slices=slices))
        wanted = [s.row for s in slices if s.row is not None]
        logits_RV = self.recorder.logits_RV[[self.recorder.rows.index(row) for row in wanted]]
        tokens = [sampled.token_id for sampled in output.sampled if sampled is not None]
        assert tokens == logits_RV.argmax(-1).tolist(), "each slice gets its own token"
        return logits_RV

    def logits_at_cuts(self, ids: list[int], cuts: Sequence[int], table: np.ndarray) -> torch.Tensor:
        """Feed `ids` in pieces that end at `cuts`; logits [len(cuts), V] of each piece's last token."""
        starts = [0, *cuts[:-1]]
        pieces = [self.step(self.slice_of(ids, a, b, table)) for a, b in zip(starts, cuts, strict=True)]
        return torch.cat(pieces)


def random_ids(num_tokens: int, seed: int = 0) -> list[int]:
    ids: list[int] = torch.randint(0, VOCAB, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def shuffled_tables(num_sequences: int, num_blocks: int = 20, seed: int = 0) -> list[np.ndarray]:
    blocks = np.random.default_rng(seed).permutation(NUM_BLOCKS).astype(np.int32)
    return [blocks[i * num_blocks : (i + 1) * num_blocks] for i in range(num_sequences)]


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that routing and greedy choices are far from ties; norms near 1, a visible router bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name:
                tensor.copy_(1 + 0.1 * noise)
            elif "e_score_correction_bias" in name:
                tensor.copy_(0.2 * noise)
            elif "inv_freq" not in name:
                tensor.copy_(0.12 * noise)


def build_checkpoint(name: str, folder: Path) -> None:
    import transformers

    prefix, settings = SHAPES[name]
    config = getattr(transformers, f"{prefix}Config")(**COMMON, **settings)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    randomize(model, seed=len(name))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    if name == "kimi_k2":
        edit_config(folder, model_type="kimi_k2", topk_method="noaux_tc", scoring_func="sigmoid")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load_oracle(folder: Path) -> Any:
    """The transformers model of `folder`; kimi_k2 is read as the DeepSeek-V3 that it is."""
    import transformers

    values = json.loads((folder / "config.json").read_text())
    prefix = values["architectures"][0].removesuffix("ForCausalLM")
    config = getattr(transformers, f"{prefix}Config").from_pretrained(folder)
    config.model_type = type(config).model_type
    return getattr(transformers, values["architectures"][0]).from_pretrained(folder, config=config, dtype=torch.float32)


def load_engine(folder: Path, **settings: Any) -> Harness:
    recorder = Recorder()
    chosen = {"dtype": "float32", "device": "cpu", "block_tokens": BLOCK_TOKENS, "num_blocks": NUM_BLOCKS, **settings}
    return Harness(NativeEngine.from_checkpoint(folder, NativeSettings(**chosen), sampler=recorder), recorder)
