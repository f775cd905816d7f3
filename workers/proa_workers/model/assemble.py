"""StepPlan -> Batch: index arrays made with numpy and sent to the device in one copy.

Legend: B decode rows, N blocks of the longest sequence, S keys. Nothing here reads from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from proa_workers.core.plan import SeqSlice, StepPlan
from proa_workers.model.batch import Batch, DecodeGroup, PrefillChunk, PrefillGroup
from proa_workers.model.paged import PagedKv

# Decode rows are padded to the longest context while that reads at most this many rows, or twice what is needed.
CHEAP_PADDED_ROWS = 16384

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Host arrays of one decode group or one prefill chunk; `table_BN` are block ids, `blocks` one per token."""

    members: list[int]
    token_ids: Ints
    positions: Ints
    blocks: Ints
    table_BN: Ints


def put_unread(token_T: torch.Tensor, unread_S: torch.Tensor, is_all: bool) -> None:
    """Put `unread_S[i]` (int64, same device) where a token id is `unread(i)` (core/plan.py); `is_all`: each one is."""
    if is_all:
        token_T.copy_(unread_S.index_select(0, token_T.bitwise_not()))
        return
    index_T = token_T.bitwise_not().clamp_(min=0)
    torch.where(token_T < 0, unread_S.index_select(0, index_T), token_T, out=token_T)


def build_batch(plan: StepPlan, kv: PagedKv, pads_keys: bool = True) -> Batch:
    """Index tensors of `plan` on the pool's device; `pads_keys`: decode rows pay for the longest row beside them."""
    groups, chunks = order_slices(plan.slices, kv.block_tokens, pads_keys)
    pieces = [_decode_piece(plan.slices, g, kv.block_tokens) for g in groups]
    pieces += [_chunk_piece(plan.slices[c], c, kv.block_tokens) for c in chunks]
    chunk_slices = [plan.slices[c] for c in chunks]
    starts = np.cumsum([0, *(p.token_ids.size for p in pieces)]).tolist()
    logit_rows, logit_slices = _wanted_rows(plan.slices, pieces, starts)
    num_groups = len(groups)
    chunk_starts = np.array(starts[num_groups:], dtype=np.int64) - starts[num_groups]
    tokens, places, blocks, wanted, rows, prefixes, chunk_table, *tables = to_device(
        [
            np.concatenate([p.token_ids for p in pieces]),
            np.concatenate([p.positions for p in pieces]),
            np.concatenate([p.blocks for p in pieces]),
            logit_rows,
            chunk_starts,
            np.array([s.start for s in chunk_slices], dtype=np.int64),
            _chunk_table(chunk_slices, kv.block_tokens),
            *(p.table_BN for p in pieces[:num_groups]),
        ],
        kv.pool.device,
    )
    return Batch(
        token_ids_T=tokens,
        positions_T=places,
        blocks_T=blocks,
        kv=kv,
        decodes=tuple(
            _decode_group(start, p, table, places, kv)
            for start, p, table in zip(starts, pieces[:num_groups], tables, strict=False)
        ),
        chunks=tuple(
            _prefill_chunk(start, piece, table, kv)
            for start, piece, table in zip(starts[num_groups:], chunk_slices, chunk_table, strict=False)
        ),
        prefill=PrefillGroup(
            rows=slice(starts[num_groups], starts[-1]),
            table_CN=chunk_table,
            starts=rows,
            prefixes_C=prefixes,
            max_rows=max(len(s.token_ids) for s in chunk_slices),
        )
        if chunks
        else None,
        logit_rows_R=wanted,
        logit_slices=logit_slices,
    )


def order_slices(slices: Sequence[SeqSlice], block_tokens: int, pads_keys: bool) -> tuple[list[list[int]], list[int]]:
    """Slice indices of the decode groups (one, or rows of similar context length), and of the prefill chunks."""
    decodes = [i for i, s in enumerate(slices) if len(s.token_ids) == 1]
    chunks = [i for i, s in enumerate(slices) if len(s.token_ids) > 1]
    lengths = [slices[i].end for i in decodes]
    padded = max(lengths, default=0) * len(decodes)
    if not pads_keys or padded <= max(CHEAP_PADDED_ROWS, 2 * sum(lengths)):
        return ([decodes] if decodes else []), chunks
    buckets: dict[int, list[int]] = {}
    for i in decodes:
        buckets.setdefault((slices[i].end // block_tokens).bit_length(), []).append(i)
    return [buckets[b] for b in sorted(buckets)], chunks


def _decode_piece(slices: Sequence[SeqSlice], members: list[int], block_tokens: int) -> Piece:
    positions = np.array([slices[i].start for i in members], dtype=np.int64)
    table_BN = block_table([slices[i].block_table for i in members], positions // block_tokens + 1)
    return Piece(
        members=members,
        token_ids=np.array([slices[i].token_ids[0] for i in members], dtype=np.int64),
        positions=positions,
        blocks=table_BN[np.arange(len(members)), positions // block_tokens],
        table_BN=table_BN,
    )


def _chunk_piece(piece: SeqSlice, member: int, block_tokens: int) -> Piece:
    positions = np.arange(piece.start, piece.end, dtype=np.int64)
    table_BN = block_table([piece.block_table], np.array([(piece.end - 1) // block_tokens + 1]))
    return Piece(
        members=[member],
        token_ids=np.array(piece.token_ids, dtype=np.int64),
        positions=positions,
        blocks=table_BN[0, positions // block_tokens],
        table_BN=table_BN,
    )


def _chunk_table(slices: Sequence[SeqSlice], block_tokens: int) -> Ints:
    """Block ids [C, N] of the prefill chunks."""
    if not slices:
        return np.zeros((0, 1), dtype=np.int64)
    return block_table([s.block_table for s in slices], np.array([(s.end - 1) // block_tokens + 1 for s in slices]))


def block_table(tables: Sequence[npt.NDArray[np.int32]], counts: Ints) -> Ints:
    """Block ids [B, N]: the first `counts[b]` of each table, then zeros (any block will do: its keys are masked)."""
    padded_BN = np.zeros((len(tables), int(counts.max())), dtype=np.int64)
    for row, table, count in zip(padded_BN, tables, counts.tolist(), strict=True):
        row[:count] = table[:count]
    return padded_BN


def _wanted_rows(slices: Sequence[SeqSlice], pieces: list[Piece], starts: list[int]) -> tuple[Ints, tuple[int, ...]]:
    """Last rows of the slices that want logits, and those slices."""
    rows, wanted = [], []
    for start, piece in zip(starts, pieces, strict=False):
        last = piece.token_ids.size // len(piece.members) - 1
        for offset, i in enumerate(piece.members):
            if slices[i].row is not None:
                rows.append(start + last + offset)
                wanted.append(i)
    return np.array(rows, dtype=np.int64), tuple(wanted)


def to_device(arrays: Sequence[Ints], device: torch.device) -> list[torch.Tensor]:
    """The arrays as views of one int64 buffer on `device`."""
    buffer = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
    if device.type == "cuda":
        buffer = buffer.pin_memory().to(device, non_blocking=True)
    parts = buffer.split_with_sizes([a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]


def _decode_group(
    start: int, piece: Piece, table_BN: torch.Tensor, positions_T: torch.Tensor, kv: PagedKv
) -> DecodeGroup:
    lengths = tuple((piece.positions + 1).tolist())
    positions_B = positions_T[start : start + len(lengths)]
    return DecodeGroup(start=start, lengths=lengths, is_padded=False, table_BN=table_BN, positions_B=positions_B, kv=kv)


def pack_padded_decode(slices: Sequence[SeqSlice], num_rows: int, num_blocks: int, block_tokens: int) -> Ints:
    """Decode rows in fixed sizes, as one buffer for `padded_decode_batch`.

    Rows past the last slice repeat the first, and so write what it writes.
    """
    piece = _decode_piece(slices, list(range(len(slices))), block_tokens)
    rows = np.concatenate([np.arange(len(slices)), np.zeros(num_rows - len(slices), dtype=np.int64)])
    table_BN = np.zeros((num_rows, num_blocks), dtype=np.int64)
    table_BN[:, : piece.table_BN.shape[1]] = piece.table_BN[rows]
    positions = piece.positions[rows]
    return np.concatenate([piece.token_ids[rows], positions, piece.blocks[rows], table_BN.ravel()])


def padded_decode_batch(buffer: torch.Tensor, num_rows: int, num_blocks: int, kv: PagedKv) -> Batch:
    """Batch over `buffer` (on the device) whose shapes depend on the sizes alone; every row's logits are wanted."""
    tokens, positions, blocks, table = buffer.split_with_sizes([num_rows] * 3 + [num_rows * num_blocks])
    group = DecodeGroup(
        start=0,
        lengths=(num_blocks * kv.block_tokens,) * num_rows,
        is_padded=True,
        table_BN=table.view(num_rows, num_blocks),
        positions_B=positions,
        kv=kv,
    )
    return Batch(
        token_ids_T=tokens,
        positions_T=positions,
        blocks_T=blocks,
        kv=kv,
        decodes=(group,),
        chunks=(),
        prefill=None,
        logit_rows_R=torch.arange(num_rows, device=buffer.device),
        logit_slices=tuple(range(num_rows)),
    )


def _prefill_chunk(start: int, piece: SeqSlice, table_N: torch.Tensor, kv: PagedKv) -> PrefillChunk:
    num_blocks = (piece.end - 1) // kv.block_tokens + 1
    return PrefillChunk(
        start=start,
        num_rows=len(piece.token_ids),
        num_prefix=piece.start,
        table_1N=table_N[None, :num_blocks],
        kv=kv,
    )
