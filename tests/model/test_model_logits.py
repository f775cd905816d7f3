"""Logits and greedy text of the native engine equal transformers on the same random checkpoint, float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from proa_workers.model.arms import REFERENCE, Arms

from tests.model.checkpoints import SHAPES, Harness, load_oracle, random_ids, shuffled_tables

MAX_ERROR = 1e-4
PAGED = Arms(attention="paged", norm="fused")  # on a CPU these are the kernels' references
CUTS = (11, 24, 25, 26, 33)  # a prefill, a chunk with a prefix, two decodes, another chunk

Checkpoint = Callable[[str], Path]
OpenEngine = Callable[..., Harness]


def oracle_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = load_oracle(folder)(torch.tensor([ids])).logits[0].float()
    return logits


def largest_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference; NaN counts as infinite."""
    return float((ours - theirs).abs().nan_to_num(nan=torch.inf).max())


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(name: str, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    harness, ids, (table,) = open_engine(checkpoint(name)), random_ids(CUTS[-1]), shuffled_tables(1)
    theirs = oracle_logits(checkpoint(name), ids)[[cut - 1 for cut in CUTS]]
    assert float(theirs.std()) > 0.3, "a flat model would hide errors"
    assert largest_error(harness.logits_at_cuts(ids, CUTS, table), theirs) <= MAX_ERROR


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3_yarn"])
@pytest.mark.parametrize(
    "arms",
    [REFERENCE, Arms(experts="looped"), Arms(experts="grouped"), Arms(single="looped"), PAGED],
    ids=["reference", "looped", "grouped", "single", "paged"],
)
def test_every_arm_equals_transformers(name: str, arms: Arms, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    harness, ids, (table,) = open_engine(checkpoint(name)), random_ids(CUTS[-1]), shuffled_tables(1)
    harness.engine.arms = arms
    theirs = oracle_logits(checkpoint(name), ids)[[cut - 1 for cut in CUTS]]
    assert largest_error(harness.logits_at_cuts(ids, CUTS, table), theirs) <= MAX_ERROR


@pytest.mark.parametrize("name", ["deepseek_v2_grouped", "deepseek_v3"])
@pytest.mark.parametrize("dense_shared", [1, 5])
def test_dense_shared_experts_equal_transformers(
    dense_shared: int, name: str, checkpoint: Checkpoint, open_engine: OpenEngine
) -> None:
    """With 5 the decodes among the pieces let them ride and the chunks do not."""
    harness, ids, (table,) = open_engine(checkpoint(name)), random_ids(CUTS[-1]), shuffled_tables(1)
    harness.engine.arms = Arms(dense_shared=dense_shared)
    theirs = oracle_logits(checkpoint(name), ids)[[cut - 1 for cut in CUTS]]
    assert largest_error(harness.logits_at_cuts(ids, CUTS, table), theirs) <= MAX_ERROR


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v2_grouped", "deepseek_v3"])
def test_mixed_batch_equals_transformers(name: str, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    """One step: two decodes of different length, a chunk with a prefix, a whole prompt, and a chunk without logits."""
    harness, tables = open_engine(checkpoint(name)), shuffled_tables(5)
    lengths = (9, 31, 22, 13, 8)
    ids = [random_ids(n, seed) for seed, n in enumerate(lengths)]
    starts = (8, 30, 10, 0, 0)
    for i, start in enumerate(starts):
        if start:
            harness.step(harness.slice_of(ids[i], 0, start, tables[i]))
    order = (2, 0, 4, 1, 3)
    slices = [harness.slice_of(ids[i], starts[i], lengths[i], tables[i], wanted=i != 4) for i in order]
    ours = harness.step(*slices)
    theirs = torch.stack([oracle_logits(checkpoint(name), ids[i])[-1] for i in order if i != 4])
    assert largest_error(ours, theirs) <= MAX_ERROR


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_prefix_blocks_serve_another_sequence(name: str, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    harness, (table, other) = open_engine(checkpoint(name)), shuffled_tables(2)
    shared, tail = random_ids(16), random_ids(7, seed=9)
    harness.logits_at_cuts(shared + random_ids(5, seed=8), (21,), table)
    reused = np.concatenate([table[:4], other])
    ours = harness.step(harness.slice_of(shared + tail, 16, 23, reused))
    theirs = oracle_logits(checkpoint(name), shared + tail)[-1:]
    assert largest_error(ours, theirs) <= MAX_ERROR


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_text_equals_transformers(name: str, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    harness, tables, prompt = open_engine(checkpoint(name)), shuffled_tables(1, num_blocks=24), random_ids(20, seed=3)
    oracle = load_oracle(checkpoint(name))
    oracle.generation_config.eos_token_id = None
    theirs = oracle.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 20), max_new_tokens=64, do_sample=False
    )
    ids = list(prompt)
    logits_1V = harness.step(harness.slice_of(ids, 0, 20, tables[0]))
    for _ in range(64):
        ids.append(int(logits_1V.argmax()))
        logits_1V = harness.step(harness.slice_of(ids, len(ids) - 1, len(ids), tables[0]))
    assert ids[20:] == theirs[0, 20:].tolist()


def test_decode_batch_of_very_different_lengths_is_grouped(
    checkpoint: Checkpoint, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With padding dear, decode rows fall into groups by length, and the logits stay the same."""
    monkeypatch.setattr("proa_workers.model.assemble.CHEAP_PADDED_ROWS", 8)
    harness, tables = open_engine(checkpoint("deepseek_v3")), shuffled_tables(4)
    lengths = (3, 60, 5, 7)
    ids = [random_ids(n, seed) for seed, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        harness.step(harness.slice_of(ids[i], 0, n - 1, tables[i]))
    ours = harness.step(*(harness.slice_of(ids[i], n - 1, n, tables[i]) for i, n in enumerate(lengths)))
    theirs = torch.stack([oracle_logits(checkpoint("deepseek_v3"), i)[-1] for i in ids])
    assert largest_error(ours, theirs) <= MAX_ERROR
