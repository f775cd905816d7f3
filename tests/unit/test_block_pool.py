"""Block pool: accounting, prefix index, eviction order, and the faults that `check` must catch."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from proa_workers.core.block_pool import ROOT_HASH, BlockPool, chain_hash
from proa_workers.errors import Saturated


def publish(pool: BlockPool, block: int, *tokens: int, parent: bytes = ROOT_HASH) -> bytes:
    block_hash = chain_hash(parent, tokens)
    pool.publish(block, parent, block_hash, tokens)
    return block_hash


def test_counts_follow_acquire_pin_release() -> None:
    pool = BlockPool(4, 2)
    blocks = pool.allocate(3)
    pool.pin(blocks[:2])
    assert (pool.num_free, pool.num_owned, pool.num_pinned) == (1, 1, 2)
    pool.release(blocks)
    assert (pool.num_free, pool.num_owned, pool.num_pinned) == (2, 0, 2)
    pool.unpin(blocks[:2])
    assert (pool.num_free, pool.num_owned, pool.num_pinned) == (4, 0, 0)
    pool.check(idle=True)


def test_allocate_more_than_free_is_saturated() -> None:
    pool = BlockPool(2, 2)
    with pytest.raises(Saturated, match="3 KV blocks wanted, 2 of 2 free"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_taking_blocks_one_by_one_from_a_large_pool_is_cheap() -> None:
    """As decoding does; with a plain dict as the free list this took 25 times as long."""
    pool = BlockPool(100_000, 2)
    start = time.process_time()
    assert [pool.allocate(1) for _ in range(80_000)] == [[block] for block in range(80_000)]
    assert time.process_time() - start < 2


def test_match_finds_the_longest_prefix_also_in_free_blocks() -> None:
    pool = BlockPool(4, 2)
    first, second = pool.allocate(2)
    a = publish(pool, first, 1, 2)
    b = publish(pool, second, 3, 4, parent=a)
    pool.release([first, second])
    assert pool.match([a, b]) == [first, second]
    assert pool.match([a, chain_hash(a, (9, 9)), b]) == [first]


def test_eviction_takes_tails_before_prefixes() -> None:
    pool = BlockPool(2, 2)
    first, second = pool.allocate(2)
    a = publish(pool, first, 1, 2)
    b = publish(pool, second, 3, 4, parent=a)
    pool.release([first, second])
    assert pool.allocate(1) == [second]
    assert pool.match([a, b]) == [first]
    assert [event.kind for event in pool.take_events()] == ["stored", "stored", "removed"]


def test_without_prefix_cache_nothing_is_found() -> None:
    pool = BlockPool(2, 2, has_prefix_cache=False)
    (block,) = pool.allocate(1)
    assert pool.match([publish(pool, block, 1, 2)]) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda pool, block: pool.release([block, block]), "released more often"),
        (lambda pool, block: pool.unpin([block]), "unpinned more often"),
        (lambda pool, block: pool.pin([block + 1]), "pinned while nobody owns it"),
        (lambda pool, block: pool._free.__setitem__(block, None) or pool.check(), "in use"),
        (lambda pool, block: setattr(pool, "num_pinned", 1) or pool.check(), "pinned"),
        (lambda pool, block: pool.check(idle=True), "owned by nobody"),
    ],
)
def test_planted_faults_are_caught(fault, message) -> None:
    pool = BlockPool(3, 2)
    (block,) = pool.allocate(1)
    with pytest.raises(AssertionError, match=message):
        fault(pool, block)


class PoolMachine(RuleBasedStateMachine):
    """Random owners and leases: the three states always add up and nothing is handed out twice."""

    @initialize(num_blocks=st.integers(1, 12))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks, 1)
        self.owners: list[list[int]] = []
        self.leases: list[list[int]] = []

    @rule(count=st.integers(0, 5))
    def allocate(self, count: int) -> None:
        if count > self.pool.num_free:
            with pytest.raises(Saturated):
                self.pool.allocate(count)
        else:
            blocks = self.pool.allocate(count)
            assert not {b for owner in self.owners + self.leases for b in owner} & set(blocks)
            self.owners.append(blocks)

    @rule(pick=st.randoms())
    def share(self, pick) -> None:
        if self.owners:
            blocks = list(pick.choice(self.owners))
            self.pool.acquire(blocks)
            self.owners.append(blocks)

    @rule(pick=st.randoms())
    def lease(self, pick) -> None:
        if self.owners:
            blocks = list(pick.choice(self.owners))
            self.pool.pin(blocks)
            self.leases.append(blocks)

    @rule(pick=st.randoms())
    def release(self, pick) -> None:
        if self.owners:
            self.pool.release(self.owners.pop(pick.randrange(len(self.owners))))

    @rule(pick=st.randoms())
    def unpin(self, pick) -> None:
        if self.leases:
            self.pool.unpin(self.leases.pop(pick.randrange(len(self.leases))))

    @invariant()
    def adds_up(self) -> None:
        self.pool.check()
        pinned = {b for lease in self.leases for b in lease}
        owned = {b for owner in self.owners for b in owner} - pinned
        assert (self.pool.num_pinned, self.pool.num_owned) == (len(pinned), len(owned))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40)
