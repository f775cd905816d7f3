"""Scheduler: exact plans for small cases, and random traffic against the invariants with a toy model.

The toy model's next token is a pure function of all tokens before it, so any wrong position, lost token or double step
changes the output.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proa_workers.core.block_pool import BlockPool
from proa_workers.core.load import Load
from proa_workers.core.outcome import Outcome
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, StepOutput, StepPlan
from proa_workers.core.scheduler import Fetch, Limits, Scheduler
from proa_workers.core.sequence import Phase, Sequence
from proa_workers.errors import InvalidRequest, Saturated

BLOCK = 4


def make(seq_id: int, prompt: list[int], max_tokens: int = 3, **fields: object) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    row = SampleRow(params=params, seed=0, prompt_ids=prompt, output_ids=[], eos_token_ids=(0,))
    return Sequence(seq_id=seq_id, request_id=f"r{seq_id}", row=row, **fields)


def make_scheduler(num_blocks: int = 16, **changes: int) -> Scheduler:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 40, "max_num_waiting": 100} | changes
    return Scheduler(BlockPool(num_blocks, BLOCK), Limits(**limits))


def next_token(tokens: list[int]) -> int:
    return (sum((i + 1) * token for i, token in enumerate(tokens)) * 31 + len(tokens)) % 97 + 1


class ToyEngine:
    """KV pool of token ids: a step writes its rows and samples from the rows it reads back through the table."""

    def __init__(self, num_blocks: int) -> None:
        self.rows = [[0] * BLOCK for _ in range(num_blocks)]

    def step(self, plan: StepPlan) -> StepOutput:
        for piece in plan.slices:
            for position, token in enumerate(piece.token_ids, piece.start):
                self.rows[piece.block_table[position // BLOCK]][position % BLOCK] = token
        return StepOutput(sampled=tuple(self._sample(piece) for piece in plan.slices))

    def receive(self, fetch: Fetch, *, is_good: bool) -> None:
        """What a transfer writes: the prompt's rows, or anything when it fails."""
        prompt = fetch.seq.row.prompt_ids
        for i, block in enumerate(fetch.block_ids, fetch.first_block):
            rows = prompt[i * BLOCK : (i + 1) * BLOCK] if is_good else []
            self.rows[block] = rows + [-1] * (BLOCK - len(rows))

    def _sample(self, piece) -> Sampled | None:
        if piece.row is None:
            return None
        context = [self.rows[piece.block_table[i // BLOCK]][i % BLOCK] for i in range(piece.end)]
        return Sampled(token_id=next_token(context))


def shape(plan: StepPlan | None) -> list[tuple[int, int, int]]:
    return [] if plan is None else [(p.seq_id, p.start, len(p.token_ids)) for p in plan.slices]


def run(scheduler: Scheduler, engine: ToyEngine, max_steps: int = 2000) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for _ in range(max_steps):
        turn = scheduler.schedule()
        outcomes += turn.outcomes
        if turn.plan is not None:
            assert turn.plan.num_tokens <= scheduler.limits.max_num_batched_tokens
            outcomes += scheduler.commit(turn.plan, engine.step(turn.plan))
        scheduler.pool.check()
        if scheduler.is_idle:
            return outcomes
    raise AssertionError("the scheduler does not come to rest")


def test_long_prompt_is_chunked_and_decodes_go_first() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, list(range(1, 11)))])
    scheduler.add([make(2, [5, 6, 7])])
    plans = []
    for _ in range(4):
        turn = scheduler.schedule()
        plans.append(shape(turn.plan))
        scheduler.commit(turn.plan, engine.step(turn.plan))
    assert plans == [[(1, 0, 8)], [(1, 8, 2), (2, 0, 3)], [(1, 10, 1), (2, 3, 1)], [(1, 11, 1), (2, 4, 1)]]


def test_second_equal_prompt_starts_after_its_cached_blocks() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, list(range(1, 10)))])
    run(scheduler, engine)
    second = make(2, list(range(1, 10)))
    scheduler.add([second])
    assert shape(scheduler.schedule().plan) == [(2, 8, 1)]
    assert second.num_cached == 8


def test_sibling_waits_for_its_leader_then_shares_its_blocks() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    leader = make(1, list(range(1, 10)))
    sibling = make(2, list(range(1, 10)), leader=leader)
    scheduler.add([leader, sibling])
    plans = []
    for _ in range(3):
        turn = scheduler.schedule()
        plans.append(shape(turn.plan))
        scheduler.commit(turn.plan, engine.step(turn.plan))
    assert plans == [[(1, 0, 8)], [(1, 8, 1)], [(1, 9, 1), (2, 8, 1)]]
    assert leader.block_ids[:2] == sibling.block_ids[:2]


def test_hand_off_computes_all_but_the_last_token_and_pins_its_blocks() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, list(range(1, 8)), is_hand_off=True)])
    (outcome,) = run(scheduler, engine)
    assert (outcome.sampled, outcome.finish.reason, len(outcome.pinned)) == (None, "length", 2)
    assert (scheduler.pool.num_pinned, scheduler.pool.num_owned) == (2, 0)
    scheduler.pool.unpin(outcome.pinned)
    scheduler.pool.check(idle=True)


@pytest.mark.parametrize(("prompt", "num_pinned"), [([7], 0), (list(range(1, 6)), 1), (list(range(1, 10)), 2)])
def test_hand_off_of_a_cached_prompt_needs_no_step(prompt: list[int], num_pinned: int) -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, prompt, is_hand_off=True)])
    run(scheduler, engine)
    scheduler.add([make(2, prompt, is_hand_off=True)])
    turn = scheduler.schedule()
    assert turn.plan is None
    assert [len(o.pinned) for o in turn.outcomes] == [num_pinned]


def fetch_one(scheduler: Scheduler, prompt: list[int]) -> tuple[Sequence, list[int]]:
    seq = make(1, prompt, num_remote_tokens=len(prompt) - 1)
    scheduler.add([seq])
    turn = scheduler.schedule()
    assert turn.plan is None
    (fetch,) = turn.fetches
    return fetch.seq, list(fetch.block_ids)


def test_fetched_rows_are_used_and_only_the_last_token_is_computed() -> None:
    scheduler = make_scheduler()
    seq, blocks = fetch_one(scheduler, list(range(1, 8)))
    assert len(blocks) == 2
    scheduler.fetched(seq.seq_id, is_good=True)
    assert shape(scheduler.schedule().plan) == [(1, 6, 1)]
    assert (seq.num_fetched, seq.num_cached) == (6, 0)


def test_failed_fetch_recomputes_or_ends_with_an_error() -> None:
    scheduler = make_scheduler()
    seq, _ = fetch_one(scheduler, list(range(1, 8)))
    assert scheduler.fetched(seq.seq_id, is_good=False) is None
    assert shape(scheduler.schedule().plan) == [(1, 0, 7)]
    scheduler = make_scheduler()
    seq, _ = fetch_one(scheduler, list(range(1, 8)))
    assert scheduler.fetched(seq.seq_id, is_good=False, may_recompute=False).finish.reason == "error"
    scheduler.pool.check(idle=True)


def test_abort_in_mid_fetch_keeps_the_blocks_until_the_transfer_ends() -> None:
    scheduler = make_scheduler()
    seq, blocks = fetch_one(scheduler, list(range(1, 8)))
    assert scheduler.abort("r1") == [seq]
    assert scheduler.pool.num_owned == len(blocks)
    scheduler.fetched(seq.seq_id, is_good=True)
    scheduler.pool.check(idle=True)
    assert scheduler.is_idle


def test_abort_while_a_step_runs_ignores_its_token() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, [1, 2, 3])])
    turn = scheduler.schedule()
    scheduler.abort("r1")
    assert scheduler.commit(turn.plan, engine.step(turn.plan)) == []
    scheduler.pool.check(idle=True)


class GivesUp:
    """A grammar that gives up at its second token."""

    failure: str | None = None
    num_accepted = 0

    def accept(self, token_id: int) -> None:
        self.num_accepted += 1
        if self.num_accepted == 2:
            self.failure = "too complex"


def test_output_whose_grammar_gives_up_ends_with_its_reason() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    seq = make(1, [1, 2, 3], max_tokens=9)
    seq.row.grammar = GivesUp()
    scheduler.add([seq])
    last = run(scheduler, engine)[-1]
    assert (last.finish.reason, last.finish.why, len(seq.row.output_ids)) == ("error", "too complex", 2)
    scheduler.pool.check(idle=True)


@pytest.mark.parametrize(
    ("seq", "error", "message"),
    [
        (make(1, []), InvalidRequest, "empty"),
        (make(1, [1] * 40), InvalidRequest, "40 tokens, this worker takes at most 39"),
    ],
)
def test_requests_that_never_fit_are_refused(seq: Sequence, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make_scheduler().add([seq])


def test_full_queue_is_saturated() -> None:
    scheduler = make_scheduler(max_num_waiting=1)
    scheduler.add([make(1, [1])])
    with pytest.raises(Saturated, match="1 requests wait"):
        scheduler.add([make(2, [1])])


def expected(prompt: list[int], max_tokens: int, max_len: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + max_tokens, max_len):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@settings(max_examples=150, deadline=None)
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


def test_waiting_for_room_does_not_renew_the_prefix_that_it_waits_with() -> None:
    """Free cached blocks keep their place in eviction order while the request that wants them cannot be admitted."""
    scheduler, engine = make_scheduler(num_blocks=4, max_model_len=17), ToyEngine(4)
    for seq_id, prompt in ((1, [1] * 5), (2, [2] * 5)):
        scheduler.add([make(seq_id, prompt, max_tokens=1)])
        run(scheduler, engine)
    scheduler.pool.allocate(1)
    before = list(scheduler.pool._free)
    assert scheduler.pool.match(make(3, [1] * 16).hash_blocks(4, BLOCK))[0] in before[:-1]
    scheduler.add([make(3, [1] * 16, max_tokens=1)])
    assert scheduler.schedule().plan is None
    assert list(scheduler.pool._free) == before


def test_throughput_averages_steps_and_is_zero_at_rest() -> None:
    scheduler, engine = make_scheduler(), ToyEngine(16)
    scheduler.add([make(1, [1, 2, 3])])
    load, rates = Load.of(scheduler), []
    for seconds in (0.5, 0.25, 0.5):
        plan = scheduler.schedule().plan
        load = load.after(scheduler, scheduler.commit(plan, engine.step(plan)), seconds)
        rates.append(load.tokens_per_second)
    assert rates == pytest.approx([2.0, 2.2, 2.18])
    assert load.after(scheduler, [], 0.0).tokens_per_second == 0.0
