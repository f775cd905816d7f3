"""Penalties from counts that stay on the device, against the reference that lists tokens, over many steps."""

from __future__ import annotations

import random

import pytest
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.sampling import history
from proa_workers.sampling.adjust import adjust_logits
from proa_workers.sampling.history import FIRST_SLOTS, TokenHistory
from proa_workers.sampling.reference import edit
from proa_workers.sampling.sampler import Sampler

VOCAB = 40
PENALTIES = [
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 1e-30},
    {"frequency_penalty": 0.6},
    {"presence_penalty": -1.1},
    {"repetition_penalty": 0.8, "frequency_penalty": 0.3, "presence_penalty": 0.5},
    {},
]


def make_row(i: int) -> SampleRow:
    chance = random.Random(i)
    params = SamplingParams(max_tokens=99, temperature=(0.0, 1.0)[i % 2], **PENALTIES[i % len(PENALTIES)])
    prompt = [chance.randrange(VOCAB) for _ in range(chance.randrange(8))]
    return SampleRow(params=params, seed=i, prompt_ids=prompt, output_ids=[], eos_token_ids=())


def logits_of(num_rows: int, step: int) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(step)) * 3


def edited(table: TokenHistory, rows: list[SampleRow], logits_RV: torch.Tensor, num_unread: int = 0) -> torch.Tensor:
    table.penalise(logits_RV := logits_RV.clone(), rows, [num_unread] * len(rows))
    return logits_RV


def expected(rows: list[SampleRow], logits_RV: torch.Tensor) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(edit(x.double().numpy(), row)) for x, row in zip(logits_RV, rows, strict=True)]
    )


def test_counts_follow_the_outputs_of_a_changing_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come, go and come back with tokens that were drawn meanwhile; more rows than slots; blocks of rows."""
    monkeypatch.setattr(history, "BLOCK_LOGITS", 3 * VOCAB)
    chance, table = random.Random(0), TokenHistory(VOCAB, torch.device("cpu"))
    everyone = [make_row(i) for i in range(3 * FIRST_SLOTS)]
    for step in range(30):
        rows = chance.sample(everyone, chance.choice([1, 7, len(everyone)]))
        logits_RV = logits_of(len(rows), step)
        torch.testing.assert_close(
            edited(table, rows, logits_RV).double(), expected(rows, logits_RV), rtol=1e-5, atol=1e-5
        )
        token_R1 = torch.tensor([[chance.randrange(VOCAB)] for _ in rows])
        table.count(rows, token_R1)
        for row, token in zip(rows, token_R1[:, 0].tolist(), strict=True):
            row.output_ids.append(token)


def test_tokens_count_before_the_host_has_read_them() -> None:
    table, rows = TokenHistory(VOCAB, torch.device("cpu")), [make_row(i) for i in range(6)]
    logits_RV, token_R1 = logits_of(6, 0), torch.tensor([[i] for i in range(6)])
    edited(table, rows, logits_RV)
    table.count(rows, token_R1)
    early = edited(table, rows, logits_RV, num_unread=1)
    for row, token in zip(rows, token_R1[:, 0].tolist(), strict=True):
        row.output_ids.append(token)
    torch.testing.assert_close(early.double(), expected(rows, logits_RV), rtol=1e-5, atol=1e-5)


def test_unread_tokens_that_were_drawn_elsewhere_are_an_error() -> None:
    with pytest.raises(AssertionError, match="drawn elsewhere"):
        edited(TokenHistory(VOCAB, torch.device("cpu")), [make_row(0)], logits_of(1, 0), num_unread=1)


def test_rows_that_are_gone_are_forgotten_and_the_table_with_the_last() -> None:
    """A step without any edit tells it too; the table's size is as before the first penalty."""
    table = TokenHistory(VOCAB, torch.device("cpu"))
    penalised = [make_row(0) for _ in range(2 * FIRST_SLOTS + 1)]
    for _ in range(2):
        adjust_logits(logits := logits_of(len(penalised), 0), penalised, table, [0] * len(penalised))
        assert (len(table._held), len(table._table_SV)) == (len(penalised), 4 * FIRST_SLOTS)
        adjust_logits(logits[:1], penalised[:1], table, [0])
        assert (len(table._held), len(table._table_SV)) == (1, 4 * FIRST_SLOTS)
        assert adjust_logits(logits[:1], [make_row(5)], table, [0]).data_ptr() == logits.data_ptr()
        assert (table._held, table._free, table._table_SV.untyped_storage().nbytes()) == ({}, [], 0)


def test_sampler_draws_the_same_tokens_either_way() -> None:
    outputs = []
    for keeps in (False, True):
        sampler, rows = Sampler(vocab_size=VOCAB, device="cpu", keeps_history=keeps), [make_row(i) for i in range(12)]
        for step in range(20):
            for row, drawn in zip(rows, sampler.sample(logits_of(12, step), rows), strict=True):
                row.output_ids.append(drawn.token_id)
        outputs.append([row.output_ids for row in rows])
    assert outputs[0] == outputs[1]
