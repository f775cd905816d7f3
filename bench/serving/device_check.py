"""Is the engine right on this device? Small random models against the reference arms on the CPU in float32.

The same weights (rounded to the device's dtype) and the same steps (whole prompts, a chunk with a prefix, decodes of
unequal length, a mixed step) run on both sides; the measure is |out - ref| / |ref| per row of logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

import numpy as np
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, SeqSlice, StepPlan
from proa_workers.engine.native import DTYPES, NativeEngine, NativeSettings, allocate_pool, choose_arms
from proa_workers.model.arms import REFERENCE, Arms
from proa_workers.model.config import ModelConfig
from proa_workers.model.decoder import Decoder
from proa_workers.model.source import RandomWeights

from bench.serving.shapes import TINY, TINY_MLA

# Largest median and largest single error. 16-bit routing may pick another expert for a few tokens near a tie.
LIMITS = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 0.2)}
LENGTHS = (40, 7, 65, 23, 90)
BLOCK_TOKENS = 16


@dataclass(slots=True)
class KeepLogits:
    """Sampler that keeps all logits and answers token 0: the steps are forced."""

    logits: list[torch.Tensor] = field(default_factory=list)

    def sample(self, logits_RV: torch.Tensor, rows: list[SampleRow]) -> list[Sampled]:
        self.logits.append(logits_RV.float().cpu())
        return [Sampled(token_id=0)] * len(rows)


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
    """One row per model and dtype; AssertionError when an error is over its limit."""
    rows = [
        compare(name, config, device, dtype)
        for name, config in (
            ("tiny", TINY),
            ("tiny-mla", TINY_MLA),
            ("tiny-dense", replace(TINY, is_sparse=(False,) * 2)),
        )
        for dtype in ("float32", "bfloat16")
    ]
    for row in rows:
        print(f"check {row['model']:<11} {row['dtype']:<9} {row['arms']:<28} {row['median']:.1e} {row['largest']:.1e}")
    bad = [row for row in rows if not row["ok"]]
    assert not bad, f"the engine is wrong on {device}: {bad}"
    return rows


def compare(name: str, config: ModelConfig, device: str, dtype: Literal["float32", "bfloat16"]) -> dict[str, object]:
    arms = choose_arms(torch.device(device))
    theirs = run(config, "cpu", "float32", dtype, REFERENCE)
    ours = run(config, device, dtype, dtype, arms)
    errors = ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).nan_to_num(nan=torch.inf).tolist()
    middle, largest = median(errors), max(errors)
    limits = LIMITS[dtype]
    return {
        "model": name,
        "dtype": dtype,
        "arms": f"{arms.attention}/{arms.experts}",
        "median": middle,
        "largest": largest,
        "ok": middle <= limits[0] and largest <= limits[1],
    }


def run(
    config: ModelConfig, device: str, dtype: Literal["float32", "bfloat16"], rounded: str, arms: Arms
) -> torch.Tensor:
    """Logits [rows, V] of all steps, in the plan's order."""
    weights = RoundedWeights(rounded=DTYPES[rounded], dtype=DTYPES[dtype], device=torch.device(device))
    keep = KeepLogits()
    settings = NativeSettings(device="cpu", num_blocks=64, block_tokens=BLOCK_TOKENS, max_model_len=128)
    engine = NativeEngine.with_random_weights(config, settings, sampler=keep)
    decoder = Decoder.load(config, weights, 128)
    layout = config.kv_layout(dtype=dtype, block_tokens=BLOCK_TOKENS, identity="check")
    kv, pool = allocate_pool(layout, 64, torch.device(device))
    engine.close()
    engine = NativeEngine(engine.info, decoder, kv, pool, keep, arms)
    for plan in plans(config.vocab_size):
        engine.step(plan)
    engine.close()
    return torch.cat(keep.logits)


def plans(vocab_size: int) -> list[StepPlan]:
    """Steps over five sequences; decode rows come first in each, so that both sides order rows alike."""
    random = np.random.default_rng(3)
    ids = [random.integers(0, vocab_size, n + 4).tolist() for n in LENGTHS]
    tables = np.split(random.permutation(64)[:60].astype(np.int32), 5)
    row = SampleRow(params=SamplingParams(max_tokens=1), seed=0, prompt_ids=[], output_ids=[], eos_token_ids=())

    def piece(i: int, start: int, end: int) -> SeqSlice:
        return SeqSlice(seq_id=i, token_ids=ids[i][start:end], start=start, block_table=tables[i], row=row)

    steps = [
        [piece(i, 0, n) for i, n in enumerate(LENGTHS[:3])],
        [*(piece(i, LENGTHS[i], LENGTHS[i] + 1) for i in range(3)), piece(3, 0, 23), piece(4, 0, 50)],
        [*(piece(i, LENGTHS[i] + 1, LENGTHS[i] + 2) for i in range(3)), piece(4, 50, 90)],
        [piece(i, n + (2 if i < 3 else 0), n + (3 if i < 3 else 1)) for i, n in enumerate(LENGTHS)],
    ]
    return [StepPlan(step_id=i, slices=tuple(slices)) for i, slices in enumerate(steps)]
