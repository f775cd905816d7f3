"""Drives an engine without a scheduler: equal sequences, prefilled in chunks, then decoded together."""

from __future__ import annotations

import time

import numpy as np
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow, SeqSlice, StepPlan
from proa_workers.engine.base import Engine


class Sequences:
    """Sequences with fixed block tables in shuffled order; `prompts` are token ids of equal length."""

    def __init__(self, engine: Engine, prompts: list[list[int]], max_tokens: int) -> None:
        self.engine = engine
        self.prompts = prompts
        self.outputs: list[list[int]] = [[] for _ in prompts]
        num_blocks = -(-(len(prompts[0]) + max_tokens) // engine.kv.layout.block_tokens)
        shuffled = np.random.default_rng(0).permutation(len(prompts) * num_blocks).astype(np.int32)
        self._tables = np.split(shuffled, len(prompts))
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._rows = [
            SampleRow(params=params, seed=0, prompt_ids=p, output_ids=o, eos_token_ids=())
            for p, o in zip(prompts, self.outputs, strict=True)
        ]

    def prefill(self, chunk_tokens: int) -> None:
        """Whole prompts, as many per step as fit in `chunk_tokens` (at least one)."""
        per_step = max(1, chunk_tokens // len(self.prompts[0]))
        for first in range(0, len(self.prompts), per_step):
            members = range(first, min(first + per_step, len(self.prompts)))
            self._step([self._slice(i, self.prompts[i], 0) for i in members], list(members))

    def decode(self) -> float:
        """One token for every sequence; returns seconds."""
        start = time.perf_counter()
        everyone = list(range(len(self.prompts)))
        position = len(self.prompts[0]) + len(self.outputs[0]) - 1
        self._step([self._slice(i, self.outputs[i][-1:], position) for i in everyone], everyone)
        return time.perf_counter() - start

    def _slice(self, i: int, token_ids: list[int], start: int) -> SeqSlice:
        return SeqSlice(seq_id=i, token_ids=token_ids, start=start, block_table=self._tables[i], row=self._rows[i])

    def _step(self, slices: list[SeqSlice], members: list[int]) -> None:
        sampled = self.engine.step(StepPlan(step_id=0, slices=tuple(slices))).sampled
        for i, token in zip(members, sampled, strict=True):
            assert token is not None, "every slice asked for a token"
            self.outputs[i].append(token.token_id)
