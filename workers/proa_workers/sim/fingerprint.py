"""What a simulated KV row holds: enough to prove that it is the right row of the right sequence.

Sizes: N tokens; a row is 4 words of 64 bits: position, token id, prefix, seal. `prefix` of row i is the sum modulo
2**64 of mix(position, token) over rows 0..i: it depends on every earlier token and its place, and a run of rows is
checked with one cumulative sum. `seal` is a hash of the other three, so a row damaged in one word never looks whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proa_workers.sampling.draw import GOLDEN, U64, mix64

ROW_BYTES = 32
_WORDS = ROW_BYTES // 8
_TOKEN_STRIDE = np.uint64(0xD6E8FEB86659FD93)


def make_rows(start: int, token_ids: npt.NDArray[np.int64], prefix: int) -> U64:
    """Rows (N x 4) of tokens at positions start.., after rows that end with `prefix` (0 at the start)."""
    rows = np.empty((len(token_ids), _WORDS), dtype=np.uint64)
    rows[:, 0] = np.arange(start, start + len(token_ids), dtype=np.uint64)
    rows[:, 1] = token_ids.astype(np.uint64)
    terms = mix64(mix64(rows[:, 0] + np.uint64(GOLDEN)) ^ (rows[:, 1] * _TOKEN_STRIDE))
    rows[:, 2] = np.uint64(prefix) + np.cumsum(terms, dtype=np.uint64)
    rows[:, 3] = _seal(rows)
    return rows


def _seal(rows: U64) -> U64:
    return mix64(rows[:, 2] ^ mix64(rows[:, 1] ^ mix64(rows[:, 0] + np.uint64(GOLDEN))))


class RowStore:
    """Rows of a block pool, addressed through block tables."""

    def __init__(self, pool: npt.NDArray[np.uint8], block_tokens: int) -> None:
        self._rows = pool.view(np.uint64).reshape(-1, block_tokens, _WORDS)
        self._block_tokens = block_tokens

    def write(self, table: npt.NDArray[np.int32], start: int, rows: U64) -> None:
        """Store `rows` at positions start.. of the sequence that owns `table`."""
        position = np.arange(start, start + len(rows))
        self._rows[table[position // self._block_tokens], position % self._block_tokens] = rows

    def check(self, seq_id: int, table: npt.NDArray[np.int32], start: int, tokens: npt.NDArray[np.int64] | int) -> int:
        """Prove rows start.. against `tokens` (or, given only their number, against themselves); the last prefix.

        AssertionError with the sequence, position and block of the first wrong row. Reads row start - 1 too.
        """
        num_tokens = tokens if isinstance(tokens, int) else len(tokens)
        if start + num_tokens == 0:
            return 0
        first = max(start - 1, 0)
        found = self._read(table, first, start + num_tokens)
        before, rows = found[: start - first], found[start - first :]
        expected_tokens = rows[:, 1].astype(np.int64) if isinstance(tokens, int) else tokens
        expected = make_rows(start, expected_tokens, int(before[0, 2]) if len(before) else 0)
        is_wrong = (rows != expected).any(axis=1)
        if len(before) and (before[0, 0] != first or before[0, 3] != _seal(before)[0]):
            self._fail(seq_id, table, first, before[0], None)
        if is_wrong.any():
            at = int(is_wrong.argmax())
            self._fail(seq_id, table, start + at, rows[at], expected[at])
        return int(found[-1, 2])

    def _read(self, table: npt.NDArray[np.int32], start: int, end: int) -> U64:
        first = start // self._block_tokens
        blocks = self._rows[table[first : -(-end // self._block_tokens)]]
        return blocks.reshape(-1, _WORDS)[start - first * self._block_tokens : end - first * self._block_tokens]

    def _fail(self, seq_id: int, table: npt.NDArray[np.int32], position: int, found: U64, expected: U64 | None) -> None:
        wanted = "" if expected is None else f", not {expected[0]}, {expected[1]}, {expected[2]:016x}"
        raise AssertionError(
            f"KV of sequence {seq_id} is wrong at position {position} (block {table[position // self._block_tokens]}):"
            f" the row says position {found[0]} token {found[1]} prefix {found[2]:016x}{wanted}"
        )
