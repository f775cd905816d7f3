"""Drives an engine without a scheduler: equal sequences, prefilled in chunks, then decoded together.

Where the engine looks ahead, so does this, as the engine loop would: a decode step is timed from one step's tokens to
the next one's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow, SeqSlice, StepPlan, unread
from proa_workers.engine.base import Engine, Flight, LookAheadEngine
from proa_workers.engine.flight import Landed
from proa_workers.sim.cost import attended_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedStep:
    """Content of one step, as in `CostModel.step_seconds`, and how long it took."""

    prefill_tokens: int = 0
    prefill_pairs: int = 0
    decode_seqs: int = 0
    decode_context: int = 0
    seconds: float


class Sequences:
    """Sequences with fixed block tables in shuffled order; `prompts` are token ids of equal length."""

    def __init__(self, engine: Engine, prompts: list[list[int]], max_tokens: int) -> None:
        self.engine = engine
        self.prompts = prompts
        self.outputs: list[list[int]] = [[] for _ in prompts]
        self._max_tokens = max_tokens
        self._looking = engine if isinstance(engine, LookAheadEngine) and engine.looks_ahead else None
        self._next: Flight | None = None  # a decode step that was launched and not read
        num_blocks = -(-(len(prompts[0]) + max_tokens) // engine.kv.layout.block_tokens)
        shuffled = np.random.default_rng(0).permutation(len(prompts) * num_blocks).astype(np.int32)
        self._tables = np.split(shuffled, len(prompts))
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._rows = [
            SampleRow(params=params, seed=0, prompt_ids=p, output_ids=o, eos_token_ids=())
            for p, o in zip(prompts, self.outputs, strict=True)
        ]

    def prefill(self, chunk_tokens: int) -> list[TimedStep]:
        """Prompts in steps of at most `chunk_tokens`: several short ones together, a long one in pieces."""
        return [self._timed_prefill(pieces) for pieces in self._chunks(chunk_tokens)]

    def decode(self) -> TimedStep:
        """One token for every sequence; the median of several calls is a step's time, the first and last are not."""
        start = time.perf_counter()
        num_seqs, length = len(self.prompts), len(self.prompts[0]) + len(self.outputs[0])
        flight = self._next or self._launch([output[-1:] for output in self.outputs], length - 1, None)
        has_more = self._looking is not None and len(self.outputs[0]) + 2 <= self._max_tokens
        self._next = self._launch([[unread(i)] for i in range(num_seqs)], length, flight) if has_more else None
        self._take(flight)
        seconds = time.perf_counter() - start
        return TimedStep(decode_seqs=num_seqs, decode_context=num_seqs * length, seconds=seconds)

    def _chunks(self, chunk_tokens: int) -> Iterator[list[tuple[int, int, int]]]:
        """Lists of (sequence, start, end)."""
        length = len(self.prompts[0])
        per_step = max(1, chunk_tokens // length)
        for first in range(0, len(self.prompts), per_step):
            members = range(first, min(first + per_step, len(self.prompts)))
            for start in range(0, length, chunk_tokens):
                yield [(i, start, min(start + chunk_tokens, length)) for i in members]

    def _timed_prefill(self, pieces: list[tuple[int, int, int]]) -> TimedStep:
        seconds = self._step([self._slice(i, self.prompts[i][start:end], start) for i, start, end in pieces])
        return TimedStep(
            prefill_tokens=sum(end - start for _, start, end in pieces),
            prefill_pairs=sum(attended_pairs(start, end - start) for _, start, end in pieces),
            seconds=seconds,
        )

    def _slice(self, i: int, token_ids: list[int], start: int) -> SeqSlice:
        """A piece that ends before its prompt does samples nothing."""
        row = self._rows[i] if start + len(token_ids) >= len(self.prompts[i]) else None
        return SeqSlice(seq_id=i, token_ids=token_ids, start=start, block_table=self._tables[i], row=row)

    def _launch(self, tokens: list[list[int]], position: int, before: Flight | None) -> Flight:
        """A decode step of every sequence; with `before`, from tokens that are still on the device."""
        slices = tuple(self._slice(i, token_ids, position) for i, token_ids in enumerate(tokens))
        plan = StepPlan(step_id=0, slices=slices)
        if self._looking is None:
            return Landed(plan=plan, output=self.engine.step(plan))
        return self._looking.launch(plan, before)

    def _step(self, slices: list[SeqSlice]) -> float:
        start = time.perf_counter()
        plan = StepPlan(step_id=0, slices=tuple(slices))
        self._take(Landed(plan=plan, output=self.engine.step(plan)))
        return time.perf_counter() - start

    def _take(self, flight: Flight) -> None:
        """Wait for a step's tokens and append them."""
        for piece, token in zip(flight.plan.slices, flight.read().sampled, strict=True):
            if piece.row is not None:
                assert token is not None, "every slice with a row asks for a token"
                self.outputs[piece.seq_id].append(token.token_id)
