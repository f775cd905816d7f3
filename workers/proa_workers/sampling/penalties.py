"""Penalties from token lists of the host: sparse, and fast where the logits are on the host too (else: history.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proa_workers.core.plan import SampleRow
from proa_workers.sampling.upload import place

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
_NO_PROMPT = np.zeros(0, dtype=np.int64)


class PromptArrays:
    """Prompts of the last step's rows as arrays: turning 1000 ids into one takes longer than all else for a row."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[list[int], I64]] = {}  # by id; holding the list keeps the id its own

    def take(self, rows: Sequence[SampleRow]) -> list[I64]:
        """Array of each row's prompt; prompts of rows that are not here are forgotten."""
        prompts = [row.prompt_ids for row in rows]
        self._held = {id(p): self._held.get(id(p)) or (p, np.array(p, dtype=np.int64)) for p in prompts}
        return [self._held[id(p)][1] for p in prompts]


class HostPenalties:
    """Lists each row's tokens anew at every step, and so must know them all."""

    def __init__(self) -> None:
        self._prompts = PromptArrays()

    def penalise(self, logits_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> None:
        """Changes logits [R, V] in place, as OpenAI and Hugging Face define penalties; others stay as they are."""
        seen = self._prompts.take([row for row in rows if row.params.repetition_penalty != 1.0])
        edits = []
        for r, row in enumerate(rows):
            if row.params.has_penalty:
                assert unread[r] == 0, "a penalty needs tokens that were not read"
                prompt = seen.pop(0) if row.params.repetition_penalty != 1.0 else _NO_PROMPT
                edits.append(_penalty_columns(r, row, prompt))
        edits = [e for e in edits if e.size]
        if not edits:
            return
        row_N, token_N, value_2N = place(np.concatenate(edits, axis=1), logits_RV)
        repetition_N, subtract_N = value_2N
        old_N = logits_RV[row_N, token_N]
        scaled_N = torch.where(old_N > 0, old_N / repetition_N, old_N * repetition_N)
        scaled_N.clamp_(max=torch.finfo(torch.float32).max)  # a tiny penalty must not make an infinite logit
        logits_RV[row_N, token_N] = scaled_N - subtract_N

    def count(self, rows: Sequence[SampleRow], token_R1: Tensor) -> None:
        """Nothing: `output_ids` will tell."""


def _penalty_columns(r: int, row: SampleRow, prompt: I64) -> F64:
    """Per token: (row, token, repetition penalty, amount to subtract); only repetition sees the prompt.

    Tokens that occur twice may come twice: their edits start from the same old logit and are equal.
    """
    params = row.params
    token_N = np.concatenate([prompt, np.array(row.output_ids, dtype=np.int64)])
    columns = np.zeros((4, len(token_N)))
    columns[0], columns[1], columns[2] = r, token_N, params.repetition_penalty
    if params.frequency_penalty or params.presence_penalty:
        _, inverse = np.unique(token_N, return_inverse=True)
        is_output = (np.arange(len(token_N)) >= len(prompt)).astype(np.float64)
        count_N = np.bincount(inverse, weights=is_output)[inverse]
        columns[3] = params.frequency_penalty * count_N + params.presence_penalty * (count_N > 0)
    return columns
