"""Engine loop: commands, reports, idle checks and what happens when the engine breaks. Real thread, toy engine."""

from __future__ import annotations

import queue
import threading

import pytest
from proa_workers.core.block_pool import BlockPool
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, StepOutput, StepPlan
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.errors import EngineFailed, InvalidRequest

TIMEOUT = 10.0


class ToyEngine:
    """Samples the number of tokens so far; token 99 in a prompt breaks it."""

    def step(self, plan: StepPlan) -> StepOutput:
        if any(99 in piece.token_ids for piece in plan.slices):
            raise RuntimeError("boom")
        return StepOutput(sampled=tuple(p.row and Sampled(token_id=p.end) for p in plan.slices))


@pytest.fixture
def loop_and_reports():
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64, max_num_waiting=8)
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    loop = EngineLoop(ToyEngine(), Scheduler(BlockPool(16, 4), limits), reports.put)
    loop.start()
    yield loop, reports
    loop.stop(TIMEOUT)


def make(seq_id: int, prompt: list[int], max_tokens: int = 3, **fields: object) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    row = SampleRow(params=params, seed=0, prompt_ids=prompt, output_ids=[], eos_token_ids=())
    return Sequence(seq_id=seq_id, request_id=f"r{seq_id}", row=row, **fields)


def read_until_finish(reports: queue.SimpleQueue[Report]) -> tuple[list[int], str]:
    tokens: list[int] = []
    while True:
        for outcome in reports.get(timeout=TIMEOUT).outcomes:
            tokens += [outcome.sampled.token_id] if outcome.sampled else []
            if outcome.finish is not None:
                return tokens, outcome.finish.reason


def test_request_runs_to_its_end(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, [1, 2, 3])]).result(TIMEOUT)
    assert read_until_finish(reports) == ([3, 4, 5], "length")
    assert loop.flush().result(TIMEOUT) is True
    assert (loop.load.blocks_free, loop.load.steps_total, loop.load.tokens_total) == (16, 3, 3)


def test_request_whose_caller_left_before_it_was_queued_never_runs(loop_and_reports) -> None:
    """A client that goes away during a long step cancels the future of `submit`; the loop must survive that."""
    loop, reports = loop_and_reports
    is_stepping, may_go_on = threading.Event(), threading.Event()
    loop._commands.put(lambda: (is_stepping.set(), may_go_on.wait(TIMEOUT)))  # stands for the step
    assert is_stepping.wait(TIMEOUT)
    assert loop.submit([make(1, [1, 2, 3])]).cancel()
    may_go_on.set()
    loop.submit([make(2, [1, 2, 3])]).result(TIMEOUT)
    assert read_until_finish(reports) == ([3, 4, 5], "length")
    assert loop.load.steps_total == 3


def test_refusals_reach_the_caller(loop_and_reports) -> None:
    loop, _ = loop_and_reports
    with pytest.raises(InvalidRequest, match="64 tokens"):
        loop.submit([make(1, [1] * 64)]).result(TIMEOUT)


def test_abort_is_reported_once_and_is_idempotent(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, [1, 2, 3], num_remote_tokens=2)]).result(TIMEOUT)
    (fetch,) = reports.get(timeout=TIMEOUT).fetches
    assert [seq.seq_id for seq in loop.abort("r1").result(TIMEOUT)] == [1]
    assert read_until_finish(reports) == ([], "abort")
    assert loop.abort("r1").result(TIMEOUT) == []
    loop.fetched(fetch.seq.seq_id, is_good=True, may_recompute=True)
    assert loop.flush().result(TIMEOUT) is True


def test_hand_off_pins_until_unpin(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, list(range(9)), is_hand_off=True)]).result(TIMEOUT)
    report = reports.get(timeout=TIMEOUT)
    assert len(report.outcomes[0].pinned) == 2
    loop.unpin(report.outcomes[0].pinned)
    loop.flush().result(TIMEOUT)
    loop.scheduler.pool.check(idle=True)
    assert loop.scheduler.pool.num_pinned == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_broken_engine_ends_every_request_with_an_error(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, [1, 99]), make(2, [5])]).result(TIMEOUT)
    report = reports.get(timeout=TIMEOUT)
    assert report.failure == "RuntimeError: boom"
    assert [o.finish.reason for o in report.outcomes] == ["error", "error"]
    assert loop.load.errors_total == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_aborted_request_does_not_end_again_when_the_engine_breaks(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, [1, 2, 3], num_remote_tokens=2)]).result(TIMEOUT)
    assert reports.get(timeout=TIMEOUT).fetches
    loop.abort("r1").result(TIMEOUT)  # its transfer still writes
    assert read_until_finish(reports) == ([], "abort")
    loop.submit([make(2, [1, 99])]).result(TIMEOUT)
    assert [o.seq.seq_id for o in reports.get(timeout=TIMEOUT).outcomes] == [2]


def test_what_ended_before_the_engine_broke_in_the_same_turn_is_told(loop_and_reports) -> None:
    """A hand-off whose rows are all cached ends in the schedule; the step of the other request then breaks."""
    loop, reports = loop_and_reports
    loop.submit([make(1, list(range(9)), is_hand_off=True)]).result(TIMEOUT)
    assert reports.get(timeout=TIMEOUT).outcomes
    loop.submit([make(2, list(range(9)), is_hand_off=True), make(3, [1, 99])]).result(TIMEOUT)
    report = reports.get(timeout=TIMEOUT)
    assert report.failure == "RuntimeError: boom"
    assert [(o.seq.seq_id, o.finish.reason) for o in report.outcomes] == [(2, "length"), (3, "error")]


def test_a_command_that_breaks_the_loop_is_answered(loop_and_reports, monkeypatch) -> None:
    loop, reports = loop_and_reports

    def broken_add(_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(loop.scheduler, "add", broken_add)
    with pytest.raises(EngineFailed, match="retry on another worker"):
        loop.submit([make(1, [1, 2])]).result(TIMEOUT)
    assert reports.get(timeout=TIMEOUT).failure == "KeyError: 'a bug'"


def test_who_asks_a_broken_engine_is_answered_at_once(loop_and_reports) -> None:
    loop, reports = loop_and_reports
    loop.submit([make(1, [1, 99])]).result(TIMEOUT)
    assert reports.get(timeout=TIMEOUT).failure
    with pytest.raises(EngineFailed, match="retry on another worker"):
        loop.submit([make(2, [5])]).result(TIMEOUT)
    loop.unpin([3])  # of a lease that ends now; the broken pool is left alone
    with pytest.raises(EngineFailed):
        loop.flush().result(TIMEOUT)


def test_idle_check_catches_a_block_that_nobody_owns(loop_and_reports) -> None:
    """Planted fault: a leaked reference ends the loop with a failure at the next idle moment."""
    loop, reports = loop_and_reports
    loop.scheduler.pool.allocate(1)
    loop.submit([make(1, [1, 2, 3], max_tokens=1)]).result(TIMEOUT)
    assert read_until_finish(reports) == ([3], "length")
    assert "owned by nobody" in reports.get(timeout=TIMEOUT).failure
