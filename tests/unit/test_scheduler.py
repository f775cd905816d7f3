"""Scheduler: exact plans for small cases (random traffic: test_scheduler_traffic.py)."""

from __future__ import annotations

import pytest
from proa_workers.core.load import Load
from proa_workers.core.scheduler import Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.errors import InvalidRequest, Saturated

from tests.unit.toy_scheduler import BLOCK, ToyEngine, make, make_scheduler, run, shape


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

    def is_finished(self) -> bool:
        return self.failure is not None


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


def test_more_outputs_than_may_ever_wait_are_invalid() -> None:
    with pytest.raises(InvalidRequest, match="n is 3"):
        make_scheduler(max_num_waiting=2).add([make(i, [1]) for i in range(3)])


def test_full_queue_is_saturated() -> None:
    scheduler = make_scheduler(max_num_waiting=1)
    scheduler.add([make(1, [1])])
    with pytest.raises(Saturated, match="1 requests wait"):
        scheduler.add([make(2, [1])])


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
