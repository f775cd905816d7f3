"""What a request changes in its logits before a token is chosen: bias, penalties, forbidden tokens, grammar.

Edits that name tokens (all but the grammar) are gathered on the host and applied as a few sparse writes.
Order as in vLLM (`v1/sample/sampler.py`): logit bias, repetition penalty, frequency and presence penalty; what is
forbidden stays so whatever the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proa_workers.core.plan import GrammarState, SampleRow
from proa_workers.sampling.upload import place, upload


class Penalties(Protocol):
    """Repetition, frequency and presence penalties of rows that have any (`penalties.py`, `history.py`)."""

    def penalise(self, logits_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> None:
        """Change the logits in place; `unread[r]` tokens follow row r's `output_ids` that the host has not read.

        Whatever was kept of rows that are not among these is forgotten.
        """

    def count(self, rows: Sequence[SampleRow], token_R1: Tensor) -> None:
        """Take note of what was drawn."""


def adjust_logits(logits_RV: Tensor, rows: Sequence[SampleRow], penalties: Penalties, unread: Sequence[int]) -> Tensor:
    """Logits after all edits: the same tensor when no row asks for any, else a changed copy in float32.

    `unread[r]` tokens follow row r's `output_ids` that nobody has read yet: it may not need them (`needs_tokens`).
    """
    if not any(_wants_edits(row, n) for row, n in zip(rows, unread, strict=True)):
        penalties.penalise(logits_RV, rows, unread)  # changes nothing, and forgets rows that are gone
        return logits_RV
    edited_RV = logits_RV.to(torch.float32, copy=True)
    _add_bias(edited_RV, rows)
    penalties.penalise(edited_RV, rows, unread)
    _forbid_ends(edited_RV, rows, unread)
    _apply_grammars(edited_RV, rows)
    return edited_RV


def _wants_edits(row: SampleRow, num_unread: int) -> bool:
    is_short = len(row.output_ids) + num_unread < row.params.min_tokens
    assert not (num_unread and row.needs_tokens), "a grammar before the tokens it depends on"
    return is_short or bool(row.params.logit_bias) or row.params.has_penalty or row.grammar is not None


def _add_bias(logits_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    edits = [(r, token, bias) for r, row in enumerate(rows) for token, bias in row.params.logit_bias]
    if edits:
        row_N, token_N, value_1N = place(np.array(edits, dtype=np.float64).T.copy(), logits_RV)
        logits_RV.index_put_((row_N, token_N), value_1N[0], accumulate=True)


def _banned(row: SampleRow, num_unread: int = 0) -> tuple[int, ...]:
    """Tokens that would end the output before min_tokens."""
    if len(row.output_ids) + num_unread >= row.params.min_tokens:
        return ()
    return (*row.eos_token_ids, *row.params.stop_token_ids)


def _forbid_ends(logits_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> None:
    free = [(r, row) for r, row in enumerate(rows) if row.grammar is None]
    edits = [(r, token) for r, row in free for token in _banned(row, unread[r])]
    if edits:
        row_N, token_N, _ = place(np.array(edits, dtype=np.float64).T.copy(), logits_RV)
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
