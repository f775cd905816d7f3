"""Do steps launched ahead sample what synchronous steps sample, on this device? The worker's loop over small models.

Requests are greedy or seeded, and end by length or by stop tokens, so that batches shrink while steps are on their way.
Both runs compute the same rows, but where a step ran for nothing the batch is larger: in bfloat16 a near tie may then
fall the other way. In float32 no token may differ, in bfloat16 few outputs may.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from proa_workers.core.params import SamplingParams
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings

from bench.serving.loop_steps import LoopRun, run_loop
from bench.serving.shapes import TINY, TINY_MLA

NUM_REQUESTS = 24
# Share of outputs that may differ.
LIMITS: dict[Literal["float32", "bfloat16"], float] = {"float32": 0.0, "bfloat16": 0.15}


def check_ahead(device: str) -> list[dict[str, object]]:
    """One row per model and dtype; AssertionError when outputs differ that must not, or nothing ran ahead."""
    rows: list[dict[str, object]] = []
    for name, config in (("tiny", TINY), ("tiny-mla", replace(TINY_MLA, eos_token_ids=()))):
        for dtype, limit in LIMITS.items():
            settings = NativeSettings(
                device="cuda" if device == "cuda" else "cpu",
                dtype=dtype,
                num_blocks=256,
                block_tokens=16,
                max_model_len=128,
                look_ahead="on",
            )
            engine = NativeEngine.with_random_weights(config, settings)
            ahead, twin = run_both(engine, *requests(config.vocab_size))
            engine.close()
            differ = sum(a != b for a, b in zip(ahead.outputs, twin.outputs, strict=True))
            rows.append({"model": name, "dtype": dtype, "differ": differ, "steps_ahead": ahead.steps_ahead})
            print("ahead", rows[-1], flush=True)
            assert differ <= limit * NUM_REQUESTS, f"steps launched ahead sample other tokens: {rows[-1]}"
            assert ahead.steps_ahead > 0 == twin.steps_ahead, f"no step ran ahead: {rows[-1]}"
    return rows


def requests(vocab_size: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts of 20 random tokens, and parameters that mix greedy and sampled rows, penalties, logprobs and stops."""
    generator = torch.Generator().manual_seed(1)
    prompts: list[list[int]] = torch.randint(0, vocab_size, (NUM_REQUESTS, 20), generator=generator).tolist()
    stops = tuple(range(0, vocab_size, 40))
    params = [
        SamplingParams(
            max_tokens=2 + 3 * i % 50,
            temperature=(0.0, 0.8)[i % 2],
            top_p=(1.0, 0.9)[i % 4 // 2],
            logprobs=(None, 2)[i % 3 == 0],
            frequency_penalty=(0.0, 0.4)[i % 6 == 0],
            stop_token_ids=stops if i % 5 else (),
        )
        for i in range(NUM_REQUESTS)
    ]
    return prompts, params


def run_both(engine: NativeEngine, prompts: list[list[int]], params: list[SamplingParams]) -> tuple[LoopRun, LoopRun]:
    """The loop as the engine is set, and with every step waiting for the host."""
    run = run_loop(engine, prompts, params)
    with synchronous(engine):
        return run, run_loop(engine, prompts, params)


@contextmanager
def synchronous(engine: NativeEngine) -> Iterator[None]:
    """Every step waits for the host."""
    was, engine.looks_ahead = engine.looks_ahead, False
    try:
        yield
    finally:
        engine.looks_ahead = was
