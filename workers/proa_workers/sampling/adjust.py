"""What a request changes in its logits before a token is chosen: bias, penalties, forbidden tokens, grammar.

Edits that name tokens (all but the grammar) are gathered on the host and applied as a few sparse writes.
Order as in vLLM (`v1/sample/sampler.py`): logit bias, repetition penalty, frequency and presence penalty; what is
forbidden stays so whatever the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proa_workers.core.plan import GrammarState, SampleRow

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


def adjust_logits(logits_RV: Tensor, rows: Sequence[SampleRow], prompts: PromptArrays, num_unread: int = 0) -> Tensor:
    """Logits after all edits: the same tensor when no row asks for any, else a changed copy in float32.

    `num_unread` tokens follow `output_ids` that nobody has read yet: no row may need them (`SampleRow.needs_history`).
    """
    if not any(_wants_edits(row, num_unread) for row in rows):
        return logits_RV
    edited_RV = logits_RV.to(torch.float32, copy=True)
    _add_bias(edited_RV, rows)
    _penalise(edited_RV, rows, prompts)
    _forbid_ends(edited_RV, rows, num_unread)
    _apply_grammars(edited_RV, rows)
    return edited_RV


def upload(host: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy to the device without waiting for it: pageable memory would make the copy synchronous."""
    tensor = torch.from_numpy(host)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _wants_edits(row: SampleRow, num_unread: int) -> bool:
    is_short = len(row.output_ids) + num_unread < row.params.min_tokens
    assert not (num_unread and row.needs_history), "a penalty or grammar before the tokens it depends on"
    return is_short or bool(row.params.logit_bias) or row.needs_history


def _place(columns: F64, logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Device copies of (row index, token id, further columns) from a host array of shape columns x edits."""
    assert columns[1].min() >= 0, f"token id {columns[1].min()} in an edit"
    assert columns[1].max() < logits_RV.shape[1], f"token id {columns[1].max()} of {logits_RV.shape[1]} in an edit"
    placed = upload(columns, logits_RV.device)
    return placed[0].long(), placed[1].long(), placed[2:].float()


def _add_bias(logits_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    edits = [(r, token, bias) for r, row in enumerate(rows) for token, bias in row.params.logit_bias]
    if edits:
        row_N, token_N, value_1N = _place(np.array(edits, dtype=np.float64).T.copy(), logits_RV)
        logits_RV.index_put_((row_N, token_N), value_1N[0], accumulate=True)


def _penalise(logits_RV: Tensor, rows: Sequence[SampleRow], prompts: PromptArrays) -> None:
    seen = prompts.take([row for row in rows if row.params.repetition_penalty != 1.0])
    edits = []
    for r, row in enumerate(rows):
        if row.params.has_penalty:
            prompt = seen.pop(0) if row.params.repetition_penalty != 1.0 else _NO_PROMPT
            edits.append(_penalty_columns(r, row, prompt))
    edits = [e for e in edits if e.size]
    if not edits:
        return
    row_N, token_N, value_2N = _place(np.concatenate(edits, axis=1), logits_RV)
    repetition_N, subtract_N = value_2N
    old_N = logits_RV[row_N, token_N]
    scaled_N = torch.where(old_N > 0, old_N / repetition_N, old_N * repetition_N)
    scaled_N.clamp_(max=torch.finfo(torch.float32).max)  # a tiny repetition penalty must not make an infinite logit
    logits_RV[row_N, token_N] = scaled_N - subtract_N


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


def _banned(row: SampleRow, num_unread: int = 0) -> tuple[int, ...]:
    """Tokens that would end the output before min_tokens."""
    if len(row.output_ids) + num_unread >= row.params.min_tokens:
        return ()
    return (*row.eos_token_ids, *row.params.stop_token_ids)


def _forbid_ends(logits_RV: Tensor, rows: Sequence[SampleRow], num_unread: int) -> None:
    edits = [(r, token) for r, row in enumerate(rows) if row.grammar is None for token in _banned(row, num_unread)]
    if edits:
        row_N, token_N, _ = _place(np.array(edits, dtype=np.float64).T.copy(), logits_RV)
        # NOTE: assigning a Python number would copy it from the host and wait for the device.
        logits_RV.index_put_((row_N, token_N), torch.full_like(logits_RV[:1, 0], -math.inf))


def _apply_grammars(logits_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    words = -(-logits_RV.shape[1] // 32)
    mask_RW = np.full((len(rows), words), -1, dtype=np.int32)
    limited = [r for r, row in enumerate(rows) if row.grammar is not None and _fill_mask(row.grammar, row, mask_RW[r])]
    if not limited:
        return
    byte_GK = upload(mask_RW[limited].view(np.uint8), logits_RV.device)
    shift_8 = torch.arange(8, dtype=torch.uint8, device=logits_RV.device)
    is_allowed_GV = ((byte_GK[:, :, None] >> shift_8) & 1).view(len(limited), -1)[:, : logits_RV.shape[1]]
    row_G = upload(np.array(limited, dtype=np.int64), logits_RV.device)
    logits_RV[row_G] = logits_RV[row_G].masked_fill(is_allowed_GV == 0, -math.inf)


def _fill_mask(grammar: GrammarState, row: SampleRow, words: npt.NDArray[np.int32]) -> bool:
    """The grammar's mask without the banned tokens, unless it allows only these: then it goes before min_tokens."""
    is_limited = grammar.fill_mask(words)
    if not is_limited:
        words.fill(-1)
    banned = _banned(row)
    without = words.copy()
    for token in banned:
        without.view(np.uint32)[token // 32] &= ~np.uint32(1 << token % 32)
    if without.any():
        words[:] = without
    return is_limited or bool(banned)
