"""plan_ahead: exact plans for small cases, and when it leaves the decision to `schedule` (tokens: tests/model)."""

from __future__ import annotations

import pytest
from proa_workers.core.look_ahead import plan_ahead
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import UNREAD, StepPlan
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


def test_every_sequence_goes_on_from_its_own_unread_token() -> None:
    scheduler, plan = started(make(1, [5, 6]), make(2, [7, 8, 9, 10]))
    ahead = plan_ahead(scheduler, plan)
    assert ahead is not None
    assert (shape(ahead), ahead.follows, ahead.step_id) == ([(1, 2, 1), (2, 4, 1)], (0, 1), plan.step_id + 1)
    assert {token for piece in ahead.slices for token in piece.token_ids} == {UNREAD}
    assert [len(piece.block_table) for piece in ahead.slices] == [1, 2], "position 4 needs a second block"


def test_outputs_whose_last_token_is_unread_are_left_out() -> None:
    scheduler, plan = started(make(1, [5, 6], max_tokens=1), make(2, [7, 8]), make(3, [1] * 3))
    ahead = plan_ahead(scheduler, plan)
    assert ahead is not None
    assert (shape(ahead), ahead.follows) == ([(2, 2, 1), (3, 3, 1)], (1, 2))


def with_grammar(seq_id: int) -> Sequence:
    seq = make(seq_id, [1, 2])
    seq.row.grammar = object()  # type: ignore[assignment]
    return seq


@pytest.mark.parametrize(
    ("seqs", "limits"),
    [
        ([make(1, list(range(1, 12)))], {}),
        ([make(2, [1, 2]), make(3, list(range(1, 12)))], {}),
        ([make(4, [1, 2]), with_grammar(5)], {}),
        ([make(6, [1, 2], max_tokens=1)], {}),
        ([make(7, [1] * 7)], {"max_model_len": 8}),
        ([make(8, [1] * 4), make(9, [2] * 4)], {"num_blocks": 3}),
        ([make(10, [1, 2]), make(11, [3, 4])], {"max_num_batched_tokens": 2}),
        ([make(12, [1] * 6, is_hand_off=True)], {}),
    ],
    ids=[
        "prefill goes on",
        "one of two prefills goes on",
        "grammar",
        "all outputs end",
        "longest sequence",
        "one block for two",
        "a waiting one can join",
        "hand-off",
    ],
)
def test_schedule_must_decide(seqs: list[Sequence], limits: dict[str, int]) -> None:
    scheduler, plan = started(*seqs, **limits)
    num_free = scheduler.pool.num_free
    assert plan_ahead(scheduler, plan) is None
    assert scheduler.pool.num_free == num_free


def test_waiting_sequence_that_cannot_join_does_not_stop_it() -> None:
    scheduler, plan = started(make(1, [1, 2]), make(2, [3, 4]), max_num_seqs=1)
    assert shape(plan_ahead(scheduler, plan)) == [(1, 2, 1)]
    scheduler, plan = started(make(1, [1, 2]), make(2, [3] * 9), num_blocks=3)
    assert shape(plan_ahead(scheduler, plan)) == [(1, 2, 1)], "its three blocks are not free"


def test_row_of_an_output_that_has_stopped_is_skipped() -> None:
    engine, seq = ToyEngine(16), make(1, [1] * BLOCK)
    scheduler, plan = started(seq, make(2, [7, 8], max_tokens=9))
    ahead = plan_ahead(scheduler, plan)
    assert ahead is not None
    output = engine.step(plan)
    seq.row.params = SamplingParams(max_tokens=9, stop_token_ids=(output.sampled[0].token_id,))  # type: ignore[union-attr]
    assert [o.finish.reason for o in scheduler.commit(plan, output) if o.finish] == ["stop"]
    assert plan_ahead(scheduler, ahead).follows == (1,)  # type: ignore[union-attr]
    assert [o.seq.seq_id for o in scheduler.commit(ahead, output)] == [2]
    scheduler.pool.check()
    assert (len(seq.row.output_ids), seq.block_ids) == (1, [])
