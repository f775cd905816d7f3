"""Decode steps as the worker runs them: equal sequences through the production loop, scheduler and sampler."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise

from proa_workers.core.block_pool import BlockPool
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.engine.native import NativeEngine

TIMEOUT_SECONDS = 300.0
PREFILL_CHUNK = 4096
# Sequences that are prefilled first decode a little earlier than the last ones.
EXTRA_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRun:
    """`seconds` from the tokens of one decode step of all sequences to the next one's; `total_seconds` of all.

    `outputs` are token ids.
    """

    seconds: list[float]
    total_seconds: float
    steps_ahead: int
    outputs: list[list[int]]


def greedy(num_steps: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_steps + EXTRA_TOKENS, temperature=0.0, ignore_eos=True)


def run_loop(
    engine: NativeEngine,
    prompts: list[list[int]],
    params: list[SamplingParams],
    chunk_tokens: int = PREFILL_CHUNK,
) -> LoopRun:
    """All prompts at once, to their ends; AssertionError when the loop breaks or takes too long."""
    rows = [
        SampleRow(params=p, seed=i, prompt_ids=prompt, output_ids=[], eos_token_ids=())
        for i, (prompt, p) in enumerate(zip(prompts, params, strict=True))
    ]
    limits = Limits(
        max_num_seqs=len(rows),
        max_num_batched_tokens=chunk_tokens,
        max_model_len=len(prompts[0]) + max(p.max_tokens for p in params) + 1,
        max_num_waiting=len(rows),
    )
    pool = BlockPool(engine.kv.num_blocks, engine.kv.layout.block_tokens, has_prefix_cache=False)
    reports: list[Report] = []
    is_over = threading.Event()

    def on_report(report: Report) -> None:
        reports.append(report)
        if report.failure or scheduler.is_idle:
            is_over.set()

    scheduler = Scheduler(pool, limits)
    loop = EngineLoop(engine, scheduler, on_report)
    loop.start()
    started = time.monotonic()
    loop.submit([Sequence(seq_id=i, request_id=str(i), row=row) for i, row in enumerate(rows)]).result(TIMEOUT_SECONDS)
    is_done = is_over.wait(TIMEOUT_SECONDS)
    loop.stop(TIMEOUT_SECONDS)
    assert is_done, f"no end within {TIMEOUT_SECONDS} s"
    assert not reports[-1].failure, reports[-1].failure
    whole = [r.time for r in reports if r.num_step_tokens == len(rows)]
    return LoopRun(
        seconds=[later - earlier for earlier, later in pairwise(whole)],
        total_seconds=reports[-1].time - started,
        steps_ahead=loop.load.steps_ahead_total,
        outputs=[row.output_ids for row in rows],
    )
