"""Planted faults: each must push the logits far outside the tolerance of test_model_logits.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from proa_kernels import gate
from proa_workers.model import assemble, attention, mla, moe, rope
from proa_workers.model.arms import Arms
from proa_workers.model.batch import Batch, PrefillChunk

from tests.model.checkpoints import Harness, load_oracle, random_ids, shuffled_tables

CUTS = (11, 24, 25, 26, 33)


def no_pair_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attention, "pair_order", torch.arange)


def halves_for_pairs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mla, "_latent_order", lambda m, _: torch.cat([torch.arange(32), 32 + rope.pair_order(16)]))


def no_yarn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rope, "_ramp_bounds", lambda *_: (1e6, 2e6))


def no_attention_factor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rope, "_attention_factor", lambda _: 1.0)


def no_mscale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mla, "softmax_scale", lambda dim, _: dim**-0.5)


def no_bias(patch: pytest.MonkeyPatch) -> None:
    genuine = moe.Gate.route
    patch.setattr(moe.Gate, "route", lambda self, *rest: genuine(replace(self, bias_E=None), *rest))


def biased_weights(patch: pytest.MonkeyPatch) -> None:
    genuine = moe.Gate.route

    def route(self: moe.Gate, x: torch.Tensor, arms: Arms) -> tuple[torch.Tensor, torch.Tensor]:
        weights, ids = genuine(self, x, arms)
        if self.bias_E is None:
            return weights, ids
        return weights + F.pad(self.bias_E, (0, self.moe.num_shared_experts))[ids], ids

    patch.setattr(moe.Gate, "route", route)


def no_groups(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate, "keep_best_groups", lambda choice, _: choice)


def no_shared_experts(patch: pytest.MonkeyPatch) -> None:
    genuine = moe.Gate.route

    def route(self: moe.Gate, x: torch.Tensor, arms: Arms) -> tuple[torch.Tensor, torch.Tensor]:
        weights, ids = genuine(self, x, arms)
        return weights * (ids < self.moe.num_experts), ids

    patch.setattr(moe.Gate, "route", route)


def no_qk_norm(patch: pytest.MonkeyPatch) -> None:
    genuine = attention._qk_norm
    patch.setattr(attention, "_qk_norm", lambda *args: torch.ones_like(genuine(*args)))


def stale_block_table(patch: pytest.MonkeyPatch) -> None:
    genuine = assemble.block_table

    def stale(*args: Any) -> Any:
        table = genuine(*args)
        table[:, 1] = table[:, 0]
        return table

    patch.setattr(assemble, "block_table", stale)


def late_position(patch: pytest.MonkeyPatch) -> None:
    genuine = assemble.build_batch

    def shifted(*args: Any) -> Batch:
        made = genuine(*args)
        return replace(made, positions_T=made.positions_T + (1 if made.decodes else 0))

    patch.setattr("proa_workers.engine.native.build_batch", shifted)


def future_keys(patch: pytest.MonkeyPatch) -> None:
    def open_mask(chunk: PrefillChunk) -> torch.Tensor | None:
        return torch.ones(chunk.num_rows, chunk.num_keys, dtype=torch.bool) if chunk.num_prefix else None

    patch.setattr(PrefillChunk, "mask", property(open_mask))


FAULTS: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("qwen3", no_pair_order),
    ("qwen3", no_qk_norm),
    ("qwen3_yarn", no_yarn),
    ("qwen3_yarn", no_attention_factor),
    ("mixtral", stale_block_table),
    ("qwen3_moe", late_position),
    ("deepseek_v3", halves_for_pairs),
    ("deepseek_v3", no_bias),
    ("deepseek_v3", biased_weights),
    ("deepseek_v3", no_groups),
    ("deepseek_v3", no_shared_experts),
    ("deepseek_v3", stale_block_table),
    ("deepseek_v3", future_keys),
    ("deepseek_v3_yarn", no_mscale),
    ("deepseek_v2_grouped", no_groups),
]


@pytest.mark.parametrize(("name", "plant"), FAULTS, ids=[f"{n}-{f.__name__}" for n, f in FAULTS])
def test_fault_is_seen(
    name: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    checkpoint: Callable[[str], Path],
    open_engine: Callable[..., Harness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, (table,) = random_ids(CUTS[-1]), shuffled_tables(1)
    with torch.no_grad():
        theirs = load_oracle(checkpoint(name))(torch.tensor([ids])).logits[0][[cut - 1 for cut in CUTS]]
    plant(monkeypatch)
    ours = open_engine(checkpoint(name)).logits_at_cuts(ids, CUTS, table)
    assert float((ours - theirs).abs().max()) > 1e-2
