"""Pieces, chunks and streams: every block once, as few pieces as there are runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_workers.kv.layout import BlockRun, KvLayout, from_runs
from proa_workers.kv.transport import CHUNK_BYTES, STREAM_BYTES, Piece, pair_runs, to_chunks, to_streams


class Pool:
    """As much of a KvMemory as chunks look at before they move."""

    def __init__(self, block_bytes: int) -> None:
        self.layout = KvLayout(model="m", kind="mla", dtype="uint8", block_tokens=1, block_shape=(block_bytes,))


def pieces(*runs: tuple[int, int, int]) -> list[Piece]:
    return [Piece(BlockRun(source, count), BlockRun(target, count)) for source, target, count in runs]


@pytest.mark.parametrize(
    ("sources", "targets", "expected"),
    [
        ([], [], []),
        ([4, 5, 6], [1, 2, 3], pieces((4, 1, 3))),
        ([4, 5, 6], [1, 2, 9], pieces((4, 1, 2), (6, 9, 1))),
        ([4, 5, 9], [1, 2, 3], pieces((4, 1, 2), (9, 3, 1))),
        ([4, 5, 7, 8], [1, 2, 3, 9], pieces((4, 1, 2), (7, 3, 1), (8, 9, 1))),
        ([6, 5], [2, 1], pieces((6, 2, 1), (5, 1, 1))),
    ],
)
def test_pair_runs(sources: list[int], targets: list[int], expected: list[Piece]) -> None:
    assert pair_runs(sources, targets) == expected


blocks = st.lists(st.integers(0, 60), unique=True, max_size=40)


@given(sources=blocks, shuffle=st.randoms(use_true_random=False), block_bytes=st.sampled_from([1000, 300_000, 2 << 20]))
def test_every_block_once(sources: list[int], shuffle: Any, block_bytes: int) -> None:
    targets = sorted(sources)
    shuffle.shuffle(targets)
    pool: Any = Pool(block_bytes)
    paired = pair_runs(sources, targets)
    chunks = to_chunks(pool, paired, sources)  # a block's number stands for its checksum
    assert from_runs(chunk.source for chunk in chunks) == sources
    assert from_runs(chunk.target for chunk in chunks) == targets
    assert [crc for chunk in chunks for crc in chunk.crcs] == sources
    assert all(chunk.num_bytes <= max(CHUNK_BYTES, block_bytes) for chunk in chunks)
    streams = to_streams(chunks, 4)
    assert [chunk for stream in streams for chunk in stream] == chunks
    sizes = [sum(chunk.num_bytes for chunk in stream) for stream in streams]
    assert len(sizes) == 1 or min(sizes) > STREAM_BYTES // 2
