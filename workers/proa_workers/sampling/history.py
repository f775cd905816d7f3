"""Which tokens each sequence has seen, kept on the device: penalties without a list of tokens sent at each step.

Sizes: P rows with a penalty, V vocabulary, S slots. `table_SV` int32 counts a token in the output of a slot's sequence;
IN_PROMPT is added where the prompt has it. A sequence gets a slot when it first draws with a penalty and keeps it while
it draws; when nobody draws with a penalty, the table is given back. Drawn tokens are counted on the device, so that a
step may begin before the host has read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proa_workers.core.plan import SampleRow
from proa_workers.sampling.upload import upload

IN_PROMPT = 1 << 24
FIRST_SLOTS = 16
# Penalised at once: bounds the scratch memory.
BLOCK_LOGITS = 2**24


@dataclass(slots=True, kw_only=True)
class Slot:
    """`num_output` tokens of the output are counted. NOTE: holding `row` keeps its id, the key, its own."""

    row: SampleRow
    index: int
    num_output: int


class TokenHistory:
    """Penalties of sequences that are sampled step by step by one sampler; nothing here waits for the device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._held: dict[int, Slot] = {}
        self._free: list[int] = []
        self._table_SV = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)

    def penalise(self, logits_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> None:
        """Repetition, then frequency and presence penalties, in place; prompts count for repetition alone.

        AssertionError when the `unread` tokens of a row were not drawn here: nobody could know them.
        """
        chosen = [r for r, row in enumerate(rows) if row.params.has_penalty]
        if not chosen:
            self._keep(set())
            return
        self._keep({id(rows[r]) for r in chosen})
        slots = [self._slot(rows[r], unread[r]).index for r in chosen]
        size = max(BLOCK_LOGITS // logits_RV.shape[1], 1)
        for i in range(0, len(chosen), size):
            part = chosen[i : i + size]
            self._penalise(logits_RV, part, slots[i : i + size], [rows[r] for r in part])

    def count(self, rows: Sequence[SampleRow], token_R1: Tensor) -> None:
        """Note the tokens that were drawn for rows that `penalise` was just called with."""
        chosen = [r for r, row in enumerate(rows) if row.params.has_penalty]
        if not chosen:
            return
        slots = [self._held[id(rows[r])] for r in chosen]
        index_2P = upload(np.array([chosen, [slot.index for slot in slots]], dtype=np.int64), token_R1.device)
        token_P = token_R1[:, 0].index_select(0, index_2P[0])
        flat_P = index_2P[1] * self._table_SV.shape[1] + token_P
        self._table_SV.view(-1).scatter_add_(0, flat_P, torch.ones_like(flat_P, dtype=torch.int32))
        for slot in slots:
            slot.num_output += 1

    def _penalise(self, logits_RV: Tensor, chosen: list[int], slots: list[int], rows: list[SampleRow]) -> None:
        index_2P = upload(np.array([chosen, slots], dtype=np.int64), logits_RV.device)
        params = [row.params for row in rows]
        settings = [(p.repetition_penalty, p.frequency_penalty, p.presence_penalty) for p in params]
        penalty_3P1 = upload(np.array(settings, dtype=np.float32).T[:, :, None].copy(), logits_RV.device)
        repetition_P1, frequency_P1, presence_P1 = penalty_3P1
        seen_PV = self._table_SV.index_select(0, index_2P[1])
        old_PV = logits_RV.index_select(0, index_2P[0])
        scaled_PV = torch.where(old_PV > 0, old_PV / repetition_P1, old_PV * repetition_P1)
        scaled_PV.clamp_(max=torch.finfo(torch.float32).max)  # a tiny penalty must not make an infinite logit
        new_PV = torch.where(seen_PV != 0, scaled_PV, old_PV)
        seen_PV.bitwise_and_(IN_PROMPT - 1)
        new_PV.sub_(seen_PV * frequency_P1 + (seen_PV > 0) * presence_P1)
        logits_RV.index_copy_(0, index_2P[0], new_PV)

    def _slot(self, row: SampleRow, num_unread: int) -> Slot:
        """The slot that has counted all tokens of `row`."""
        slot = self._held.get(id(row))
        if slot is not None and slot.num_output == len(row.output_ids) + num_unread:
            return slot
        assert num_unread == 0, "a penalty needs tokens that were drawn elsewhere and not read"
        if slot is None:
            slot = self._held[id(row)] = Slot(row=row, index=self._take(), num_output=0)
        self._fill(slot)
        return slot

    def _fill(self, slot: Slot) -> None:
        row, seen_V = slot.row, self._table_SV[slot.index]
        counted = row.prompt_ids if row.params.repetition_penalty != 1.0 else []
        prompt = np.unique(np.array(counted, dtype=np.int64))
        token_N = np.concatenate([np.array(row.output_ids, dtype=np.int64), prompt])
        amount_N = np.where(np.arange(len(token_N)) < len(row.output_ids), 1, IN_PROMPT)
        placed_2N = upload(np.stack([token_N, amount_N]), seen_V.device)
        seen_V.zero_().scatter_add_(0, placed_2N[0], placed_2N[1].int())
        slot.num_output = len(row.output_ids)

    def _take(self) -> int:
        if not self._free:
            num_slots, vocab_size = self._table_SV.shape
            num_more = max(num_slots, FIRST_SLOTS)
            self._table_SV = torch.cat([self._table_SV, self._table_SV.new_zeros(num_more, vocab_size)])
            self._free = list(range(num_slots, num_slots + num_more))
        return self._free.pop()

    def _keep(self, keys: set[int]) -> None:
        for key in self._held.keys() - keys:
            self._free.append(self._held.pop(key).index)
        if not self._held and self._free:
            self._free, self._table_SV = [], self._table_SV.new_zeros(0, self._table_SV.shape[1])
