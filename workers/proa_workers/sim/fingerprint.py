"""What a simulated KV row holds: enough to prove that it is the right row of the right sequence.

Sizes: N tokens; a row is 4 words of 64 bits: position, token id, prefix, seal. `prefix` of row i is the sum modulo
2**64 of mix(position, token) over rows 0..i: it depends on every earlier token and its place, and a run of rows is
checked with one cumulative sum. `seal` is a hash of the other three, so a row damaged in one word never looks whole.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from mmap import mmap
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from proa_workers.sampling.draw import GOLDEN, MASK_64, U64, mix64, mix64_int

ROW_BYTES = 32
_WORDS = ROW_BYTES // 8
_TOKEN_STRIDE = 0xD6E8FEB86659FD93
_ROW = struct.Struct("<4Q")


def make_rows(start: int, token_ids: npt.NDArray[np.int64], prefix: int) -> U64:
    """Rows (N x 4) of tokens at positions start.., after rows that end with `prefix` (0 at the start)."""
    rows = np.empty((len(token_ids), _WORDS), dtype=np.uint64)
    rows[:, 0] = np.arange(start, start + len(token_ids), dtype=np.uint64)
    rows[:, 1] = token_ids.astype(np.uint64)
    terms = mix64(mix64(rows[:, 0] + np.uint64(GOLDEN)) ^ (rows[:, 1] * np.uint64(_TOKEN_STRIDE)))
    rows[:, 2] = np.uint64(prefix) + np.cumsum(terms, dtype=np.uint64)
    rows[:, 3] = _seal(rows)
    return rows


def _seal(rows: U64) -> U64:
    return mix64(rows[:, 2] ^ mix64(rows[:, 1] ^ mix64(rows[:, 0] + np.uint64(GOLDEN))))


def make_row(position: int, token_id: int, prefix: int) -> tuple[int, int, int, int]:
    """One row as `make_rows` makes it, in Python's own integers."""
    place = mix64_int((position + GOLDEN) & MASK_64)
    total = (prefix + mix64_int(place ^ (token_id * _TOKEN_STRIDE & MASK_64))) & MASK_64
    return position, token_id, total, mix64_int(total ^ mix64_int(token_id ^ place))


class RowStore:
    """Rows of a block pool, addressed through block tables."""

    def __init__(self, pool: mmap, block_tokens: int) -> None:
        self._pool = pool
        self._rows = np.frombuffer(pool, dtype=np.uint64).reshape(-1, block_tokens, _WORDS)
        self._block_tokens = block_tokens

    def append(self, table: npt.NDArray[np.int32], row: tuple[int, int, int, int]) -> None:
        """Store one row at its position."""
        _ROW.pack_into(self._pool, self._offset(table, row[0]), *row)

    def prefix_at(self, seq_id: int, table: npt.NDArray[np.int32], position: int, token_id: int | None = None) -> int:
        """Prefix of one row, proved by its place, its token (if given) and its seal; AssertionError as `check`."""
        found = _ROW.unpack_from(self._pool, self._offset(table, position))
        token_id = found[1] if token_id is None else token_id
        expected = make_row(position, token_id, found[2] - make_row(position, token_id, 0)[2])
        if found != expected:
            self._fail(seq_id, table, position, found, expected)
        return int(found[2])

    def _offset(self, table: npt.NDArray[np.int32], position: int) -> int:
        block, slot = divmod(position, self._block_tokens)
        return (int(table[block]) * self._block_tokens + slot) * ROW_BYTES

    def write(self, table: npt.NDArray[np.int32], start: int, rows: U64) -> None:
        """Store `rows` at positions start.. of the sequence that owns `table`."""
        position = np.arange(start, start + len(rows))
        self._rows[table[position // self._block_tokens], position % self._block_tokens] = rows

    def check(self, seq_id: int, table: npt.NDArray[np.int32], start: int, tokens: npt.NDArray[np.int64] | int) -> int:
        """Prove rows start.. against `tokens` (or, given only their number, against themselves); the last prefix.

        AssertionError with the sequence, position and block of the first wrong row. Reads row start - 1 too.
        """
        num_tokens = tokens if isinstance(tokens, int) else len(tokens)
        prefix = self.prefix_at(seq_id, table, start - 1) if start else 0
        if num_tokens == 0:
            return prefix
        rows = self._read(table, start, start + num_tokens)
        expected = make_rows(start, rows[:, 1].astype(np.int64) if isinstance(tokens, int) else tokens, prefix)
        is_wrong = (rows != expected).any(axis=1)
        if is_wrong.any():
            at = int(is_wrong.argmax())
            self._fail(seq_id, table, start + at, rows[at].tolist(), expected[at].tolist())
        return int(rows[-1, 2])

    def _read(self, table: npt.NDArray[np.int32], start: int, end: int) -> U64:
        first = start // self._block_tokens
        blocks = self._rows[table[first : -(-end // self._block_tokens)]]
        return blocks.reshape(-1, _WORDS)[start - first * self._block_tokens : end - first * self._block_tokens]

    def _fail(
        self, seq_id: int, table: npt.NDArray[np.int32], position: int, found: Sequence[int], expected: Sequence[int]
    ) -> NoReturn:
        raise AssertionError(
            f"KV of sequence {seq_id} is wrong at position {position} (block {table[position // self._block_tokens]}):"
            f" the row says position {found[0]} token {found[1]} prefix {found[2]:016x} seal {found[3]:016x},"
            f" not {expected[0]}, {expected[1]}, {expected[2]:016x}, {expected[3]:016x}"
        )
