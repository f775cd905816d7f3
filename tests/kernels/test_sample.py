"""Sampling in the interpreter against the reference that sorts, and both against the sampler of the workers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from proa_kernels.doctor_sample import wrong_draws
from proa_kernels.sample import SampleSettings, sample, sample_ref, uniforms_ref, weights_ref
from proa_kernels.sample_triton import COLS, launch_sample
from proa_kernels.testing import Guarded
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.sampling.draw import uniforms
from proa_workers.sampling.sampler import Sampler

CPU = torch.device("cpu")
INF = math.inf
# temperature, min_p, top_k, top_p
REQUESTS = (
    (0.0, 0.0, 0, 1.0),
    (1.0, 0.0, 0, 1.0),
    (0.7, 0.02, 0, 1.0),
    (1.0, 0.0, 1, 1.0),
    (2.0, 0.0, 40, 1.0),
    (1.0, 0.0, 10_000_000, 0.9),
    (0.8, 0.001, 20, 0.8),
    (1.5, 1.0, 0, 0.5),
    (1.0, 0.0, 0, 1e-9),
)


def random_logits(num_rows: int, vocab: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def settings_of(requests: tuple[tuple[float, float, int, float], ...], first_seed: int = 1) -> SampleSettings:
    temperature, min_p, top_k, top_p = zip(*requests, strict=True)
    seed = [first_seed * 7919**n for n in range(len(requests))]
    count = [3 * n for n in range(len(requests))]
    return SampleSettings.of(
        temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p, seed=seed, count=count, device=CPU
    )


def run(logits: torch.Tensor, settings: SampleSettings, cols: int = COLS) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and largest logits; fails when something around them was written."""
    tokens = Guarded.empty((logits.shape[0],), torch.int64, CPU)
    peaks = Guarded.empty((logits.shape[0],), torch.float32, CPU)
    launch_sample(logits, settings, tokens.tensor, peaks.tensor, cols)
    assert tokens.is_intact()
    assert peaks.is_intact()
    return tokens.tensor, peaks.tensor


@pytest.mark.parametrize(
    ("vocab", "cols", "dtype"),
    [
        (1, 16, torch.float32),
        (7, 4, torch.float32),
        (130, 64, torch.float32),
        (300, 512, torch.float16),
        (300, 512, torch.bfloat16),
    ],
)
def test_tokens_equal_the_reference(vocab: int, cols: int, dtype: torch.dtype):
    logits, settings = random_logits(len(REQUESTS), vocab, dtype, seed=vocab), settings_of(REQUESTS)
    tokens, peaks = run(logits, settings, cols)
    assert wrong_draws(tokens, logits, settings) == []
    assert torch.equal(peaks, sample_ref(logits, settings)[1])


@pytest.mark.parametrize(("vocab", "cols"), [(32_000, COLS), (262_144, 1 << 16)])
def test_whole_vocabularies(vocab: int, cols: int):
    requests = (REQUESTS[0], REQUESTS[6])
    logits, settings = random_logits(2, vocab), settings_of(requests)
    assert wrong_draws(run(logits, settings, cols)[0], logits, settings) == []


@pytest.mark.parametrize("arm", ["triton", "reference"])
def test_same_tokens_as_the_workers_sampler(arm: str):
    vocab, seeds = 200, (0, 1, -5, 2**63 + 11, 2**64 - 1, 12345, 7, 99, 2**40)
    logits, settings = random_logits(len(REQUESTS), vocab, seed=5), settings_of(REQUESTS)
    settings.seed.copy_(torch.tensor([s - 2**64 if s >= 2**63 else s for s in seeds]))
    rows = []
    for (temperature, min_p, top_k, top_p), seed, count in zip(REQUESTS, seeds, settings.count.tolist(), strict=True):
        chosen: dict[str, Any] = {"temperature": temperature, "min_p": min_p, "top_k": top_k, "top_p": top_p}
        params = SamplingParams(max_tokens=100, **chosen)
        rows.append(SampleRow(params=params, seed=seed, prompt_ids=[1], output_ids=[0] * count, eos_token_ids=(2,)))
    theirs = [s.token_id for s in Sampler(vocab_size=vocab, device="cpu").sample(logits, rows)]
    assert wrong_draws(torch.tensor(theirs), logits, settings) == []
    ours = run(logits, settings)[0] if arm == "triton" else sample(logits, settings)[0]
    assert wrong_draws(ours, logits, settings) == []


def test_uniforms_are_the_workers():
    seeds, counts = [0, 1, -1, 2**63, 2**64 - 1, 987654321], [0, 1, 2, 1000, 2**31, 5]
    ones = [1.0] * len(seeds)
    settings = SampleSettings.of(
        temperature=ones, min_p=ones, top_k=[0] * 6, top_p=ones, seed=seeds, count=counts, device=CPU
    )
    assert uniforms_ref(settings.seed, settings.count).tolist() == uniforms(seeds, counts).tolist()


# (tokens within reach, .9 for just not the next one, 0 for all; top_k; top_p) -> how many of 8 tokens are kept
EDGES = {
    (0, 1, 1.0): 1, (0, 3, 1.0): 3, (0, 7, 1.0): 7, (0, 8, 1.0): 8, (0, 9, 1.0): 8,
    (0, 0, 0.5): 4, (0, 0, 0.5 + 2**-40): 5, (0, 0, 0.5 - 2**-40): 4, (0, 4, 0.5): 2,
    **{(0, 0, n / 8): n for n in range(1, 8)},
    (4, 0, 1.0): 4, (3.9, 0, 1.0): 3, (1, 0, 1.0): 1, (4, 3, 1.0): 3, (4, 0, 0.75): 3,
}  # fmt: skip


def test_edges_of_every_cutoff():
    """Distances differ, weights are exactly 1, and a uniform next to 1 draws the last token that is kept."""
    count = int(uniforms_ref(torch.ones(4000, dtype=torch.int64), torch.arange(4000)).argmax())
    logits = -torch.arange(8.0).expand(len(EDGES), -1).contiguous()
    settings = settings_of(((1e9, 0.0, 0, 1.0),) * len(EDGES))
    within, top_k, top_p = (torch.tensor(column, dtype=torch.float64) for column in zip(*EDGES, strict=True))
    reach = (torch.arange(8.0) / torch.tensor(1e9)).double()[(within.ceil() - 1).long()]
    reach = torch.where(within == within.ceil(), reach, reach.nextafter(torch.zeros_like(reach)))
    settings.reach.copy_(torch.where(within > 0, reach, INF))
    settings.top_k.copy_(top_k)
    settings.top_p.copy_(top_p)
    settings.seed.fill_(1)
    settings.count.fill_(count)
    assert (weights_ref(logits, settings) > 0).sum(1).tolist() == list(EDGES.values())
    assert run(logits, settings, 4)[0].tolist() == [kept - 1 for kept in EDGES.values()]


def test_ties_go_to_the_lower_id_and_a_tie_with_the_last_kept_is_kept():
    logits = torch.zeros(3, 50)
    logits[0, [9, 25, 44]] = 2.0
    greedy, three = REQUESTS[0], (1.0, 0.0, 2, 1.0)
    assert run(logits[:1], settings_of((greedy,)), 16)[0].tolist() == [9]
    settings = settings_of((three,) * 3)
    logits[1:, [9, 25, 44]] = 2.0
    tokens = run(logits, settings, 16)[0]
    assert wrong_draws(tokens, logits, settings) == []
    assert (weights_ref(logits, settings) > 0).sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("cols", [2, 16])
def test_zeros_of_both_signs_are_one_tie(cols: int):
    logits = torch.tensor([[-0.0, -30.0, 0.0, -30.0]]).repeat(32, 1)
    settings = settings_of(((1.0, 0.0, 0, 1.0),) * 32)
    tokens = run(logits, settings, cols)[0]
    assert set(tokens.tolist()) == {0, 2}
    assert wrong_draws(tokens, logits, settings) == []


def test_forbidden_tokens_are_never_drawn():
    requests = (*REQUESTS[:2], REQUESTS[6])
    logits = torch.full((len(requests), 40), -INF)
    logits[:, 23] = -1e4
    assert run(logits, settings_of(requests), 32)[0].tolist() == [23] * len(requests)


@pytest.mark.parametrize("request_idx", [0, 1, 6])
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_rows_without_an_answer_are_told_by_their_peak(bad: float, request_idx: int):
    logits = random_logits(3, 40)
    logits[0, 20], logits[1] = bad, -INF
    settings = settings_of((REQUESTS[request_idx],) * 3)
    tokens, peaks = run(logits, settings, 16)
    tokens_ref, peaks_ref = sample_ref(logits, settings)
    assert tokens[:2].tolist() == tokens_ref[:2].tolist() == [0, 0]
    assert torch.equal(peaks, peaks_ref) or (bool(peaks[0].isnan()) and torch.equal(peaks[1:], peaks_ref[1:]))
    assert peaks.isfinite().tolist() == [False, False, True]


def test_a_row_does_not_depend_on_its_batch_and_rows_may_be_apart():
    wide = random_logits(len(REQUESTS), 300)
    logits, settings = wide[:, 32:232], settings_of(REQUESTS)
    tokens = run(logits, settings, 128)[0]
    assert wrong_draws(tokens, logits, settings) == []
    alone = SampleSettings(**{name: getattr(settings, name)[6:7].clone() for name in SampleSettings.__slots__})
    assert run(logits[6:7].contiguous(), alone, 128)[0].tolist() == tokens[6:7].tolist()


def test_reference_draws_what_the_softmax_says():
    num = 20_000
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(num, -1)
    many = [1.0] * num
    settings = SampleSettings.of(
        temperature=many, min_p=[0.0] * num, top_k=[0] * num, top_p=many, seed=range(num), count=[0] * num, device=CPU
    )
    shares = sample(logits, settings)[0].bincount(minlength=4) / num
    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.015)


@pytest.mark.parametrize("fault", ["seed", "count", "temperature", "top_k", "top_p", "reach"])
def test_checker_catches_settings_of_another_request(fault: str):
    """Each setting decides some token of 40 rows."""
    logits = random_logits(40, 60)
    settings = settings_of(((1.0, 0.05, 12, 0.8),) * 40)
    other = {"seed": 1, "count": 1, "temperature": 2.0, "top_k": -9, "top_p": -0.5, "reach": -2.0}[fault]
    planted = {name: getattr(settings, name).clone() for name in SampleSettings.__slots__}
    planted[fault] += other
    tokens = sample_ref(logits, SampleSettings(**planted))[0]
    assert wrong_draws(tokens, logits, settings)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 8, dtype=torch.int32), "float rows"),
        (torch.zeros(8), "float rows"),
        (torch.zeros(8, 2).T, "float rows"),
        (torch.zeros(2, 0), "1 to 1048576 tokens"),
        (torch.zeros(3, 8), r"a setting must be torch.float32 \[3\]"),
    ],
)
def test_bad_input_is_named(logits: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        sample(logits, settings_of(REQUESTS[:2]))


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (random_logits(2, 30), *settings_of(REQUESTS[:2]).tensors())
    torch.library.opcheck(torch.ops.proa.sample.default, arguments, test_utils=("test_schema", "test_faketensor"))
