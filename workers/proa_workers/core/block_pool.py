"""Paged KV blocks: reference counts, pins of leases, and the prefix index.

Every block is exactly one of
  free    no reference; may still hold a cached prefix, and is evicted in least-recently-used order
  owned   referenced by at least one sequence and pinned by no lease
  pinned  held by a lease of a hand-off, whoever else refers to it
and `num_free + num_owned + num_pinned == num_blocks` always (`check`).

The prefix index maps a chained hash (parent hash, tokens of one full block) to the block that holds its KV rows, as in
vLLM and nano-vllm; 128-bit blake2b, so that a collision is not a practical concern.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from proa_workers.errors import Saturated

ROOT_HASH = b""


def chain_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Hash of one full block of tokens that follows the prefix named by `parent`."""
    return hashlib.blake2b(parent + array("I", token_ids).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvent:
    """A change of the prefix index, for routers: hashes are the index's own."""

    kind: Literal["stored", "removed", "cleared"]
    block_hash: bytes = ROOT_HASH
    parent_hash: bytes = ROOT_HASH
    token_ids: tuple[int, ...] = ()


class BlockPool:
    """Accounting of `num_blocks` blocks of `block_tokens` tokens; knows no bytes. Used from one thread."""

    def __init__(self, num_blocks: int, block_tokens: int, *, has_prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._has_prefix_cache = has_prefix_cache
        self._refs = [0] * num_blocks
        self._pins = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        # In eviction order. NOTE: not a dict, whose first key takes a walk over every key that was removed before it.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._index: dict[bytes, int] = {}
        self._events: list[CacheEvent] = []
        self.num_pinned = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_owned(self) -> int:
        return self.num_blocks - self.num_free - self.num_pinned

    def match(self, block_hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest cached prefix; takes no reference (call `acquire` before anything else)."""
        blocks: list[int] = []
        for block_hash in block_hashes:
            block = self._index.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_free_beside(self, blocks: Iterable[int]) -> int:
        """How many blocks could be allocated after an `acquire` of `blocks`, which changes nothing yet."""
        return len(self._free) - sum(block in self._free for block in blocks)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Add a reference to blocks that `match` returned."""
        for block in blocks:
            self._free.pop(block, None)
            self._refs[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks with one reference each, evicting cached prefixes; Saturated when too few are free."""
        if count > len(self._free):
            raise Saturated(f"{count} KV blocks wanted, {len(self._free)} of {self.num_blocks} free: retry elsewhere")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._refs[block] += 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference each; the last block goes first in eviction order, so prefixes outlive their tails."""
        for block in reversed(blocks):
            assert self._refs[block] > 0, f"block {block} released more often than acquired"
            self._refs[block] -= 1
            self._free_if_unused(block)

    def pin(self, blocks: Iterable[int]) -> None:
        """Hold blocks for a lease; the caller still owns its own references."""
        for block in blocks:
            assert self._refs[block] > 0, f"block {block} pinned while nobody owns it"
            self.num_pinned += self._pins[block] == 0
            self._pins[block] += 1

    def unpin(self, blocks: Sequence[int]) -> None:
        """End a lease's hold; blocks that nobody refers to become free."""
        for block in reversed(blocks):
            assert self._pins[block] > 0, f"block {block} unpinned more often than pinned"
            self._pins[block] -= 1
            self.num_pinned -= self._pins[block] == 0
            self._free_if_unused(block)

    def publish(self, block: int, parent_hash: bytes, block_hash: bytes, token_ids: Sequence[int]) -> None:
        """Enter a full, computed block into the prefix index; the first block with a hash keeps it."""
        if not self._has_prefix_cache or self._hashes[block] is not None or block_hash in self._index:
            return
        self._hashes[block] = block_hash
        self._index[block_hash] = block
        self._events.append(
            CacheEvent(kind="stored", block_hash=block_hash, parent_hash=parent_hash, token_ids=tuple(token_ids))
        )

    def flush(self) -> None:
        """Forget every cached prefix; blocks in use keep their rows but are no longer found."""
        self._index.clear()
        self._hashes = [None] * self.num_blocks
        self._events.append(CacheEvent(kind="cleared"))

    def take_events(self) -> list[CacheEvent]:
        events, self._events = self._events, []
        return events

    def check(self, *, idle: bool = False) -> None:
        """Assert the invariants; with `idle`, also that no sequence owns a block."""
        in_use = sum(1 for refs, pins in zip(self._refs, self._pins, strict=True) if refs or pins)
        pinned = sum(1 for pins in self._pins if pins)
        assert in_use + len(self._free) == self.num_blocks, f"{in_use} in use + {len(self._free)} free"
        assert pinned == self.num_pinned, f"{pinned} blocks pinned, {self.num_pinned} counted"
        assert all(self._hashes[block] == block_hash for block_hash, block in self._index.items())
        assert not (idle and self.num_owned), f"{self.num_owned} blocks owned by nobody"

    def _free_if_unused(self, block: int) -> None:
        if not self._refs[block] and not self._pins[block]:
            self._free[block] = None

    def _forget(self, block: int) -> None:
        block_hash = self._hashes[block]
        if block_hash is not None:
            self._hashes[block] = None
            del self._index[block_hash]
            self._events.append(CacheEvent(kind="removed", block_hash=block_hash))
