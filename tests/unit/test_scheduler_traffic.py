"""Scheduler: random traffic against the invariants with a toy model."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from proa_workers.core.scheduler import Fetch
from proa_workers.core.sequence import Phase, Sequence

from tests.unit.toy_scheduler import ToyEngine, make, make_scheduler, next_token, run


def expected(prompt: list[int], max_tokens: int, max_len: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + max_tokens, max_len):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**9),
    num_blocks=st.integers(10, 24),
    num_requests=st.integers(1, 12),
    budget=st.integers(1, 16),
)
def test_random_traffic_is_exact_and_leaves_nothing(seed: int, num_blocks: int, num_requests: int, budget: int) -> None:
    pick = random.Random(seed)
    scheduler = make_scheduler(num_blocks, max_num_batched_tokens=budget, max_num_seqs=pick.randint(1, 6))
    engine = ToyEngine(num_blocks)
    shared = [pick.randint(1, 9) for _ in range(12)]
    seqs: dict[int, Sequence] = {}
    pinned: list[tuple[int, ...]] = []
    for seq_id in range(num_requests):
        prompt = shared[: pick.randint(0, 12)] + [pick.randint(1, 9) for _ in range(pick.randint(1, 15))]
        kind = pick.choice(["plain", "plain", "hand-off", "remote", "sibling"])
        leader = seqs[seq_id - 1] if kind == "sibling" and seq_id and not seqs[seq_id - 1].is_hand_off else None
        seqs[seq_id] = make(
            seq_id,
            leader.row.prompt_ids if leader else prompt,
            pick.randint(1, 14),
            is_hand_off=kind == "hand-off",
            num_remote_tokens=len(prompt) - 1 if kind == "remote" else 0,
            leader=leader,
        )
    fetches: list[Fetch] = []
    arrivals = list(seqs.values())
    aborted: set[int] = set()
    for _ in range(3000):
        if arrivals and pick.random() < 0.4:
            scheduler.add([arrivals.pop()])
        turn = scheduler.schedule()
        outcomes = list(turn.outcomes)
        fetches += turn.fetches
        if fetches and pick.random() < 0.5:
            fetch = fetches.pop(pick.randrange(len(fetches)))
            is_good = pick.random() < 0.7
            engine.receive(fetch, is_good=is_good)
            scheduler.fetched(fetch.seq.seq_id, is_good=is_good)
        if pick.random() < 0.02:
            aborted |= {s.seq_id for s in scheduler.abort(f"r{pick.randrange(num_requests)}")}
        if turn.plan is not None:
            outcomes += scheduler.commit(turn.plan, engine.step(turn.plan))
        pinned += [o.pinned for o in outcomes if o.pinned]
        if pinned and pick.random() < 0.5:
            scheduler.pool.unpin(pinned.pop())
        scheduler.pool.check()
        if not arrivals and scheduler.is_idle and not pinned:
            break
    scheduler.pool.check(idle=True)
    assert scheduler.pool.num_free == num_blocks
    for seq in seqs.values():
        assert seq.phase is Phase.FINISHED
        if not seq.is_hand_off and seq.seq_id not in aborted:
            assert seq.row.output_ids == expected(seq.row.prompt_ids, seq.row.params.max_tokens, 40)


def test_toy_engine_catches_a_wrong_block_table() -> None:
    """Planted fault: a stale table must change the output, else the test above proves nothing."""
    scheduler, engine = make_scheduler(), ToyEngine(16)
    seq = make(1, list(range(1, 8)))
    scheduler.add([seq])
    turn = scheduler.schedule()
    scheduler.commit(turn.plan, engine.step(turn.plan))
    seq._table[0] = 9
    run(scheduler, engine)
    assert seq.row.output_ids != expected(seq.row.prompt_ids, 3, 40)
