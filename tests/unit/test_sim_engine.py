"""The simulated engine: deterministic tokens, modelled time, and proof that wrong KV rows never pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proa_workers.core.block_pool import BlockPool
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, SeqSlice, StepPlan
from proa_workers.core.scheduler import Limits, Scheduler
from proa_workers.core.sequence import Sequence
from proa_workers.engine.base import EngineInfo
from proa_workers.errors import CheckpointError, SettingsError
from proa_workers.kv.layout import BlockRun
from proa_workers.settings import Settings
from proa_workers.sim.cost import CostModel
from proa_workers.sim.engine import SimEngine
from proa_workers.sim.fingerprint import make_row, make_rows
from proa_workers.sim.pace import Pace
from proa_workers.sim.profile import SimProfile
from proa_workers.sim.tokens import TokenSource
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BLOCK = 4
VOCAB = 300
READABLE = list(range(40, 90))
EOS = (1, 2)
PROMPT = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
INFO = EngineInfo(
    model_path="m",
    model_type="t",
    architecture="A",
    vocab_size=VOCAB,
    max_model_len=512,
    eos_token_ids=EOS,
    bos_token_id=None,
    pad_token_id=None,
    dtype="sim",
    device="cpu",
)
Build = Callable[..., SimEngine]


class FakeTime:
    """A clock that only sleeping moves; `overshoot` makes each sleep longer than asked."""

    def __init__(self, overshoot: float = 0.0) -> None:
        self.now, self.overshoot = 100.0, overshoot

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.overshoot


@pytest.fixture
def build() -> Iterator[Build]:
    engines: list[SimEngine] = []

    def make(mean: float = 0.0, time: FakeTime | None = None, speed: float = 1.0, **options: Any) -> SimEngine:
        fake = time or FakeTime()
        engine = SimEngine(
            INFO,
            TokenSource(READABLE, VOCAB, mean),
            SimProfile(),
            num_blocks=64,
            block_tokens=BLOCK,
            pace=Pace(speed, fake.clock, fake.sleep),
            **options,
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def row_of(output: list[int] | None = None, *, prompt: list[int] = PROMPT, **params: Any) -> SampleRow:
    settings = SamplingParams(**{"max_tokens": 100, **params})
    return SampleRow(params=settings, seed=5, prompt_ids=prompt, output_ids=output or [], eos_token_ids=EOS)


def run(engine: SimEngine, row: SampleRow, start: int, end: int, table: list[int], step_id: int = 1) -> Sampled | None:
    """One step of one sequence over positions start .. end-1; sampling when these are all it has."""
    tokens = (row.prompt_ids + row.output_ids)[start:end]
    is_last = end == len(row.prompt_ids) + len(row.output_ids)
    piece = SeqSlice(
        seq_id=9,
        token_ids=tokens,
        start=start,
        block_table=np.array(table, dtype=np.int32),
        row=row if is_last else None,
    )
    return engine.step(StepPlan(step_id=step_id, slices=(piece,))).sampled[0]


def generate(engine: SimEngine, cuts: list[int], table: list[int], count: int = 6, **params: Any) -> list[int]:
    row, start = row_of(**params), 0
    for end in cuts:
        sampled = run(engine, row, start, end, table)
        start = end
    while True:
        assert sampled is not None
        row.output_ids.append(sampled.token_id)
        if len(row.output_ids) == count:
            return row.output_ids
        sampled = run(engine, row, start, start + 1, table)
        start += 1


def test_one_row_is_that_of_many() -> None:
    tokens = np.array([5, 299, 0, 7, 2**40], dtype=np.int64)
    rows, prefix = make_rows(3, tokens, 2**64 - 5), 2**64 - 5
    for i, token in enumerate(tokens.tolist()):
        row = make_row(3 + i, token, prefix)
        assert list(row) == rows[i].tolist()
        prefix = row[2]


TABLE = [5, 3, 60, 1, 2]


def test_tokens_depend_on_the_prefix_alone(build: Build) -> None:
    whole = generate(build(), [11], TABLE)
    assert set(whole) <= set(READABLE)
    assert len(set(whole)) > 2
    assert generate(build(), [3, 4, 11], [9, 8, 7, 6, 5], seed=77) == whole
    assert generate(build(), [11], TABLE, prompt=[*PROMPT[:-1], 18]) != whole


def hand_off(source: SimEngine, target: SimEngine) -> None:
    """Move the prompt's blocks (without its last token) into other blocks of another engine."""
    run(source, row_of(), 0, 10, TABLE)
    for held, wanted in zip(TABLE[:3], (20, 21, 22), strict=True):
        target.kv.write_run(BlockRun(wanted, 1), source.kv.read_run(BlockRun(held, 1)))


def test_output_after_a_hand_off_is_that_of_one_worker(build: Build) -> None:
    prefill, decode = build(), build()
    hand_off(prefill, decode)
    row = row_of()
    first = run(decode, row, 10, 11, [20, 21, 22])
    assert first is not None
    assert [first.token_id] == generate(build(), [11], TABLE, count=1)


def flip(engine: SimEngine, block: int, byte: int) -> None:
    engine.kv.read_run(BlockRun(block, 1))[byte] ^= 1


FAULTS: dict[str, Callable[[SimEngine], None]] = {
    "lost block": lambda e: e.kv.write_run(BlockRun(21, 1), memoryview(bytes(e.kv.layout.block_bytes))),
    "stale block": lambda e: e.kv.write_run(BlockRun(21, 1), e.kv.read_run(BlockRun(20, 1))),
    **{f"flipped word {word}": lambda e, word=word: flip(e, 20, 32 * 2 + 8 * word + 3) for word in range(4)},  # type: ignore[misc]
    "damaged last row": lambda e: flip(e, 22, 32 * 1 + 16),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_rows_after_a_hand_off_raise(build: Build, fault: str) -> None:
    prefill, decode = build(), build()
    hand_off(prefill, decode)
    FAULTS[fault](decode)
    with pytest.raises(AssertionError, match=r"KV of sequence 9 is wrong at position \d+ \(block 2[012]\): "):
        run(decode, row_of(), 10, 11, [20, 21, 22])


@pytest.mark.parametrize(
    ("prompt", "table"),
    [([*PROMPT[:4], 99, *PROMPT[5:]], [20, 21, 22]), (PROMPT, [21, 20, 22]), (PROMPT, [20, 20, 22])],
)
def test_rows_of_another_sequence_or_place_raise(build: Build, prompt: list[int], table: list[int]) -> None:
    prefill, decode = build(), build()
    hand_off(prefill, decode)
    with pytest.raises(AssertionError, match="KV of sequence 9 is wrong at position"):
        run(decode, row_of(prompt=prompt), 10, 11, table)


def test_a_chunk_without_a_row_still_proves_its_prefix(build: Build) -> None:
    engine = build()
    run(engine, row_of(), 0, 4, TABLE)
    flip(engine, TABLE[0], 8)
    with pytest.raises(AssertionError, match="wrong at position 0"):
        run(engine, row_of(), 4, 8, TABLE)


def test_a_slice_that_is_not_of_its_sequence_raises(build: Build) -> None:
    engine, row = build(), row_of()
    piece = SeqSlice(seq_id=9, token_ids=[1] * 11, start=0, block_table=np.array(TABLE, dtype=np.int32), row=row)
    with pytest.raises(AssertionError, match="foreign slice of sequence 9"):
        engine.step(StepPlan(step_id=1, slices=(piece,)))


@pytest.mark.parametrize("damaged", range(0, 40, 3))
def test_long_contexts_are_proved_by_turns(build: Build, damaged: int) -> None:
    engine, table = build(verify_window=8), list(range(16))
    row = row_of(prompt=list(range(3, 41)))
    run(engine, row, 0, 38, table)
    row.output_ids += [50, 51]
    run(engine, row, 38, 40, table)
    row.output_ids.append(52)
    flip(engine, damaged // BLOCK, damaged % BLOCK * 32 + 1)
    with pytest.raises(AssertionError, match=f"wrong at position {damaged}"):
        _ = [run(engine, row, 40, 41, table, step_id) for step_id in range(1, 6)]


@pytest.mark.parametrize("speed", [1.0, 50.0])
def test_steps_take_the_modelled_time_without_drift(build: Build, speed: float) -> None:
    time = FakeTime(overshoot=0.001)
    engine = build(time=time, speed=speed)
    generate(engine, [11], TABLE, count=9)
    cost = CostModel()
    modelled = cost.step_seconds(prefill_tokens=11, prefill_pairs=66)
    modelled += sum(cost.step_seconds(decode_seqs=1, decode_context=12 + i) for i in range(8))
    assert time.now - 100 == pytest.approx(modelled / speed, abs=0.0015 if speed == 1 else 0.01)


def test_a_pause_is_not_caught_up() -> None:
    time = FakeTime()
    pace = Pace(2.0, time.clock, time.sleep)
    for pause in (0.0, 5.0, 0.01):
        time.now += pause
        pace.begin()
        pace.finish(1.0)
    assert time.now == pytest.approx(100 + 0.5 + 5 + 0.5 + 0.5)


def outputs(mean: float, **params: Any) -> list[int]:
    source, row = TokenSource(READABLE, VOCAB, mean), row_of(**params)
    for _ in range(2_000):
        row.output_ids.append(source.next(hash((len(row.output_ids), 3)) & (2**64 - 1), row).token_id)
    return row.output_ids


def test_end_tokens_come_at_the_mean_length_and_only_when_allowed() -> None:
    assert 2_000 / outputs(20.0, max_tokens=5_000).count(EOS[0]) == pytest.approx(20, rel=0.3)
    assert EOS[0] not in outputs(0.0)
    assert EOS[0] not in outputs(20.0, ignore_eos=True)
    assert EOS[0] not in outputs(20.0, min_tokens=2_000, max_tokens=5_000)
    stops = tuple(READABLE[:40])
    assert set(outputs(0.0, min_tokens=2_000, max_tokens=5_000, stop_token_ids=stops)) == set(READABLE[40:])


@pytest.mark.parametrize(("wanted", "num_top"), [(None, 0), (0, 0), (1, 1), (5, 5)])
def test_logprobs_have_the_shape_asked_for(wanted: int | None, num_top: int) -> None:
    sampled = TokenSource(READABLE, VOCAB, 0.0).next(12345, row_of(logprobs=wanted))
    assert len(sampled.top) == num_top == len({t for t, _ in sampled.top})
    assert (sampled.logprob is None) == (wanted is None)
    assert [p for _, p in sampled.top] == sorted((p for _, p in sampled.top), reverse=True)
    assert num_top == 0 or sampled.top[0] == (sampled.token_id, sampled.logprob)


class Allow:
    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    def fill_mask(self, row: np.ndarray[Any, np.dtype[np.int32]]) -> bool:
        for token in self.tokens:
            row[token // 32] |= np.int32(1 << token % 32)
        return bool(self.tokens)

    def accept(self, token_id: int) -> None: ...

    def is_finished(self) -> bool:
        return False


@pytest.mark.parametrize(("allowed", "expected"), [((3, 33, 299), {3, 33, 299}), ((3, 2), {2}), ((), set(READABLE))])
def test_grammars_are_obeyed(allowed: tuple[int, ...], expected: set[int]) -> None:
    row = row_of()
    row.grammar = Allow(*allowed)
    source = TokenSource(READABLE, VOCAB, 0.0)
    assert {source.next(i * 7919, row).token_id for i in range(600)} == expected


def test_production_scheduler_with_preemption_and_prefix_hits(build: Build) -> None:
    engine = build()
    scheduler = Scheduler(
        BlockPool(24, BLOCK), Limits(max_num_seqs=8, max_num_batched_tokens=16, max_model_len=64, max_num_waiting=99)
    )
    prompts = [[*range(3, 12), 20 + i] for i in range(8)]
    seqs = [
        Sequence(seq_id=i, request_id=f"r{i}", row=row_of(prompt=prompt, max_tokens=20, ignore_eos=True))
        for i, prompt in enumerate(prompts)
    ]
    scheduler.add(seqs)
    for _ in range(2_000):
        if scheduler.is_idle:
            break
        plan = scheduler.schedule().plan
        if plan is not None:
            scheduler.commit(plan, engine.step(plan))
    assert scheduler.is_idle
    assert scheduler.num_preemptions > 0
    assert max(seq.num_cached for seq in seqs) > 0
    for seq, prompt in zip(seqs, prompts, strict=True):
        assert seq.row.output_ids == generate(build(), [10], list(range(30, 40)), count=20, prompt=prompt)


def write_model(folder: Path, **config: Any) -> Path:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(level.alphabet()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = level, decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": 256,
        "max_position_embeddings": 512,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (values | config).items() if v is not None}))
    return folder


def settings_of(folder: Path, **fields: Any) -> Settings:
    return replace(Settings(model=str(folder), engine="sim"), **fields)


def test_engine_of_a_checkpoint_folder(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    (tmp_path / "p.yaml").write_text("provenance: simulated\nkv_cache_tokens: 1000\nstartup_seconds: 0.01\n")
    engine = SimEngine.from_settings(
        tmp_path, settings_of(tmp_path, sim_profile=str(tmp_path / "p.yaml"), sim_speed=10.0)
    )
    assert (engine.info.eos_token_ids, engine.info.max_model_len, engine.kv.num_blocks) == ((5, 6), 512, 62)
    assert engine.kv.layout.block_bytes == 16 * 32
    engine.close()


@pytest.mark.parametrize(
    ("config", "fields", "kind", "message"),
    [
        ({"vocab_size": None}, {}, CheckpointError, "key 'vocab_size' is missing"),
        ({"vocab_size": "many"}, {}, CheckpointError, "a value is of the wrong kind .*many"),
        ({"architectures": []}, {}, CheckpointError, "a value is of the wrong kind"),
        ({}, {"max_model_len": 1000}, SettingsError, r"max_model_len 1000 is out of range; this model serves 1\.\.512"),
        ({}, {"kv_cache_memory": 2**20}, SettingsError, "size it with --num-kv-blocks"),
        (
            {},
            {"num_kv_blocks": 31},
            SettingsError,
            "31 blocks of 16 tokens, .* 512 needs 32; raise --num-kv-blocks",
        ),
        ({}, {"num_kv_blocks": 2**40}, SettingsError, r"does not fit in /dev/shm \(.*\): lower --num-kv-blocks"),
        ({}, {"sim_profile": "nowhere.yaml"}, SettingsError, "sim profile nowhere.yaml cannot be read"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, config: dict[str, Any], fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        SimEngine.from_settings(write_model(tmp_path, **config), settings_of(tmp_path, **fields))


def test_engine_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from proa_workers.settings import Settings
from proa_workers.sim.engine import SimEngine
from proa_workers.sim.fingerprint import make_row, make_rows
settings = Settings(model={str(write_model(tmp_path))!r}, engine="sim", num_kv_blocks=32)
SimEngine.from_settings(Path(settings.model), settings).close()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
