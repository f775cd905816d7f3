"""Is the engine right on this device? Small random models against the reference arms on the CPU in float32.

The same weights (rounded to the device's dtype) and the same steps (whole prompts, a chunk with a prefix, decodes of
unequal length, a mixed step) run on both sides; the measure is |out - ref| / |ref| per row of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow, SeqSlice, StepPlan
from proa_workers.engine.device_kv import DTYPES
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings, Placement
from proa_workers.model.arms import REFERENCE
from proa_workers.model.config import ModelConfig
from proa_workers.model.decoder import Decoder
from proa_workers.model.source import RandomWeights
from proa_workers.sampling.sampler import Drawn

from bench.serving.shapes import TINY, TINY_MLA

# Largest median error, and share of rows that may exceed five times that: near a tie, 16-bit routing differs.
LIMITS = {"float32": (1e-4, 0.0), "bfloat16": (2e-2, 0.15)}
Arm = tuple[Literal["float32", "bfloat16"], Literal["auto", "off"]]
# (sequence, tokens) of the slices of each step
STEPS = [
    [(0, 40), (1, 7), (2, 65)],
    [(0, 1), (1, 1), (2, 1), (3, 23), (4, 50)],
    [(0, 1), (1, 1), (2, 1), (4, 40)],
    *([(i, 1) for i in range(5)] for _ in range(3)),
    *([(0, 1), (2, 1), (3, 1), (4, 1)] for _ in range(3)),
]
BLOCK_TOKENS = 16


@dataclass(slots=True)
class KeepLogits:
    """Sampler that keeps all logits and answers token 0: the steps are forced."""

    logits: list[torch.Tensor] = field(default_factory=list)

    def launch(self, logits_RV: torch.Tensor, rows: Sequence[SampleRow], unread: Sequence[int] = ()) -> Drawn:
        self.logits.append(logits_RV.float().cpu())
        token_R1, table = logits_RV.new_zeros(len(rows), 1, dtype=torch.int64), torch.zeros(len(rows), 3)
        return Drawn(token_R1=token_R1, rows=tuple(rows), num_top=-1, table=table, is_copied=None)


class RoundedWeights:
    """Random weights drawn on the CPU and rounded to `rounded`, so that two devices can hold equal ones."""

    def __init__(self, *, rounded: torch.dtype, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._rounded = rounded
        self._drawn = RandomWeights(dtype=torch.float32, device=torch.device("cpu"), seed=5)

    def has(self, name: str) -> bool:
        return True

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._drawn.take(name, shape).to(self._rounded).to(device=self.device, dtype=dtype or self.dtype)


def check_device(device: str) -> list[dict[str, object]]:
    """One row per model, dtype and graph setting; AssertionError when an error is over its limit."""
    models = (("tiny", TINY), ("tiny-mla", TINY_MLA), ("tiny-dense", replace(TINY, is_sparse=(False,) * 2)))
    arms: tuple[Arm, ...] = (("float32", "off"), ("bfloat16", "off"), ("bfloat16", "auto"))
    rows = [compare(name, config, device, arm) for name, config in models for arm in arms]
    for row in rows:
        print("check", row, flush=True)
    bad = [row for row in rows if not row["ok"]]
    assert not bad, f"the engine is wrong on {device}: {bad}"
    return rows


def compare(name: str, config: ModelConfig, device: str, arm: Arm) -> dict[str, object]:
    """Logits of one arm beside float32 on the CPU: relative errors per position, within LIMITS of the dtype or not."""
    dtype = arm[0]
    theirs, _ = run(config, "cpu", ("float32", "off"), dtype, is_reference=True)
    ours, has_graphs = run(config, device, arm, dtype, is_reference=False)
    errors = ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).nan_to_num(nan=torch.inf)
    limit, share = LIMITS[dtype]
    middle, far = float(errors.median()), float((errors > 5 * limit).float().mean())
    return {
        "model": name,
        "dtype": dtype,
        "graphs": has_graphs,
        "median_error": middle,
        "largest_error": float(errors.max()),
        "share_of_far_rows": round(far, 3),
        "ok": middle <= limit and far <= share,
    }


def run(config: ModelConfig, device: str, arm: Arm, rounded: str, *, is_reference: bool) -> tuple[torch.Tensor, bool]:
    """Logits [rows, V] of all steps in the plan's order, and whether decode steps ran as graphs."""
    dtype, graphs = arm
    weights = RoundedWeights(rounded=DTYPES[rounded], dtype=DTYPES[dtype], device=torch.device(device))
    keep = KeepLogits()
    engine = NativeEngine(
        Decoder.load(config, weights, 128),
        NativeSettings(num_blocks=64, block_tokens=BLOCK_TOKENS, graphs=graphs),
        Placement(device=torch.device(device), dtype=dtype, max_model_len=128),
        model_path="check",
        identity="check",
        sampler=keep,
    )
    if is_reference:
        engine.arms = REFERENCE
    for plan in plans(config.vocab_size):
        engine.step(plan)
    engine.close()
    return torch.cat(keep.logits), engine.graphs is not None


def plans(vocab_size: int) -> list[StepPlan]:
    """Steps over five sequences; decode rows come first in each, so that both sides order rows alike."""
    random = np.random.default_rng(3)
    ids = random.integers(0, vocab_size, (5, 128)).tolist()
    tables = np.split(random.permutation(64)[:60].astype(np.int32), 5)
    row = SampleRow(params=SamplingParams(max_tokens=1), seed=0, prompt_ids=[], output_ids=[], eos_token_ids=())
    position = [0] * 5

    def piece(i: int, count: int) -> SeqSlice:
        start = position[i]
        position[i] += count
        return SeqSlice(seq_id=i, token_ids=ids[i][start : start + count], start=start, block_table=tables[i], row=row)

    return [StepPlan(step_id=0, slices=tuple(piece(i, count) for i, count in step)) for step in STEPS]
