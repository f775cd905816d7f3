"""Timed steps of an engine over batches and contexts, within a time budget."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from proa_workers.engine.base import Engine
from proa_workers.profile.drive import Sequences, TimedStep

DECODE_STEPS = 7
FIRST_CONTEXT, CONTEXT_FACTOR = 64, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a worker lets into one step."""

    max_num_seqs: int
    max_num_batched_tokens: int


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """`tokens` is what its sequences hold: points are measured from the cheapest on."""

    tokens: int
    batch: int
    context: int


def measure(engine: Engine, sizes: Sizes, seconds: float, tell: Callable[[Point], None]) -> list[TimedStep]:
    """Steps of every point that begins within `seconds`; the first point is run once before, unmeasured, as warm-up.

    Prefill steps are all kept, of the decode steps of a point the one of median length.
    """
    todo = list(points(engine, sizes))
    _steps(engine, sizes, todo[0])
    deadline = time.monotonic() + seconds
    steps: list[TimedStep] = []
    for point in todo:
        if time.monotonic() > deadline:
            break
        tell(point)
        steps += _steps(engine, sizes, point)
    return steps


def points(engine: Engine, sizes: Sizes) -> Iterator[Point]:
    """Batches in powers of two and contexts in powers of four that the KV pool and the model's length allow."""
    block = engine.kv.layout.block_tokens
    longest = engine.info.max_model_len - DECODE_STEPS - 1
    contexts: list[int] = []
    while (context := FIRST_CONTEXT * CONTEXT_FACTOR ** len(contexts)) <= longest:
        contexts.append(context)
    batches = [1 << k for k in range(sizes.max_num_seqs.bit_length())]
    found = [Point(batch * context, batch, context) for context in contexts or [longest] for batch in batches]
    return iter(
        sorted(p for p in found if p.batch * -(-(p.context + DECODE_STEPS + 1) // block) <= engine.kv.num_blocks)
    )


def _steps(engine: Engine, sizes: Sizes, point: Point) -> list[TimedStep]:
    draw = random.Random(point.tokens)
    prompts = [[draw.randrange(engine.info.vocab_size) for _ in range(point.context)] for _ in range(point.batch)]
    sequences = Sequences(engine, prompts, DECODE_STEPS + 1)
    prefills = sequences.prefill(sizes.max_num_batched_tokens)
    decodes = [sequences.decode() for _ in range(DECODE_STEPS)]
    typical = median(step.seconds for step in decodes)
    return [*prefills, next(step for step in decodes if step.seconds == typical)]
