"""A StepPlan as index tensors: what every layer of one forward shares (built by assemble.py).

Token order: all decode rows (slices of one token) grouped by context length, then the prefill chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeGroup:
    """Decode rows from `start`; row b attends to the first lengths[b] of its S gathered keys.

    `bias_X1S`, X = B * kv heads, float32, is 0 where a key counts and -inf elsewhere (None: all keys count).
    """

    start: int
    lengths: tuple[int, ...]
    tile_ids_L: tuple[torch.Tensor, ...]
    bias_X1S: torch.Tensor | None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.lengths))

    @property
    def num_keys(self) -> int:
        return max(self.lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """Rows start .. start+num_rows-1 of one sequence that already holds `num_prefix` keys."""

    start: int
    num_rows: int
    num_prefix: int
    tile_ids_L: tuple[torch.Tensor, ...]
    mask_TS: torch.Tensor | None  # None: no prefix, plain causal

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.num_rows)

    @property
    def num_keys(self) -> int:
        return self.num_prefix + self.num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`logit_rows_R` picks the rows whose logits are wanted; `logit_slices[r]` is the plan's slice of row r."""

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    row_ids_LP: tuple[torch.Tensor, ...]
    decodes: tuple[DecodeGroup, ...]
    chunks: tuple[PrefillChunk, ...]
    logit_rows_R: torch.Tensor
    logit_slices: tuple[int, ...]
