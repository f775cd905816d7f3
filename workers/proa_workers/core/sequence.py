"""One output of one request on its way through the scheduler."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from proa_workers.core.block_pool import ROOT_HASH, chain_hash
from proa_workers.core.plan import SampleRow


class Phase(Enum):
    """WAITING -> (FETCHING ->) RUNNING -> FINISHED; a preempted sequence goes back to WAITING."""

    WAITING = "waiting"
    FETCHING = "fetching"  # owns blocks that a transfer is writing
    RUNNING = "running"
    FINISHED = "finished"


class StopCheck(Protocol):
    """Finds stop strings in what the tokens spell."""

    def append(self, token_id: int) -> str | None:
        """Take one more token; the stop string that is now complete, if any."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`num_computed` KV rows of [prompt | output] are valid in `block_ids`; the scheduler alone changes it.

    Steps on their way compute `num_flying` rows more and sample `num_unread` tokens (0 or 1, or 2 for a moment).
    `is_hand_off`: compute the prompt without its last token, sample nothing, leave the blocks to a lease; the reader
    computes the last token itself and samples from it. `num_remote_tokens` > 0: that many rows come from a peer.
    `leader`: a sibling (n > 1) whose prompt must be computed first, so that this one finds it in the prefix cache.
    """

    seq_id: int
    request_id: str
    row: SampleRow
    index: int = 0
    is_hand_off: bool = False
    num_remote_tokens: int = 0
    stop: StopCheck | None = None
    leader: Sequence | None = None
    phase: Phase = Phase.WAITING
    num_computed: int = 0
    num_flying: int = 0
    num_unread: int = 0
    num_cached: int = 0  # prompt tokens found in the local prefix cache
    num_fetched: int = 0  # prompt tokens whose rows came from a peer
    num_preemptions: int = 0
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_published: int = 0
    arrived_at: float = 0.0  # seconds on the engine loop's clock; 0 = not yet
    scheduled_at: float = 0.0
    _table: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(8, np.int32))

    @property
    def num_prompt(self) -> int:
        return len(self.row.prompt_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.row.prompt_ids) + len(self.row.output_ids)

    @property
    def num_target(self) -> int:
        """Tokens whose KV rows must exist before the sequence can sample or be handed off."""
        return self.num_prompt - 1 if self.is_hand_off else self.num_tokens

    @property
    def num_pending(self) -> int:
        """Rows that no step computes yet."""
        return self.num_target + self.num_unread - self.num_computed - self.num_flying

    @property
    def block_table(self) -> npt.NDArray[np.int32]:
        return self._table[: len(self.block_ids)]

    def tokens(self, start: int, end: int) -> list[int]:
        """Token ids at positions start .. end-1 of [prompt | output]."""
        prompt, output, cut = self.row.prompt_ids, self.row.output_ids, self.num_prompt
        if end <= cut:
            return prompt[start:end]
        return prompt[start:cut] + output[max(start - cut, 0) : end - cut]

    def append_blocks(self, blocks: Seq[int]) -> None:
        first = len(self.block_ids)
        self.block_ids.extend(blocks)
        while len(self._table) < len(self.block_ids):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[first : len(self.block_ids)] = blocks

    def drop_blocks(self) -> list[int]:
        """Give up all blocks and everything computed in them."""
        blocks, self.block_ids = self.block_ids, []
        self.num_computed = self.num_published = 0
        return blocks

    def hash_blocks(self, num_tokens: int, block_tokens: int) -> list[bytes]:
        """Chained hashes of the full blocks within the first `num_tokens` tokens (kept, so each is hashed once)."""
        for first in range(len(self.block_hashes) * block_tokens, num_tokens - block_tokens + 1, block_tokens):
            parent = self.block_hashes[-1] if self.block_hashes else ROOT_HASH
            self.block_hashes.append(chain_hash(parent, self.tokens(first, first + block_tokens)))
        return self.block_hashes[: num_tokens // block_tokens]
