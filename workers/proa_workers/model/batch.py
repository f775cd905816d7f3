"""A StepPlan as index tensors: what every layer of one forward shares (built by assemble.py).

Token order: all decode rows (slices of one token) grouped by context length, then the prefill chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from proa_workers.model.paged import PagedKv


# Not slotted, here and below: index tensors that only some arms read are made when first asked for, once per step.
@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """Decode rows from `start`; row b attends to the first lengths[b] tokens in the blocks `table_BN[b]`.

    `is_padded`: lengths are upper bounds, and only `positions_B` (each row's own position) tells where a row ends.
    """

    start: int
    lengths: tuple[int, ...]
    is_padded: bool
    table_BN: torch.Tensor
    positions_B: torch.Tensor
    kv: PagedKv

    @cached_property
    def device_lengths(self) -> torch.Tensor:
        """True lengths, [B]."""
        return self.positions_B + 1

    @cached_property
    def tile_ids(self) -> tuple[torch.Tensor, ...]:
        """Per layer, as `PagedKv.gather` wants them."""
        return self.kv.tile_ids(self.table_BN)

    @cached_property
    def bias(self) -> torch.Tensor | None:
        """float32, X = B * kv heads, S = num_keys: 0 up to each row's position, -inf after; None if all keys count."""
        if not self.is_padded and min(self.lengths) == max(self.lengths):
            return None
        last_X = self.positions_B[:, None].expand(-1, self.kv.num_heads).reshape(-1)
        is_beyond_XS = torch.arange(self.num_keys, device=last_X.device) > last_X[:, None]
        bias_XS = torch.zeros(is_beyond_XS.shape, device=last_X.device).masked_fill_(is_beyond_XS, float("-inf"))
        return bias_XS[:, None, :]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.lengths))

    @property
    def num_keys(self) -> int:
        return max(self.lengths)


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """Rows start .. start+num_rows-1 of one sequence that already holds `num_prefix` keys, in blocks `table_1N`."""

    start: int
    num_rows: int
    num_prefix: int
    table_1N: torch.Tensor
    kv: PagedKv

    @cached_property
    def tile_ids(self) -> tuple[torch.Tensor, ...]:
        """Per layer, as `PagedKv.gather` wants them."""
        return self.kv.tile_ids(self.table_1N)

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """Which of all keys each row sees, [T, S]; None without a prefix: plain causal."""
        if self.num_prefix == 0:
            return None
        keys_S = torch.arange(self.num_keys, device=self.table_1N.device)
        return keys_S <= keys_S[self.num_prefix :, None]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.num_rows)

    @property
    def num_keys(self) -> int:
        return self.num_prefix + self.num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillGroup:
    """All C chunks at once: their rows, blocks, first rows within `rows` (C + 1 numbers) and prefixes."""

    rows: slice
    table_CN: torch.Tensor
    starts: torch.Tensor
    prefixes_C: torch.Tensor
    max_rows: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token t's keys and values go to block `blocks_T[t]`.

    `logit_rows_R` picks the rows whose logits are wanted; `logit_slices[r]` is the plan's slice of row r.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    blocks_T: torch.Tensor
    kv: PagedKv
    decodes: tuple[DecodeGroup, ...]
    chunks: tuple[PrefillChunk, ...]
    prefill: PrefillGroup | None
    logit_rows_R: torch.Tensor
    logit_slices: tuple[int, ...]

    @cached_property
    def row_ids(self) -> tuple[torch.Tensor, ...]:
        """Per layer and plane, as `PagedKv.write` wants them."""
        return self.kv.row_ids(self.blocks_T, self.positions_T % self.kv.block_tokens)
