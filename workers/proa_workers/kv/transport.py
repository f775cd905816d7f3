"""What moves bytes of KV blocks from a holder into this process, and the pieces that it moves.

A piece is a pair of runs, one on each side; there are as many as the two block lists have runs together. A chunk is a
part of a piece of about `CHUNK_BYTES`, the unit of checksums and of stopping: checksums then find the bytes in cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from proa_workers.core.lease import Transfer
from proa_workers.errors import TransferFailed
from proa_workers.kv.checksum import block_crcs
from proa_workers.kv.layout import BlockRun
from proa_workers.kv.memory import KvMemory
from proa_workers.kv.stop import StopSignal

CHUNK_BYTES = 1 << 20
STREAM_BYTES = 16 << 20  # a further stream must carry at least this much


class Piece(NamedTuple):
    source: BlockRun
    target: BlockRun


class Chunk:
    """Blocks on their way from `source` at the holder to `target` in `memory`."""

    def __init__(self, memory: KvMemory, piece: Piece, crcs: Sequence[int]) -> None:
        self.source, self.target = piece
        self.num_bytes = piece.source.num_blocks * memory.layout.block_bytes
        self._memory = memory
        self.crcs = list(crcs)
        self._staging: memoryview | None = None

    def view(self) -> memoryview:
        """Where the bytes go: the pool itself on a host, a staging buffer for a device."""
        if self._memory.shm_name is not None:
            return self._memory.read_run(self.target)
        self._staging = self._staging or memoryview(bytearray(self.num_bytes))
        return self._staging

    def settle(self) -> None:
        """Verify what has arrived and put it into the pool. Raises TransferFailed when a checksum differs."""
        view = self.view()
        crcs = block_crcs(view, self._memory.layout.block_bytes)
        if crcs != self.crcs:
            bad = next(i for i, (ours, theirs) in enumerate(zip(crcs, self.crcs, strict=True)) if ours != theirs)
            raise TransferFailed(f"KV block {self.source.start + bad} of the holder arrived with a wrong checksum")
        if self._staging is not None:
            self._memory.write_run(self.target, view)
            self._staging = None


class Transport(Protocol):
    """Reads from one holder. Called from several threads at once, each call with chunks of its own."""

    name: str
    num_streams: int

    def read(self, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> Iterator[Chunk]:
        """Fill the views of `chunks` and yield each when it is full, in any order; nothing is written after the end.

        Raises TransferFailed (worth a retry), StaleTransfer, UnknownTransfer.
        """

    def read_probe(self, stop: StopSignal) -> bytes:
        """The holder's probe block. Raises TransferFailed."""

    def close(self) -> None: ...


def pair_runs(source_ids: Sequence[int], target_ids: Sequence[int]) -> list[Piece]:
    """Coalesce pairs of blocks that are consecutive on both sides: 4 5 6 to 1 2 9 is (4, 2)->(1, 2), 6->9."""
    starts: list[tuple[int, int]] = []
    counts: list[int] = []
    for pair in zip(source_ids, target_ids, strict=True):
        if starts and pair == (starts[-1][0] + counts[-1], starts[-1][1] + counts[-1]):
            counts[-1] += 1
        else:
            starts.append(pair)
            counts.append(1)
    return [Piece(BlockRun(s, n), BlockRun(t, n)) for (s, t), n in zip(starts, counts, strict=True)]


def to_chunks(memory: KvMemory, pieces: Sequence[Piece], crcs: Sequence[int]) -> list[Chunk]:
    """Cut pieces into chunks of whole blocks; `crcs` has one value per block in the order of the pieces."""
    step = max(1, CHUNK_BYTES // memory.layout.block_bytes)
    chunks: list[Chunk] = []
    done = 0
    for source, target in pieces:
        for offset in range(0, source.num_blocks, step):
            count = min(step, source.num_blocks - offset)
            part = Piece(BlockRun(source.start + offset, count), BlockRun(target.start + offset, count))
            chunks.append(Chunk(memory, part, crcs[done : done + count]))
            done += count
    return chunks


def to_streams(chunks: Sequence[Chunk], num_streams: int) -> list[Sequence[Chunk]]:
    """Divide chunks into at most `num_streams` lists of similar size, none below STREAM_BYTES except a single one."""
    total = sum(chunk.num_bytes for chunk in chunks)
    count = max(1, min(num_streams, total // STREAM_BYTES, len(chunks)))
    ends = [len(chunks) * (i + 1) // count for i in range(count)]
    return [chunks[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
