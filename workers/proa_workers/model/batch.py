"""A StepPlan as index tensors: what every layer of one forward shares.

Token order: all decode rows (slices of one token) grouped by context length, then the prefill chunks. Built with numpy
and sent to the device in one copy; nothing here depends on values that live on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from proa_workers.core.plan import SeqSlice, StepPlan
from proa_workers.model.paged import PagedKv

# Decode rows are padded to the longest context while that reads at most this many rows, or twice what is needed.
CHEAP_PADDED_ROWS = 16384


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


def build_batch(plan: StepPlan, kv: PagedKv) -> Batch:
    """Index tensors of `plan` on the pool's device."""
    groups, chunks = _order(plan.slices, kv.block_tokens)
    order = [i for group in groups for i in group] + chunks
    starts, packed = _pack(plan.slices, order, kv.block_tokens)
    for group in groups:
        packed.add(f"table{group[0]}", _block_table([plan.slices[i] for i in group], kv.block_tokens))
        packed.add(f"ends{group[0]}", np.asarray([plan.slices[i].end for i in group]))
    for c in chunks:
        packed.add(f"table{c}", _block_table([plan.slices[c]], kv.block_tokens))
    on_device = packed.to(kv.pool.device)
    return Batch(
        token_ids_T=on_device["token_ids"],
        positions_T=on_device["positions"],
        row_ids_LP=kv.row_ids(on_device["blocks"], on_device["offsets"]),
        decodes=tuple(_decode_group(starts[g[0]], g, plan.slices, on_device, kv) for g in groups),
        chunks=tuple(_prefill_chunk(starts[c], plan.slices[c], on_device[f"table{c}"], kv) for c in chunks),
        logit_rows_R=on_device["logit_rows"],
        logit_slices=tuple(i for i in order if plan.slices[i].row is not None),
    )


def _pack(slices: Sequence[SeqSlice], order: list[int], block_tokens: int) -> tuple[dict[int, int], Packed]:
    """First row of each slice, and the arrays that have one entry per token."""
    ordered = [slices[i] for i in order]
    ends = np.cumsum([len(s.token_ids) for s in ordered])
    positions = np.concatenate([np.arange(s.start, s.end) for s in ordered])
    packed = Packed()
    packed.add("token_ids", np.concatenate([np.asarray(s.token_ids, dtype=np.int64) for s in ordered]))
    packed.add("positions", positions)
    packed.add("blocks", np.concatenate([s.block_table[np.arange(s.start, s.end) // block_tokens] for s in ordered]))
    packed.add("offsets", positions % block_tokens)
    packed.add("logit_rows", ends[[s.row is not None for s in ordered]] - 1)
    return {i: int(end) - len(slices[i].token_ids) for i, end in zip(order, ends, strict=True)}, packed


class Packed:
    """Integer arrays that travel to the device as one buffer."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[np.int64]] = {}

    def add(self, name: str, array: npt.NDArray[np.integer]) -> None:
        self._arrays[name] = array.astype(np.int64, copy=False)

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        buffer = torch.from_numpy(np.concatenate([a.ravel() for a in self._arrays.values()]))
        if device.type == "cuda":
            buffer = buffer.pin_memory().to(device, non_blocking=True)
        parts = buffer.split_with_sizes([a.size for a in self._arrays.values()])
        return {n: p.view(a.shape) for (n, a), p in zip(self._arrays.items(), parts, strict=True)}


def _order(slices: Sequence[SeqSlice], block_tokens: int) -> tuple[list[list[int]], list[int]]:
    """Slice indices of the decode groups, and of the prefill chunks."""
    decodes = [i for i, s in enumerate(slices) if len(s.token_ids) == 1]
    chunks = [i for i, s in enumerate(slices) if len(s.token_ids) > 1]
    lengths = [slices[i].end for i in decodes]
    padded = max(lengths, default=0) * len(decodes)
    if padded <= max(CHEAP_PADDED_ROWS, 2 * sum(lengths)):
        return ([decodes] if decodes else []), chunks
    buckets: dict[int, list[int]] = {}
    for i in decodes:
        buckets.setdefault((slices[i].end // block_tokens).bit_length(), []).append(i)
    return [buckets[b] for b in sorted(buckets)], chunks


def _block_table(slices: Sequence[SeqSlice], block_tokens: int) -> npt.NDArray[np.int64]:
    """Block ids [B, N], N = blocks of the longest slice; shorter ones repeat their first block (masked)."""
    counts = [-(-s.end // block_tokens) for s in slices]
    table = np.empty((len(slices), max(counts)), dtype=np.int64)
    for row, s, count in zip(table, slices, counts, strict=True):
        row[:count] = s.block_table[:count]
        row[count:] = s.block_table[0]
    return table


def _decode_group(
    start: int, group: list[int], slices: Sequence[SeqSlice], on_device: dict[str, torch.Tensor], kv: PagedKv
) -> DecodeGroup:
    lengths = tuple(slices[i].end for i in group)
    num_keys, bias_X1S = max(lengths), None
    if min(lengths) != num_keys:
        ends_X = on_device[f"ends{group[0]}"].repeat_interleave(kv.num_heads)
        is_beyond_XS = torch.arange(num_keys, device=ends_X.device) >= ends_X[:, None]
        bias_XS = torch.zeros(is_beyond_XS.shape, device=ends_X.device).masked_fill_(is_beyond_XS, float("-inf"))
        bias_X1S = bias_XS[:, None, :]
    return DecodeGroup(
        start=start,
        lengths=lengths,
        tile_ids_L=kv.tile_ids(on_device[f"table{group[0]}"]),
        bias_X1S=bias_X1S,
    )


def _prefill_chunk(start: int, piece: SeqSlice, blocks_1N: torch.Tensor, kv: PagedKv) -> PrefillChunk:
    mask_TS = None
    if piece.start > 0:
        keys_S = torch.arange(piece.end, device=kv.pool.device)
        mask_TS = keys_S <= torch.arange(piece.start, piece.end, device=kv.pool.device)[:, None]
    return PrefillChunk(
        start=start,
        num_rows=len(piece.token_ids),
        num_prefix=piece.start,
        tile_ids_L=kv.tile_ids(blocks_1N),
        mask_TS=mask_TS,
    )
