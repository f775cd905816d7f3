"""Steps launched before the last tokens were read give what synchronous steps give, token by token.

The production loop, scheduler and sampler over small models on the CPU, driven turn by turn in this thread; the twin
computes each step when it is asked for. Traffic is random: arrivals, aborts, siblings, stops of every kind, short
memory. A request's tokens do not depend on when it ran, so two runs compare whatever their timing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from proa_workers.core.block_pool import BlockPool
from proa_workers.core.outcome import Outcome
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, SeqSlice
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.profile.drive import Sequences
from proa_workers.sampling import sampler
from proa_workers.sampling.history import TokenHistory

Checkpoint = Callable[[str], Path]
VOCAB, BLOCK, LONGEST = 160, 4, 48


class StopPair:
    """Stop check: the third even token in a row."""

    def __init__(self) -> None:
        self.run = 0

    def append(self, token_id: int) -> str | None:
        self.run = self.run + 1 if token_id % 2 == 0 else 0
        return "even" if self.run == 3 else None


class Alternating:
    """Grammar: tokens of one half of the vocabulary after those of the other."""

    failure: str | None = None

    def __init__(self) -> None:
        self.last = 0

    def fill_mask(self, row: np.ndarray) -> bool:
        allowed = [t for t in range(VOCAB) if (t < VOCAB // 2) != (self.last < VOCAB // 2)]
        row[:] = 0
        for token in allowed:
            row.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
        return True

    def accept(self, token_id: int) -> None:
        self.last = token_id

    def is_finished(self) -> bool:
        return False


@dataclass(slots=True)
class Run:
    """What came back: per sequence its tokens with logprobs, and how it ended."""

    sampled: dict[int, list[Sampled]] = field(default_factory=dict)
    finishes: dict[int, object] = field(default_factory=dict)
    ahead: int = 0
    steps: int = 0
    preemptions: int = 0

    def take(self, outcome: Outcome) -> None:
        key = outcome.seq.seq_id
        assert key not in self.finishes, f"sequence {key} goes on after its end"
        if outcome.sampled is not None:
            self.sampled.setdefault(key, []).append(outcome.sampled)
        if outcome.finish is not None:
            self.finishes[key] = outcome.finish

    def tokens(self, key: int) -> list[int]:
        return [s.token_id for s in self.sampled.get(key, [])]


def settings_of(chance: random.Random) -> SamplingParams:
    seeded = {"temperature": chance.choice([0.5, 1.0, 2.0]), "top_p": chance.choice([1.0, 0.9])}
    history = chance.choice([{"repetition_penalty": 1.3}, {"frequency_penalty": 0.5, "presence_penalty": 0.2}])
    most = chance.randint(1, 24)
    return SamplingParams(
        max_tokens=most,
        min_tokens=chance.choice([0, 0, min(most, 5)]),
        logprobs=chance.choice([None, 0, 3]),
        top_k=chance.choice([0, 0, 20]),
        logit_bias=chance.choice([(), ((3, 2.0),)]),
        stop_token_ids=chance.choice([(), tuple(range(0, VOCAB, 9))]),
        **(chance.choice([{"temperature": 0.0}, seeded])),
        **(history if chance.random() < 0.2 else {}),
    )


def make_requests(seed: int, count: int, *, has_grammar: bool) -> list[list[Sequence]]:
    chance = random.Random(seed)
    requests: list[list[Sequence]] = []
    for i in range(count):
        prompt = [chance.randrange(VOCAB) for _ in range(chance.randint(1, 20))]
        params = settings_of(chance)
        is_pair, has_stop = chance.random() < 0.2, chance.random() < 0.3
        grammar = has_grammar and chance.random() < 0.1
        siblings: list[Sequence] = []
        for index in range(2 if is_pair else 1):
            row = SampleRow(
                params=params,
                seed=chance.getrandbits(64),
                prompt_ids=list(prompt),
                output_ids=[],
                eos_token_ids=(7,),
                grammar=Alternating() if grammar else None,
            )
            leader = siblings[0] if siblings else None
            stop = StopPair() if has_stop else None
            siblings.append(
                Sequence(seq_id=2 * i + index, request_id=f"r{i}", row=row, index=index, stop=stop, leader=leader)
            )
        requests.append(siblings)
    return requests


def drive(engine: NativeEngine, requests: list[list[Sequence]], seed: int, *, num_blocks: int, abort_every: int) -> Run:
    """Random arrivals and aborts until everything has ended and no step is on its way."""
    run, chance = Run(), random.Random(seed)
    limits = Limits(max_num_seqs=6, max_num_batched_tokens=16, max_model_len=LONGEST, max_num_waiting=99)
    scheduler = Scheduler(BlockPool(num_blocks, BLOCK), limits)

    def on_report(report: Report) -> None:
        for outcome in report.outcomes:
            run.take(outcome)

    loop = EngineLoop(engine, scheduler, on_report)
    waiting = list(requests)
    for turn in range(4000):
        if waiting and chance.random() < 0.3:
            loop.submit(waiting.pop(0))
        if abort_every and turn % abort_every == 0 and scheduler.running:
            loop.abort(chance.choice(scheduler.running).request_id)
        has_commands = loop._deferred is not None or not loop._commands.empty()
        if scheduler.is_idle and loop._next is None and not waiting and not has_commands:
            break
        if not loop._can_rest() or loop._next is not None or has_commands:
            loop._take_commands()
            loop._turn()
        scheduler.pool.check()
    else:
        raise AssertionError("the loop does not come to rest")
    scheduler.pool.check(idle=True)
    run.ahead, run.steps = loop.load.steps_ahead_total, loop.load.steps_total
    run.preemptions = scheduler.num_preemptions
    return run


def both(
    folder: Path, seed: int, *, num_blocks: int = 64, abort_every: int = 0, has_grammar: bool = True, count: int = 14
) -> tuple[Run, Run]:
    """The same requests with look-ahead and without."""
    runs = []
    for mode in ("on", "off"):
        settings = NativeSettings(device="cpu", block_tokens=BLOCK, num_blocks=64, max_model_len=64, look_ahead=mode)
        engine = NativeEngine.from_checkpoint(folder, settings)
        requests = make_requests(seed, count, has_grammar=has_grammar)
        runs.append(drive(engine, requests, seed, num_blocks=num_blocks, abort_every=abort_every))
        engine.close()
    return runs[0], runs[1]


def assert_equal(ahead: Run, twin: Run) -> None:
    assert ahead.finishes == twin.finishes
    for key, sampled in twin.sampled.items():
        assert ahead.tokens(key) == twin.tokens(key), f"sequence {key}"
        for ours, theirs in zip(ahead.sampled[key], sampled, strict=True):
            assert (ours.logprob is None) == (theirs.logprob is None)
            assert [t for t, _ in ours.top] == [t for t, _ in theirs.top]
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "seed", "has_grammar"), [("qwen3_moe", 0, True), ("qwen3_moe", 1, False), ("deepseek_v3", 2, False)]
)
def test_random_traffic_is_equal(name: str, seed: int, has_grammar: bool, checkpoint: Checkpoint) -> None:
    ahead, twin = both(checkpoint(name), seed, has_grammar=has_grammar)
    assert_equal(ahead, twin)
    assert {"stop", "length"} <= {f.reason for f in twin.finishes.values()}
    assert (twin.ahead, ahead.ahead > 10) == (0, True)
    assert ahead.ahead < ahead.steps, "arrivals, prefills and grammars make some steps synchronous"


def test_short_memory_is_equal(checkpoint: Checkpoint) -> None:
    """Blocks run out, sequences are preempted: what was launched ahead never takes a block that is in use."""
    ahead, twin = both(checkpoint("qwen3_moe"), 3, num_blocks=14)
    assert_equal(ahead, twin)
    assert ahead.preemptions > 0
    assert ahead.ahead > 0


def test_aborted_outputs_are_prefixes(checkpoint: Checkpoint) -> None:
    ahead, twin = both(checkpoint("qwen3_moe"), 4, abort_every=9, count=20)
    undisturbed, _ = both(checkpoint("qwen3_moe"), 4, count=20)
    aborted = {key for run in (ahead, twin) for key, f in run.finishes.items() if f.reason == "abort"}
    assert len(aborted) > 3
    assert ahead.finishes.keys() == undisturbed.finishes.keys()
    for key in undisturbed.finishes:
        whole = undisturbed.tokens(key)
        assert ahead.tokens(key) == whole[: len(ahead.tokens(key))], f"sequence {key}"
        if ahead.finishes[key].reason != "abort":
            assert ahead.finishes[key] == undisturbed.finishes[key]


@pytest.mark.parametrize(("has_grammar", "num_ahead"), [(True, 0), (False, 7)], ids=["grammar", "penalty"])
def test_only_a_grammar_makes_every_step_synchronous(has_grammar: bool, num_ahead: int, checkpoint: Checkpoint) -> None:
    """The output's length is known beforehand, so that no step runs for nothing."""
    settings = NativeSettings(device="cpu", block_tokens=BLOCK, num_blocks=64, max_model_len=64, look_ahead="on")
    engine = NativeEngine.from_checkpoint(checkpoint("qwen3_moe"), settings)
    row = SampleRow(
        params=SamplingParams(max_tokens=8, temperature=0.0, presence_penalty=0.5),
        seed=0,
        prompt_ids=[1, 2],
        output_ids=[],
        eos_token_ids=(),
        grammar=Alternating() if has_grammar else None,
    )
    run = drive(engine, [[Sequence(seq_id=0, request_id="r0", row=row)]], 0, num_blocks=64, abort_every=0)
    engine.close()
    assert (run.ahead, run.steps, len(run.tokens(0))) == (num_ahead, 8, 8)


def test_a_request_that_must_wait_makes_no_step_synchronous(checkpoint: Checkpoint) -> None:
    """It is queued while a step is on its way; an abort is not run before that step has ended."""
    settings = NativeSettings(device="cpu", block_tokens=BLOCK, num_blocks=64, max_model_len=64, look_ahead="on")
    engine = NativeEngine.from_checkpoint(checkpoint("qwen3_moe"), settings)
    limits = Limits(max_num_seqs=1, max_num_batched_tokens=16, max_model_len=LONGEST, max_num_waiting=9)
    scheduler, ends = Scheduler(BlockPool(64, BLOCK), limits), []
    loop = EngineLoop(
        engine, scheduler, lambda report: ends.extend(o.finish.reason for o in report.outcomes if o.finish)
    )
    (first,), (second,) = ([greedy(i, max_tokens=9)] for i in range(2))
    loop.submit([first])
    for _ in range(3):
        loop._take_commands()
        loop._turn()
    loop.submit([second])
    loop._take_commands()
    loop._turn()
    assert (len(scheduler.waiting), loop._next is not None) == (1, True)
    loop.abort("r0")
    loop._take_commands()
    assert ends == []
    loop._turn()
    assert (len(first.row.output_ids), loop._next, ends) == (5, None, [])
    loop._take_commands()
    assert ends == ["abort"]
    while not scheduler.is_idle:
        loop._turn()
    engine.close()
    assert (ends, len(second.row.output_ids), loop.load.steps_ahead_total) == (["abort", "length"], 9, 4 + 8)


def greedy(seq_id: int, max_tokens: int) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    row = SampleRow(params=params, seed=0, prompt_ids=[1, 2], output_ids=[], eos_token_ids=())
    return Sequence(seq_id=seq_id, request_id=f"r{seq_id}", row=row)


def test_profiled_sequences_are_equal(checkpoint: Checkpoint) -> None:
    """What `proa profile` times: steps of equal sequences without a scheduler."""
    outputs = []
    for mode in ("on", "off"):
        settings = NativeSettings(device="cpu", block_tokens=BLOCK, num_blocks=64, max_model_len=64, look_ahead=mode)
        engine = NativeEngine.from_checkpoint(checkpoint("qwen3_moe"), settings)
        sequences = Sequences(engine, [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], 7)
        sequences.prefill(chunk_tokens=8)
        steps = [sequences.decode() for _ in range(6)]
        engine.close()
        outputs.append(sequences.outputs)
        assert [step.decode_context for step in steps] == [2 * (6 + i) for i in range(6)]
    assert outputs[0] == outputs[1]
    assert [len(o) for o in outputs[0]] == [7, 7]


def _same_draw_again(draw: Callable[..., object]) -> Callable[..., object]:
    return lambda edited, peak, rows, unread: draw(edited, peak, rows, [0] * len(rows))


def _one_too_early(plan: Callable[[Scheduler, Sequence, int], SeqSlice]) -> Callable[..., SeqSlice]:
    def make(scheduler: Scheduler, seq: Sequence, count: int) -> SeqSlice:
        piece = plan(scheduler, seq, count)
        return replace(piece, start=piece.start - 1) if piece.is_unread else piece

    return make


def _uncounted(count: Callable[..., None]) -> Callable[..., None]:
    def note(history: TokenHistory, rows: list[SampleRow], token_R1: torch.Tensor) -> None:
        count(history, rows, torch.zeros_like(token_R1))

    return note


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (sampler, "_draw_rows", _same_draw_again),
        (Scheduler, "_slice", _one_too_early),
        (TokenHistory, "count", _uncounted),
    ],
    ids=["counter of the draw", "position", "history"],
)
def test_planted_faults_are_seen(
    module: object, name: str, fault: Callable[..., object], checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, fault(getattr(module, name)))
    ahead, twin = both(checkpoint("qwen3_moe"), 0, has_grammar=False)
    with pytest.raises(AssertionError):
        assert_equal(ahead, twin)
