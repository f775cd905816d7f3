"""Steps on their way and what must not overtake them: transfers, leases, failures, the end of the loop.

The production loop over a small model on the CPU. `_run` is called in this thread, and reports queue what comes next,
so that each case is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from proa_workers.core.block_pool import BlockPool
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow, StepOutput, StepPlan
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.engine import loop as loop_module
from proa_workers.engine.base import Flight
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.engine.native import NativeEngine, NativeFlight
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.errors import EngineFailed

Checkpoint = Callable[[str], Path]
BLOCK, NUM_BLOCKS = 4, 64
PROMPTS = [[(7 * i + j) % 150 for j in range(3 + 2 * i)] for i in range(6)]


def open_engine(folder: Path, mode: str) -> NativeEngine:
    settings = NativeSettings(
        device="cpu", block_tokens=BLOCK, num_blocks=NUM_BLOCKS, max_model_len=64, look_ahead=mode
    )
    return NativeEngine.from_checkpoint(folder, settings)


def make(seq_id: int, prompt: list[int], max_tokens: int = 6, **fields: object) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    row = SampleRow(params=params, seed=0, prompt_ids=prompt, output_ids=[], eos_token_ids=())
    return Sequence(seq_id=seq_id, request_id=f"r{seq_id}", row=row, **fields)  # type: ignore[arg-type]


def new_loop(engine: NativeEngine, on_report: Callable[[Report], None], max_num_seqs: int = 4) -> EngineLoop:
    """Without a prefix cache: rows come from a transfer or are computed."""
    limits = Limits(max_num_seqs=max_num_seqs, max_num_batched_tokens=8, max_model_len=48, max_num_waiting=9)
    pool = BlockPool(NUM_BLOCKS, BLOCK, has_prefix_cache=False)
    return EngineLoop(engine, Scheduler(pool, limits), on_report)


def on_landed(loop: EngineLoop, target: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that `target.name` is never called while a step is on its way."""
    action = getattr(target, name)

    def checked(*args: object, **kwargs: object) -> object:
        assert loop._next is None, f"{name} overtook a step on its way"
        return action(*args, **kwargs)

    monkeypatch.setattr(target, name, checked)


@dataclass(slots=True)
class Peer:
    """Hands every prompt off and reads it back: prefill and decode worker in one pool. Every third transfer fails."""

    engine: NativeEngine
    pinned: dict[int, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[int, list[int]] = field(default_factory=dict)
    loop: EngineLoop = field(init=False)

    def on_report(self, report: Report) -> None:
        for outcome in report.outcomes:
            key = outcome.seq.seq_id
            if outcome.seq.is_hand_off:
                self.pinned[key] = outcome.pinned
                prompt = outcome.seq.row.prompt_ids
                self.loop.submit([make(100 + key, prompt, num_remote_tokens=len(prompt) - 1)])
            elif outcome.finish is not None:
                self.outputs[key - 100] = outcome.seq.row.output_ids
        for fetch in report.fetches:
            source = self.pinned[fetch.seq.seq_id - 100]
            is_good = fetch.seq.seq_id % 3 != 0
            if is_good:
                self.copy(source[fetch.first_block :], fetch.block_ids)
            self.loop.fetched(fetch.seq.seq_id, is_good=is_good, may_recompute=True)
            self.loop.unpin(source)
        if len(self.outputs) == len(PROMPTS) or report.failure:
            self.loop._commands.put(self.loop._set_stopping)

    def copy(self, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        size = self.engine.kv.layout.block_bytes
        rows = torch.frombuffer(self.engine.kv.buffer, dtype=torch.uint8)[: NUM_BLOCKS * size].view(NUM_BLOCKS, size)
        rows[list(target)] = rows[list(source[: len(target)])]


def hand_over(folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> Peer:
    peer = Peer(open_engine(folder, mode))
    loop = peer.loop = new_loop(peer.engine, peer.on_report)
    on_landed(loop, loop.scheduler, "fetched", monkeypatch)
    on_landed(loop, loop.scheduler.pool, "unpin", monkeypatch)
    for i, prompt in enumerate(PROMPTS):
        loop.submit([make(i, prompt, is_hand_off=True)])
    loop._run()
    peer.engine.close()
    return peer


def plain_outputs(folder: Path) -> dict[int, list[int]]:
    engine, seqs = open_engine(folder, "off"), [make(i, prompt) for i, prompt in enumerate(PROMPTS)]
    loop = new_loop(engine, lambda _: None)
    for seq in seqs:
        loop.submit([seq])
    loop._take_commands()
    while not loop.scheduler.is_idle:
        loop._turn()
    engine.close()
    return {seq.seq_id: seq.row.output_ids for seq in seqs}


@pytest.mark.parametrize("mode", ["on", "off"])
def test_hand_offs_give_what_one_worker_gives(
    mode: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = hand_over(checkpoint("qwen3_moe"), mode, monkeypatch)
    peer.loop.scheduler.pool.check(idle=True)
    assert peer.outputs == plain_outputs(checkpoint("qwen3_moe"))
    assert (peer.loop.scheduler.pool.num_pinned, peer.loop._has_failed) == (0, False)
    assert (peer.loop.load.steps_ahead_total > 5) == (mode == "on")


def test_a_transfer_that_overtakes_a_step_is_seen(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module.EngineLoop, "_tell", lambda loop, act: loop._commands.put(loop_module.Joining(act)))
    peer = hand_over(checkpoint("qwen3_moe"), "on", monkeypatch)
    assert peer.loop._has_failed


class BadFlight(NativeFlight):
    def read(self) -> StepOutput:
        raise RuntimeError("planted")


def break_once(engine: NativeEngine, verb: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch of this number, or the reading of its tokens, raises."""
    launch, made = engine.launch, []

    def launch_or_raise(plan: StepPlan, before: Flight | None) -> Flight:
        made.append(plan)
        if len(made) != number:
            return launch(plan, before)
        if verb == "launch":
            raise RuntimeError("planted")
        flight = launch(plan, before)
        return BadFlight(plan=flight.plan, wanted=flight.wanted, drawn=flight.drawn)

    monkeypatch.setattr(engine, "launch", launch_or_raise)


@dataclass(slots=True)
class Failure:
    """Every end that was told, the failures, and who asked after the first of them."""

    ends: list[tuple[int, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    late: list[Future[None]] = field(default_factory=list)


def fail(folder: Path, mode: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> tuple[EngineLoop, Failure]:
    """One sequence has ended, one waits for a transfer, one runs and one waits when step 3 breaks."""
    seen, engine = Failure(), open_engine(folder, mode)
    break_once(engine, verb, 3, monkeypatch)

    def on_report(report: Report) -> None:
        seen.ends += [(o.seq.seq_id, o.finish.reason) for o in report.outcomes if o.finish]
        if report.failure:
            seen.failures.append(report.failure)
            seen.late.append(loop.submit([make(9, [1])]))
            loop._commands.put(loop._set_stopping)

    loop = new_loop(engine, on_report, max_num_seqs=3)
    loop.submit([make(0, [1, 2], max_tokens=1)])
    loop.submit([make(1, [3, 4, 5], num_remote_tokens=2)])
    loop.submit([make(2, [6, 7])])
    loop.submit([make(3, list(range(40)))])
    loop.submit([make(4, [8])])
    loop._run()
    engine.close()
    return loop, seen


@pytest.mark.parametrize("verb", ["launch", "read"])
@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_step_that_breaks_ends_everybody_once(
    mode: str, verb: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead or not: all hear of it once, and the loop is left alike."""
    loop, seen = fail(checkpoint("qwen3_moe"), mode, verb, monkeypatch)
    assert seen.ends[0] == (0, "length")
    assert sorted(seen.ends[1:]) == [(i, "error") for i in range(1, 5)]
    assert seen.failures == ["RuntimeError: planted"]
    assert (loop._next, loop._deferred, loop._has_failed, loop.load.errors_total) == (None, None, True, 1)
    with pytest.raises(EngineFailed):
        seen.late[0].result(0)


def test_a_command_that_waits_for_a_step_that_breaks_is_answered(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = open_engine(checkpoint("qwen3_moe"), "on"), []
    break_once(engine, "read", 3, monkeypatch)

    def on_report(report: Report) -> None:
        if report.failure:
            loop._commands.put(loop._set_stopping)
        elif loop.load.steps_total == 2:
            assert loop._next is not None
            asked.append(loop.abort("r0"))

    loop = new_loop(engine, on_report)
    loop.submit([make(0, [1, 2])])
    loop._run()
    engine.close()
    with pytest.raises(EngineFailed):
        asked[0].result(0)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_loop_ends_with_no_step_on_its_way(mode: str, checkpoint: Checkpoint) -> None:
    """The step that is on its way is read and told; nothing is launched any more."""
    engine, told = open_engine(checkpoint("qwen3_moe"), mode), []

    def on_report(report: Report) -> None:
        told.extend(o.sampled.token_id for o in report.outcomes if o.sampled)
        if len(told) == 2:
            assert (loop._next is not None) == (mode == "on")
            loop._commands.put(loop._set_stopping)

    loop, seq = new_loop(engine, on_report), make(0, [1, 2], max_tokens=20)
    loop.submit([seq])
    loop._run()
    engine.close()
    assert loop._next is None
    assert told == seq.row.output_ids
    assert len(told) == (3 if mode == "on" else 2)
