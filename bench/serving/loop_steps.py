"""Decode steps as the worker runs them: equal sequences through the production loop, scheduler and sampler."""

from __future__ import annotations

import threading
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
    """`seconds` from one decode step's tokens to the next one's; `outputs` are every sequence's token ids."""

    seconds: list[float]
    prefill_seconds: float
    steps_ahead: int
    outputs: list[list[int]]


def run_loop(engine: NativeEngine, prompts: list[list[int]], num_steps: int, *, temperature: float = 0.0) -> LoopRun:
    """`num_steps` intervals with all sequences decoding; AssertionError when the loop breaks or takes too long."""
    params = SamplingParams(max_tokens=num_steps + EXTRA_TOKENS, temperature=temperature, ignore_eos=True)
    rows = [
        SampleRow(params=params, seed=i, prompt_ids=p, output_ids=[], eos_token_ids=()) for i, p in enumerate(prompts)
    ]
    limits = Limits(
        max_num_seqs=len(rows),
        max_num_batched_tokens=PREFILL_CHUNK,
        max_model_len=len(prompts[0]) + params.max_tokens + 1,
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
    loop.submit([Sequence(seq_id=i, request_id=str(i), row=row) for i, row in enumerate(rows)]).result(TIMEOUT_SECONDS)
    is_done = is_over.wait(TIMEOUT_SECONDS)
    loop.stop(TIMEOUT_SECONDS)
    assert is_done, f"no end within {TIMEOUT_SECONDS} s"
    assert not reports[-1].failure, reports[-1].failure
    whole = [r.time for r in reports if r.num_step_tokens == len(rows)]
    return LoopRun(
        seconds=[later - earlier for earlier, later in pairwise(whole)][:num_steps],
        prefill_seconds=reports[0].step_seconds,
        steps_ahead=loop.load.steps_ahead_total,
        outputs=[row.output_ids for row in rows],
    )
