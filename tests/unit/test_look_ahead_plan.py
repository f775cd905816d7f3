"""Plans made ahead of a commit: exact for small cases, and when there is none (equality of tokens: tests/model)."""

from __future__ import annotations

import pytest
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import StepPlan, unread
from proa_workers.core.scheduler import Scheduler
from proa_workers.core.sequence import Sequence

from tests.unit.toy_scheduler import BLOCK, ToyEngine, make, make_scheduler, shape


def started(*seqs: Sequence, **limits: int) -> tuple[Scheduler, StepPlan]:
    """A scheduler whose first step is on its way."""
    scheduler = make_scheduler(**limits)
    for seq in seqs:
        scheduler.add([seq])
    plan = scheduler.schedule().plan
    assert plan is not None
    return scheduler, plan


def tokens(plan: StepPlan) -> list[list[int]]:
    return [piece.token_ids for piece in plan.slices]


def planned_ahead(scheduler: Scheduler, plan: StepPlan) -> StepPlan:
    ahead = scheduler.schedule(plan).plan
    assert ahead is not None
    return ahead


def test_every_sequence_goes_on_from_its_own_unread_token() -> None:
    scheduler, plan = started(make(1, [5, 6]), make(2, [7, 8, 9, 10]))
    ahead = planned_ahead(scheduler, plan)
    assert (shape(ahead), ahead.step_id) == ([(1, 2, 1), (2, 4, 1)], plan.step_id + 1)
    assert tokens(ahead) == [[unread(0)], [unread(1)]]
    assert [len(piece.block_table) for piece in ahead.slices] == [1, 2], "position 4 needs a second block"


def test_outputs_whose_last_token_is_unread_are_left_out() -> None:
    scheduler, plan = started(make(1, [5, 6], max_tokens=1), make(2, [7, 8]), make(3, [1] * 3))
    ahead = planned_ahead(scheduler, plan)
    assert (shape(ahead), tokens(ahead)) == ([(2, 2, 1), (3, 3, 1)], [[unread(1)], [unread(2)]])


def test_prefills_go_on_and_join_beside_unread_tokens() -> None:
    scheduler, plan = started(make(1, [5, 6]), make(2, list(range(11, 22))), max_num_batched_tokens=6)
    assert shape(plan) == [(1, 0, 2), (2, 0, 4)]
    scheduler.add([make(3, [8, 9])])
    ahead = planned_ahead(scheduler, plan)
    assert (shape(ahead), tokens(ahead)) == ([(1, 2, 1), (2, 4, 5)], [[unread(0)], [15, 16, 17, 18, 19]])
    assert [piece.row is None for piece in ahead.slices] == [False, True]
    scheduler.commit(plan, ToyEngine(16).step(plan))
    last = planned_ahead(scheduler, ahead)
    assert shape(last) == [(1, 3, 1), (2, 9, 2), (3, 0, 2)]
    assert tokens(last) == [[unread(0)], [20, 21], [8, 9]]


def test_a_hand_off_ends_when_its_last_rows_are_computed() -> None:
    scheduler, plan = started(make(1, list(range(1, 15)), is_hand_off=True))
    ahead = planned_ahead(scheduler, plan)
    assert (shape(plan), shape(ahead)) == ([(1, 0, 8)], [(1, 8, 5)])
    assert scheduler.schedule(ahead).plan is None
    engine = ToyEngine(16)
    assert scheduler.commit(plan, engine.step(plan)) == []
    (outcome,) = scheduler.commit(ahead, engine.step(ahead))
    assert len(outcome.pinned) == 4


def with_grammar(seq_id: int) -> Sequence:
    seq = make(seq_id, [1, 2])
    seq.row.grammar = object()  # type: ignore[assignment]
    return seq


@pytest.mark.parametrize(
    ("seqs", "num_blocks"),
    [([make(1, [1, 2]), with_grammar(2)], 16), ([make(5, [1] * 4), make(6, [2] * 4)], 3)],
    ids=["grammar", "one block for two"],
)
def test_schedule_must_wait_for_the_commit(seqs: list[Sequence], num_blocks: int) -> None:
    scheduler, plan = started(*seqs, num_blocks=num_blocks)
    scheduler.add([make(9, [3])])
    assert scheduler.schedule(plan).plan is None
    assert (scheduler.num_preemptions, len(scheduler.waiting)) == (0, 1)


@pytest.mark.parametrize(("prompt", "max_tokens"), [([1, 2], 1), ([1] * 7, 3)], ids=["max_tokens", "longest sequence"])
def test_outputs_that_end_make_room_for_none_before_the_commit(prompt: list[int], max_tokens: int) -> None:
    scheduler, plan = started(make(1, prompt, max_tokens=max_tokens), max_model_len=8, max_num_seqs=1)
    scheduler.add([make(9, [3])])
    assert scheduler.schedule(plan).plan is None
    scheduler.commit(plan, ToyEngine(16).step(plan))
    assert shape(scheduler.schedule().plan) == [(9, 0, 1)]


def test_row_of_an_output_that_has_stopped_is_skipped() -> None:
    engine, seq = ToyEngine(16), make(1, [1] * BLOCK)
    scheduler, plan = started(seq, make(2, [7, 8], max_tokens=9))
    ahead = planned_ahead(scheduler, plan)
    output = engine.step(plan)
    seq.row.params = SamplingParams(max_tokens=9, stop_token_ids=(output.sampled[0].token_id,))  # type: ignore[union-attr]
    assert [o.finish.reason for o in scheduler.commit(plan, output) if o.finish] == ["stop"]
    assert tokens(planned_ahead(scheduler, ahead)) == [[unread(1)]]
    assert [o.seq.seq_id for o in scheduler.commit(ahead, output)] == [2]
    scheduler.pool.check()
    assert (len(seq.row.output_ids), seq.block_ids) == (1, [])
