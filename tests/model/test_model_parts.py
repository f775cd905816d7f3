"""Fast arms equal their slow, obvious twins on random inputs; the gate equals a sum over Python lists."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from proa_workers.core.plan import SeqSlice, StepPlan
from proa_workers.kv.layout import KvLayout
from proa_workers.model.arms import REFERENCE, Arms
from proa_workers.model.assemble import build_batch, order_slices
from proa_workers.model.attention import GqaAttention
from proa_workers.model.config import MlaConfig, ModelConfig, MoeConfig, RopeConfig
from proa_workers.model.experts import ExpertWeights, run_grouped, run_looped, run_reference
from proa_workers.model.mla import MlaAttention
from proa_workers.model.moe import Gate
from proa_workers.model.paged import PagedKv
from proa_workers.model.rope import pair_order, rotate, rotation_table
from proa_workers.model.source import RandomWeights

HIDDEN, BLOCK_TOKENS = 32, 4
GQA = ModelConfig(
    architecture="",
    model_type="",
    vocab_size=8,
    hidden_size=HIDDEN,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=8,
    rms_norm_eps=1e-6,
    max_position=64,
    has_tied_embeddings=False,
    has_qk_norm=True,
    rope=RopeConfig(dim=8, theta=100.0, has_adjacent_pairs=False),
    moe=None,
    mla=None,
    is_sparse=(False, False),
    num_mtp_layers=0,
    dtype="float32",
    eos_token_ids=(),
    bos_token_id=None,
    pad_token_id=None,
)
MLA = replace(
    GQA,
    num_heads=4,
    rope=RopeConfig(dim=6, theta=100.0, has_adjacent_pairs=True),
    mla=MlaConfig(kv_lora_rank=16, qk_rope_head_dim=6, qk_nope_head_dim=8, v_head_dim=10, q_lora_rank=12),
)
# (start, end) of the slices of one step
STEPS = {
    "one decode": [(6, 7)],
    "equal decodes": [(6, 7), (6, 7), (6, 7)],
    "unequal decodes": [(0, 1), (17, 18), (4, 5)],
    "whole prompt": [(0, 9)],
    "chunk with prefix": [(5, 11)],
    "mixed": [(3, 7), (12, 13), (0, 5), (2, 3)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("config", [GQA, MLA], ids=["gqa", "mla"])
@pytest.mark.parametrize("pieces", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("arms", [Arms(), Arms(attention="paged", norm="fused")], ids=["batched", "paged"])
def test_fast_attention_equals_reference(
    arms: Arms, pieces: list[tuple[int, int]], config: ModelConfig, dtype: torch.dtype
) -> None:
    family = GqaAttention if config.mla is None else MlaAttention
    source = RandomWeights(dtype=dtype, device=torch.device("cpu"), seed=1)
    attention = family.load(config, source, "attention", 1)
    kv = random_pool(config.kv_layout(dtype="float32", block_tokens=BLOCK_TOKENS, identity="x"), dtype)
    batch = build_batch(plan_of(pieces), kv)
    x_TM = torch.randn(batch.token_ids_T.numel(), HIDDEN).to(dtype)
    rotation = rotation_table(config.rope, 64, x_TM.device).index_select(0, batch.positions_T)[:, None]
    untouched = kv.pool.clone()
    fast = attention.forward(x_TM, rotation, batch, kv, arms).float()
    written = kv.pool.clone()
    kv.pool.copy_(untouched)
    slow = attention.forward(x_TM, rotation, batch, kv, REFERENCE).float()
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    assert float((fast - slow).norm() / slow.norm()) < limit
    assert float((written - kv.pool).float().norm() / kv.pool.float().norm()) < limit


def random_pool(layout: KvLayout, dtype: torch.dtype) -> PagedKv:
    return PagedKv(torch.randn(32, *layout.block_shape).to(dtype), layout)


def plan_of(pieces: list[tuple[int, int]]) -> StepPlan:
    tables = np.split(np.random.default_rng(0).permutation(30).astype(np.int32), 6)
    slices = [
        SeqSlice(seq_id=i, token_ids=[1] * (end - start), start=start, block_table=tables[i], row=None)
        for i, (start, end) in enumerate(pieces)
    ]
    return StepPlan(step_id=0, slices=tuple(slices))


def test_only_rows_that_read_padded_keys_are_grouped_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proa_workers.model.assemble.CHEAP_PADDED_ROWS", 8)
    slices = plan_of([(2, 3), (0, 9), (59, 60), (4, 5), (6, 7)]).slices
    assert order_slices(slices, BLOCK_TOKENS, pads_keys=True) == ([[0], [3, 4], [2]], [1])
    assert order_slices(slices, BLOCK_TOKENS, pads_keys=False) == ([[0, 2, 3, 4]], [1])


@pytest.mark.parametrize("run", [run_looped, run_grouped])
@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(1, 4, 2), (7, 16, 4), (33, 3, 1), (5, 2, 2)])
def test_fast_experts_equal_reference(run: type, num_tokens: int, num_experts: int, top_k: int) -> None:
    experts = ExpertWeights(torch.randn(num_experts, 48, HIDDEN) * 0.1, torch.randn(num_experts, HIDDEN, 24) * 0.1)
    x_TM, weights_TA = torch.randn(num_tokens, HIDDEN), torch.rand(num_tokens, top_k)
    ids_TA = torch.stack([torch.randperm(num_experts)[:top_k] for _ in range(num_tokens)])
    torch.testing.assert_close(
        run(x_TM, weights_TA, ids_TA, experts), run_reference(x_TM, weights_TA, ids_TA, experts), atol=1e-5, rtol=1e-4
    )


SOFTMAX = MoeConfig(num_experts=12, top_k=3, intermediate_size=8, score="softmax", renormalize=False)
SIGMOID = replace(SOFTMAX, score="sigmoid", renormalize=True, has_bias=True, scale=2.5, has_float32_router=True)


@pytest.mark.parametrize(
    "moe",
    [
        SOFTMAX,
        replace(SOFTMAX, renormalize=True),
        replace(SOFTMAX, num_groups=4, top_groups=2, scale=3.0),
        SIGMOID,
        replace(SIGMOID, num_groups=3, top_groups=2, group_score="top2"),
    ],
)
def test_gate_equals_plain_python(moe: MoeConfig) -> None:
    weight_EM, x_TM = torch.randn(12, HIDDEN) * 0.3, torch.randn(20, HIDDEN)
    bias_E = torch.randn(12) * 0.3 if moe.has_bias else None
    weights_TA, ids_TA = Gate(weight_EM, bias_E, moe).route(x_TM, REFERENCE)
    for t in range(20):
        expected = plain_route((x_TM[t] @ weight_EM.T).tolist(), [0.0] * 12 if bias_E is None else bias_E.tolist(), moe)
        found = dict(zip(ids_TA[t].tolist(), weights_TA[t].tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-4)


def plain_route(logits: list[float], bias: list[float], moe: MoeConfig) -> dict[int, float]:
    if moe.score == "sigmoid":
        scores = [1 / (1 + math.exp(-x)) for x in logits]
    else:
        scores = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    size = moe.num_experts // moe.num_groups
    groups = [range(g * size, (g + 1) * size) for g in range(moe.num_groups)]
    best = 1 if moe.group_score == "max" else 2
    groups.sort(key=lambda g: -sum(sorted(choice[e] for e in g)[-best:]))
    eligible = [e for g in groups[: moe.top_groups] for e in g]
    chosen = sorted(eligible, key=lambda e: -choice[e])[: moe.top_k]
    total = sum(scores[e] for e in chosen) if moe.renormalize else 1.0
    return {e: scores[e] / total * moe.scale for e in chosen}


def test_reordered_pairs_keep_every_product() -> None:
    """Rotating halves and rotating adjacent pairs of the reordered vector give the same q.k."""
    rope = RopeConfig(dim=16, theta=1000.0, has_adjacent_pairs=False)
    table = rotation_table(rope, 50, torch.device("cpu"))
    q, k = torch.randn(50, 1, 16), torch.randn(50, 1, 16)
    angles = torch.outer(torch.arange(50.0), 1000.0 ** -(torch.arange(8.0) / 8)).repeat(1, 2)[:, None]

    def rotate_halves(x: torch.Tensor) -> torch.Tensor:
        return x * angles.cos() + torch.cat([-x[..., 8:], x[..., :8]], -1) * angles.sin()

    halves = rotate_halves(q)[:, 0] @ rotate_halves(k)[:, 0].T
    order = pair_order(16)
    pairs = rotate(q[..., order], table[:, None])[:, 0] @ rotate(k[..., order], table[:, None])[:, 0].T
    torch.testing.assert_close(pairs, halves, atol=1e-4, rtol=1e-4)
