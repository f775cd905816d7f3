"""The batched sampler against its float64 twin, its statistics, and the faults that these checks must catch."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow
from proa_workers.errors import InvalidRequest
from proa_workers.sampling import reference, select
from proa_workers.sampling import sampler as sampler_module
from proa_workers.sampling.admission import check_admissible
from proa_workers.sampling.draw import uniforms
from proa_workers.sampling.penalties import PromptArrays
from proa_workers.sampling.reference import sample_reference
from proa_workers.sampling.sampler import Sampler
from proa_workers.sampling.select import cutoff_by_counting, cutoff_by_sorting, invert_by_chunks, invert_by_scan

VOCAB = 70
EOS = (3,)


@dataclass(slots=True)
class OnlyTokens:
    """A grammar that allows a fixed set of tokens."""

    allowed: tuple[int, ...]
    is_strict: bool = False  # an empty set allows nothing, not everything
    accepted: list[int] = field(default_factory=list)

    def fill_mask(self, row: npt.NDArray[np.int32]) -> bool:
        bits = np.zeros(len(row) * 32, dtype=np.uint8)
        bits[list(self.allowed)] = 1
        row[:] = np.packbits(bits, bitorder="little").view(np.int32)
        return bool(self.allowed) or self.is_strict

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)

    def is_finished(self) -> bool:
        return False


def make_row(
    seed: int = 1, *, prompt: tuple[int, ...] = (5, 6, 7), output: tuple[int, ...] = (), **params: Any
) -> SampleRow:
    grammar = params.pop("grammar", None)
    settings = SamplingParams(**{"max_tokens": 100, **params})
    return SampleRow(
        params=settings, seed=seed, prompt_ids=list(prompt), output_ids=list(output), eos_token_ids=EOS, grammar=grammar
    )


def run(logits: torch.Tensor, rows: list[SampleRow]) -> list[Sampled]:
    return Sampler(vocab_size=logits.shape[1], device="cpu").sample(logits, rows)


def random_logits(num_rows: int, seed: int = 0, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 10_000},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.02},
]
EDITS: list[dict[str, Any]] = [
    {},
    {"frequency_penalty": 1.5, "presence_penalty": -0.5},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "presence_penalty": 0.8, "frequency_penalty": -1.0},
    {"logit_bias": ((3, 4.0), (9, -100.0), (69, 2.5))},
    {"min_tokens": 50, "stop_token_ids": (0, 11)},
    {"grammar": OnlyTokens((2, 3, 31, 32, 64, 69)), "repetition_penalty": 1.2},
    {"grammar": OnlyTokens((3,)), "min_tokens": 50},
    {"grammar": OnlyTokens((3, 11, 40)), "min_tokens": 50, "stop_token_ids": (11,)},
    {"grammar": OnlyTokens(()), "min_tokens": 50},
]
TEMPERATURES = [0.0, 0.3, 1.0, 2.5]


def mixed_rows() -> list[SampleRow]:
    cases = itertools.product(FILTERS, EDITS, TEMPERATURES)
    return [
        make_row(7919 * i - 5, output=tuple((i * j * j) % VOCAB for j in range(i % 9)), temperature=t, **f, **e)
        for i, (f, e, t) in enumerate(cases)
    ]


def disagreements(logits: torch.Tensor, rows: list[SampleRow]) -> list[str]:
    """Rows whose token differs from the twin's although the draw is not within 1e-6 of a boundary of its CDF."""
    wrong = []
    for logits_V, row, got in zip(logits.double().numpy(), rows, run(logits, rows), strict=True):
        want = sample_reference(logits_V, row)
        if got.token_id != want.token_id and (want.margin > 1e-6 or want.probs[got.token_id] == 0):
            wrong.append(f"{row.params} got {got.token_id} want {want.token_id}")
    return wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_combination_agrees_with_the_reference(dtype: torch.dtype) -> None:
    rows = mixed_rows()
    assert len(rows) == 400
    assert disagreements(random_logits(len(rows)).to(dtype), rows) == []


@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 129, 1000])
def test_vocabularies_that_do_not_fill_a_chunk(vocab: int) -> None:
    rows = [
        make_row(
            s,
            temperature=1.0,
            top_p=0.9,
            prompt=(),
        )
        for s in range(50)
    ]
    assert disagreements(random_logits(50, vocab=vocab), rows) == []


@pytest.mark.parametrize("top_k", [(1, 2), (3, 60), (5, 69), (70, 70), (2, 1_000), (0, 4)])
def test_top_k_by_either_path_with_top_p_and_min_p(top_k: tuple[int, int]) -> None:
    cases = itertools.product(range(40), top_k, (1.0, 0.9, 0.5), (0.0, 0.1))
    rows = [make_row(s, top_k=k, top_p=p, min_p=m) for s, k, p, m in cases]
    coarse = (random_logits(len(rows)) * 4).round() / 4  # many ties
    assert disagreements(coarse, rows) == []


@pytest.mark.parametrize("vocab", [1, 5, 70, 128, 1000])
def test_ways_of_host_and_device_agree(vocab: int) -> None:
    y_RV = (random_logits(200, vocab=vocab).abs() * 8).round() / 8
    y_RV[:, ::7] = math.inf
    y_RV[:, 0] = 0
    key_RV, weight_RV = y_RV.view(torch.int32), torch.exp(-y_RV)
    budgets = torch.linspace(0.001, 1, 200, dtype=torch.float64)[:, None]
    for weights in (weight_RV, torch.ones_like(weight_RV)):
        budget_R1 = budgets * weights.sum(1, keepdim=True, dtype=torch.float64)
        kept = [key_RV <= cut(key_RV, weights, budget_R1) for cut in (cutoff_by_counting, cutoff_by_sorting)]
        assert torch.equal(*[mask & (weights > 0) for mask in kept])
    assert torch.equal(invert_by_chunks(weight_RV, budgets - 0.001), invert_by_scan(weight_RV, budgets - 0.001))


def test_the_devices_ways_agree_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "cutoff_by_counting", cutoff_by_sorting)
    monkeypatch.setattr(select, "invert_by_chunks", invert_by_scan)
    rows = mixed_rows()
    assert disagreements(random_logits(len(rows)), rows) == []


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mixed_rows()
    logits = random_logits(len(rows))
    whole = run(logits, rows)
    monkeypatch.setattr(sampler_module, "HOST_BLOCK_LOGITS", 7 * VOCAB)
    assert run(logits, rows) == whole


def plant_prompt_in_penalty(row: SampleRow) -> SampleRow:
    output = row.prompt_ids + row.output_ids if row.params.presence_penalty else row.output_ids
    return SampleRow(params=row.params, seed=row.seed, prompt_ids=row.prompt_ids, output_ids=output, eos_token_ids=EOS)


def test_planted_penalty_over_the_prompt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [make_row(s, temperature=0.0, presence_penalty=2.0, prompt=tuple(range(0, VOCAB, 2))) for s in range(40)]
    monkeypatch.setattr(
        reference, "edit", lambda raw, row, edit=reference.edit: edit(raw, plant_prompt_in_penalty(row))
    )
    assert disagreements(random_logits(40), rows)


def keep_one_less(probs: reference.F64, is_kept: npt.NDArray[np.bool_]) -> reference.F64:
    is_kept = is_kept & (probs > probs[is_kept].min()) if is_kept.sum() > 1 else is_kept
    kept: reference.F64 = np.where(is_kept, probs, 0.0)
    kept /= kept.sum()
    return kept


@pytest.mark.parametrize("filters", [{"top_p": 0.8}, {"top_k": 6}, {"min_p": 0.1}])
def test_planted_off_by_one_filter_is_caught(monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]) -> None:
    rows = [make_row(s, **filters) for s in range(60)]
    assert disagreements(random_logits(60), rows) == []
    monkeypatch.setattr(reference, "_keep", keep_one_less)
    assert disagreements(random_logits(60), rows)


def test_planted_temperature_after_min_p_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def late_temperature(logits: reference.F64, row: SampleRow) -> reference.F64:
        probs = np.exp(logits - logits.max())
        late: reference.F64 = np.where(probs >= row.params.min_p, probs, 0) ** (1 / row.params.temperature)
        late /= late.sum()
        return late

    monkeypatch.setattr(reference, "distribution", late_temperature)
    assert disagreements(random_logits(60), [make_row(s, temperature=3.0, min_p=0.3) for s in range(60)])


def chi_square(observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Standardised chi-square (about normal): tokens with fewer than 5 expected draws form one class."""
    rare = expected < 5
    o, e = [np.append(x[~rare], x[rare].sum()) for x in (observed, expected)]
    o, e = o[e > 0], e[e > 0]
    return float((((o - e) ** 2 / e).sum() - (len(e) - 1)) / math.sqrt(2 * (len(e) - 1)))


def drawn_counts(rows: list[SampleRow], logits_V: torch.Tensor) -> npt.NDArray[np.float64]:
    batches = [rows[i : i + 2_000] for i in range(0, len(rows), 2_000)]
    tokens = [s.token_id for batch in batches for s in run(logits_V.expand(len(batch), -1), batch)]
    return np.bincount(tokens, minlength=VOCAB).astype(np.float64)


@pytest.mark.parametrize("params", [{"temperature": 1.0}, {"temperature": 1.7, "top_k": 30, "top_p": 0.9}])
@pytest.mark.parametrize("over", ["seeds", "positions", "seeds and positions"])
def test_draws_follow_the_distribution(params: dict[str, Any], over: str) -> None:
    pairs = {
        "seeds": [(s, 0) for s in range(20_000)],
        "positions": [(42, n) for n in range(2_000)],
        "seeds and positions": [(s, n) for s in range(141) for n in range(141)],
    }[over]
    rows = [make_row(s, output=(1,) * n, **params) for s, n in pairs]
    logits_V = random_logits(1, seed=11)[0] / 2
    expected = sample_reference(logits_V.double().numpy(), rows[0]).probs * len(rows)
    assert abs(chi_square(drawn_counts(rows, logits_V), expected)) < 4


def test_chi_square_catches_a_wrong_temperature() -> None:
    rows = [make_row(s, temperature=1.0) for s in range(20_000)]
    logits_V = random_logits(1, seed=11)[0] / 2
    wrong = sample_reference(logits_V.double().numpy(), make_row(temperature=1.05)).probs * len(rows)
    assert chi_square(drawn_counts(rows, logits_V), wrong) > 4


def test_uniforms_have_no_lag_correlation_and_match_plain_integers() -> None:
    draws = np.array([uniforms([s] * 200, range(200)) for s in range(-50, 50)])
    assert draws[3, 7] == reference.uniform(-47, 7)
    assert 0 <= draws.min() < draws.max() < 1
    for other in (np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1)):
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(draws.size)


def test_a_seeded_row_does_not_depend_on_its_batch() -> None:
    rows = mixed_rows()
    logits = random_logits(len(rows))
    together = run(logits, rows)
    order = list(np.random.default_rng(0).permutation(len(rows)))
    shuffled = run(logits[order], [rows[i] for i in order])
    assert [together[i] for i in order] == shuffled
    assert [run(logits[i : i + 1], [rows[i]])[0] for i in range(0, len(rows), 7)] == together[::7]


def test_logprobs_are_of_the_raw_logits_and_sorted() -> None:
    logits = random_logits(3)
    rows = [
        make_row(temperature=0.2, logprobs=4, logit_bias=((8, 100.0),)),
        make_row(temperature=0.0, logprobs=0),
        make_row(),
    ]
    biased, bare, none = run(logits, rows)
    want = sample_reference(logits[0].double().numpy(), rows[0]).logprobs
    best = np.argsort(-want)[:4]
    assert biased.token_id == 8
    assert biased.logprob == pytest.approx(want[8], abs=1e-5)
    assert [t for t, _ in biased.top] == list(best)
    assert [p for _, p in biased.top] == pytest.approx(want[best], abs=1e-5)
    assert (bare.top, none.logprob, none.top) == ((), None, ())
    assert bare.logprob is not None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("fault", "params", "message"),
    [
        (math.nan, {}, "logits of row 1 have a maximum of nan at output 2"),
        (math.nan, {"top_p": 0.5, "top_k": 3, "logit_bias": ((9, 1.0),)}, "logits of row 1 have a maximum of nan"),
        (math.inf, {}, "logits of row 1 have a maximum of inf"),
        (-math.inf, {}, "logits of row 1 have a maximum of -inf"),
        (0.0, {"grammar": OnlyTokens((), is_strict=True)}, "row 1 has no token left to choose at output 2"),
    ],
)
def test_broken_logits_are_an_error_that_names_the_row(
    fault: float, params: dict[str, Any], message: str, temperature: float
) -> None:
    logits = random_logits(3)
    logits[1, :] = torch.where(torch.arange(VOCAB) % 2 == 0, fault, fault if fault == -math.inf else 0.0)
    rows = [make_row(temperature=temperature, output=(1, 2), logprobs=2, **p) for p in ({}, params, {})]
    with pytest.raises(AssertionError, match=message):
        run(logits, rows)


def test_callers_logits_stay_unchanged() -> None:
    rows = mixed_rows()
    logits = random_logits(len(rows))
    before = logits.clone()
    run(logits, rows)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1.0, 100.0])
@pytest.mark.parametrize("extreme", [{"repetition_penalty": 1e-44}, {"top_p": 1e-45, "min_p": 1e-45}, {"top_k": 2**31}])
def test_extreme_settings_do_not_break_the_step(extreme: dict[str, Any], temperature: float) -> None:
    rows = [make_row(s, output=tuple(range(VOCAB)), temperature=temperature, **extreme) for s in range(8)]
    assert len(run(random_logits(8) * 1e6, rows)) == 8


def test_prompt_arrays_are_kept_for_the_last_rows_only() -> None:
    prompts, rows = PromptArrays(), [make_row(s, prompt=(s, s + 1)) for s in range(3)]
    first = prompts.take(rows)
    assert [a.tolist() for a in first] == [[0, 1], [1, 2], [2, 3]]
    again = prompts.take([rows[2], rows[0]])
    assert again[0] is first[2]
    assert again[1] is first[0]
    assert prompts.take([rows[1]])[0] is not first[1]


def test_ties_at_the_cut_are_kept() -> None:
    logits_V = torch.tensor([1.0, 1.0, 0.0, 1.0])
    rows = [
        SampleRow(params=SamplingParams(max_tokens=1, top_k=1), seed=s, prompt_ids=[], output_ids=[], eos_token_ids=())
        for s in range(64)
    ]
    assert {s.token_id for s in run(logits_V.expand(64, -1), rows)} == {0, 1, 3}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"logit_bias": ((70, 1.0),)}, "logit_bias has token id 70; this model's ids are 0..69"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids has token id -1"),
        ({"logit_bias": ((7, math.inf),)}, "logit_bias of token 7 must be in -100..100, got inf"),
        ({"logit_bias": ((7, math.nan),)}, "logit_bias of token 7 must be in -100..100, got nan"),
        ({"min_tokens": 1, "stop_token_ids": tuple(range(70))}, "leaves no token: drop one of them"),
    ],
)
def test_what_could_break_a_step_is_refused_at_admission(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_admissible(make_row(**params).params, VOCAB, EOS)


def test_admission_needs_no_torch() -> None:
    code = "import sys, proa_workers.sampling.admission; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_no_rows_and_wrong_shapes() -> None:
    assert run(random_logits(0), []) == []
    with pytest.raises(AssertionError, match="logits, 1 rows"):
        run(random_logits(2), [make_row()])
